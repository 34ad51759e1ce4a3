"""nnUNetPredictor in a process of its own, as a user keeps it: nothing that the engine does reaches it."""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from spineage.science.scan.geometry import Volume
from tests.benchmarks.segment_by_nnunet import by_predictor, predictor_of

_KEPT: list[nnUNetPredictor] = []


class Beside:
    """Call it with an image: labels, and the seconds they took there. The model is loaded once."""

    def __init__(self, plans: PlansManager, network: torch.nn.Module, device: str) -> None:
        self._pool = multiprocessing.get_context("spawn").Pool(
            1, _load, (plans.plans, network, device, torch.get_num_threads())
        )

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.terminate()

    def __call__(self, image: Volume) -> tuple[Volume, float]:
        labels: tuple[Volume, float] = self._pool.apply(_predict, (image,))
        return labels


def _load(plans: dict[str, Any], network: torch.nn.Module, device: str, threads: int) -> None:
    torch.set_num_threads(threads)
    _KEPT.append(predictor_of(PlansManager(plans), network.to(device), device))


def _predict(image: Volume) -> tuple[Volume, float]:
    started = time.perf_counter()
    return by_predictor(_KEPT[0], image), time.perf_counter() - started
