"""Stations of one exam become one volume: in world coordinates, matched in brightness, blended in overlaps.

Each station is a `Volume` in the same patient coordinates (one frame of reference). The middle station stays
as it is; each other one is joined to the station that it shares most with: moved by what the overlap shows
that the person moved, and brought to its brightness. Gains are one factor a station: coil fall-off within
a station is left to the blending and to later normalisation. Letters as in `geometry`: R, A, S voxel axes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.science.scan.geometry import Affine, Volume
from spineage.science.scan.overlap import find_gain, find_shift, num_shared
from spineage.science.scan.resample import Part, corners_of

MAX_VOXELS: Final = 200_000_000
"""Thirty times a whole spine at 0.9 mm; 800 MB. One station of fine slices must not cost the machine."""
MAX_GAP_MM: Final = 2.0  # the study's default: stations further apart are not one spine


@dataclass(frozen=True)
class Piece:
    """What one station gives to the whole.

    station: its number among those given; low_mm, high_mm: S of its ends along the middle of its field of
    view, after it was moved; shift_mm: by how much it was moved along R, A, S; gain: what its values were
    multiplied by.
    """

    station: int
    low_mm: float
    high_mm: float
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    gain: float = 1.0


@dataclass(frozen=True)
class Assembly:
    """One volume, and the stations it is made of, head first."""

    volume: Volume
    pieces: tuple[Piece, ...]

    @property
    def gaps_mm(self) -> list[tuple[float, float]]:
        """Lowest and highest S of each stretch between the stations that none of them covers, head first."""
        gaps, reached = [], self.pieces[0].low_mm
        for piece in self.pieces[1:]:
            if piece.high_mm < reached:
                gaps.append((piece.high_mm, reached))
            reached = min(reached, piece.low_mm)
        return gaps


def stitch(stations: Sequence[Volume], *, max_gap_mm: float = MAX_GAP_MM) -> Volume:
    """The volume of `assemble`."""
    return assemble(stations, max_gap_mm=max_gap_mm).volume


def assemble(stations: Sequence[Volume], *, max_gap_mm: float = MAX_GAP_MM) -> Assembly:
    """One RAS+ float32 volume that covers all stations; voxels no station saw are 0.

    stations: any order. The grid is that of the longest station, at the finest spacing met. A single
    station is returned as it is. Raises BadScan stations_apart when they leave a gap along S,
    stations_moved when the person moved too far between them, and stations_disagree when an overlap shows
    different things.
    """
    numbers = sorted(range(len(stations)), key=lambda i: -coverage_mm(stations[i])[1])  # head first
    ordered = [stations[i] for i in numbers]
    if len(ordered) == 1:
        only = ordered[0].with_voxels(ordered[0].voxels_RAS.astype(np.float32, copy=False))
        return Assembly(only, (Piece(0, *coverage_mm(only)),))
    check_gaps(ordered, max_gap_mm)
    shifts_mm = _shifts_mm(ordered, max_gap_mm)
    moved = [_moved(station, by) for station, by in zip(ordered, shifts_mm, strict=True)]
    check_gaps(sorted(moved, key=lambda v: -coverage_mm(v)[1]), max_gap_mm)
    shape, affine = common_grid(moved)
    parts = [Part.on_grid(station, shape, affine, max_gap_mm) for station in moved]
    gains = _gains(parts)
    pieces = tuple(
        Piece(number, *coverage_mm(station), by, gain)
        for number, station, by, gain in zip(numbers, moved, shifts_mm, gains, strict=True)
    )
    return Assembly(Volume(_blend(parts, gains, shape), affine), pieces)


def _blend(
    parts: Sequence[Part], gains: Sequence[float], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """The weighted mean of what the stations show, [R, A, S]."""
    total = np.zeros(shape, np.float32)
    weight = np.zeros(shape, np.float32)
    for part, gain in zip(parts, gains, strict=True):
        total[part.where] += np.float32(gain) * part.voxels * part.weight
        weight[part.where] += part.weight
    np.divide(total, weight, out=total, where=weight > 0)
    return total


def coverage_mm(volume: Volume) -> tuple[float, float]:
    """Lowest and highest S along the middle of the field of view, to the outer faces of its voxels.

    The corners of a tilted station reach further, but show air or nothing of the spine.
    """
    r, a, s = volume.voxels_RAS.shape
    middle = [(r - 1) / 2, (a - 1) / 2]
    ends = volume.to_mm(np.array([[*middle, -0.5], [*middle, s - 0.5]]))
    return float(ends[0, 2]), float(ends[1, 2])


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

    Raises BadScan stations_disagree for a grid beyond MAX_VOXELS.
    The first voxel is put on the lattice of the longest station, so that its voxels need no resampling.
    """
    longest = max(stations, key=lambda v: (round(v.extent_mm[2], 1), coverage_mm(v)[1]))
    spacing = np.min([v.spacing_mm for v in stations], axis=0)
    spacing = np.where(np.abs(spacing / longest.spacing_mm - 1) < 0.02, longest.spacing_mm, spacing)
    affine = longest.affine_RAS.copy()
    affine[:3, :3] *= spacing / np.array(longest.spacing_mm)
    frame = Volume(longest.voxels_RAS, affine)
    corners = np.concatenate(
        [frame.to_index(v.to_mm(corners_of(v.voxels_RAS.shape))) for v in stations]
    )
    low = np.floor(corners.min(axis=0) + 0.5 + 1e-3).astype(int)
    high = np.ceil(corners.max(axis=0) - 0.5 - 1e-3).astype(int)
    affine[:3, 3] = frame.to_mm(low.astype(float))
    r, a, s = high - low + 1
    if r * a * s > MAX_VOXELS:
        raise BadScan(
            "stations_disagree",
            f"assembled at the finest spacing they would have {r} x {a} x {s} voxels",
        )
    return (int(r), int(a), int(s)), affine


