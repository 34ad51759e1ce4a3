"""nnU-Net v2 networks without pickle, hang or disk: a volume in, labels out.

nnU-Net's planner, architecture builder, preprocessor and resampling are called in memory; its predictor is
not: it hangs in a long-lived process when a thread of its own dies, and resamples every class through
float64. How a segmenter lies on disk: `segmenters.py`.

Shapes: R A S voxel axes of a Volume; C channels or classes; x y z nnU-Net's axes after its own
transposition.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors

from spineage.errors import BadScan, BadStudy
from spineage.io.segmenters import FILES, SCHEMAS, folder_of, read_manifest
from spineage.science.geometry import Volume

TILE_STEP = 0.5
"""Overlap of sliding-window tiles, nnU-Net's default."""


def load_segmenter(weights: str, *, device: str = "cpu", threads: int | None = None) -> Segmenter:
    """Verify, build and keep one segmenter. `threads` sets torch's CPU threads for the whole process.

    Raises BadStudy as `read_manifest` does, or when the device is not there or the model is of an
    unsupported kind.
    """
    manifest = read_manifest(weights)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadStudy(
            f"device {device} was asked for, but this machine has no GPU that torch can use"
        )
    if threads is not None:
        torch.set_num_threads(threads)
    folder = folder_of(weights)
    plans = PlansManager(json.loads((folder / "plans.json").read_text()))
    dataset = json.loads((folder / "dataset.json").read_text())
    refuse_unsupported(plans, dataset, manifest["configuration"])
    networks = _networks(
        plans, dataset, manifest["configuration"], (folder / FILES[0]).read_bytes()
    )
    return Segmenter(
        plans, dataset, manifest, [n.to(device).eval() for n in networks], torch.device(device)
    )


def refuse_unsupported(plans: PlansManager, dataset: dict[str, Any], configuration: str) -> None:
    """Raise BadStudy, in one sentence, for kinds of nnU-Net model that are not handled."""
    if configuration not in plans.available_configurations:
        raise BadStudy(
            f"plans.json has no configuration {configuration!r}, only "
            f"{', '.join(plans.available_configurations)}"
        )
    chosen = plans.get_configuration(configuration)
    channels = dataset.get("channel_names", dataset.get("modality", {}))
    if chosen.previous_stage_name is not None:
        raise BadStudy(
            "this is the second stage of a cascade, which needs another network's output"
        )
    if len(chosen.patch_size) != 3:
        raise BadStudy("this is a 2D configuration; import a 3D configuration of the same dataset")
    if len(channels) != 1:
        raise BadStudy(f"the model wants {len(channels)} input channels, a T2 scan has one")
    if plans.get_label_manager(dataset).has_regions:
        raise BadStudy("the model was trained on overlapping regions; import one trained on labels")


def _networks(
    plans: PlansManager, dataset: dict[str, Any], configuration: str, weights: bytes
) -> list[torch.nn.Module]:
    """One network per fold, built by nnU-Net's own architecture builder."""
    folds: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_tensors(weights).items():
        fold, parameter = name.split("/", 1)
        folds.setdefault(fold, {})[parameter] = tensor
    chosen, heads = (
        plans.get_configuration(configuration),
        plans.get_label_manager(dataset).num_segmentation_heads,
    )
    networks = []
    for fold in sorted(folds):
        network = get_network_from_plans(
            chosen.network_arch_class_name,
            chosen.network_arch_init_kwargs,
            chosen.network_arch_init_kwargs_req_import,
            1,
            heads,
            allow_init=False,
            deep_supervision=False,
        )
        if not _fill(network, folds[fold]):
            raise BadStudy(
                f"the weights of {fold} do not fit the network that plans.json describes"
            )
        networks.append(network)
    return networks


