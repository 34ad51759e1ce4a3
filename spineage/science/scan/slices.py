"""Slices of a scanner put in order: which plane, which sequence, which grid. DICOM PS3.3 C.7.6.2.

DICOM speaks LPS+ millimetres (left, posterior, superior); what leaves here is RAS+ (see `geometry`).
Voxel axes of a stack before reorientation: C column number, R row number, Z slice number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan

Vector = tuple[float, float, float]

LPS_TO_RAS: Final = np.diag([-1.0, -1.0, 1.0])
PARALLEL_DEGREES: Final = (
    1.0  # slices of one stack are parallel to rounding; 1 degree is 4 mm over 220 mm
)
SAME_PIXEL: Final = 1e-3  # relative; writers round the spacing to four digits and more
ROUNDING_MM: Final = 1e-6
"""Of sums and differences of numbers in decimals."""
MIN_STEP_MM: Final = 0.1  # slices closer than this are one slice, acquired or exported twice
MAX_SHEAR_DEGREES: Final = 2.0  # steps off the normal; Hitachi writes up to 0.1 degree of rounding


@dataclass(frozen=True)
class Frame:
    """Where one slice lies. A classic file holds one, a multi-frame file many.

    position_mm: centre of the first pixel, LPS; across: direction along a row (growing column number);
    down: direction along a column (growing row number); pixel_mm: between rows, between columns; dixon: which
    image of a Dixon acquisition it is, as `series.dixon_part` says, where its own type says so.
    """

    number: int  # within its file, from 0
    rows: int
    columns: int
    position_mm: Vector | None
    across: Vector | None
    down: Vector | None
    pixel_mm: tuple[float, float] | None
    echo_ms: float | None = None
    is_magnitude: bool = True
    acquisition: int = 0
    dixon: str = ""

    @property
    def has_geometry(self) -> bool:
        """Position, two perpendicular unit directions and a positive spacing, all finite."""
        if (
            self.position_mm is None
            or self.across is None
            or self.down is None
            or self.pixel_mm is None
        ):
            return False
        axes = np.array([self.across, self.down])
        numbers = [*self.position_mm, *axes.ravel(), *self.pixel_mm]
        return bool(
            np.isfinite(numbers).all()
            and np.abs(axes @ axes.T - np.eye(2)).max() < 1e-2
            and min(self.pixel_mm) > 0
        )

    @property
    def in_place(self) -> tuple[Vector, Vector, tuple[float, float]]:
        """across, down and pixel_mm of a frame that has a geometry."""
        assert self.across is not None
        assert self.down is not None
        assert self.pixel_mm is not None
        return self.across, self.down, self.pixel_mm

    @property
    def normal(self) -> NDArray[np.float64]:
        """The unit vector in whose direction slices follow each other, LPS."""
        normal = np.cross(np.array(self.across), np.array(self.down))
        length = float(np.linalg.norm(normal))
        return normal / length if length else normal


@dataclass(frozen=True)
class SliceGrid:
    """A place in the scanner for [C, R, Z] voxels; affine_RAS maps their index to RAS+ mm."""

    shape: tuple[int, int, int]
    affine_RAS: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        lengths = np.linalg.norm(self.affine_RAS[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def corners_mm(self) -> NDArray[np.float64]:
        """R, A, S of the eight corners [8, 3], at the outer faces of the outermost voxels."""
        ends = np.array(np.meshgrid(*([-0.5, n - 0.5] for n in self.shape), indexing="ij"))
        corners: NDArray[np.float64] = ends.reshape(3, -1).T @ self.affine_RAS[:3, :3].T
        return corners + self.affine_RAS[:3, 3]

    @property
    def bounds_mm(self) -> NDArray[np.float64]:
        """Lowest and highest [2, 3] of R, A, S, to the outer faces of the outermost voxels."""
        corners = self.corners_mm
        return np.array([corners.min(axis=0), corners.max(axis=0)])

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Size of the field of view along R, A, S."""
        low, high = self.bounds_mm
        r, a, s = high - low
        return float(r), float(a), float(s)


@dataclass(frozen=True)
class Stack:
    """Frames in order along their normal, evenly spaced, and the grid they fill.

    order: position of each slice's frame in the sequence that was given.
    """

    order: tuple[int, ...]
    grid: SliceGrid
    gap_mm: float


def plane_of(normal: NDArray[np.floating], max_tilt_degrees: float) -> str:
    """sagittal, coronal or axial when the slice normal is that close to an axis of the body, else oblique."""
    tilt = np.degrees(np.arccos(np.clip(np.abs(normal) / np.linalg.norm(normal), 0, 1)))
    nearest = int(np.argmin(tilt))
    return (
        ("sagittal", "coronal", "axial")[nearest]
        if tilt[nearest] <= max_tilt_degrees
        else "oblique"
    )


