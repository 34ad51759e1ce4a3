"""What a trial of an ablation or a search does, in a process of its own. Light: every trial imports it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from spineage.engine.training.ddp import fit
from spineage.engine.training.sweep import Report
from spineage.errors import BadStudy
from spineage.io.storage.store import Store
from spineage.stages.train.loop import train_loop

ARMS = "ablate/arms"
"""Arms are kept by their own address, so a grid with more regions or seeds trains only what is new."""
FIGURES = (
    "train_loss",
    "train_mae_years",
    "validate_mae_years",
    "smooth_mae_years",
    "learning_rate",
)
"""Of an epoch, for the log."""


def figures_of(metrics: Mapping[str, Any]) -> dict[str, float]:
    """What of a report is logged; Tune adds its own to it."""
    return {name: value for name, value in metrics.items() if name in FIGURES}


def file_of(arm: Mapping[str, Any]) -> str:
    """Where its row is kept."""
    return f"{ARMS}/{arm['digest']}.json"


def train_arm(arm: dict[str, Any], report: Report) -> None:
    """One trial: train, answer for the test people, keep the row; a killed one goes on."""
    store = Store(arm["root"])
    fitted = fit(
        train_loop,
        arm["loop"],
        workers=(arm["num_workers"], arm["num_workers"]),
        gpus_per_worker=arm["gpus_per_worker"],
        labels=arm["labels"],
        storage=store.uri("ablate", "runs"),
        name=arm["digest"],
        report_to=of_epochs(report),
        tell=lambda text: None,
    )
    ages_years = np.array(arm["loop"]["ages_years"])[arm["loop"]["predict_numbers"]]
    row = {
        **arm["row"],
        "validate_mae_years": _finite(fitted.state["best_mae_years"]),
        **accuracy(fitted.state["predicted_years"].numpy(), ages_years),
    }
    store.write(file_of(arm), json.dumps(row).encode())


def accuracy(predicted_years: np.ndarray, ages_years: np.ndarray) -> dict[str, float | None]:
    """Raw MAE and R2 = 1 - SSE/SST; unknown where there is nobody, R2 also where all ages are one."""
    if not len(ages_years):
        return {"test_mae_years": None, "test_r2": None}
    spread = float(((ages_years - ages_years.mean()) ** 2).sum())
    squared = float(((predicted_years - ages_years) ** 2).sum())
    return {
        "test_mae_years": float(np.abs(predicted_years - ages_years).mean()),
        "test_r2": 1 - squared / spread if spread else None,
    }


def _finite(value: float) -> float:
    if not np.isfinite(value):
        raise BadStudy(
            "no normal person of the validation split has a tensor and an age: arms cannot be compared; "
            "widen cohort.validate"
        )
    return value


def train_trial(config: dict[str, Any], report: Report) -> None:
    """One trial: the study's training with some parameters replaced, reported epoch by epoch."""
    loop = {**config["loop"], "train": {**config["loop"]["train"], **config["parameters"]}}
    fit(
        train_loop,
        loop,
        workers=(0, 0),
        gpus_per_worker=config["gpus_per_worker"],
        storage="",
        name="",
        report_to=of_epochs(report),
    )


def of_epochs(report: Report) -> Report:
    """Hands on what is reported of an epoch."""

    def tell(metrics: dict[str, float]) -> None:
        if "epoch" in metrics:
            report(metrics)

    return tell
