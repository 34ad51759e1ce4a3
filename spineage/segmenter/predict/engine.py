"""One network over one image: nnU-Net's road to its own grid and back, whole or in the spine's box alone.

The road of an image: `prepare` (to the network's grid), `tiles` (logits), `labels`
(labels on the image's grid); `coarse` finds the spine first where `fast` is asked for.

Shapes: C channels; x y z nnU-Net's axes after its own transposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

from spineage.segmenter.dataset_json import channel_names
from spineage.segmenter.plans import SKIMAGE
from spineage.segmenter.predict import coarse
from spineage.segmenter.predict.labels import Decision, LabelWriter, axis_orders
from spineage.segmenter.predict.prepare import Box, Normalised, Preparation
from spineage.segmenter.predict.tiles import TILE_STEP, Ensemble, Window, num_tiles, slide, tiling

FAST_STEP = 0.8
"""Costs about 0.001 Dice; see `tests/benchmarks/segment_speed.py`."""
TILES_AT_ONCE = {"cpu": 1, "cuda": 4}
"""More do not pay on a CPU, and take memory."""


@dataclass
class Engine:
    """No state between images but `tiles_at_once`: how many the device holds.

    spine_of: of each of 256 label values, whether it is spine.
    """

    plans: PlansManager
    dataset: dict[str, Any]
    configuration: ConfigurationManager
    ensemble: Ensemble
    spine_of: NDArray[np.bool_]

    def __post_init__(self) -> None:
        self._preparation = Preparation(self.plans, self.configuration)
        manager = self.plans.get_label_manager(self.dataset)
        order = tuple(manager.regions_class_order) if manager.has_regions else None
        function = self.configuration.configuration["resampling_fn_probabilities"]
        self._decision = Decision(order, rounds=function == SKIMAGE)
        self.tiles_at_once = TILES_AT_ONCE[self.ensemble.device.type]

    def warm_up(self) -> None:
        """Predict one batch of nothing: a device's first steps are slow and show whether it works."""
        patch = list(self.configuration.patch_size)
        patch = [1, *patch] if self.ensemble.is_flat else patch
        nothing = torch.zeros((self.tiles_at_once, len(channel_names(self.dataset)), *patch))
        with torch.inference_mode():
            for _ in self.ensemble(nothing.to(self.ensemble.device)):
                pass

    def segment(
        self, image_Cxyz: NDArray[np.float32], spacing_mm: list[float], is_fast: bool
    ) -> tuple[NDArray[np.uint8], str]:
        """nnU-Net's road for one image [C, x, y, z] as its readers hand it over, and all the way back: labels
        [x, y, z], and how it was done.

        Raises torch.OutOfMemoryError when one tile at a time does not fit.
        """
        volume = self._preparation.normalise(image_Cxyz, spacing_mm, self.dataset)
        labels = np.zeros(volume.whole_xyz, np.uint8)
        if is_fast:
            here, labels_there, how = self._fast(volume)
        else:
            here, labels_there, how = (
                volume,
                self._predict(volume, self._window(TILE_STEP)),
                "whole volume",
            )
        labels[here.box] = labels_there
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
            if self.tiles_at_once == 1:
                raise
        self.tiles_at_once = 1
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
            self.tiles_at_once,
        )
        labels: NDArray[np.uint8] = writer.labels.cpu().numpy()
        return labels

    def _fast(self, volume: Normalised) -> tuple[Normalised, NDArray[np.uint8], str]:
        """The spine's box, its labels, and how it went; the whole volume where there is no box to trust."""
        box, why = self._spine_box(volume)
        if box is None:
            return volume, self._predict(volume, self._window(FAST_STEP)), f"whole volume: {why}"
        part = volume.part(box)
        labels = self._predict_box(part)
        grown = coarse.grown_where_touched(
            self._is_spine(labels), box, volume.shape_xyz, volume.spacing_mm
        )
        if grown == box:
            return part, labels, "the spine's box"
        part = volume.part(grown)
        return part, self._predict_box(part), "the spine's box, grown as the spine left it"

    def _spine_box(self, volume: Normalised) -> tuple[Box | None, str]:
        grid_xyz, grid_mm = self._preparation.grid(volume)
        once = self._window(1.0)
        patch = (1, *once.patch) if self.ensemble.is_flat else once.patch
        squeezed = coarse.squeezed_shape(grid_xyz, patch)
        number = num_tiles(grid_xyz, self._window(FAST_STEP))
        if number <= num_tiles(squeezed, once) + 1:
            return None, f"it is {number} tile{'s' * (number > 1)}"
        data = coarse.squeeze(torch.from_numpy(volume.data_Cxyz), squeezed)
        labels = self._labels(data, squeezed, (1, 1, 1), once)
        box, why = coarse.box_around(self._is_spine(labels), volume.shape_xyz, volume.spacing_mm)
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
        is_spine: NDArray[np.bool_] = self.spine_of[labels]
        return is_spine
