"""Runs within a run: the trials of a search and the arms of a grid, told of while they train.

What goes wrong there stops no work. While MLflow is away nothing is asked of it for a while, and what it
missed is logged when it is back, as long as the stage runs; what it never heard is said at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.io.models.tracking import Tracking

PAUSE_S: Final = 60.0
"""After a failure: its client takes seconds to find out, and a search has many reports."""


@dataclass
class _Run:
    """What is known of one, and what MLflow has not heard yet."""

    name: str
    params: Mapping[str, Any]
    id: str = ""
    figures: list[tuple[int, Mapping[str, float]]] = field(default_factory=list)
    told: dict[str, set[int]] = field(default_factory=dict)
    """Steps that MLflow has, by the first of their figures."""
    status: str = ""


class Nested:
    """The runs within `parent`, by the address of what they make. At the end of the `with` block those that
    have not ended are KILLED, or FAILED when it was not an interrupt."""

    def __init__(
        self, tracking: Tracking, parent: str, say: Callable[[str], None] = lambda text: None
    ) -> None:
        self._tracking, self._parent, self._say = tracking, parent, say
        self._runs: dict[str, _Run] = {}
        self._ask_from = 0.0

    def __enter__(self) -> Nested:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for run in self._runs.values():
            run.status = run.status or ("FAILED" if isinstance(error, Exception) else "KILLED")
        self._ask_from = 0.0
        self._log_all()
        if self._runs:
            self._say(
                f"  MLflow did not take what {len(self._runs)} runs within this one had to tell"
            )

    def tell(
        self,
        address: str,
        name: str,
        params: Mapping[str, Any],
        figures: Mapping[str, float],
        step: int = 0,
    ) -> None:
        """It is at work, or was, and these are its figures after so many steps."""
        run = self._runs.setdefault(address, _Run(name, params))
        run.figures.append((step, figures))
        self._log_all()

    def end(self, address: str, status: str = "FINISHED") -> None:
        """It has ended."""
        if address in self._runs:
            self._runs[address].status = status
            self._log_all()

    def _log_all(self) -> None:
        if time.monotonic() < self._ask_from:
            return
        for address, run in list(self._runs.items()):
            if not (run.figures or run.status):
                continue
            try:
                self._log(address, run)
            except BadStudy:  # of this run, or is MLflow away?
                if not self._tracking.answers():
                    self._ask_from = time.monotonic() + PAUSE_S
                    return
                continue
            if run.status:
                del self._runs[address]

    def _log(self, address: str, run: _Run) -> None:
        if not run.id:
            found = self._tracking.open_run(run.name, address, parent=self._parent)
            self._tracking.log_params(found, run.params)
            run.id = found
        fresh = [
            (step, figures) for step, figures in run.figures if self._is_new(run, step, figures)
        ]
        self._tracking.log_history(run.id, fresh)
        for step, figures in fresh:
            run.told[next(iter(figures))].add(step)
        run.figures.clear()
        if run.status:
            self._tracking.close_run(run.id, run.status)

    def _is_new(self, run: _Run, step: int, figures: Mapping[str, float]) -> bool:
        """A training that was killed goes on some epochs before the last it told."""
        name = next(iter(figures), None)
        if name is None:
            return False
        if name not in run.told:
            run.told[name] = self._tracking.steps_of(run.id, name)
        return step not in run.told[name]
