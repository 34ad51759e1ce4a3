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
from torch import Tensor, nn

STATE = "state.pt"

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
    """One of several workers, inside Ray Train. `board` hears rank 0's reports and what any
    worker tells, where somebody listens."""

    def __init__(self, board: Queue | None) -> None:
        context = ray.train.get_context()
        self.rank, self.size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.owns_process = True
        self._board = board

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


def fit(
    loop: Loop,
    config: dict[str, Any],
    *,
    num_workers: int,
    use_gpu: bool = False,
    storage: str,
    name: str,
    max_failures: int = 2,
    report_to: Report | None = None,
    callbacks: list[Any] | None = None,
) -> Fitted:
    """Run an importable loop on `num_workers` processes and return its end; 0 is here, keeping nothing.

    `name` on `storage` must stand for the whole recipe: the same again goes on where the last run
    stopped, and once finished trains nothing and returns what it had. The loop must keep a state with its
    last report.
    """
    if num_workers == 0:
        alone = Alone(
            report_to or (lambda metrics: None), device=torch.device("cuda" if use_gpu else "cpu")
        )
        loop(alone, config)
        assert alone.state is not None, "the loop kept no state"
        return Fitted(alone.metrics, alone.state)
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    with _listening(report_to) as board:
        trainer = ray.train.torch.TorchTrainer(
            _run_loop,
            train_loop_config={"loop": loop, "config": config, "board": board},
            scaling_config=ray.train.ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            run_config=ray.train.RunConfig(
                name=name,
                storage_path=storage,
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
                failure_config=ray.train.FailureConfig(max_failures=max_failures),
                callbacks=callbacks or [],
            ),
        )
        result = trainer.fit()
    assert result.checkpoint is not None, "the loop kept no state"
    state = read_state(result.checkpoint)
    return Fitted(state.pop("metrics"), state)


def _run_loop(config: dict[str, Any]) -> None:
    config["loop"](InRay(config["board"]), config["config"])


@contextmanager
def _listening(report_to: Report | None) -> Iterator[Queue | None]:
    """A board that workers write their reports on, read aloud to `report_to` while the run goes on."""
    if report_to is None:
        yield None
        return
    board = Queue(actor_options={"num_cpus": 0})
    reader = threading.Thread(target=_read_aloud, args=(board, report_to), daemon=True)
    reader.start()
    try:
        yield board
    finally:
        board.put(None)
        reader.join(timeout=10)
        board.shutdown()


def _read_aloud(board: Queue, report_to: Report) -> None:
    while (metrics := board.get()) is not None:
        report_to(metrics)


def read_state(checkpoint: ray.train.Checkpoint) -> dict[str, Any]:
    """The state of a checkpoint: tensors and plain values; nothing else is unpickled."""
    with checkpoint.as_directory() as folder:
        state: dict[str, Any] = torch.load(
            Path(folder) / STATE, weights_only=True, map_location="cpu"
        )
    return state
