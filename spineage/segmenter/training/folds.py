"""nnU-Net's own training of one fold, taken up again where a killed process had got to.

The folder `work` is one dataset in nnU-Net's layout (raw, preprocessed, results); it must be seen by every
machine that trains. nnU-Net's trainer is used as it is: its losses, augmentation, schedule and
checkpoints; here are only how long it runs, how often it keeps its state, and that a checkpoint is never
half written.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from nnunetv2.experiment_planning.plan_and_preprocess_api import (
    extract_fingerprint_dataset,
    plan_experiment_dataset,
    preprocess_dataset,
)
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.segmenter.dataset_json import check_dataset
from spineage.segmenter.plans import check_plans
from spineage.segmenter.training.trainer import (
    CONFIGURATION,
    DATASET,
    DATASET_ID,
    FEATURES,
    add_small_configuration,
    environment,
    nnunet_folders,
    threads_for_pools,
)

PLANS, HISTORY, READY = "nnUNetPlans", "history.jsonl", "ready.json"


@dataclass(frozen=True)
class FoldRecipe:
    """What is trained: nnU-Net's configuration and length. `spine` is our small network whose patch holds a
    whole spine; the others are nnU-Net's own. Defaults are nnU-Net's."""

    configuration: str = "3d_fullres"
    epochs: int = 1000
    iterations: int = 250
    validation_iterations: int = 50
    batch_size: int = 2
    features: tuple[int, ...] = FEATURES

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "features": list(self.features)}


class FoldTrainer(nnUNetTrainer):
    """nnU-Net's trainer on one device of its own. The class attributes are set by `train_fold`."""

    recipe = FoldRecipe()
    keep_every = 1
    tell: Callable[[dict[str, float]], None] = staticmethod(lambda epoch: None)

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: Any,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cpu"),
    ) -> None:
        # Each worker trains a fold of its own: to nnU-Net the group of workers must not look like its DDP.
        with mock.patch.object(torch.distributed, "is_initialized", return_value=False):
            super().__init__(plans, configuration, fold, dataset_json, device)
        self.device = device  # nnU-Net takes the first GPU; a worker may have been given another
        self.num_epochs = self.recipe.epochs
        self.num_iterations_per_epoch = self.recipe.iterations
        self.num_val_iterations_per_epoch = self.recipe.validation_iterations
        self.save_every = self.keep_every

    def save_checkpoint(self, filename: str) -> None:
        """All or nothing: a process killed while it writes must leave the one before."""
        super().save_checkpoint(f"{filename}.draft")
        os.replace(f"{filename}.draft", filename)

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Tensors and plain values; nnU-Net itself would run whatever the file holds."""
        found = _read_checkpoint(Path(filename_or_checkpoint))
        with mock.patch.object(torch, "load", return_value=found):
            super().load_checkpoint(filename_or_checkpoint)

    def on_epoch_end(self) -> None:
        """The epoch's figures to `history.jsonl`, nnU-Net's own end with its checkpoint, and then to whoever
        listens: a process killed in between has written down what its checkpoint holds."""
        names = [
            name for name in self.dataset_json["labels"] if name not in ("background", "ignore")
        ]
        dice = self.logger.get_value("dice_per_class_or_region", step=-1)
        told = {
            "epoch": float(self.current_epoch + 1),
            "train_loss": float(self.logger.get_value("train_losses", step=-1)),
            "validate_loss": float(self.logger.get_value("val_losses", step=-1)),
            "mean_dice": float(self.logger.get_value("mean_fg_dice", step=-1)),
            **{f"dice_{name}": float(d) for name, d in zip(names, dice, strict=True)},
        }
        path = Path(self.output_folder) / HISTORY
        rows = [row for row in read_history(path) if row["epoch"] < told["epoch"]]
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, told]))
        with mock.patch.object(self.logger, "plot_progress_png"):  # MLflow draws the curves
            super().on_epoch_end()
        if self.current_epoch == self.num_epochs:
            self._keep_the_last_epoch()
        self.tell(told)

    def _keep_the_last_epoch(self) -> None:
        """As nnU-Net keeps the others: a process killed before its last checkpoint must not train again."""
        self.current_epoch -= 1  # has been counted up; a checkpoint says the epoch after this one
        self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_latest.pth"))
        self.current_epoch += 1

    def plot_network_architecture(self) -> None:
        """Needs a package that no longer exists."""


def plan(
    work: Path, recipe: FoldRecipe, splits: list[dict[str, list[str]]], processes: int
) -> None:
    """nnU-Net's fingerprint, plans and preprocessing of `work/raw`, once; what is there already is kept.

    Raises BadStudy when nnU-Net plans no such configuration for these scans.
    """
    folder = work / "preprocessed" / DATASET
    if (folder / READY).exists():
        return
    raw = work / "raw" / DATASET / "dataset.json"
    check_dataset(
        read_table_file(raw, "dataset.json of the folder of the training", "take another --work")
    )
    with nnunet_folders(work), _quiet(work), threads_for_pools(processes):
        with environment({"nnUNet_n_proc_DA": "1"}):  # 0 crashes the planner
            extract_fingerprint_dataset(
                DATASET_ID, num_processes=processes, show_progress_bar=False
            )
            plan_experiment_dataset(DATASET_ID)
        plans = json.loads((folder / f"{PLANS}.json").read_text())
        if recipe.configuration == CONFIGURATION:
            plans = add_small_configuration(folder, recipe.features, recipe.batch_size)
        if recipe.configuration not in plans["configurations"]:
            raise BadStudy(
                f"nnU-Net plans no configuration {recipe.configuration!r} for these scans, only "
                f"{', '.join([*plans['configurations'], CONFIGURATION])}"
            )
        if plans["configurations"][recipe.configuration].get("previous_stage"):
            raise BadStudy(
                f"{recipe.configuration} is the second stage of a cascade, which cannot segment alone; "
                "train 3d_fullres or 3d_lowres"
            )
        inherits = recipe.configuration == CONFIGURATION  # its data are those of 3d_fullres
        preprocess_dataset(
            DATASET_ID,
            configurations=("3d_fullres" if inherits else recipe.configuration,),
            num_processes=(processes,),
            show_progress_bar=False,
        )
    (folder / "splits_final.json").write_text(json.dumps(splits))
    (folder / READY).write_text(json.dumps(recipe.as_json()))


def train_fold(
    work: Path,
    fold: str,
    recipe: FoldRecipe,
    *,
    device: torch.device,
    keep_every: int,
    augment_processes: int,
    tell: Callable[[dict[str, float]], None],
    trainer_class: type[FoldTrainer] = FoldTrainer,
) -> None:
    """Train one fold to its end: from nnU-Net's `checkpoint_latest` where there is one, not at all where
    its `checkpoint_final` is there.

    keep_every: epochs between checkpoints, what a killed process loses at most. tell: hears each epoch.
    """
    if is_trained(work, fold, recipe):
        return
    folder = work / "preprocessed" / DATASET
    plans, dataset = _checked(folder, recipe)
    latest = fold_folder(work, fold, recipe) / "checkpoint_latest.pth"
    console = sys.stdout

    def tell_aloud(epoch: dict[str, float]) -> None:
        with redirect_stdout(console):
            tell(epoch)

    settings = {"recipe": recipe, "keep_every": keep_every, "tell": staticmethod(tell_aloud)}
    kind = type("FoldTrainer", (trainer_class,), settings)
    variables = {"nnUNet_n_proc_DA": str(augment_processes), "nnUNet_compile": "f"}
    with nnunet_folders(work), environment(variables), _quiet(work, fold):
        trainer = kind(
            {**plans, "continue_training": latest.exists()},
            recipe.configuration,
            fold if fold == "all" else int(fold),
            dataset,
            device,
        )
        if latest.exists():
            trainer.load_checkpoint(str(latest))
        trainer.run_training()


def _checked(folder: Path, recipe: FoldRecipe) -> tuple[dict[str, Any], dict[str, Any]]:
    """plans.json and dataset.json, whose names nnU-Net's trainer looks up and calls; see `plans.py`."""
    remedy = "take another --work folder and train anew"
    plans, dataset = (
        read_table_file(folder / name, f"{name} of the folder of the training", remedy)
        for name in (f"{PLANS}.json", "dataset.json")
    )
    check_dataset(dataset)
    check_plans(plans, recipe.configuration)
    return plans, dataset


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Nothing is unpickled but tensors, numbers and containers of them."""
    multiarray = importlib.import_module("numpy._core.multiarray")
    numbers = [np.dtype, multiarray.scalar, *map(type, map(np.dtype, ("f4", "f8", "i8")))]
    try:
        with torch.serialization.safe_globals(numbers):
            found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError):
        raise BadStudy(
            f"{path.name} of {path.parent.name} is no checkpoint that this training wrote: remove it, and "
            "the fold begins anew"
        ) from None
    return found


def result_folder(work: Path, recipe: FoldRecipe) -> Path:
    """Where nnU-Net leaves dataset.json, plans.json and the folds."""
    return work / "results" / DATASET / f"FoldTrainer__{PLANS}__{recipe.configuration}"


def fold_folder(work: Path, fold: str, recipe: FoldRecipe) -> Path:
    """One fold's checkpoints and history."""
    return result_folder(work, recipe) / f"fold_{fold}"


def is_trained(work: Path, fold: str, recipe: FoldRecipe) -> bool:
    """Whether a fold has come to its end."""
    return (fold_folder(work, fold, recipe) / "checkpoint_final.pth").exists()


def read_history(path: Path) -> list[dict[str, float]]:
    """The epochs so far; a line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(dict(json.loads(line)))
        except ValueError:
            continue
    return rows


@contextmanager
def _quiet(work: Path, fold: str = "plan") -> Iterator[None]:
    """nnU-Net's console output goes to a file."""
    with open(work / f"log_{fold}.txt", "a") as log, redirect_stdout(log):
        yield
