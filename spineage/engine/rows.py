"""Rows through a chain of actors: build once, serve rows, a fault comes back as a row.

Ray Data has no row-level quarantine, and retries a row that kills its process for ever: so the worker turns
BadScan into a fault row, blocks hold one row, errored blocks are dropped, and what is missing afterwards is
passed through a second time, then row by row. What is still missing crashed. An exception that nobody
declared may be of an ill device, so its row is tried again by another process; met again, it is a bug, whose
type and place are kept.

A row crosses between steps as one opaque cell: arrow would promote dtypes and null-type empty columns.
"""

from __future__ import annotations

import gc
import json
import math
import os
import pickle
import re
import socket
import time
import warnings
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as Late
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
import ray.data
import ray.data.exceptions
from ray.util.annotations import RayDeprecationWarning

from spineage.engine.labels import Labels
from spineage.engine.metrics import Busy
from spineage.engine.places import Need, aloud, cores, on_gpus, share_of_cores
from spineage.engine.quiet import in_a_sentence, quieten_data
from spineage.engine.tally import (
    BEGAN,
    Key,
    Manifest,
    Pace,
    Packed,
    Row,
    StopRule,
    Tally,
    fault_row,
    key_of,
)
from spineage.engine.watch import LostPlaces, Watch
from spineage.errors import BadScan, BadStudy, DeviceFault, StoppedEarly
from spineage.unexpected import as_unexpected, describe, type_and_place

BUSY = "_busy"
"""In a row: when the step that the run is measured by began and ended it, seconds of the epoch."""
WORK_S = "_work_s"
"""In a row: seconds by kind of work, of the steps that had work for it; under BEGAN, when the first began."""
STOP = "_stop"
"""In a row: the sentence of a BadStudy that a worker met; it holds for every scan, so the run stops."""
MAX_ALONE = 16
"""Rows left after two passes are tried alone: a scan that kills its worker takes neighbours with it."""
BY = "_by"
"""In a row: which worker did each kind of its work, as `host/process`."""
BLOCKS_A_WORKER = 4
"""At least so many for each, that none idles while another has a block of many rows left."""
START_S = 600.0
"""For workers to start, with weights that come from afar."""
WINDOW = 16_384
"""Blocks of a pass at a time: the driver holds a reference to each, however many rows a run has."""
ORDINARY_VOXELS = 10_000_000
"""A whole spine of 20 slices at 0.9 mm has 7 million."""
BYTES_A_WORKER = 5 * 4 * ORDINARY_VOXELS
"""Of the object store: an ordinary scan (float32) that comes in, one that goes out, and room between steps.
Ray counts what lies there twice while a task reads it; measured, two scans a worker are in flight."""


@dataclass(frozen=True)
class Step:
    """One link of a chain. `make(**kwargs)` runs once in each of `workers` actors and serves rows.

    does: the kind of work, by which what it takes is measured; a row that it hands on as it came was none.
    num_rows: how many rows it will have work for, None for all.
    deadline_s: for a scan of ORDINARY_VOXELS or fewer; a larger one has as many times more.
    labels: of the nodes that its workers may be on, as Ray's label selectors.
    is_measured: it holds the scarce device, whose idle time a run is judged by; one step at most.
    """

    make: Callable[..., Callable[[Any], Any]]
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = ""
    workers: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    deadline_s: float = 600.0
    labels: Labels = field(default_factory=dict)
    is_measured: bool = False
    does: str = ""
    num_rows: int | None = None

    @property
    def work(self) -> str:
        """What its time is counted under."""
        return self.does or self.name or self.make.__name__

    @property
    def cpus(self) -> float:
        """Cores of a worker; one on a GPU is placed by that alone."""
        return 0.0 if self.num_gpus else self.num_cpus


