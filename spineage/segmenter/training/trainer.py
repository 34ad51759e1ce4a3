"""nnU-Net v2's own planner, preprocessor and trainer, driven from volumes in memory to a result folder.

What differs from `nnUNetv2_train 3d_fullres`: a small network whose patch holds a whole spine (most of
what tells one tissue from another is where in the spine it lies), fewer iterations with AdamW and a
warm-up-free polynomial decay, mirroring left-right only and turning by 15 degrees at most (a spine on its
head is not a spine).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from multiprocessing.pool import ThreadPool
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
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from spineage.science.scan.geometry import Volume
from spineage.segmenter.training.raw import describe, make_folders, save_case

DATASET, DATASET_ID = "Dataset801_Spine", 801
CONFIGURATION = "spine"
FEATURES = (8, 16, 32, 48, 64)
KERNELS = ((1, 3, 3), (1, 3, 3), (1, 3, 3), (3, 3, 3), (3, 3, 3))
STRIDES = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (1, 2, 2), (2, 2, 2))
CONVOLUTIONS = (1, 2, 2, 2, 2)
DECODER_CONVOLUTIONS = (1, 1, 1, 2)
"""Per stage; the encoder from full resolution down, the decoder from the coarsest up. Half of the time goes
at full resolution."""

Cases = Iterable[tuple[Volume, Volume]]


class SpineTrainer(nnUNetTrainer):
    """nnU-Net's trainer, shorter. The class attributes are set by `train_nnunet` before it is built."""

    epochs = 20
    iterations = 50
    rate = 3e-3
    on_epoch: Callable[[int, int, list[float]], None] = staticmethod(
        lambda epoch, epochs, dice: None
    )

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: Any,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cpu"),
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch = self.epochs, self.iterations
        self.num_val_iterations_per_epoch = 2
        self.initial_lr, self.weight_decay = self.rate, 1e-2
        self.save_every = 5

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, PolyLRScheduler]:
        optimizer = torch.optim.AdamW(
            self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay
        )
        return optimizer, PolyLRScheduler(optimizer, self.initial_lr, self.num_epochs)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:
        """Turn within sagittal slices only, mirror across them only, and take no more than the patch."""
        turn = (-np.pi / 12, np.pi / 12)
        self.inference_allowed_mirroring_axes = (0,)
        return turn, True, list(self.configuration_manager.patch_size), (0,)

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        dice = self.logger.get_value("dice_per_class_or_region", step=-1)
        self.on_epoch(self.current_epoch, self.num_epochs, [float(value) for value in dice])

    def plot_network_architecture(self) -> None:
        """Needs a package that no longer exists."""


def train_nnunet(
    cases: Cases,
    labels: dict[str, int],
    scratch: Path,
    *,
    epochs: int,
    iterations: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: str = "cpu",
    features: tuple[int, ...] = FEATURES,
    on_epoch: Callable[[int, int, list[float]], None] = lambda epoch, total, dice: None,
) -> Path:
    """Plan, preprocess and train on (image, labels) pairs; the result folder, as nnU-Net leaves it.

    labels: name to value, consecutive from 0. scratch: an empty folder for nnU-Net's raw, preprocessed
    and results; its console output goes to `scratch/log.txt`. Repeatable by seed on one machine and
    thread count.
    """
    console = sys.stdout

    def report(epoch: int, total: int, dice: list[float]) -> None:
        with redirect_stdout(console):
            on_epoch(epoch, total, dice)

    with (
        nnunet_folders(scratch),
        threads_for_pools(1),
        pools_end_on_sigterm(),
        open(scratch / "log.txt", "w") as log,
        redirect_stdout(log),
    ):
        _write_raw(cases, labels, scratch / "raw" / DATASET)
        with environment({"nnUNet_n_proc_DA": "1"}):  # 0 crashes the planner
            extract_fingerprint_dataset(DATASET_ID, num_processes=1, show_progress_bar=False)
            plan_experiment_dataset(DATASET_ID)
            preprocess_dataset(
                DATASET_ID,
                configurations=("3d_fullres",),
                num_processes=(1,),
                show_progress_bar=False,
            )
        plans = add_small_configuration(scratch / "preprocessed" / DATASET, features, batch_size)
        dataset = json.loads((scratch / "raw" / DATASET / "dataset.json").read_text())
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        settings = {
            "epochs": epochs,
            "iterations": iterations,
            "rate": learning_rate,
            "on_epoch": staticmethod(report),
        }
        kind = type("SpineTrainer", (SpineTrainer,), settings)
        with environment({"nnUNet_n_proc_DA": "0"}):  # augment in this process: repeatable
            trainer = kind(
                {**plans, "continue_training": False},
                CONFIGURATION,
                "all",
                dataset,
                torch.device(device),
            )
            trainer.run_training()
        return Path(trainer.output_folder_base)


