"""Loops and trials that workers can import."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch

from spineage.engine.training.ddp import Worker


def count_epochs(worker: Worker, config: dict[str, Any]) -> None:
    """Counts to `epochs`, keeping a state at each; leaves a line a worker and epoch in `log`.

    `die_at`: rank 0 kills its process once, when it gets there for the first time. `pause_s`: in each.
    """
    state = worker.resume() or {"epoch": 0, "sum": torch.zeros(1)}
    model = worker.wrap(torch.nn.Linear(2, 1))
    assert sum(p.numel() for p in model.parameters()) == 3
    for epoch in range(state["epoch"] + 1, config["epochs"] + 1):
        with (Path(config["log"]) / f"rank{worker.rank}").open("a") as file:
            file.write(f"{epoch}\n")
        time.sleep(config.get("pause_s", 0))
        mark = Path(config["log"]) / "died"
        if config.get("die_at") == epoch and worker.rank == 0 and not mark.exists():
            time.sleep(2)  # the controller hears of a checkpoint every half second
            mark.touch()
            os._exit(1)
        summed = worker.total(torch.tensor([float(worker.rank + 1)]))
        state = {"epoch": epoch, "sum": state["sum"] + summed}
        worker.report({"epoch": epoch, "workers": worker.size}, state)


def leave_mark(config: dict[str, Any], report: Any) -> None:
    """A trial of a grid."""
    if config.get("is_broken"):
        raise ValueError("this arm is broken")
    (Path(config["folder"]) / f"arm{config['i']}").touch()


def descend(config: dict[str, Any], report: Any) -> None:
    """A trial of a search: best at x = 0, worse everywhere else, and it shows early."""
    for epoch in range(1, config["epochs"] + 1):
        distance = abs(config["parameters"]["x"])
        report({"epoch": epoch, "smooth_mae_years": 5 + distance + 1 / epoch})
