"""Runs within a run: the trials of a search and the arms of a grid, told of while they train.

They are told beside the work and never stop it: while MLflow is away nothing is asked of it for a while, and
what it missed is logged when it is back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
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
    status: str = ""


class Nested:
    """The runs within `parent`, by the address of what they make. At the end of the `with` block those that
    have not ended are KILLED, or FAILED when it was not an interrupt."""

    def __init__(self, tracking: Tracking, parent: str) -> None:
        self._tracking, self._parent = tracking, parent
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
        for address, run in list(self._runs.items()):
            if not (run.figures or run.status):
                continue
            if time.monotonic() < self._ask_from:
                return
            try:
                self._log(address, run)
            except BadStudy:
                self._ask_from = time.monotonic() + PAUSE_S
                return
            if run.status:
                del self._runs[address]

    def _log(self, address: str, run: _Run) -> None:
        if not run.id:
            run.id = self._tracking.open_run(run.name, address, parent=self._parent)
            self._tracking.log_params(run.id, run.params)
        self._tracking.log_history(run.id, run.figures)
        run.figures.clear()
        if run.status:
            self._tracking.close_run(run.id, run.status)
