"""nnU-Net's own ways to predict, over a network of the segmentation benchmarks."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import SEMANTIC
from tests.benchmarks.segment_plans import CONFIGURATION, NUM_CLASSES, dataset_of


def predictor_of(
    plans: PlansManager, network: torch.nn.Module, device: str, num_classes: int = NUM_CLASSES
) -> nnUNetPredictor:
    """nnU-Net's own predictor over the network, mirroring off."""
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device(device), allow_tqdm=False,
        perform_everything_on_device=device == "cuda",
    )  # fmt: skip
    predictor.manual_initialization(
        network, plans, plans.get_configuration(CONFIGURATION), [network.state_dict()],
        dataset_of(num_classes), "nnUNetTrainer", None,
    )  # fmt: skip
    return predictor


def by_predictor(predictor: nnUNetPredictor, image: Volume) -> Volume:
    """Its labels; classes that are no tissue are background, as in ours."""
    with redirect_stdout(StringIO()):
        labels = predictor.predict_single_npy_array(
            image.voxels_RAS.transpose(2, 1, 0)[None], {"spacing": list(image.spacing_mm[::-1])}
        )
    labels_RAS = labels.transpose(2, 1, 0)
    return image.with_voxels(np.where(labels_RAS < len(SEMANTIC), labels_RAS, 0))


def write_results(folder: Path, plans: PlansManager, network: torch.nn.Module) -> None:
    """A result folder as nnU-Net's trainer leaves it, for its command line."""
    (folder / "fold_0").mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(dataset_of()))
    (folder / "plans.json").write_text(json.dumps(plans.plans))
    torch.save(
        {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": CONFIGURATION},
            "inference_allowed_mirroring_axes": (0, 1, 2),
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )
