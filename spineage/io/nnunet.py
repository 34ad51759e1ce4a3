"""nnU-Net v2 networks without pickle, hang or disk: a volume in, labels out.

nnU-Net's planner, architecture builder, normalisation and resampling are called in memory; its predictor is
not: it hangs in a long-lived process when a thread of its own dies, and resamples every class through
float64. How a segmenter lies on disk: `segmenters.py`. The road of a volume: `nnunet_prepare` (to the
network's grid), `nnunet_tiles` (logits), `nnunet_labels` (labels on the volume's grid); `nnunet_coarse` finds
the spine first where `fast` is asked for.

Shapes: R A S voxel axes of a Volume; C channels; x y z nnU-Net's axes after its own transposition.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from spineage.errors import BadScan, BadStudy
from spineage.io import nnunet_coarse as coarse
from spineage.io.allocator import keep_freed_memory
from spineage.io.convolutions import by_onednn
from spineage.io.nnunet_labels import Decision, LabelWriter, axis_orders
from spineage.io.nnunet_networks import build_networks, num_channels, refuse_unsupported
from spineage.io.nnunet_prepare import Box, Normalised, Preparation
from spineage.io.nnunet_tiles import TILE_STEP, Ensemble, Window, slide, tiling
from spineage.io.segmenters import FILES, SCHEMAS, folder_of, read_manifest
from spineage.science.geometry import Volume

__all__ = ["Segmented", "Segmenter", "load_segmenter", "refuse_unsupported"]

Mode = Literal["exact", "fast"]
FAST_STEP = 0.8
"""Costs about 0.001 Dice; see `tests/benchmarks/segment_speed.py`."""
TILES_AT_ONCE = {"cpu": 1, "cuda": 4}
"""More do not pay on a CPU, and take memory."""


def load_segmenter(
    weights: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    mirror: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """Verify, build and keep one segmenter.

    threads: torch's CPU threads for the whole process, which is taken to do nothing else: on a CPU it also
    keeps the memory it frees (`allocator`).
    mirror: average over the flips that the model was trained with; 8 times the work in 3D.
    channels_last, compiled: other ways to compute the same, which may pay on a GPU; a compiler is needed.
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
        if device == "cpu":
            keep_freed_memory()
    folder = folder_of(weights)
    plans = PlansManager(json.loads((folder / "plans.json").read_text()))
    dataset = json.loads((folder / "dataset.json").read_text())
    refuse_unsupported(plans, dataset, manifest["configuration"])
    networks = build_networks(
        plans, dataset, manifest["configuration"], (folder / FILES[0]).read_bytes()
    )
    return segmenter_of(plans, dataset, manifest, networks, device, mirror, channels_last, compiled)


