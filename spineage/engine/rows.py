"""Rows through a chain of actors: build once, serve rows, a fault comes back as a row.

Ray Data has no row-level quarantine, and retries a row that kills its process for ever: so the worker turns
BadScan into a fault row, blocks hold one row, errored blocks are dropped, and what is missing afterwards is
passed through a second time, then row by row. What is still missing crashed.

A row crosses between steps as one opaque cell: arrow would promote dtypes and null-type empty columns.
"""

from __future__ import annotations

import gc
import math
import os
import pickle
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
import ray.data
from ray.util.annotations import RayDeprecationWarning
from ray.util.metrics import Counter as Metric
from ray.util.metrics import Gauge

from spineage.errors import BadScan, BadStudy, DeviceFault, StoppedEarly

Row = dict[str, Any]
Key = tuple[str, str]
BUSY = "_busy"
"""In a row: when the step that the run is measured by began and ended it, seconds of the epoch."""
MAX_ALONE = 16
"""Rows left after two passes are tried alone: a scan that kills its worker takes neighbours with it."""
ORDINARY_VOXELS = 10_000_000
"""A whole spine of 20 slices at 0.9 mm has 7 million."""
BYTES_A_WORKER = 5 * 4 * ORDINARY_VOXELS
"""Of the object store: an ordinary scan (float32) that comes in, one that goes out, and room between steps.
Ray counts what lies there twice while a task reads it; measured, two scans a worker are in flight."""


@dataclass(frozen=True)
class Step:
    """One link of a chain. `make(**kwargs)` runs once in each of `workers` actors and serves rows.

    deadline_s: for a scan of ORDINARY_VOXELS or fewer; a larger one has as many times more.
    is_measured: it holds the scarce device, whose idle time a run is judged by; one step at most.
    """

    make: Callable[..., Callable[[Any], Any]]
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    workers: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    deadline_s: float = 600.0
    is_measured: bool = False


@dataclass(frozen=True)
class Limits:
    """When a run gives up: the same fault in more than this share of the scans seen."""

    max_fault_fraction: float = 1.0
    min_scans: int = 20


def run_rows(
    manifest: Sequence[Row],
    steps: Sequence[Step],
    sink: Step,
    *,
    rows_per_block: int = 1,
    rows_per_part: int = 1,
    bytes_a_worker: int = BYTES_A_WORKER,
    limits: Limits | None = None,
    say: Callable[[int, int], None] = lambda done, total: None,
    tell: Callable[[str], None] = lambda text: None,
) -> Counter[str]:
    """Pass every row of the manifest through the steps and into the sink; count how each ended.

    A manifest row has scan_id and source_digest; with num_voxels large scans go first, so that none is left
    over when the others are done. The sink gets a list of rows (finished ones, and fault rows with stage,
    code, message) and writes them; it must be idempotent. `tell` hears what share of the time the measured
    step was at work. What waits between steps is held to `bytes_a_worker` of all workers together, however
    many rows there are. Returns {"ok": n, code: n, ...}.
    Raises StoppedEarly when one fault code passes the limit, and BadStudy when a worker cannot be made.
    """
    tally = _Tally(len(manifest), limits or Limits(), say)
    room = bytes_a_worker * sum(step.workers for step in (*steps, sink))
    manifest = sorted(manifest, key=lambda row: -row.get("num_voxels", 0))
    for num_rows in (rows_per_block, 1):
        if left := tally.left(manifest):
            _pass(left, steps, sink, num_rows, rows_per_part, room, tally)
    for row in tally.left(manifest)[:MAX_ALONE]:
        _pass([row], steps, sink, 1, 1, room, tally)
    crashed = tally.left(manifest)
    if crashed:
        message = (
            "its worker died or raised an undeclared error: out of memory, native code or a bug"
        )
        rows = [_fault(row, "engine", BadScan("crashed", message)) for row in crashed]
        sink.make(**sink.kwargs)(rows)
        for row in rows:
            tally.add((*_key(row), row["code"]))
    for step in steps:
        if step.is_measured and (share := tally.busy_share(step.workers)):
            tell(f"{step.name}: {step.workers} workers busy {share:.0%} of the time")
    return tally.counts


