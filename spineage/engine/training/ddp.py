"""A training loop on several workers at once, taken up again where a killed run had got to.

Ray Train V2 underneath. The loop itself never says ray: it is handed a `Worker`, which knows its rank, wraps
the model, adds up over workers and keeps checkpoints; with no workers it runs in this process.
"""

from __future__ import annotations

import copy
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import ray
import ray.train
import ray.train.torch
import torch
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor, nn

from spineage.engine.labels import Labels
from spineage.engine.places import Need, Tell, aloud, wait_for
from spineage.engine.quiet import in_a_sentence, plain_bad_study

STATE = "state.pt"
MAX_FAILURES = 4
"""In all of a training: lost workers and nodes, but also a bug that is met again each time."""

Report = Callable[[dict[str, float]], None]


class Worker(Protocol):
    """One process of a training run, as its loop sees it."""

    rank: int
    size: int
    device: torch.device
    owns_process: bool
    """Nothing else runs in this process, which ends with the loop."""

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model on the device; its gradients are averaged over workers."""

    def total(self, sums: Tensor) -> Tensor:
        """A small tensor added up over workers; every worker gets the sum and must call."""

    def resume(self) -> dict[str, Any] | None:
        """The last state kept, or None at the start."""

    def report(self, metrics: dict[str, float], state: dict[str, Any] | None = None) -> None:
        """Tell how it goes; every worker must call, all with a state or all without. Rank 0's (tensors and
        plain values) is kept."""

    def tell(self, metrics: dict[str, float]) -> None:
        """Tell how one worker's own work goes; nobody waits for the others."""


Loop = Callable[[Worker, dict[str, Any]], None]


@dataclass(frozen=True)
class Fitted:
    """How a run ended: rank 0's last metrics and the last state it kept."""

    metrics: dict[str, float]
    state: dict[str, Any]


@dataclass
class Alone:
    """The only worker, in this process. Its state lives in memory; `report_to` hears every report."""

    report_to: Report = lambda metrics: None
    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    owns_process: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    state: dict[str, Any] | None = None

    def wrap(self, model: nn.Module) -> nn.Module:
        return model.to(self.device)

    def total(self, sums: Tensor) -> Tensor:
        return sums

    def resume(self) -> dict[str, Any] | None:
        return self.state

    def report(self, metrics: dict[str, float], state: dict[str, Any] | None = None) -> None:
        self.metrics = metrics
        if state is not None:
            self.state = copy.deepcopy(
                state
            )  # as a file would: the loop goes on changing its tensors
        self.report_to(metrics)

    def tell(self, metrics: dict[str, float]) -> None:
        self.report_to(metrics)


class InRay:
    """One of several workers, inside Ray Train. `board` hears how many there are, rank 0's reports and what
    any worker tells, where somebody listens."""

    def __init__(self, board: Queue | None) -> None:
        context = ray.train.get_context()
        self.rank, self.size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.owns_process = True
        self._board = board
        if self.rank == 0 and board is not None:
            board.put(f"training on {self.size} {'worker' if self.size == 1 else 'workers'}")

    def wrap(self, model: nn.Module) -> nn.Module:
        wrapped: nn.Module = ray.train.torch.prepare_model(model)
        return wrapped

    def total(self, sums: Tensor) -> Tensor:
        if self.size == 1:
            return sums
        on_device = sums.to(self.device)  # NCCL adds up on GPUs only
        torch.distributed.all_reduce(on_device)
        return on_device.to(sums.device)

    def resume(self) -> dict[str, Any] | None:
        checkpoint = ray.train.get_checkpoint()
        return read_state(checkpoint) if checkpoint else None

    def report(self, metrics: dict[str, float], state: dict[str, Any] | None = None) -> None:
        if self.rank == 0:
            self.tell(metrics)
        if state is None:
            return  # Ray Train takes one report in two seconds: short epochs would wait for it
        if self.rank:
            ray.train.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            torch.save({"metrics": metrics, **state}, Path(folder) / STATE)
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def tell(self, metrics: dict[str, float]) -> None:
        if self._board is not None:  # an empty queue is falsy
            self._board.put(metrics)