def segmenter_of(
    plans: PlansManager,
    dataset: dict[str, Any],
    manifest: dict[str, Any],
    networks: Sequence[torch.nn.Module],
    device: str = "cpu",
    mirror: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """A segmenter of what is in memory already; see `load_segmenter`."""
    chosen = plans.get_configuration(manifest["configuration"])
    is_flat = len(chosen.patch_size) == 2
    layout = torch.channels_last if is_flat else torch.channels_last_3d
    ready: list[torch.nn.Module] = []
    for network in networks:
        placed = (by_onednn(network) if device == "cpu" else network).to(device).eval()
        placed = placed.to(memory_format=layout) if channels_last else placed  # type: ignore[call-overload]
        ready.append(torch.compile(placed) if compiled else placed)  # type: ignore[arg-type]
    ensemble = Ensemble(
        tuple(ready),
        plans.get_label_manager(dataset).num_segmentation_heads,
        torch.device(device),
        is_flat,
        _mirror_axes(manifest) if mirror else (),
    )
    return Segmenter(plans, dataset, manifest, ensemble)


def _mirror_axes(manifest: dict[str, Any]) -> tuple[int, ...]:
    if "mirror_axes" not in manifest:
        raise BadStudy(
            "mirroring was asked for, but the segmenter's manifest does not say along which axes it was "
            "trained (`mirror_axes`): import the model again"
        )
    return tuple(int(axis) for axis in manifest["mirror_axes"])


@dataclass(frozen=True)
class Segmented:
    """Labels on the volume's own grid, and in words what was done to get them."""

    labels: Volume
    how: str


@dataclass
class Segmenter:
    """One loaded model. Single-process, no threads of its own, no state between scans but the number of
    tiles that fit the device."""

    plans: PlansManager
    dataset: dict[str, Any]
    manifest: dict[str, Any]
    ensemble: Ensemble

    def __post_init__(self) -> None:
        self.configuration = self.plans.get_configuration(self.manifest["configuration"])
        self._preparation = Preparation(self.plans, self.configuration)
        manager = self.plans.get_label_manager(self.dataset)
        order = tuple(manager.regions_class_order) if manager.has_regions else None
        self._decision = Decision(order)
        self._tiles_at_once = TILES_AT_ONCE[self.ensemble.device.type]
        self._fill_schema()

    def _fill_schema(self) -> None:
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

    @property
    def num_channels(self) -> int:
        """Images that the model looks at together; a T2 scan is one."""
        return num_channels(self.dataset)

    def warm_up(self) -> None:
        """Predict one batch of nothing: a device's first steps are slow and show whether it works."""
        patch = list(self.configuration.patch_size)
        patch = [1, *patch] if self.ensemble.is_flat else patch
        nothing = torch.zeros((self._tiles_at_once, self.num_channels, *patch))
        with torch.inference_mode():
            self.ensemble(nothing.to(self.ensemble.device))

    def segment(self, volume: Volume | Sequence[Volume], mode: Mode = "exact") -> Volume:
        """Labels (uint8, in `self.labels`) on the volume's own grid; see `segment_and_say`."""
        return self.segment_and_say(volume, mode).labels

    def segment_and_say(self, volume: Volume | Sequence[Volume], mode: Mode = "exact") -> Segmented:
        """Labels, and how they were found.

        volume: one, or as many as the model has channels, on one grid.
        mode: `exact` sees all of the volume in nnU-Net's own tiles; `fast` finds the spine first and sees
        its box in fewer tiles.
        Raises BadScan `bad_values` when voxels of a channel are NaN, infinite or all alike, BadStudy when
        the number of volumes is not the model's, torch.OutOfMemoryError when one tile at a time does not
        fit.
        """
        volumes = [volume] if isinstance(volume, Volume) else list(volume)
        channels = [self._checked(one) for one in volumes]
        if len(channels) != self.num_channels:
            raise BadStudy(
                f"the model looks at {self.num_channels} images of a scan together and was given "
                f"{len(channels)}"
            )
        place, first = volumes[0].affine_RAS, channels[0]
        if any(one.shape != first.shape for one in channels):
            raise BadStudy("the images of one scan must lie on one grid")
        turn = _turn("RAS", self.manifest["orientation"])
        turned = np.stack([nib.orientations.apply_orientation(one, turn) for one in channels])
        spacing_mm = [
            volumes[0].spacing_mm[int(np.where(turn[:, 0] == axis)[0][0])] for axis in range(3)
        ]
        # nnU-Net's readers hand over the axes of a file in reverse, slowest first.
        labels, how = self._segment_as_read(
            turned.transpose(0, 3, 2, 1), spacing_mm[::-1], mode == "fast"
        )
        back = _turn(self.manifest["orientation"], "RAS")
        labels_RAS = nib.orientations.apply_orientation(labels.transpose(2, 1, 0), back)
        named = Volume(np.ascontiguousarray(self._schema_of[labels_RAS]), place)
        return Segmented(named, how)

    def _checked(self, volume: Volume) -> NDArray[np.float32]:
        voxels_RAS = np.asarray(volume.voxels_RAS, dtype=np.float32)
        if not np.isfinite(voxels_RAS).all() or voxels_RAS.min() == voxels_RAS.max():
            raise BadScan("bad_values", "voxels are NaN, infinite or constant; expected an image")
        return voxels_RAS

    def _segment_as_read(
        self, image_Cxyz: NDArray[np.float32], spacing_mm: list[float], is_fast: bool
    ) -> tuple[NDArray[np.uint8], str]:
        """nnU-Net's road for one image and all the way back; how it was done."""
        volume = self._preparation.normalise(image_Cxyz, spacing_mm, self.dataset)
        labels = np.zeros(volume.whole_xyz, np.uint8)
        if is_fast:
            here, found, how = self._fast(volume)
        else:
            here, found, how = (
                volume,
                self._predict(volume, self._window(TILE_STEP)),
                "whole volume",
            )
        labels[here.box] = found
        return labels.transpose(self.plans.transpose_backward), how

    def _window(self, step: float) -> Window:
        return Window(tuple(int(n) for n in self.configuration.patch_size), step)

    def _predict_box(self, volume: Normalised) -> NDArray[np.uint8]:
        """Labels of the spine's box through few tiles: far apart, and a little longer than the patch where
        that saves one."""
        window = self._window(FAST_STEP)
        every = [
            np.broadcast_to(s, len(window.patch)) for s in self.configuration.pool_op_kernel_sizes
        ]
        multiples = tuple(int(n) for n in np.prod(every, axis=0))
        grid_xyz, _ = self._preparation.grid(volume)
        return self._predict(volume, coarse.stretched(window, grid_xyz, multiples))

    def _predict(self, volume: Normalised, window: Window) -> NDArray[np.uint8]:
        """nnU-Net's labels of the volume, through a window of one's choice."""
        _, grid_mm = self._preparation.grid(volume)
        data = torch.from_numpy(self._preparation.resample(volume))
        orders = axis_orders(
            self.configuration.configuration["resampling_fn_probabilities"],
            self.configuration.configuration["resampling_fn_probabilities_kwargs"],
            grid_mm,
            volume.spacing_mm,
        )
        return self._labels(data, volume.shape_xyz, orders, window)

    def _labels(
        self,
        data_Cxyz: torch.Tensor,
        target_xyz: tuple[int, int, int],
        orders: tuple[int, int, int],
        window: Window,
    ) -> NDArray[np.uint8]:
        """Labels of data on the network's grid, on the target's grid; once more with one tile at a time
        when the device's memory does not hold several."""
        try:
            return self._labels_once(data_Cxyz, target_xyz, orders, window)
        except torch.OutOfMemoryError:
            if self._tiles_at_once == 1:
                raise
        self._tiles_at_once = 1
        if self.ensemble.device.type == "cuda":
            torch.cuda.empty_cache()
        return self._labels_once(data_Cxyz, target_xyz, orders, window)

    @torch.inference_mode()
    def _labels_once(
        self,
        data_Cxyz: torch.Tensor,
        target_xyz: tuple[int, int, int],
        orders: tuple[int, int, int],
        window: Window,
    ) -> NDArray[np.uint8]:
        padded, inner = pad_nd_image(data_Cxyz, window.patch, "constant", {"value": 0}, True, None)
        tiles = tiling(tuple(padded.shape[1:]), window)
        writer = LabelWriter(
            tuple(data_Cxyz.shape[1:]),
            target_xyz,
            orders,
            tiles.axis,
            self._decision,
            self.ensemble.device,
        )
        slide(
            self.ensemble,
            padded.to(self.ensemble.device),
            tuple(inner[1:]),
            tiles,
            writer,
            self._tiles_at_once,
        )
        found: NDArray[np.uint8] = writer.labels.cpu().numpy()
        return found

    def _fast(self, volume: Normalised) -> tuple[Normalised, NDArray[np.uint8], str]:
        """The spine's box, its labels, and how it went; the whole volume where there is no box to trust."""
        box, why = self._spine_box(volume)
        if box is None:
            return volume, self._predict(volume, self._window(FAST_STEP)), f"whole volume: {why}"
        part = volume.part(box)
        found = self._predict_box(part)
        grown = coarse.grown_where_touched(
            self._is_spine(found), box, volume.shape_xyz, volume.spacing_mm
        )
        if grown == box:
            return part, found, "the spine's box"
        part = volume.part(grown)
        return part, self._predict_box(part), "the spine's box, grown as the spine left it"

    def _spine_box(self, volume: Normalised) -> tuple[Box | None, str]:
        grid_xyz, grid_mm = self._preparation.grid(volume)
        once = self._window(1.0)
        patch = (1, *once.patch) if self.ensemble.is_flat else once.patch
        squeezed = coarse.squeezed_shape(grid_xyz, patch)
        num_tiles = _num_tiles(grid_xyz, self._window(FAST_STEP))
        if num_tiles <= _num_tiles(squeezed, once) + 1:
            return None, f"it is {num_tiles} tile{'s' * (num_tiles > 1)}"
        data = coarse.squeeze(torch.from_numpy(volume.data_Cxyz), squeezed)
        found = self._labels(data, squeezed, (1, 1, 1), once)
        box, why = coarse.box_around(self._is_spine(found), volume.shape_xyz, volume.spacing_mm)
        if box is None:
            return None, why
        wanted = [
            int(np.ceil(n * mm / own - 1e-3))  # spacings of a header are rounded
            for n, mm, own in zip(patch, grid_mm, volume.spacing_mm, strict=True)
        ]
        box = coarse.at_least(box, wanted, volume.shape_xyz)
        if not coarse.saves_enough(box, volume.shape_xyz):
            return None, "the spine's box is most of it"
        return box, ""

    def _is_spine(self, labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
        found: NDArray[np.bool_] = self._schema_of[labels] != 0
        return found


def _num_tiles(grid_xyz: tuple[int, ...], window: Window) -> int:
    flat = len(grid_xyz) - len(window.patch)
    padded = [max(n, p) for n, p in zip(grid_xyz[flat:], window.patch, strict=True)]
    return tiling((*grid_xyz[:flat], *padded), window).num_tiles


def _turn(from_codes: str, to_codes: str) -> NDArray[np.float64]:
    """How axes of one orientation become those of another, as nibabel writes it."""
    one, other = (nib.orientations.axcodes2ornt(tuple(codes)) for codes in (from_codes, to_codes))
    turn: NDArray[np.float64] = nib.orientations.ornt_transform(one, other)
    return turn