def orientations(frames: list[Frame]) -> list[list[Frame]]:
    """Frames grouped by the direction of their normal and of their rows, within a degree."""
    groups: list[list[Frame]] = []
    for frame in frames:
        home = next((group for group in groups if is_parallel(frame, group[0])), None)
        if home is None:
            groups.append([frame])
        else:
            home.append(frame)
    return groups


def is_parallel(one: Frame, other: Frame) -> bool:
    """Whether the normals and the rows of two slices have one direction, within a degree."""
    limit = np.cos(np.radians(PARALLEL_DEGREES))
    return bool(
        one.normal @ other.normal >= limit and _unit(one.across) @ _unit(other.across) >= limit
    )


def _unit(direction: Vector | None) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = np.array(direction) / np.linalg.norm(np.array(direction))
    return unit


def arrange(frames: list[Frame], *, max_gap_error_mm: float) -> Stack:
    """Sort parallel slices along their normal and check that they fill a grid.

    Raises BadScan: no_geometry, mixed_spacing, slice_gap (uneven or doubled), sheared (steps leave the
    normal). Source: DICOM PS3.3 C.7.6.2.1.1, with the measured step between first and last slice as third
    column and the direction cosines, which writers round, brought to length 1.
    """
    first = frames[0]
    if not all(frame.has_geometry for frame in frames):
        raise BadScan(
            "no_geometry", "position, orientation or pixel spacing is missing or impossible"
        )
    if not all(_is_alike(frame, first) for frame in frames):
        raise BadScan(
            "mixed_spacing",
            "slices of one series differ in matrix size or pixel spacing: export them as two series",
        )
    positions = np.array([frame.position_mm for frame in frames])
    heights = positions @ first.normal
    order = np.argsort(heights, kind="stable")
    positions, heights = positions[order], heights[order]
    step = _even_step(heights, positions, max_gap_error_mm) if len(frames) > 1 else first.normal
    _check_straight(positions, step, first)
    across, down, pixel_mm = first.in_place
    affine = np.eye(4)
    affine[:3, 0] = _unit(across) * pixel_mm[1]
    affine[:3, 1] = _unit(down) * pixel_mm[0]
    affine[:3, 2], affine[:3, 3] = step, positions[0]
    affine[:3] = LPS_TO_RAS @ affine[:3]
    grid = SliceGrid((first.columns, first.rows, len(frames)), affine)
    return Stack(tuple(int(i) for i in order), grid, float(np.linalg.norm(step)))


def _is_alike(one: Frame, other: Frame) -> bool:
    """The same matrix and pixel spacing, to rounding."""
    return (one.rows, one.columns) == (other.rows, other.columns) and bool(
        np.allclose(one.in_place[2], other.in_place[2], rtol=SAME_PIXEL, atol=0)
    )


def _even_step(
    heights: NDArray[np.float64], positions: NDArray[np.float64], max_gap_error_mm: float
) -> NDArray[np.float64]:
    gaps = np.diff(heights)
    if gaps.min() < MIN_STEP_MM:
        raise BadScan("slice_gap", "two slices lie at the same place: export the series once")
    low, high = float(gaps.min()), float(gaps.max())
    even = np.linspace(heights[0], heights[-1], len(heights))
    beside_mm = float(
        np.abs(heights - even).max()
    )  # writers round positions: 4.5 and 4.6 take turns
    if min(high - low, beside_mm) > max_gap_error_mm + ROUNDING_MM:
        raise BadScan(
            "slice_gap",
            f"slice gaps run from {low:.2f} to {high:.2f} mm but must agree within "
            f"{max_gap_error_mm:g} mm: a slice is probably missing; export the series again",
        )
    step: NDArray[np.float64] = (positions[-1] - positions[0]) / (len(positions) - 1)
    return step


def _check_straight(
    positions: NDArray[np.float64], step: NDArray[np.float64], first: Frame
) -> None:
    """Steps follow the normal, and no slice lies more than a pixel beside the straight line."""
    cosine = step @ first.normal / np.linalg.norm(step)
    off = float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))
    if off > MAX_SHEAR_DEGREES:
        raise BadScan(
            "sheared",
            f"slices step {off:.1f} degrees off their normal, at most {MAX_SHEAR_DEGREES:g}",
        )
    straight = positions[0] + np.arange(len(positions))[:, None] * step
    beside_mm = float(np.linalg.norm(positions - straight, axis=1).max())
    if beside_mm > min(first.in_place[2]):
        raise BadScan("sheared", f"a slice lies {beside_mm:.1f} mm beside the line of the others")
