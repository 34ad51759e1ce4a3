"""What each worker does during training: read tensors, learn, validate, keep checkpoints, predict at the end.

Used by train, ablate and sweep alike: an arm and the study's own network differ by their recipe alone.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from spineage.engine.training.ddp import Worker
from spineage.io.storage.index import keys_of
from spineage.io.storage.store import Store
from spineage.io.storage.tensors import TensorPeople
from spineage.run.context import Context
from spineage.science.network.augment import build_augment
from spineage.science.network.learn import Batches, Epoch, answer, learn, smooth_mae
from spineage.science.network.network import SpineAgeNet, build_network
from spineage.segmenter.predict.allocator import keep_freed_memory
from spineage.study import Prepare, Train

KEEP_EVERY = 5
"""Epochs between checkpoints: a killed run loses at most so many."""


def config_of(
    context: Context, everyone: pd.DataFrame, roles: pd.Series, train: Train, seed: int
) -> dict[str, Any]:
    """Plain values from which any worker can start: where the tensors are, who does what, and the recipe."""
    ages_years = everyone["age_years"][roles == "train"]
    return {
        "root": context.store.root,
        "folder": context.folder("prepare"),
        "keys": keys_of(everyone),
        "ages_years": [float(a) for a in everyone["age_years"]],
        "train_numbers": np.flatnonzero(roles == "train").tolist(),
        "validate_numbers": np.flatnonzero(roles == "validate").tolist(),
        "predict_numbers": list(range(len(everyone))),
        "age_mean_years": float(ages_years.mean()),
        "age_sd_years": float(ages_years.std(ddof=0)),
        "train": train.model_dump(mode="json"),
        "prepare": context.study.prepare.model_dump(mode="json"),
        "seed": seed,
    }


def train_loop(worker: Worker, config: dict[str, Any]) -> None:
    """Learn, and end with a state that holds the best epoch's weights and everyone's raw predictions.

    A checkpoint's state: epoch, weights, optimiser, history, best_epoch, best_mae_years, best_weights.
    The last one adds predicted_years [N] and features [N, C], and its weights are the best epoch's.
    """
    torch.set_num_threads(1)  # a sum over threads depends on how many there are
    if worker.owns_process and worker.device.type == "cpu":
        keep_freed_memory()
    recipe = Train.model_validate(config["train"])
    model = build_network(
        recipe,
        Prepare.model_validate(config["prepare"]),
        age_mean_years=config["age_mean_years"],
        age_sd_years=config["age_sd_years"],
        seed=config["seed"],
    )
    state = worker.resume() or _fresh_state(model)
    model.load_state_dict(state["weights"])
    wrapped = worker.wrap(model)
    everyone = _everyone(config)
    batches = Batches(
        Subset(everyone, config["train_numbers"]),
        batch_size=recipe.batch_size,
        seed=config["seed"],
        region=recipe.region,
        augment=build_augment() if recipe.augment else None,
        rank=worker.rank,
        size=worker.size,
    )
    epochs = learn(
        wrapped,
        batches,
        epochs=recipe.epochs,
        sd_years=config["age_sd_years"],
        loss=recipe.loss,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        done=_done(state),
        total=worker.total,
    )
    for epoch in epochs:
        mae_years = validate(model, everyone, config["validate_numbers"], recipe.region, worker)
        state = _next_state(state, model, epoch, mae_years, recipe.epochs)
        is_kept = epoch.number % KEEP_EVERY == 0
        worker.report(progress_of(state["history"]), state if is_kept else None)
    model.load_state_dict(state["best_weights"])
    predicted_years, features = predict_shared(
        model, everyone, config["predict_numbers"], recipe.region, worker
    )
    end = {
        **state,
        "weights": _copied(model),
        "predicted_years": predicted_years,
        "features": features,
    }
    worker.report({"best_epoch": state["best_epoch"]}, end)


def _everyone(config: dict[str, Any]) -> TensorPeople:
    keys = [(scan_id, digest) for scan_id, digest in config["keys"]]
    return TensorPeople(Store(config["root"]), config["folder"], keys, config["ages_years"])


class Subset:
    """Some of the people, numbered anew."""

    def __init__(self, everyone: TensorPeople, numbers: list[int]) -> None:
        self._everyone, self._numbers = everyone, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def tensor(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self._everyone.tensor(self._numbers[i])

    def age_years(self, i: int) -> float:
        return self._everyone.age_years(self._numbers[i])


def _fresh_state(model: SpineAgeNet) -> dict[str, Any]:
    return {
        "epoch": 0,
        "weights": _copied(model),
        "optimiser": {},
        "history": [],
        "best_epoch": 0,
        "best_mae_years": math.inf,
        "best_weights": _copied(model),
    }


def _done(state: dict[str, Any]) -> Epoch | None:
    if not state["epoch"]:
        return None
    last = state["history"][-1]
    return Epoch(
        state["epoch"],
        last["train_loss"],
        last["train_mae_years"],
        last["learning_rate"],
        state["optimiser"],
    )


def _next_state(
    state: dict[str, Any], model: SpineAgeNet, epoch: Epoch, mae_years: float, epochs: int
) -> dict[str, Any]:
    """The state after an epoch. Without validation people the last epoch is the best there is."""
    row = {
        "epoch": epoch.number,
        "train_loss": epoch.train_loss,
        "train_mae_years": epoch.train_mae_years,
        "validate_mae_years": mae_years,
        "learning_rate": epoch.learning_rate,
    }
    history = [*state["history"], row]
    weights = _copied(model)
    smooth = smooth_mae([r["validate_mae_years"] for r in history], epochs)
    after = {
        **state,
        "epoch": epoch.number,
        "weights": weights,
        "optimiser": epoch.optimiser,
        "history": history,
    }
    if smooth < state["best_mae_years"] or math.isnan(mae_years):
        after |= {"best_epoch": epoch.number, "best_mae_years": smooth, "best_weights": weights}
    return after


def progress_of(history: list[dict[str, float]]) -> dict[str, float]:
    """The last epoch, with `smooth_mae_years`: the mean of the last epochs' MAE, what a search compares."""
    recent = [row["validate_mae_years"] for row in history]
    return {**history[-1], "smooth_mae_years": smooth_mae(recent, len(recent))}


def _copied(model: SpineAgeNet) -> dict[str, Tensor]:
    return {name: t.detach().cpu().clone() for name, t in model.state_dict().items()}


def validate(
    model: SpineAgeNet, everyone: TensorPeople, numbers: list[int], region: str, worker: Worker
) -> float:
    """Raw MAE in years over the numbered people, shared out among workers; NaN without any."""
    mine = numbers[worker.rank :: worker.size]
    told = answer(model, everyone, mine, region).predicted_years
    error_years = np.abs(told - [everyone.age_years(i) for i in mine]).sum()
    total, count = worker.total(
        torch.tensor([error_years, len(mine)], dtype=torch.float64)
    ).tolist()
    return total / count if count else math.nan


def predict_shared(
    model: SpineAgeNet, everyone: TensorPeople, numbers: list[int], region: str, worker: Worker
) -> tuple[Tensor, Tensor]:
    """Predictions [N] in years and features [N, C] of the numbered people; every worker does its share."""
    rows = torch.zeros(len(numbers), 1 + model.linear.in_features, dtype=torch.float64)
    places = range(worker.rank, len(numbers), worker.size)
    told = answer(model, everyone, [numbers[k] for k in places], region)
    rows[list(places)] = torch.from_numpy(np.column_stack([told.predicted_years, told.features]))
    rows = worker.total(rows)
    return rows[:, 0].contiguous(), rows[:, 1:].contiguous()
