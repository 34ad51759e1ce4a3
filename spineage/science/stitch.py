"""Stations of one exam become one volume: in world coordinates, matched in brightness, blended in overlaps.

Each station is a `Volume` in the same patient coordinates (one frame of reference). Gains are global, one
factor a station: coil fall-off within a station is left to the blending and to later normalisation.
Letters as in `geometry`: R, A, S voxel axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.geometry import Affine, Volume

MAX_GAP_MM: Final = 2.0  # the study's default: stations further apart are not one spine
SAME_DEGREES: Final = 0.05  # 0.5 mm over 600 mm
MIN_SHARED: Final = 500  # voxels of tissue in an overlap that a gain can be trusted on
TISSUE: Final = 0.15  # of the 95th percentile: above it is no air
EDGE_WEIGHT: Final = (
    1e-3  # of rows repeated beyond a station's end: they count where nothing else is
)
MIN_CORRELATION: Final = 0.5  # of the tissue in an overlap; 0.97 in phantoms


def stitch(stations: Sequence[Volume], *, max_gap_mm: float = MAX_GAP_MM) -> Volume:
    """One RAS+ float32 volume that covers all stations; voxels no station saw are 0.

    stations: any order. The grid is that of the longest station, at the finest spacing met. A single
    station is returned as it is. Raises BadScan stations_apart when they leave a gap along S, and
    stations_disagree when an overlap shows different things.
    """
    ordered = sorted(stations, key=lambda v: -coverage_mm(v)[1])  # head first
    if len(ordered) == 1:
        return ordered[0].with_voxels(ordered[0].voxels_RAS.astype(np.float32, copy=False))
    check_gaps(ordered, max_gap_mm)
    shape, affine = common_grid(ordered)
    parts = [_Part.on_grid(station, shape, affine, max_gap_mm) for station in ordered]
    gains = _gains(parts)
    total = np.zeros(shape, np.float32)
    weight = np.zeros(shape, np.float32)
    for part, gain in zip(parts, gains, strict=True):
        total[part.where] += np.float32(gain) * part.voxels * part.weight
        weight[part.where] += part.weight
    np.divide(total, weight, out=total, where=weight > 0)
    return Volume(total, affine)


def coverage_mm(volume: Volume) -> tuple[float, float]:
    """Lowest and highest S of the field of view, to the outer faces of its voxels."""
    corners = volume.to_mm(_corners(volume.voxels_RAS.shape))
    return float(corners[:, 2].min()), float(corners[:, 2].max())


def check_gaps(head_first: Sequence[Volume], max_gap_mm: float) -> None:
    """Raises BadScan stations_apart when neighbours leave more than max_gap_mm uncovered along S."""
    reached = coverage_mm(head_first[0])[0]
    for station in head_first[1:]:
        low, high = coverage_mm(station)
        if reached - high > max_gap_mm:
            raise BadScan(
                "stations_apart",
                f"stations leave a gap of {reached - high:.0f} mm along the spine, at most {max_gap_mm:g}: "
                "a station is missing",
            )
        reached = min(reached, low)


def common_grid(stations: Sequence[Volume]) -> tuple[tuple[int, int, int], Affine]:
    """The grid that holds all stations: axes of the longest, finest spacing along each axis.

    The first voxel is put on the lattice of the longest station, so that its voxels need no resampling.
    """
    longest = max(stations, key=lambda v: (round(v.extent_mm[2], 1), coverage_mm(v)[1]))
    spacing = np.min([v.spacing_mm for v in stations], axis=0)
    spacing = np.where(np.abs(spacing / longest.spacing_mm - 1) < 0.02, longest.spacing_mm, spacing)
    affine = longest.affine_RAS.copy()
    affine[:3, :3] *= spacing / np.array(longest.spacing_mm)
    frame = Volume(longest.voxels_RAS, affine)
    corners = np.concatenate(
        [frame.to_index(v.to_mm(_corners(v.voxels_RAS.shape))) for v in stations]
    )
    low = np.floor(corners.min(axis=0) + 0.5 + 1e-3).astype(int)
    high = np.ceil(corners.max(axis=0) - 0.5 - 1e-3).astype(int)
    affine[:3, 3] = frame.to_mm(low.astype(float))
    r, a, s = high - low + 1
    return (int(r), int(a), int(s)), affine


class _Part:
    """A station on the common grid: the box it fills, its values there, and how much they count."""

    def __init__(
        self,
        where: tuple[slice, slice, slice],
        voxels: NDArray[np.float32],
        weight: NDArray[np.float32],
    ) -> None:
        self.where, self.voxels, self.weight = where, voxels, weight

    @classmethod
    def on_grid(
        cls, station: Volume, shape: tuple[int, int, int], affine: Affine, max_gap_mm: float
    ) -> _Part:
        """Resample linearly into the box of the grid that the station fills.

        Its outermost rows reach max_gap_mm further along S, with next to no weight: they fill a gap that
        is small enough to be tolerated.
        """
        to_grid = Volume(np.empty((1, 1, 1)), affine)
        corners = to_grid.to_index(station.to_mm(_corners(station.voxels_RAS.shape)))
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
    """Linear interpolation one axis at a time: exact for aligned grids, and ten times faster."""
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
    lower: NDArray[np.float32] = np.take(voxels, below, axis)
    if not share.any():
        return lower
    upper = np.take(voxels, np.minimum(below + 1, voxels.shape[axis] - 1), axis)
    shape = [1, 1, 1]
    shape[axis] = -1
    blended: NDArray[np.float32] = lower + share.reshape(shape) * (upper - lower)
    return blended


def _across_axes(voxels: NDArray[np.float32], matrix: Affine, size: tuple[int, ...]) -> Resampled:
    """Trilinear interpolation for a station that is tilted against the grid."""
    index = np.indices(size, dtype=np.float64).reshape(3, -1)
    at = matrix[:3, :3] @ index + matrix[:3, 3:]
    inside = _is_inside(at[0], voxels.shape[0]) * _is_inside(at[1], voxels.shape[1])
    values = ndimage.map_coordinates(voxels, at, order=1, mode="nearest", output=np.float32)
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


def _gains(parts: Sequence[_Part]) -> list[float]:
    """One factor a station, 1 for the middle one, the others matched to their neighbour in the overlap."""
    gains = [1.0] * len(parts)
    anchor = len(parts) // 2
    for i in range(anchor - 1, -1, -1):
        gains[i] = gains[i + 1] * _gain(parts[i + 1], parts[i])
    for i in range(anchor + 1, len(parts)):
        gains[i] = gains[i - 1] * _gain(parts[i - 1], parts[i])
    return gains


def _gain(reference: _Part, other: _Part) -> float:
    """Median ratio reference / other over the tissue both show; 1 when they share too little of it."""
    shared = _shared_box(reference.where, other.where)
    if shared is None:
        return 1.0
    one, one_counts = (
        _cut(a, reference.where, shared) for a in (reference.voxels, reference.weight)
    )
    two, two_counts = (_cut(a, other.where, shared) for a in (other.voxels, other.weight))
    seen = (one_counts > EDGE_WEIGHT) & (two_counts > EDGE_WEIGHT)
    if not seen.any():
        return 1.0
    is_tissue = seen
    for values in (one, two):
        is_tissue = is_tissue & (values > TISSUE * np.percentile(values[seen], 95))
    if is_tissue.sum() < MIN_SHARED:
        return 1.0
    one, two = one[is_tissue], two[is_tissue]
    is_flat = min(float(one.std()), float(two.std())) == 0.0
    agreement = 1.0 if is_flat else float(np.corrcoef(one, two)[0, 1])
    if agreement < MIN_CORRELATION:
        raise BadScan(
            "stations_disagree",
            f"two stations show different things where they overlap (correlation {agreement:.2f}, "
            f"expected at least {MIN_CORRELATION:g})",
        )
    return float(np.exp(np.median(np.log(one / two))))


Box = tuple[slice, slice, slice]


def _shared_box(one: Box, two: Box) -> Box | None:
    starts = [max(a.start, b.start) for a, b in zip(one, two, strict=True)]
    stops = [min(a.stop, b.stop) for a, b in zip(one, two, strict=True)]
    if any(start >= stop for start, stop in zip(starts, stops, strict=True)):
        return None
    r, a, s = (slice(start, stop) for start, stop in zip(starts, stops, strict=True))
    return r, a, s


def _cut(array: NDArray[np.float32], where: Box, box: Box) -> NDArray[np.float32]:
    """The part of a station's array that lies in a box of the grid."""
    offset = tuple(
        slice(b.start - w.start, b.stop - w.start) for b, w in zip(box, where, strict=True)
    )
    part: NDArray[np.float32] = array[offset]
    return part


def _corners(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """The eight outer corners [8, 3] of a volume, in voxel indices."""
    ends = np.array(np.meshgrid(*([-0.5, n - 0.5] for n in shape), indexing="ij"))
    return ends.reshape(3, -1).T
