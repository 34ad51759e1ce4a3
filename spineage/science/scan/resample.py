"""A station brought onto the grid of the whole: its values there, and how much each of them counts.

Letters as in `geometry`: R, A, S voxel axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.science.scan.geometry import Affine, Volume

SAME_DEGREES: Final = 0.05  # 0.5 mm over 600 mm
EDGE_WEIGHT: Final = 1e-3
"""Of rows repeated beyond a station's end: they count where nothing else is."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Part:
    """A station on the common grid: the box it fills, its values [R, A, S] there, and how much they count."""

    where: Box
    voxels: NDArray[np.float32]
    weight: NDArray[np.float32]

    @classmethod
    def on_grid(
        cls, station: Volume, shape: tuple[int, int, int], affine: Affine, max_gap_mm: float
    ) -> Part:
        """Resample by splines into the box of the grid that the station fills.

        Its outermost rows reach max_gap_mm further along S, with next to no weight: they fill a gap that
        is small enough to be tolerated.
        """
        to_grid = Volume(np.empty((1, 1, 1)), affine)
        corners = to_grid.to_index(station.to_mm(corners_of(station.voxels_RAS.shape)))
        reach = np.array([0, 0, np.ceil(max_gap_mm / to_grid.spacing_mm[2])])
        low = np.clip(np.floor(corners.min(axis=0) + 0.5 - reach), 0, None).astype(int)
        high = np.minimum(np.ceil(corners.max(axis=0) + 0.5 + reach).astype(int), shape)
        where = (slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2]))
        box = affine.copy()
        box[:3, 3] = to_grid.to_mm(low.astype(float))
        matrix = np.linalg.inv(station.affine_RAS) @ box
        size = tuple(int(n) for n in high - low)
        voxels = station.voxels_RAS.astype(np.float32, copy=False)
        resample = _along_axes if _is_aligned(matrix) else _across_axes
        values, inside, along_S = resample(voxels, matrix, size)
        row_mm = station.spacing_mm[2]
        return cls(where, values, inside * _ramp(along_S, voxels.shape[2], row_mm, max_gap_mm))


def _is_aligned(matrix: Affine) -> bool:
    """Whether the grid's axes run along the station's, to a twentieth of a degree."""
    directions = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    return bool(np.degrees(np.arccos(np.clip(np.diag(directions), -1, 1))).max() < SAME_DEGREES)


Resampled = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]
"""Values on the grid, 1 where R and A lie inside the station, and the station's S index."""


def _along_axes(voxels: NDArray[np.float32], matrix: Affine, size: tuple[int, ...]) -> Resampled:
    """Cubic splines one axis at a time: exact on the station's own lattice, and faster than in 3D."""
    at = [matrix[axis, axis] * np.arange(size[axis]) + matrix[axis, 3] for axis in range(3)]
    inside = [_is_inside(at[axis], voxels.shape[axis]) for axis in range(2)]
    for axis in range(3):
        voxels = _interpolate(voxels, np.clip(at[axis], 0, voxels.shape[axis] - 1), axis)
    return voxels, inside[0][:, None, None] * inside[1][None, :, None], at[2]


def _interpolate(
    voxels: NDArray[np.float32], at: NDArray[np.float64], axis: int
) -> NDArray[np.float32]:
    below = np.minimum(np.floor(at + 1e-6).astype(int), voxels.shape[axis] - 1)
    share = np.clip(at - below, 0, 1).astype(np.float32)
    share[share < 1e-4] = 0
    if not share.any():
        at_lattice: NDArray[np.float32] = np.take(voxels, below, axis)
        return at_lattice
    spline = ndimage.spline_filter1d(voxels, 3, axis, output=np.float32, mode="mirror")
    last = voxels.shape[axis] - 1
    shape = [-1 if i == axis else 1 for i in range(3)]
    values = np.zeros(1, np.float32)
    for step, weight in zip((-1, 0, 1, 2), _cubic(share), strict=True):
        near = last - np.abs(last - np.abs(below + step))  # mirrored at both ends
        values = values + np.take(spline, near, axis) * weight.reshape(shape)
    return np.clip(values, voxels.min(), voxels.max())


def _cubic(share: NDArray[np.float32]) -> tuple[NDArray[np.float32], ...]:
    """Weights of the four spline coefficients round a place; share: of the way between the middle two."""
    rest = np.float32(1) - share
    weights = (
        rest**3 / 6,
        (4 - 6 * share**2 + 3 * share**3) / 6,
        (4 - 6 * rest**2 + 3 * rest**3) / 6,
        share**3 / 6,
    )
    return tuple(np.asarray(weight, np.float32) for weight in weights)


def _across_axes(voxels: NDArray[np.float32], matrix: Affine, size: tuple[int, ...]) -> Resampled:
    """Cubic splines in 3D, for a station that is tilted against the grid."""
    index = np.indices(size, dtype=np.float64).reshape(3, -1)
    at = matrix[:3, :3] @ index + matrix[:3, 3:]
    inside = _is_inside(at[0], voxels.shape[0]) * _is_inside(at[1], voxels.shape[1])
    values = ndimage.map_coordinates(voxels, at, order=3, mode="nearest", output=np.float32)
    np.clip(values, voxels.min(), voxels.max(), out=values)
    return values.reshape(size), inside.reshape(size), at[2].reshape(size)


def _is_inside(at: NDArray[np.float64], count: int) -> NDArray[np.float32]:
    """1 within half a voxel of the first and last centre: the field of view reaches to the voxels' faces."""
    return ((at >= -0.5 - 1e-3) & (at <= count - 0.5 + 1e-3)).astype(np.float32)


def _ramp(
    at: NDArray[np.float64], count: int, row_mm: float, max_gap_mm: float
) -> NDArray[np.float32]:
    """How much a station counts at each S index: its distance to the nearer end, in millimetres.

    In an overlap each of two stations counts by the distance to its own end there, which is a linear ramp
    from one to the other; where one station is alone the weight divides out.
    """
    to_end_mm = (np.minimum(at, count - 1 - at) + 0.5) * row_mm
    weight = np.where(to_end_mm > 0, to_end_mm, EDGE_WEIGHT)
    return np.where(to_end_mm >= -max_gap_mm - 1e-3, weight, 0).astype(np.float32)


def corners_of(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The eight outer corners [8, 3] of a volume, in voxel indices."""
    ends = np.array(np.meshgrid(*([-0.5, n - 0.5] for n in shape), indexing="ij"))
    return ends.reshape(3, -1).T