def _shifts_mm(ordered: Sequence[Volume], max_gap_mm: float) -> list[tuple[float, float, float]]:
    """By how much each station is to be moved along R, A, S to lie on those it is joined to."""
    shape, affine = common_grid(ordered)
    parts = [Part.on_grid(station, shape, affine, max_gap_mm) for station in ordered]
    shifts_mm = [(0.0, 0.0, 0.0)] * len(parts)
    for placed, joined in _joins(parts):
        voxels = find_shift(
            parts[placed], parts[joined], Volume(parts[0].voxels, affine).spacing_mm
        )
        if any(voxels):
            r, a, s = (float(x) for x in affine[:3, :3] @ np.array(voxels))
            shifts_mm[joined] = (r, a, s)
            moved = _moved(ordered[joined], shifts_mm[joined])
            parts[joined] = Part.on_grid(moved, shape, affine, max_gap_mm)
    return shifts_mm


def _joins(parts: Sequence[Part]) -> Iterator[tuple[int, int]]:
    """(placed, joined) for every station but the middle one: always the pair that shares most.

    Of pairs that share as much, nothing included, the one nearest in order along the spine.
    """
    placed, left = [len(parts) // 2], [i for i in range(len(parts)) if i != len(parts) // 2]
    while left:
        pairs = [(i, j) for i in placed for j in left]
        one, other = max(
            pairs, key=lambda p: (num_shared(parts[p[0]], parts[p[1]]), -abs(p[0] - p[1]), p)
        )
        placed.append(other)
        left.remove(other)
        yield one, other


def _moved(station: Volume, shift_mm: tuple[float, float, float]) -> Volume:
    affine = station.affine_RAS.copy()
    affine[:3, 3] += shift_mm
    return replace(station, affine_RAS=affine)


def _gains(parts: Sequence[Part]) -> list[float]:
    """One factor a station, 1 for the middle one, each other matched to the one it is joined to."""
    gains = [1.0] * len(parts)
    for placed, joined in _joins(parts):
        gains[joined] = gains[placed] * find_gain(parts[placed], parts[joined])
    return gains