def _fill(network: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    """Load weights in which a tensor that has several names is stored once; whether all of them fitted."""
    own = network.state_dict()
    filled = {own[name].data_ptr() for name in weights if name in own}
    try:
        keys = network.load_state_dict(weights, strict=False)
    except RuntimeError:
        return False
    return not keys.unexpected_keys and all(
        own[name].data_ptr() in filled for name in keys.missing_keys
    )


@dataclass
class Segmenter:
    """One loaded model. Single-process, no threads of its own, no state between scans."""

    plans: PlansManager
    dataset: dict[str, Any]
    manifest: dict[str, Any]
    networks: list[torch.nn.Module]
    device: torch.device

    def __post_init__(self) -> None:
        self.configuration = self.plans.get_configuration(self.manifest["configuration"])
        self._preprocessor = self.configuration.preprocessor_class(verbose=False)
        self._schema_of = np.zeros(256, np.uint8)
        for value, name in self.manifest["labels"].items():
            self._schema_of[int(value)] = self.labels[name]

    @property
    def digest(self) -> str:
        """sha256 that names this model."""
        return str(self.manifest["digest"])

    @property
    def labels(self) -> dict[str, int]:
        """Name to value of the labels that `segment` writes: labels.SEMANTIC or labels.LEVELS."""
        return SCHEMAS[self.manifest["schema"]]

    def segment(self, volume: Volume) -> Volume:
        """Labels (uint8, in `self.labels`) on the volume's own grid.

        Raises BadScan `bad_values` when voxels are NaN, infinite or all alike.
        """
        voxels_RAS = np.asarray(volume.voxels_RAS, dtype=np.float32)
        if not np.isfinite(voxels_RAS).all() or voxels_RAS.min() == voxels_RAS.max():
            raise BadScan("bad_values", "voxels are NaN, infinite or constant; expected an image")
        turn = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(("R", "A", "S")),
            nib.orientations.axcodes2ornt(tuple(self.manifest["orientation"])),
        )
        turned = nib.orientations.apply_orientation(voxels_RAS, turn)
        spacing_mm = [
            volume.spacing_mm[int(np.where(turn[:, 0] == axis)[0][0])] for axis in range(3)
        ]
        # nnU-Net's readers hand over the axes of a file in reverse, slowest first.
        labels = self._segment_as_read(turned.transpose(2, 1, 0), spacing_mm[::-1]).transpose(
            2, 1, 0
        )
        back = nib.orientations.ornt_transform(
            nib.orientations.axcodes2ornt(tuple(self.manifest["orientation"])),
            nib.orientations.axcodes2ornt(("R", "A", "S")),
        )
        labels_RAS = nib.orientations.apply_orientation(labels, back)
        return Volume(np.ascontiguousarray(self._schema_of[labels_RAS]), volume.affine_RAS)

    def _segment_as_read(
        self, image: NDArray[np.float32], spacing_mm: list[float]
    ) -> NDArray[np.uint8]:
        """nnU-Net's road for one image: transpose, crop, normalise, resample, predict, and all the way
        back."""
        data_Cxyz, _, properties = self._preprocessor.run_case_npy(
            image[None], None, {"spacing": spacing_mm}, self.plans, self.configuration, self.dataset
        )
        logits_Cxyz = self._logits(torch.from_numpy(np.ascontiguousarray(data_Cxyz)))
        wanted = [int(n) for n in properties["shape_after_cropping_and_before_resampling"]]
        if list(logits_Cxyz.shape[1:]) != wanted:
            logits_Cxyz = resample_torch_fornnunet(
                logits_Cxyz,
                wanted,
                self.configuration.spacing,
                [spacing_mm[axis] for axis in self.plans.transpose_forward],
                num_threads=torch.get_num_threads(),
                device=self.device,
            )
        labels = np.zeros(properties["shape_before_cropping"], np.uint8)
        box = tuple(
            slice(int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]
        )
        labels[box] = argmax_C(logits_Cxyz).cpu().numpy()
        return labels.transpose(self.plans.transpose_backward)

    @torch.inference_mode()
    def _logits(self, data_Cxyz: torch.Tensor) -> torch.Tensor:
        """Mean over folds of the sliding window's logits, [C, x, y, z] on the device."""
        padded, crop = pad_nd_image(
            data_Cxyz, self.configuration.patch_size, "constant", {"value": 0}, True, None
        )
        padded = padded.to(self.device)
        logits = self._slide(self.networks[0], padded)
        for network in self.networks[1:]:
            logits += self._slide(network, padded)
        return logits[(slice(None), *crop[1:])]

    def _slide(self, network: torch.nn.Module, data_Cxyz: torch.Tensor) -> torch.Tensor:
        """nnU-Net's tiles with nnU-Net's Gaussian weights; its predictor sums in half precision, we in
        single."""
        patch = tuple(int(n) for n in self.configuration.patch_size)
        starts_xyz = compute_steps_for_sliding_window(data_Cxyz.shape[1:], patch, TILE_STEP)
        if all(len(starts) == 1 for starts in starts_xyz):
            return network(data_Cxyz[None])[0].float()
        weight = compute_gaussian(
            patch, sigma_scale=1 / 8, value_scaling_factor=10, device=self.device
        ).float()
        heads = self.plans.get_label_manager(self.dataset).num_segmentation_heads
        logits = torch.zeros((heads, *data_Cxyz.shape[1:]), device=self.device)
        total = torch.zeros(data_Cxyz.shape[1:], device=self.device)
        for start in np.stack(np.meshgrid(*starts_xyz, indexing="ij"), -1).reshape(-1, 3):
            tile = tuple(slice(int(low), int(low) + n) for low, n in zip(start, patch, strict=True))
            logits[(slice(None), *tile)] += (
                network(data_Cxyz[(slice(None), *tile)][None])[0] * weight
            )
            total[tile] += weight
        return logits / total


def argmax_C(logits_Cxyz: torch.Tensor) -> torch.Tensor:
    """The class (uint8) of the highest logit; the first of equals. Several times faster than torch's argmax
    over the leading axis, whose steps through memory are as long as a volume."""
    best = logits_Cxyz[0].clone()
    labels = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
    for number in range(1, len(logits_Cxyz)):
        labels.masked_fill_(logits_Cxyz[number] > best, number)
        torch.maximum(best, logits_Cxyz[number], out=best)
    return labels