def _pass(
    rows: Sequence[Row],
    steps: Sequence[Step],
    sink: Step,
    per_block: int,
    per_part: int,
    room: int,
    tally: _Tally,
) -> None:
    for outcome, began, ended in _one_pass(rows, steps, sink, per_block, per_part, room):
        tally.add(outcome, began, ended)
    gc.collect()  # actors of a crashed pass hold their GPUs until collected


class _Tally:
    """What the driver holds: keys and counts, never rows."""

    def __init__(self, total: int, limits: Limits, say: Callable[[int, int], None]) -> None:
        self.total, self.limits, self.say = total, limits, say
        self.done: set[Key] = set()
        self.counts: Counter[str] = Counter()
        self.busy_s, self.began, self.ended = 0.0, math.inf, 0.0

    def left(self, manifest: Sequence[Row]) -> list[Row]:
        """The rows that have no outcome yet."""
        return [row for row in manifest if _key(row) not in self.done]

    def busy_share(self, num_workers: int) -> float:
        """Of the time from the first row's begin to the last row's end."""
        return self.busy_s / (num_workers * (self.ended - self.began)) if self.busy_s else 0.0

    def add(self, outcome: tuple[str, str, str], began: float = 0.0, ended: float = 0.0) -> None:
        """Count one scan; began and ended are 0 when it never reached the measured step."""
        scan_id, source_digest, code = outcome
        if ended:
            self.busy_s += ended - began
            self.began, self.ended = min(self.began, began), max(self.ended, ended)
        if (scan_id, source_digest) in self.done:
            return
        self.done.add((scan_id, source_digest))
        self.counts[code or "ok"] += 1
        self.say(len(self.done), self.total)
        seen, same = len(self.done), self.counts[code]
        if code and seen >= self.limits.min_scans and same > self.limits.max_fault_fraction * seen:
            raise StoppedEarly(
                f"stopped early: {same} of {seen} scans ended as {code}, more than the allowed "
                f"{self.limits.max_fault_fraction:.0%}; look at the faults table, or raise "
                "cluster.max_fault_fraction"
            )


def _one_pass(
    rows: Sequence[Row],
    steps: Sequence[Step],
    sink: Step,
    rows_per_block: int,
    rows_per_part: int,
    room: int,
) -> Iterator[tuple[tuple[str, str, str], float, float]]:
    """Outcomes (scan_id, source_digest, code) with begin and end of the measured step."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=room
    )
    budget = ray.cluster_resources().get("CPU", 1.0)
    share = _fit(steps, sink, budget)
    cells = [{"cell": pickle.dumps(row)} for row in rows]
    data: ray.data.Dataset = ray.data.from_items(
        cells, override_num_blocks=max(1, len(cells) // 256)
    )
    data = data.repartition(target_num_rows_per_block=rows_per_block)
    with warnings.catch_warnings():
        # Ray 2.60 deprecates the only way to bound retries (max_task_retries) and names no other.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        for step in steps:
            serve: Any = _Serve  # ray types callables, not classes
            data = data.map(serve, fn_constructor_kwargs={"step": step}, **_placement(step, share))
        data = data.map_batches(
            _Write, batch_size=rows_per_part, batch_format="numpy",
            fn_constructor_kwargs={"step": sink}, **_placement(sink, share),
        )  # fmt: skip
    try:
        for batch in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            outcomes = zip(batch["scan_id"], batch["source_digest"], batch["code"], strict=True)
            yield from zip(outcomes, batch["began"], batch["ended"], strict=True)
    except ray.exceptions.ActorDiedError as error:
        if sentence := re.search(r"BadStudy: (.+)", str(error)):
            raise BadStudy(f"a worker could not start: {sentence[1]}") from None
        raise


def _fit(steps: Sequence[Step], sink: Step, budget: float) -> float:
    """The factor that lets the whole chain run at once and leaves a core for Ray's own tasks."""
    wanted = sum(step.num_cpus * step.workers for step in (*steps, sink))
    return min(1.0, max(budget - 1.0, 0.5) / wanted)


