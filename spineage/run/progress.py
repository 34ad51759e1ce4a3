"""The line that says how far a stage has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def plain_progress(what: str, *, every_s: float = 5.0) -> Callable[[int, int | None], None]:
    """A progress function: a line that redraws on a terminal, a line every few seconds in a log.

    It is told how many are done and of how many, None while nobody knows.
    """
    started, last = time.monotonic(), [0.0]
    live = sys.stderr.isatty()

    def say(done: int, total: int | None) -> None:
        now = time.monotonic()
        is_last = total is not None and done >= total
        if not is_last and now - last[0] < (0.2 if live else every_s):
            return
        last[0] = now
        rate = done / max(now - started, 1e-6)
        text = f"{what}: {done}{'' if total is None else f'/{total}'} ({rate:.2f}/s)"
        end = "\n" if is_last or not live else "\r"
        print(text, end=end, file=sys.stderr, flush=True)

    return say
