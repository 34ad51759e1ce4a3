"""The engine over a network of the segmentation benchmarks."""

from __future__ import annotations

import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from spineage.science.spine.labels import SEMANTIC
from spineage.segmenter.predict.predictor import Segmenter, segmenter_of
from tests.benchmarks.segment_plans import CONFIGURATION, NUM_CLASSES, dataset_of


def segmenter(
    plans: PlansManager, network: torch.nn.Module, device: str, num_classes: int = NUM_CLASSES
) -> Segmenter:
    """Our engine over the network."""
    names = {value: name for name, value in SEMANTIC.items()}
    manifest = {
        "configuration": CONFIGURATION, "orientation": "RAS", "schema": "semantic", "digest": "",
        "labels": {str(k): names.get(k, "background") for k in range(num_classes)},
    }  # fmt: skip
    return segmenter_of(plans, dataset_of(num_classes), manifest, [network], device)
