"""How far a stage has come: on a terminal, in a log, in the workspace and in Ray's metrics."""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from spineage.engine.metrics import show_progress
from spineage.engine.rows import Step
from spineage.io.storage import drafts
from spineage.io.storage.lease import submission_id
from spineage.io.storage.store import Store

FOLDER: Final = "status"
WRITE_S: Final = 10.0
"""Between two words of a run in the workspace: an object store is asked no more often."""
BAR: Final = 24
MOST_WORKERS: Final = 1000
"""In a record, those heard of last: it stays some 100 KB."""


class Progress:
    """Of one stage's run: told how many have ended how, it shows that everywhere, not more often than useful.

    already: scans that had their answer before. total: scans that this run is to do. steps: whose workers do
    it. shard: of a run that does a share of the scans.
    """

    def __init__(
        self,
        store: Store,
        stage: str,
        address: str,
        already: int,
        total: int,
        steps: Sequence[Step] = (),
        shard: str = "",
    ) -> None:
        self._store, self._stage = store, stage
        self._line = plain_progress(stage)
        self._written = -math.inf
        self._file = f"{FOLDER}/{stage}{f'.{shard}' if shard else ''}.json"
        self._record: dict[str, Any] = {
            "stage": stage,
            "address": address,
            "run": uuid.uuid4().hex,
            "machine": drafts.machine(),
            "process": os.getpid(),
            "job": submission_id(),
            "started": _now(),
            "already": already,
            "workers": {step.work: step.workers for step in steps},
        }
        self._first: tuple[int, float] | None = None
        self._crew: dict[str, dict[str, Any]] = {}
        show_progress(stage, {}, total, 0.0, 0.0)
        self._write({}, total, 0.0, 0.0)

    def __call__(self, counts: Mapping[str, int], total: int) -> None:
        """counts: `ok`, and fault codes."""
        done, now = sum(counts.values()), time.monotonic()
        self._line(done, total, counts)
        if done < total and now - self._written < WRITE_S:
            return
        self._written = now
        per_s, left_s = self._pace(done, total, now)
        show_progress(self._stage, counts, total - done, per_s, left_s)
        self._write(counts, total, per_s, left_s)

    def see(self, work: str, worker: str) -> None:
        """A worker has done this kind of work for one more scan."""
        known = self._crew.setdefault(
            f"{work} {worker}", {"work": work, "worker": worker, "scans": 0}
        )
        known["scans"] += 1
        known["seen"] = _now()

    def _pace(self, done: int, total: int, now: float) -> tuple[float, float]:
        """Since the first word: what stands before it is the start of the workers."""
        self._first = self._first or (done, now)
        return pace_of(done, total, *self._first, now)

    def _write(self, counts: Mapping[str, int], total: int, per_s: float, left_s: float) -> None:
        self._record |= {
            "seen": _now(),
            "total": total,
            "counts": dict(counts),
            "per_s": round(per_s, 4),
            "left_s": round(left_s, 1),
            "crew": sorted(self._crew.values(), key=lambda one: str(one["seen"]))[-MOST_WORKERS:],
        }
        with suppress(Exception):  # a word about the work is no reason to lose it
            self._store.write(self._file, json.dumps(self._record).encode())


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def pace_of(
    done: int, total: int, first_done: int, first: float, now: float
) -> tuple[float, float]:
    """Scans a second since the first were done, and seconds to go at that rate; 0 is not known yet."""
    per_s = (done - first_done) / (now - first) if now > first else 0.0
    return per_s, (total - done) / per_s if per_s else 0.0


def span(seconds: float) -> str:
    """A length of time for people: 42 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    whole = round(seconds)
    for large, small, size, part in (
        ("d", "h", 86_400, 3600),
        ("h", "min", 3600, 60),
        ("min", "s", 60, 1),
    ):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def plain_progress(what: str, *, every_s: float = 5.0) -> Callable[..., None]:
    """A progress function: a bar that redraws on a terminal, a line every few seconds in a log.

    It is told how many are done and of how many (None while nobody knows), and may be told how each ended.
    """
    first: list[tuple[int, float]] = []
    last = [time.monotonic()]
    live = sys.stderr.isatty()

    def say(done: int, total: int | None, counts: Mapping[str, int] | None = None) -> None:
        now = time.monotonic()
        if not first:
            first.append((done, now))
        is_last = total is not None and done >= total
        if not is_last and now - last[0] < (0.2 if live else every_s):
            return
        last[0] = now
        per_s, left_s = pace_of(done, total or done, *first[0], now)
        text = _line(what, done, total, per_s, left_s, counts or {}, live)
        end = "\n" if is_last or not live else "\r"
        print(f"\x1b[2K{text}" if live else text, end=end, file=sys.stderr, flush=True)

    return say


def _line(
    what: str,
    done: int,
    total: int | None,
    per_s: float,
    left_s: float,
    counts: Mapping[str, int],
    live: bool,
) -> str:
    inside = [f"{per_s:.2f}/s"] if per_s else []
    if left_s:
        inside.append(f"{span(left_s)} left")
    if faults := sum(n for code, n in counts.items() if code != "ok"):
        inside.append(f"{faults} with a fault")
    told = f" ({', '.join(inside)})" if inside else ""
    if not total:
        return f"{what}: {done}{told}"
    filled = round(BAR * done / total)
    bar = f" {'█' * filled}{'░' * (BAR - filled)}" if live else ""
    return f"{what}:{bar} {done}/{total}{told}"
