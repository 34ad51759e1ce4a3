"""Rows through the same steps in this process, one after another, without Ray.

For a shard of an array of jobs, and for tests that hold the cluster against it.
"""

from __future__ import annotations

import math
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from spineage.engine.rows import Step, deadline_of
from spineage.engine.tally import BEGAN, Key, Manifest, Pace, Row, StopRule, Tally, fault_row
from spineage.errors import BadScan, BadStudy, DeviceFault, StoppedEarly
from spineage.unexpected import describe, type_and_place

MAX_HUNG: Final = 3
"""Scans that pass their deadline leave a thread behind that nothing can end but the process."""


def run_rows_alone(
    manifest: Iterable[Row] | Manifest,
    steps: Sequence[Step],
    sink: Step,
    *,
    stop_rule: StopRule | None = None,
    say: Callable[[Mapping[str, int], int], None] = lambda counts, total: None,
    hear: Callable[[Key, str, str], None] = lambda key, code, message: None,
    measure: Callable[[Pace], None] = lambda pace: None,
    begin: Callable[[Key], None] = lambda key: None,
) -> Counter[str]:
    """As `rows.run_rows`: the same rows, faults and counts, by one worker of each step.

    A scan that kills its process ends the run: what is done is kept, and `begin` has heard which scan it was.
    Raises StoppedEarly when one fault code passes the limit or scans hang, and BadStudy when a step cannot
    be made or meets one.
    """
    manifest = manifest if isinstance(manifest, Manifest) else Manifest(manifest)
    tally = Tally(len(manifest), stop_rule or StopRule(), say, hear)
    servers = [_Server(step) for step in steps]
    write = sink.make(**sink.kwargs)
    num_hung = 0
    for one in manifest.largest_first():
        begin(one.key)
        ended, work_s = _serve(servers, one.row())
        write([ended])
        code = ended.get("code", "")
        tally.add((*one.key, code, ended.get("message", "")), work_s=work_s)
        num_hung += code == "deadline"
        if num_hung == MAX_HUNG:
            raise StoppedEarly(
                f"{num_hung} scans took longer than their deadline, and hold this process's threads: what is "
                "done is kept, run again to go on"
            )
    measure(tally.pace(float(os.cpu_count() or 1), {step.work: (1, True) for step in steps}))
    return tally.counts


def _serve(servers: Sequence[_Server], row: Row) -> tuple[Row, dict[str, float]]:
    """The row after all steps, or the fault row of the first that refused it; seconds by kind of work."""
    work_s: dict[str, float] = {BEGAN: time.time()}
    for server in servers:
        began = time.monotonic()
        after = server.answer(row)
        if after is not row:
            work_s[server.step.work] = time.monotonic() - began
        row = after
        if row.get("code"):
            break
    return row, work_s


class _Server:
    """One step, made when its first row comes, in a thread that can be left behind."""

    def __init__(self, step: Step) -> None:
        self.step = step
        self._rows: queue.SimpleQueue[Row] | None = None
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def answer(self, row: Row) -> Row:
        """Raises BadStudy; every other trouble is a fault row. An error that nobody declared may be of an ill
        device, so a step that is made anew tries once more."""
        name = self.step.name or self.step.make.__name__
        for is_last in (False, True):
            found = self._ask(row)
            if isinstance(found, BadStudy):
                raise found
            if isinstance(found, BadScan):
                if isinstance(found, DeviceFault) or found.code == "deadline":
                    self._rows = None
                return fault_row(row, name, found)
            if not isinstance(found, Exception):
                answered: Row = found
                return answered
            self._rows = None
            if is_last and isinstance(found, TimeoutError | ConnectionError):
                message = f"a server did not answer ({type(found).__name__})"
                return fault_row(row, name, BadScan("unavailable", message))
        return fault_row(row, name, BadScan("bug", type_and_place(describe(found, name))))

    def _ask(self, row: Row) -> Any:
        """The answer, or the exception it raised; a late one is a BadScan."""
        if self._rows is None:
            self._rows, self._answers = queue.SimpleQueue(), queue.SimpleQueue()
            args = self._rows, self._answers
            threading.Thread(target=self._work, args=args, daemon=True).start()
            if isinstance(made := self._answers.get(), Exception):
                self._rows = None
                raise made
        deadline_s = deadline_of(self.step, row.get("num_voxels", 0))
        self._rows.put(row)
        try:
            return self._answers.get(timeout=deadline_s if math.isfinite(deadline_s) else None)
        except queue.Empty:
            return BadScan(
                "deadline", f"took longer than {deadline_s:g} s; the worker was replaced"
            )

    def _work(self, rows: queue.SimpleQueue[Row], answers: queue.SimpleQueue[Any]) -> None:
        try:
            serve = self.step.make(**self.step.kwargs)
            answers.put(None)
        except Exception as error:
            answers.put(error)
            return
        while True:
            try:
                answers.put(serve(rows.get()))
            except Exception as error:
                answers.put(error)
                if isinstance(error, DeviceFault) or not isinstance(error, BadScan):
                    return  # another thread is made in its place, which needs the room