@contextmanager
def nnunet_folders(scratch: Path) -> Iterator[None]:
    """nnU-Net's three folders, inside the block only."""
    folders = {f"nnUNet_{name}": scratch / name for name in ("raw", "preprocessed", "results")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    with environment({name: str(folder) for name, folder in folders.items()}):
        yield


@contextmanager
def pools_end_on_sigterm() -> Iterator[None]:
    """nnU-Net forks pools and ends them by SIGTERM: a handler that this process has, as Ray's drivers do,
    would run in the child, which then goes on with what this process was doing instead of ending."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def environment(values: dict[str, str]) -> Iterator[None]:
    """Environment variables that hold inside the block only."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def threads_for_pools(processes: int) -> Iterator[None]:
    """With one process asked for, nnU-Net's pools are threads of this one: each process it spawns imports
    torch again, which takes longer than a small dataset."""
    if processes > 1:
        yield
        return

    class Here:
        Pool = ThreadPool

    with mock.patch.object(multiprocessing, "get_context", return_value=Here):
        yield


def _write_raw(cases: Cases, labels: dict[str, int], folder: Path) -> None:
    """Images and labels that come one by one, in nnU-Net's raw layout."""
    make_folders(folder)
    count = 0
    for count, (image, label) in enumerate(cases, start=1):
        save_case(
            folder,
            f"spine_{count:04d}",
            [image.with_voxels(image.voxels_RAS.astype(np.float32))],
            label.with_voxels(label.voxels_RAS.astype(np.uint8)),
        )
    describe(folder, ["T2"], labels, count)


def add_small_configuration(
    folder: Path, features: tuple[int, ...], batch_size: int
) -> dict[str, Any]:
    """nnU-Net's plans plus a configuration of ours that inherits from 3d_fullres."""
    path = folder / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    fingerprint = json.loads((folder / "dataset_fingerprint.json").read_text())
    forward = plans["transpose_forward"]
    full = plans["configurations"]["3d_fullres"]
    sizes = (
        np.array(fingerprint["shapes_after_crop"])[:, forward]
        * np.array(fingerprint["spacings"])[:, forward]
    )
    steps = np.prod(np.array(STRIDES[: len(features)]), axis=0)
    voxels = np.percentile(sizes, 95, axis=0) / np.array(full["spacing"])
    patch = (np.ceil(np.round(voxels) / steps) * steps).astype(int).tolist()
    architecture = json.loads(json.dumps(full["architecture"]))
    architecture["arch_kwargs"].update(
        n_stages=len(features),
        features_per_stage=list(features),
        kernel_sizes=[list(k) for k in KERNELS[: len(features)]],
        strides=[list(s) for s in STRIDES[: len(features)]],
        n_conv_per_stage=list(CONVOLUTIONS[: len(features)]),
        n_conv_per_stage_decoder=list(DECODER_CONVOLUTIONS[-(len(features) - 1) :]),
    )
    plans["configurations"][CONFIGURATION] = {
        "inherits_from": "3d_fullres",
        "patch_size": patch,
        "batch_size": batch_size,
        "architecture": architecture,
    }
    path.write_text(json.dumps(plans, indent=2))
    return plans