def _placement(step: Step, share: float) -> dict[str, Any]:
    return {
        "compute": ray.data.ActorPoolStrategy(size=step.workers, max_tasks_in_flight_per_actor=2),
        "num_cpus": round(step.num_cpus * share, 4) if not step.num_gpus else 0.0,
        "num_gpus": step.num_gpus or None,
        "max_restarts": -1,
        "max_task_retries": 1,
    }


class _Serve:
    """The actor: one step, rows in, rows out."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._serve = step.make(**step.kwargs)
        self._thread = ThreadPoolExecutor(1)
        self._is_unfit = False
        self._busy = Metric("spineage_busy_s", "seconds a step was at work", ("step",))
        self._share = Gauge("spineage_busy_share", "of the time since its first row", ("step",))
        self._began, self._busy_s = 0.0, 0.0

    def __call__(self, cell: dict[str, Any]) -> dict[str, Any]:
        if self._is_unfit:
            os._exit(75)  # only a new process has a clean device; this row is retried there
        row = pickle.loads(cell["cell"])
        if not row.get("code"):
            began = time.time()
            row = self._answer(row)
            ended = time.time()
            self._show(began, ended)
            if self._step.is_measured:
                row[BUSY] = began, ended
        return {"cell": pickle.dumps(row)}

    def _show(self, began: float, ended: float) -> None:
        """To Ray's metrics: how long this worker was at work, and what share of its time."""
        self._began = self._began or began
        self._busy_s += ended - began
        tags = {"step": self._step.name or self._step.make.__name__}
        self._busy.inc(ended - began, tags)
        self._share.set(self._busy_s / max(ended - self._began, 1e-9), tags)

    def _answer(self, row: Row) -> Row:
        name = self._step.name or self._step.make.__name__
        deadline_s = self._step.deadline_s * max(1.0, row.get("num_voxels", 0) / ORDINARY_VOXELS)
        try:
            return self._thread.submit(self._serve, row).result(deadline_s)
        except DeviceFault as fault:
            self._is_unfit = True
            return _fault(row, name, fault)
        except BadScan as fault:
            return _fault(row, name, fault)
        except Late:
            self._is_unfit = True  # a thread still holds the device
            message = f"took longer than {deadline_s:g} s; the worker was replaced"
            return _fault(row, name, BadScan("deadline", message))
        except Exception:
            self._is_unfit = True  # a bug, or a device whose errors have no name of their own
            raise


class _Write:
    """The last actor: batches of rows in, their outcomes out."""

    def __init__(self, step: Step) -> None:
        self._write = step.make(**step.kwargs)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [pickle.loads(cell) for cell in batch["cell"]]
        self._write(rows)
        began, ended = zip(*(row.get(BUSY, (0.0, 0.0)) for row in rows), strict=True)
        return {
            "began": np.array(began),
            "ended": np.array(ended),
            "scan_id": np.array([row["scan_id"] for row in rows]),
            "source_digest": np.array([row["source_digest"] for row in rows]),
            "code": np.array([row.get("code", "") for row in rows]),
        }


def _key(row: Row) -> Key:
    return row["scan_id"], row["source_digest"]


def _fault(row: Row, stage: str, fault: BadScan) -> Row:
    """The row that stands for a refused scan: its key, and why. What it carried is dropped."""
    return {
        "scan_id": row["scan_id"],
        "source_digest": row["source_digest"],
        "stage": stage,
        "code": fault.code,
        "message": str(fault),
    }


def spread(
    function: Callable[[Any], Any], items: Iterable[Any], *, num_cpus: float = 1.0
) -> Iterator[Any]:
    """Call an importable function on every item in parallel tasks; results come as they finish.

    At most four times the cluster's cores are in flight, so memory does not grow with the items.
    An exception in the function is a bug and is raised here.
    """
    remote = ray.remote(num_cpus=num_cpus, max_retries=2)(function)
    room = max(2, int(4 * ray.cluster_resources().get("CPU", 1.0) / max(num_cpus, 0.25)))
    flying: list[ray.ObjectRef[Any]] = []
    for item in items:
        if len(flying) >= room:
            ready, flying = ray.wait(flying, num_returns=1)
            yield ray.get(ready[0])
        flying.append(remote.remote(item))
    while flying:
        ready, flying = ray.wait(flying, num_returns=1)
        yield ray.get(ready[0])


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
