"""A volume on the network's grid, as nnU-Net's preprocessor makes it, and the way back.

nnU-Net's own normalisation and order-3 resampling are called; what is left out is its resampled mask of
zeros, which nothing reads at inference and which takes as long as the image.

Shapes: C channels; x y z nnU-Net's axes after its transposition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Normalised:
    """A volume in the network's axes: cropped to what is not zero, normalised, on its own grid.

    box: where the crop lies in `whole_xyz`, the shape before it.
    """

    data_Cxyz: NDArray[np.float32]
    spacing_mm: list[float]
    box: Box
    whole_xyz: tuple[int, int, int]

    @property
    def shape_xyz(self) -> tuple[int, int, int]:
        x, y, z = self.data_Cxyz.shape[1:]
        return x, y, z

    def part(self, box: Box) -> Normalised:
        """A box of it, with the values it has in the whole."""
        place = tuple(
            slice(outer.start + inner.start, outer.start + inner.stop)
            for outer, inner in zip(self.box, box, strict=True)
        )
        x, y, z = place
        return Normalised(
            self.data_Cxyz[(slice(None), *box)], self.spacing_mm, (x, y, z), self.whole_xyz
        )


@dataclass(frozen=True)
class Preparation:
    """What a model's plans say of its input."""

    plans: PlansManager
    configuration: ConfigurationManager

    def normalise(
        self, image_Cxyz: NDArray[np.float32], spacing_mm: list[float], dataset: dict[str, Any]
    ) -> Normalised:
        """Transpose, crop, normalise. image_Cxyz: axes as nnU-Net's readers hand them over."""
        order = self.plans.transpose_forward
        data = image_Cxyz.transpose(0, *(axis + 1 for axis in order))
        spacing_mm = [spacing_mm[axis] for axis in order]
        data, outside, bounds = _cropped(data, any(self.configuration.use_mask_for_norm))
        preprocessor = self.configuration.preprocessor_class(verbose=False)
        normalised = preprocessor._normalize(
            np.array(data, np.float32, order="C"),
            np.broadcast_to(np.int8(0), data.shape) if outside is None else outside,
            self.configuration,
            self.plans.foreground_intensity_properties_per_channel,
        )
        whole = image_Cxyz.shape[1:]
        x, y, z = (slice(int(low), int(high)) for low, high in bounds)
        return Normalised(
            normalised, spacing_mm, (x, y, z), (whole[order[0]], whole[order[1]], whole[order[2]])
        )

    def grid(self, normalised: Normalised) -> tuple[tuple[int, int, int], list[float]]:
        """Shape and spacing of a volume on the network's grid; a 2D network keeps the slices as they are."""
        spacing_mm = list(self.configuration.spacing)
        if len(spacing_mm) == 2:
            spacing_mm = [normalised.spacing_mm[0], *spacing_mm]
        shape = compute_new_shape(normalised.shape_xyz, normalised.spacing_mm, spacing_mm)
        return (int(shape[0]), int(shape[1]), int(shape[2])), spacing_mm

    def resample(self, normalised: Normalised) -> NDArray[np.float32]:
        """The volume on the network's grid, [C, x, y, z]."""
        shape, spacing_mm = self.grid(normalised)
        data = self.configuration.resampling_fn_data(
            normalised.data_Cxyz, shape, normalised.spacing_mm, spacing_mm
        )
        return np.ascontiguousarray(data, np.float32)


def _cropped(
    data_Cxyz: NDArray[np.float32], mask_wanted: bool
) -> tuple[NDArray[np.float32], NDArray[np.int8] | None, list[list[int]]]:
    """The box around what is not zero, -1 where it is zero outside (if wanted), and the box's bounds.

    Filling the holes in what is not zero, as nnU-Net does, does not change its box.
    """
    if mask_wanted:
        data, outside, bounds = crop_to_nonzero(data_Cxyz)
        return data, outside, bounds
    inside = (data_Cxyz != 0).any(axis=0)
    bounds = []
    for axis in range(3):
        others = tuple(a for a in range(3) if a != axis)
        found = np.flatnonzero(inside.any(axis=others))
        bounds.append([int(found[0]), int(found[-1]) + 1])
    box = tuple(slice(low, high) for low, high in bounds)
    return data_Cxyz[(slice(None), *box)], None, bounds