def run_rows(
    manifest: Iterable[Row] | Manifest,
    steps: Sequence[Step],
    sink: Step,
    *,
    rows_per_block: int = 1,
    rows_per_part: int = 1,
    bytes_a_worker: int = BYTES_A_WORKER,
    stop_rule: StopRule | None = None,
    say: Callable[[Mapping[str, int], int], None] = lambda counts, total: None,
    tell: Callable[[str], None] = aloud,
    hear: Callable[[Key, str, str], None] = lambda key, code, message: None,
    measure: Callable[[Pace], None] = lambda pace: None,
    see: Callable[[str, str], None] = lambda work, worker: None,
) -> Counter[str]:
    """Pass every row of the manifest through the steps and into the sink; count how each ended.

    A manifest row has scan_id and source_digest; with num_voxels large scans go first, so that none is left
    over when the others are done. The sink gets a list of rows (finished ones, and fault rows with stage,
    code, message) and writes them; it must be idempotent. `say` hears how many have ended how so far, and of
    how many. `tell` hears what share of the time the measured step was at work, and what is waited for.
    `hear` hears each fault: key, code, and of a bug its type and place. `measure` hears at the end how fast
    it went; `see` of each row that is done which kinds of work it took, and which worker did each. What waits
    between steps is held to `bytes_a_worker` of all workers together, however many rows there are.
    Returns {"ok": n, code: n, ...}.
    Raises StoppedEarly when one fault code passes the limit, and BadStudy when a worker cannot be made or
    meets one (a disk that is full).
    """
    manifest = manifest if isinstance(manifest, Manifest) else Manifest(manifest)
    tally = Tally(len(manifest), stop_rule or StopRule(), say, hear, see)
    steps = _on_gpus(steps, tell)
    room = bytes_a_worker * sum(step.workers for step in (*steps, sink))
    chain = _Chain(steps, sink, rows_per_part, room, tell)
    everything = manifest.largest_first()
    for is_last, num_rows in ((False, rows_per_block), (True, 1)):
        left = tally.left(everything)
        num_rows = min(num_rows, max(1, len(left) // (BLOCKS_A_WORKER * _most_workers(steps))))
        for start in range(0, len(left), num_rows * WINDOW):
            _pass(chain, left[start : start + num_rows * WINDOW], num_rows, is_last, tally)
    for one in tally.left(everything)[:MAX_ALONE]:
        _pass(replace(chain, rows_per_part=1), [one], 1, True, tally)
    crashed = tally.left(everything)
    if crashed:
        message = "its worker died each time: out of memory, or native code that gave up"
        rows = [fault_row(one.row(), "engine", BadScan("crashed", message)) for one in crashed]
        sink.make(**sink.kwargs)(rows)
        for row in rows:
            tally.add((*key_of(row), row["code"], ""))
    for step in steps:
        if step.is_measured and (share := tally.busy_share(step.workers)):
            tell(f"{step.name}: {step.workers} workers busy {share:.0%} of the time")
    workers = {step.work: (step.workers, not step.num_gpus) for step in steps}
    measure(tally.pace(ray.cluster_resources().get("CPU", 0.0), workers))
    return tally.counts


@dataclass(frozen=True)
class _Chain:
    """What every pass of a run has: room is bytes of the object store."""

    steps: Sequence[Step]
    sink: Step
    rows_per_part: int
    room: int
    tell: Callable[[str], None]


def _pass(
    chain: _Chain, rows: Sequence[Packed], rows_per_block: int, is_last: bool, tally: Tally
) -> None:
    """Serve the rows once. is_last: an error that nobody declared is a bug, and no reason to try again.

    When nodes are lost that the workers need, or nothing ends for too long, what is left is served anew by
    workers that are placed anew, as long as some rows end in between.
    """
    while rows:
        before = len(tally.done)
        try:
            _serve_once(chain, rows, rows_per_block, is_last, tally)
            return
        except LostPlaces:
            chain.tell("a node was lost: what is left is served by workers on those that are there")
        except ray.data.exceptions.ExecutionTimeoutError:
            if len(tally.done) == before:
                raise StoppedEarly(
                    f"no scan has ended for {_patience_s(chain.steps, rows):.0f} s: the cluster is ill, or "
                    "workers take longer to start; what is done is kept"
                ) from None
            chain.tell("nothing ends any more: what is left is served by new workers")
        finally:
            gc.collect()  # actors of a crashed pass hold their GPUs until collected
        rows = tally.left(rows)


def _serve_once(
    chain: _Chain, rows: Sequence[Packed], rows_per_block: int, is_last: bool, tally: Tally
) -> None:
    chain = replace(chain, steps=_on_gpus(chain.steps, chain.tell))
    needs = _needs([*chain.steps, chain.sink])
    share = share_of_cores(needs, chain.tell)
    outcomes = _outcomes(chain, rows, rows_per_block, is_last, share)
    # closed while Ray is there: left to the collector, it would talk of handles after the last line
    with Watch(needs, share) as watch, closing(outcomes):
        while True:
            with watch.waiting():
                found = next(outcomes, None)
            if found is None:
                return
            outcome, began, ended, stop, work_s, by = found
            if stop:
                raise BadStudy(stop)
            tally.add(outcome, began, ended, json.loads(work_s), json.loads(by))


def _patience_s(steps: Sequence[Step], rows: Sequence[Packed]) -> float:
    """How long nothing may end: the longest deadline of these rows, and a start of workers."""
    largest = max(one.num_voxels for one in rows)
    return max(deadline_of(step, largest) for step in steps) + START_S


def deadline_of(step: Step, num_voxels: float) -> float:
    """Seconds that a scan of this size may take in the step."""
    return step.deadline_s * max(1.0, num_voxels / ORDINARY_VOXELS)


def _outcomes(
    chain: _Chain, rows: Sequence[Packed], rows_per_block: int, is_last: bool, share: float
) -> Generator[tuple[tuple[str, str, str, str], float, float, str, str, str]]:
    """Outcomes (scan_id, source_digest, code, message) with begin and end of the measured step, STOP, and
    WORK_S and BY as JSON."""
    quieten_data()
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1
    context.execution_no_progress_timeout_s = _patience_s([*chain.steps, chain.sink], rows)
    context.execution_options.preserve_order = False
    context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=chain.room
    )
    cells = [{"cell": one.cell} for one in rows]
    # The driver makes the blocks: Ray's repartition is a task of one whole core, which a small cluster whose
    # cores the actors hold never gives it.
    num_blocks = math.ceil(len(cells) / rows_per_block)
    data: ray.data.Dataset = ray.data.from_items(cells, override_num_blocks=num_blocks)
    with warnings.catch_warnings():
        # Ray 2.60 deprecates the only way to bound retries (max_task_retries) and names no other.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        for step in chain.steps:
            serve: Any = _Serve  # ray types callables, not classes
            made = {"step": step, "is_last": is_last}
            data = data.map(
                serve, fn_constructor_kwargs=made, **_placement(step, share, num_blocks)
            )
        data = data.map_batches(
            _Write, batch_size=chain.rows_per_part, batch_format="numpy",
            fn_constructor_kwargs={"step": chain.sink}, **_placement(chain.sink, share, num_blocks),
        )  # fmt: skip
    try:
        for batch in data.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
            columns = (batch[name] for name in ("scan_id", "source_digest", "code", "message"))
            outcomes = zip(*columns, strict=True)
            rest = (batch[name] for name in ("began", "ended", "stop", "work_s", "by"))
            yield from zip(outcomes, *rest, strict=True)
    except ray.exceptions.ActorDiedError as error:
        if sentence := re.search(r"BadStudy: (.+)", str(error)):
            raise BadStudy(f"a worker could not start: {sentence[1]}") from None
        raise


def _most_workers(steps: Sequence[Step]) -> int:
    return max((step.workers for step in steps), default=1)


def _pool(step: Step, num_blocks: int) -> ray.data.ActorPoolStrategy:
    """No more workers than blocks. On cores they come and go with the work: the last scans of a run hold few.
    Ray lets no pool on GPUs grow (#59144), so one keeps its size."""
    most = min(step.workers, num_blocks)
    return ray.data.ActorPoolStrategy(
        min_size=most if step.num_gpus else 1, max_size=most, initial_size=most,
        max_tasks_in_flight_per_actor=2,
    )  # fmt: skip


def _needs(steps: Sequence[Step]) -> list[Need]:
    return [Need(step.name, step.workers, step.cpus, step.num_gpus, step.labels) for step in steps]


def _on_gpus(steps: Sequence[Step], tell: Callable[[str], None]) -> list[Step]:
    """The steps with as many workers as the cluster's GPUs hold."""
    fitting = on_gpus(_needs(steps), tell)
    return [replace(s, workers=need.workers) for s, need in zip(steps, fitting, strict=True)]


def _placement(step: Step, share: float, num_blocks: int) -> dict[str, Any]:
    return {
        "compute": _pool(step, num_blocks),
        "num_cpus": cores(step.cpus, share),
        "num_gpus": step.num_gpus or None,
        "label_selector": dict(step.labels) or None,
        "max_restarts": -1,
        "max_task_retries": 1,
    }


class _Serve:
    """The actor: one step, rows in, rows out. is_last: nobody else will try these rows."""

    def __init__(self, step: Step, is_last: bool = False) -> None:
        self._step, self._is_last = step, is_last
        with in_a_sentence(step.name or "a step"):
            self._serve = step.make(**step.kwargs)
        self._thread = ThreadPoolExecutor(1)
        self._is_unfit = False
        self._busy = Busy(step.work)
        self._who = f"{socket.gethostname()}/{os.getpid()}"

    def __call__(self, cell: dict[str, Any]) -> dict[str, Any]:
        if self._is_unfit:
            os._exit(75)  # only a new process has a clean device; this row is retried there
        row = pickle.loads(cell["cell"])
        if not row.get("code"):
            began = time.time()
            work_s = row.pop(WORK_S, {BEGAN: began})
            before, row = row, self._answer(row)
            ended = time.time()
            if row is not before:
                self._busy.show(began, ended)
                work_s = {**work_s, self._step.work: ended - began}
                row = {**row, BY: {**before.get(BY, {}), self._step.work: self._who}}
            row = {**row, WORK_S: work_s}
            if self._step.is_measured:
                row[BUSY] = began, ended
        return {"cell": pickle.dumps(row)}

    def _answer(self, row: Row) -> Row:
        name = self._step.name or self._step.make.__name__
        deadline_s = deadline_of(self._step, row.get("num_voxels", 0))
        answer = self._thread.submit(self._serve, row)
        try:
            return answer.result(deadline_s)
        except DeviceFault as fault:
            self._is_unfit = True
            return fault_row(row, name, fault)
        except BadScan as fault:
            return fault_row(row, name, fault)
        except BadStudy as error:
            return {**fault_row(row, name, BadScan("crashed", "the run stopped")), STOP: str(error)}
        except Exception as error:
            if isinstance(error, Late) and not answer.done():
                self._is_unfit = True  # a thread still holds the device
                message = f"took longer than {deadline_s:g} s; the worker was replaced"
                return fault_row(row, name, BadScan("deadline", message))
            self._is_unfit = True  # a bug, or a device whose errors have no name of their own
            if not self._is_last:
                raise as_unexpected(error, name) from None  # Ray prints and logs what it says
            if isinstance(error, TimeoutError | ConnectionError):
                message = f"a server did not answer ({type(error).__name__})"
                return fault_row(row, name, BadScan("unavailable", message))
            return fault_row(row, name, BadScan("bug", type_and_place(describe(error, name))))


class _Write:
    """The last actor: batches of rows in, their outcomes out."""

    def __init__(self, step: Step) -> None:
        with in_a_sentence(step.name or "writing"):
            self._write = step.make(**step.kwargs)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        rows = [pickle.loads(cell) for cell in batch["cell"]]
        stop = next((row[STOP] for row in rows if STOP in row), "")
        try:
            if kept := [row for row in rows if STOP not in row]:
                with in_a_sentence("writing"):
                    self._write(kept)
        except BadStudy as error:
            stop = str(error)
        began, ended = zip(*(row.get(BUSY, (0.0, 0.0)) for row in rows), strict=True)
        return {
            "began": np.array(began),
            "ended": np.array(ended),
            "scan_id": np.array([row["scan_id"] for row in rows]),
            "source_digest": np.array([row["source_digest"] for row in rows]),
            "code": np.array([row.get("code", "") for row in rows]),
            "message": np.array(
                [row["message"] if row.get("code") == "bug" else "" for row in rows]
            ),
            "stop": np.array([stop] * len(rows)),
            "work_s": np.array([json.dumps(row.get(WORK_S, {})) for row in rows]),
            "by": np.array([json.dumps(row.get(BY, {})) for row in rows]),
        }
