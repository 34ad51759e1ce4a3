"""Looks after the nodes while workers are at work, and says when what they hold is lost."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from spineage.engine.places import Need, all_places, could_hold

LOOK_S: Final = 5.0
"""Between two looks."""
LOST: Final = signal.SIGUSR2


class LostPlaces(Exception):
    """Nodes were lost, and those that are left do not hold what is at work."""


class Watch:
    """Looks after the places of workers that are at work: Ray would have those of a lost node wait for ever.

    Of a `with` block in the main thread; `waiting` raises LostPlaces when nodes are lost and the others do
    not hold the workers.
    """

    def __init__(self, needs: Sequence[Need], share: float) -> None:
        self._places = all_places(needs, share)
        self._is_lost, self._is_waiting = False, False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._is_heard = threading.current_thread() is threading.main_thread()

    def __enter__(self) -> Watch:
        if self._is_heard:
            self._before = signal.signal(LOST, self._wake)
            self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._ended.set()
        if self._is_heard:
            self._thread.join()
            signal.signal(LOST, self._before)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what would wait for ever."""
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting = False

    def _look(self) -> None:
        while not self._ended.wait(LOOK_S):
            with suppress(Exception):  # a head that does not answer is told elsewhere
                self._is_lost = self._is_lost or not could_hold(self._places)
                if self._is_lost:
                    signal.pthread_kill(threading.main_thread().ident or 0, LOST)

    def _wake(self, number: int, frame: object) -> None:
        if self._is_lost and self._is_waiting:
            raise LostPlaces
