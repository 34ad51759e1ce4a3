"""The network and the scans of the segmentation benchmarks: trained for minutes, so that it finds spines.

Twenty of its 26 classes are never in the truth; they cost what any class costs.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from spineage.io.nnunet import Segmenter, segmenter_of
from spineage.io.nnunet_networks import build_network
from spineage.science.geometry import Volume
from spineage.science.labels import SEMANTIC
from spineage.science.phantom import PhantomRecipe, draw_population, render

NUM_CLASSES = 26
FIELD_MM = (360.0, 810.0)  # of a whole-spine scan along A and S; phantoms are drawn in 205 x 691
SMALL = (8, 16, 32, 64)
PLANNED = (32, 64, 128, 256, 320, 320)
CONFIGURATION = "bench"
SMALL_PATCH = (16, 128, 64)
WHOLE_PATCHES = 0.1
"""Share of the training, at its end, on patches of the size that will be seen."""


def plans_of(features: tuple[int, ...], in_plane_mm: float) -> PlansManager:
    """Plans of a PlainConvUNet for scans of 4 mm slices, patch 16 x 256 x 128."""
    deep = len(features) - 4
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], *[[1, 2, 2]] * deep]
    resampling = {"force_separate_z": None, "order_z": 0}
    function = "resample_data_or_seg_to_shape"
    normal = {"eps": 1e-5, "affine": True}
    return PlansManager({
        "dataset_name": "Dataset901_Bench", "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO", "label_manager": "LabelManager",
        "transpose_forward": [2, 0, 1], "transpose_backward": [1, 2, 0],
        "foreground_intensity_properties_per_channel": {"0": {}},
        "configurations": {CONFIGURATION: {
            "data_identifier": CONFIGURATION, "preprocessor_name": "DefaultPreprocessor",
            "batch_size": 2, "patch_size": [16, 256, 128], "spacing": [4.0, in_plane_mm, in_plane_mm],
            "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [False],
            "batch_dice": False,
            "resampling_fn_data": function,
            "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **resampling},
            "resampling_fn_seg": function,
            "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **resampling},
            "resampling_fn_probabilities": function,
            "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **resampling},
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
                "arch_kwargs": {
                    "n_stages": len(features), "features_per_stage": list(features),
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": [[1, 3, 3], *[[3, 3, 3]] * (len(features) - 1)],
                    "strides": strides, "n_conv_per_stage": [2] * len(features),
                    "n_conv_per_stage_decoder": [2] * (len(features) - 1), "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": normal, "dropout_op": None, "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": True},
                },
            },
        }},
    })  # fmt: skip


def dataset_of(num_classes: int = NUM_CLASSES) -> dict[str, object]:
    """The tissues of the phantom, and classes that are never seen."""
    unseen = {f"unseen_{k}": k for k in range(len(SEMANTIC), num_classes)}
    return {
        "channel_names": {"0": "T2"},
        "labels": {**SEMANTIC, **unseen},
        "file_ending": ".nii.gz",
        "numTraining": 1,
    }


def widened(volume: Volume, mode: str) -> Volume:
    """The volume in a scanner's field of view, its edges carried on (or nothing, for labels)."""
    pads = [(0, 0)]
    for axis, field_mm in zip((1, 2), FIELD_MM, strict=True):
        num = round(field_mm / volume.spacing_mm[axis]) - volume.voxels_RAS.shape[axis]
        pads.append((num // 2, num - num // 2))
    return Volume(np.pad(volume.voxels_RAS, pads, mode=mode), volume.affine_RAS)  # type: ignore[call-overload]


def scans(number: int, seed: int, in_plane_mm: float) -> list[tuple[Volume, Volume]]:
    """Images and semantic truths of 20 slices, 4 mm apart."""
    recipe = PhantomRecipe(
        num_people=number, seed=seed, in_plane_mm=in_plane_mm, slice_mm=4.0, num_slices=20,
        repeat_share=0.0,
    )  # fmt: skip
    found = []
    for exam in draw_population(recipe):
        person = render(exam, recipe)
        found.append((widened(person.image, "edge"), widened(person.semantic, "constant")))
    return found


def trained(
    features: tuple[int, ...], in_plane_mm: float, device: str, steps: int = 200
) -> tuple[PlansManager, torch.nn.Module]:
    """The network after a short training on other phantoms than are measured.

    On small patches, most of which hold some spine, and on whole ones at the end: so it learns more in a
    minute.
    """
    plans, dataset = plans_of(features, in_plane_mm), dataset_of()
    torch.manual_seed(0)
    network = build_network(plans, dataset, CONFIGURATION).to(device).train()
    rng = np.random.default_rng(0)
    started = time.monotonic()
    cases = [
        (_as_network_sees(image.voxels_RAS), _turned(truth.voxels_RAS))
        for image, truth in scans(6, 4321, in_plane_mm)
    ]
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=steps)
    whole = tuple(plans.get_configuration(CONFIGURATION).patch_size)
    for step in range(steps):
        image, truth = cases[rng.integers(len(cases))]
        patch = whole if step >= (1 - WHOLE_PATCHES) * steps else SMALL_PATCH
        here = _around_spine(truth, patch, rng)
        logits = network(torch.from_numpy(image[here].copy())[None, None].to(device))
        loss = _loss(logits, torch.from_numpy(truth[here].astype(np.int64))[None].to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 20 == 19:
            taken = time.monotonic() - started
            print(f"trained {step + 1} of {steps} steps, {taken:.0f} s", file=sys.stderr)
    return plans, network.eval()


def _around_spine(
    truth: NDArray[np.generic], patch: tuple[int, ...], rng: np.random.Generator
) -> tuple[slice, ...]:
    """A patch with a voxel of the spine somewhere in it; one in four lies anywhere."""
    seen = np.argwhere(truth)[:: max(1, np.count_nonzero(truth) // 5000)]
    at = seen[rng.integers(len(seen))] if rng.random() > 0.25 else rng.integers(truth.shape)
    offset = [int(rng.integers(n)) for n in patch]
    low = [
        int(np.clip(a - o, 0, n - p))
        for a, o, n, p in zip(at, offset, truth.shape, patch, strict=True)
    ]
    return tuple(slice(a, a + p) for a, p in zip(low, patch, strict=True))


def _loss(logits_BCxyz: torch.Tensor, wanted_Bxyz: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, and soft Dice of the tissues that are there."""
    entropy = torch.nn.functional.cross_entropy(logits_BCxyz, wanted_Bxyz)
    p_BCxyz = logits_BCxyz.softmax(1)
    dice = []
    for value in range(1, len(SEMANTIC)):
        is_it, p = wanted_Bxyz == value, p_BCxyz[:, value]
        if is_it.any():
            dice.append(2 * p[is_it].sum() / (p.sum() + is_it.sum()))
    return entropy - torch.stack(dice).mean() if dice else entropy


def _turned(voxels_RAS: NDArray[np.generic]) -> NDArray[np.generic]:
    """R A S to the network's R S A."""
    return voxels_RAS.transpose(0, 2, 1)


def _as_network_sees(voxels_RAS: NDArray[np.generic]) -> NDArray[np.float32]:
    image = _turned(voxels_RAS).astype(np.float32)
    normalised: NDArray[np.float32] = (image - image.mean()) / image.std()
    return normalised


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