class _Lost(ray.train.UserCallback):
    """Says on the board that workers died: Ray Train takes the run up from its last checkpoint in silence."""

    def __init__(self, board: Queue) -> None:
        self._board = board

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        ranks = [str(rank) for rank in sorted(worker_exceptions)]
        self._board.put(
            f"training failed on worker {', '.join(ranks)}; its last checkpoint is kept"
        )


def _scaling(
    workers: tuple[int, int], gpus_per_worker: float, labels: Labels
) -> ray.train.ScalingConfig:
    least, most = workers
    takes = {"CPU": 1.0, "GPU": gpus_per_worker} if gpus_per_worker else None
    options: dict[str, Any] = {  # mypy knows the first version of Ray Train
        "num_workers": least if least == most else workers,
        "use_gpu": gpus_per_worker > 0,
        "resources_per_worker": takes,
        "label_selector": dict(labels) or None,
    }
    return ray.train.ScalingConfig(**options)


def fit(
    loop: Loop,
    config: dict[str, Any],
    *,
    workers: tuple[int, int],
    gpus_per_worker: float = 0.0,
    labels: Labels | None = None,
    storage: str,
    name: str,
    report_to: Report | None = None,
    tell: Tell = aloud,
) -> Fitted:
    """Run an importable loop on several processes and return its end; 0 is here, keeping nothing.

    workers: at least and at most. Of a range Ray starts as many as the nodes hold, goes on with fewer when
    one is lost (MAX_FAILURES times), and with more when one comes; each time all begin at the last
    checkpoint.
    gpus_per_worker: 0 is the CPU; 0.5 shares a GPU between two. labels: of the nodes to run on.
    report_to hears metrics; where it is given, `tell` hears on how many workers the loop starts, and of
    workers that failed.

    `name` on `storage` must stand for the whole recipe: the same again goes on where the last run
    stopped, and once finished trains nothing and returns what it had. The loop must keep a state with its
    last report.
    """
    if workers == (0, 0):
        alone = Alone(
            report_to or (lambda metrics: None),
            device=torch.device("cuda" if gpus_per_worker else "cpu"),
        )
        loop(alone, config)
        assert alone.state is not None, "the loop kept no state"
        return Fitted(alone.metrics, alone.state)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    least = Need("training", workers[0], 1.0, gpus_per_worker, labels or {})
    wait_for([least], "train with fewer workers")
    with _listening(report_to, tell) as board:
        callbacks: list[Any] = [_Lost(board)] if board is not None else []
        trainer = ray.train.torch.TorchTrainer(
            _run_loop,
            train_loop_config={"loop": loop, "config": config, "board": board},
            scaling_config=_scaling(workers, gpus_per_worker, labels or {}),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage,
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
                callbacks=callbacks,
            ),
        )
        with plain_bad_study():
            result = trainer.fit()
    assert result.checkpoint is not None, "the loop kept no state"
    state = read_state(result.checkpoint)
    return Fitted(state.pop("metrics"), state)


def _run_loop(config: dict[str, Any]) -> None:
    with in_a_sentence("training"):
        config["loop"](InRay(config["board"]), config["config"])


@contextmanager
def _listening(report_to: Report | None, tell: Tell) -> Iterator[Queue | None]:
    """A board that workers write reports and sentences on, read aloud while the run goes on. It is on this
    node: a run does not end because another is lost."""
    if report_to is None:
        yield None
        return
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    board = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    reader = threading.Thread(target=_read_aloud, args=(board, report_to, tell), daemon=True)
    reader.start()
    try:
        yield board
    finally:
        board.put(None)
        reader.join(timeout=10)
        board.shutdown()


def _read_aloud(board: Queue, report_to: Report, tell: Tell) -> None:
    while (said := board.get()) is not None:
        if isinstance(said, str):
            tell(said)
        else:
            report_to(said)


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """The state of a checkpoint: tensors and plain values; nothing else is unpickled."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(
            Path(folder) / STATE, weights_only=True, map_location="cpu"
        )
    return state
