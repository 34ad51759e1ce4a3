"""What the driver holds of a run of rows: who is done, how each ended, and how long each step took."""

from __future__ import annotations

import math
import pickle
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from spineage.errors import BadScan, StoppedEarly

Row = dict[str, Any]
Key = tuple[str, str]
BEGAN = ""
"""Among the kinds of work of a row."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A row as it travels: as a dict of a scan's values it takes 13 KB, as bytes one."""

    key: Key
    num_voxels: float
    cell: bytes

    def row(self) -> Row:
        """As it was."""
        row: Row = pickle.loads(self.cell)
        return row


class Manifest:
    """The rows that a run is to serve, packed one by one as they come; as rows they are not kept."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.packed = [
            Packed(key_of(row), row.get("num_voxels") or 0, pickle.dumps(row)) for row in rows
        ]

    def __len__(self) -> int:
        return len(self.packed)

    def keys(self) -> list[Key]:
        """What the rows are known by."""
        return [one.key for one in self.packed]

    def largest_first(self) -> list[Packed]:
        """So that none is left over when the others are done."""
        return sorted(self.packed, key=lambda one: -one.num_voxels)


@dataclass(frozen=True)
class StopRule:
    """When a run gives up: the same fault in more than this share of the scans seen."""

    max_fault_fraction: float = 1.0
    min_scans: int = 20


@dataclass(frozen=True)
class StepPace:
    """What one kind of work took: rows that it had work for, seconds of its workers, and how many they
    were, on cores (is_on_cores) or on devices."""

    rows: int
    seconds: float
    workers: int
    is_on_cores: bool = True


@dataclass(frozen=True)
class Pace:
    """How fast a run was: rows, seconds until work on the first began, and from there to the last outcome,
    the cluster's cores, and what each kind of work took."""

    rows: int
    start_s: float
    seconds: float
    cores: float
    steps: Mapping[str, StepPace] = field(default_factory=dict)


class Tally:
    """Keys and counts, never rows."""

    def __init__(
        self,
        total: int,
        stop_rule: StopRule,
        say: Callable[[Mapping[str, int], int], None],
        hear: Callable[[Key, str, str], None],
        see: Callable[[str, str], None] = lambda work, worker: None,
    ) -> None:
        self.total, self.stop_rule, self.say, self.hear = total, stop_rule, say, hear
        self.see = see
        self.done: set[Key] = set()
        self.counts: Counter[str] = Counter()
        self.busy_s, self.began, self.ended = 0.0, math.inf, 0.0
        self.work_s: Counter[str] = Counter()
        self.num_worked: Counter[str] = Counter()
        self.started, self.first, self.last = time.time(), math.inf, 0.0

    def left(self, rows: Sequence[Packed]) -> list[Packed]:
        """The rows that have no outcome yet."""
        return [one for one in rows if one.key not in self.done]

    def busy_share(self, num_workers: int) -> float:
        """Of the time from the first row's begin to the last row's end."""
        return self.busy_s / (num_workers * (self.ended - self.began)) if self.busy_s else 0.0

    def add(
        self,
        outcome: tuple[str, str, str, str],
        began: float = 0.0,
        ended: float = 0.0,
        work_s: Mapping[str, float] | None = None,
        by: Mapping[str, str] | None = None,
    ) -> None:
        """Count one scan. began and ended: of the measured step, 0 when it never got there. work_s: seconds
        by kind of work, and under BEGAN when the first of it began (seconds of the epoch, of the worker's
        clock). by: which worker did each kind. Raises StoppedEarly."""
        scan_id, source_digest, code, message = outcome
        if ended:
            self.busy_s += ended - began
            self.began, self.ended = min(self.began, began), max(self.ended, ended)
        work_s = dict(work_s or {})
        self.first = min(self.first, work_s.pop(BEGAN, math.inf))
        for work, seconds in work_s.items():
            self.work_s[work] += seconds  # type: ignore[assignment]
            self.num_worked[work] += 1
        if (scan_id, source_digest) in self.done:
            return
        self.done.add((scan_id, source_digest))
        for work, worker in (by or {}).items():
            self.see(work, worker)
        self.last = time.time()
        self.counts[code or "ok"] += 1
        if code:
            self.hear((scan_id, source_digest), code, message)
        self.say(self.counts, self.total)
        self._may_go_on(code)

    def _may_go_on(self, code: str) -> None:
        seen, same, rule = len(self.done), self.counts[code], self.stop_rule
        if code and seen >= rule.min_scans and same > rule.max_fault_fraction * seen:
            raise StoppedEarly(
                f"stopped early: {same} of {seen} scans ended as {code}, more than the allowed "
                f"{rule.max_fault_fraction:.0%}; look at the faults table, or raise "
                "cluster.max_fault_fraction"
            )

    def pace(self, cores: float, workers: Mapping[str, tuple[int, bool]]) -> Pace:
        """What was measured. workers: how many did each kind of work, and whether on cores."""
        steps = {
            work: StepPace(num, self.work_s[work], *workers[work])
            for work, num in self.num_worked.items()
        }
        first = min(self.first, self.last)
        return Pace(len(self.done), first - self.started, self.last - first, cores, steps)


def key_of(row: Row) -> Key:
    """What a row is known by."""
    return row["scan_id"], row["source_digest"]


def fault_row(row: Row, stage: str, fault: BadScan) -> Row:
    """The row that stands for a refused scan: its key, and why. What it carried is dropped."""
    return {
        "scan_id": row["scan_id"],
        "source_digest": row["source_digest"],
        "stage": stage,
        "code": fault.code,
        "message": str(fault),
    }
