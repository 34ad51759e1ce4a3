"""What two stations show where they overlap: how bright one is to the other, and whether the person moved.

Letters as in `geometry`: R, A, S voxel axes; both stations are on one grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from spineage.errors import BadScan
from spineage.science.scan.resample import EDGE_WEIGHT, Box, Part

MIN_SHARED: Final = 500  # voxels of tissue in an overlap that a gain can be trusted on
TISSUE: Final = 0.15  # of the 95th percentile: above it is no air
SOFT_VOXELS: Final = 2.0  # in plane: wider than the loss of sharpness by resampling
MIN_CORRELATION: Final = 0.5  # of the tissue in an overlap; 0.97 in phantoms

MAX_SHIFT_MM: Final = 5.0
"""A person who moved further did not only slide: half a disc and its neighbour could be taken for one."""
SEARCH_MM: Final = 12.0  # how far a shift is looked for
MIN_SHIFT_VOXELS: Final = 0.5  # smaller ones are as likely noise, and blur less than moving would
DETAIL_MM: Final = 8.0  # what is wider is shading by the coil, not anatomy
RIM_VOXELS: Final = 2  # at the edge of an overlap, in plane, are not compared
MIN_MATCH: Final = 0.3  # correlation of details that a shift can be trusted on
MIN_GAINED: Final = 0.05  # of correlation, by moving

Shared = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]
"""The values of both in the box that they share [R, A, S], and where both saw something."""


def num_shared(one: Part, other: Part) -> int:
    """Voxels of the grid that both stations reach."""
    box = _shared_box(one.where, other.where)
    return 0 if box is None else int(np.prod([b.stop - b.start for b in box]))


def _shared(one: Part, other: Part) -> Shared | None:
    """None when they share nothing but rows repeated beyond their ends."""
    box = _shared_box(one.where, other.where)
    if box is None:
        return None
    values = [_cut(part.voxels, part.where, box) for part in (one, other)]
    counts = [_cut(part.weight, part.where, box) for part in (one, other)]
    seen = (counts[0] > EDGE_WEIGHT) & (counts[1] > EDGE_WEIGHT)
    return (values[0], values[1], seen) if seen.any() else None


def find_gain(reference: Part, other: Part) -> float:
    """Median ratio reference / other over the tissue both show; 1 when they share too little of it.

    Taken of smoothed values: a blurred picture of bright tissue between dark gaps is darker in the median.
    Raises BadScan stations_disagree when the tissue they share does not look alike.
    """
    shared = _shared(reference, other)
    if shared is None:
        return 1.0
    one, two, seen = shared
    is_tissue = seen
    for values in (one, two):
        is_tissue = is_tissue & (values > TISSUE * np.percentile(values[seen], 95))
    if is_tissue.sum() < MIN_SHARED:
        return 1.0
    soft = [_smoothed(values, seen, (0, SOFT_VOXELS, SOFT_VOXELS)) for values in (one, two)]
    one, two = one[is_tissue], two[is_tissue]
    is_flat = min(float(one.std()), float(two.std())) == 0.0
    agreement = 1.0 if is_flat else float(np.corrcoef(one, two)[0, 1])
    if agreement < MIN_CORRELATION:
        raise BadScan(
            "stations_disagree",
            f"two stations show different things where they overlap (correlation {agreement:.2f}, "
            f"expected at least {MIN_CORRELATION:g})",
        )
    return float(np.exp(np.median(np.log(soft[0][is_tissue] / soft[1][is_tissue]))))


def find_shift(reference: Part, other: Part, spacing_mm: tuple[float, ...]) -> tuple[float, ...]:
    """By how many voxels along R, A, S `other` is to be moved so that both show the same in the overlap.

    0, 0, 0 when it lies well as it is, or when the overlap does not say. Components below half a voxel are
    0. The peak of the correlation of details is found to a fraction of a voxel by a parabola.
    Raises BadScan stations_moved beyond MAX_SHIFT_MM.
    """
    still = (0.0, 0.0, 0.0)
    shared = _shared(reference, other)
    if shared is None or shared[2].sum() < MIN_SHARED:
        return still
    one, two, seen = shared
    reach = [
        min(round(SEARCH_MM / mm), n // 2) for mm, n in zip(spacing_mm, seen.shape, strict=True)
    ]
    seen = _well_inside(seen & (one > 0) & (two > 0))  # exactly 0 is what a scanner pads with
    details = [_details(values, seen, spacing_mm) for values in (one, two)]
    match_RAS = _matches(details[0], details[1], seen, reach)
    peak = np.array(np.unravel_index(int(match_RAS.argmax()), match_RAS.shape))
    best, unmoved = float(match_RAS.max()), float(match_RAS[tuple(reach)])
    if best < MIN_MATCH or best - unmoved < MIN_GAINED:
        return still
    voxels = peak - reach + [_vertex(match_RAS, peak, axis) for axis in range(3)]
    voxels[np.abs(voxels) < MIN_SHIFT_VOXELS] = 0.0
    length_mm = float(np.linalg.norm(voxels * np.array(spacing_mm)))
    if length_mm > MAX_SHIFT_MM:
        raise BadScan(
            "stations_moved",
            f"what two stations share lies {length_mm:.0f} mm apart, at most {MAX_SHIFT_MM:g} mm are moved "
            "back: the person moved between them",
        )
    return tuple(float(x) for x in voxels)


def _details(
    values: NDArray[np.float32], seen: NDArray[np.bool_], spacing_mm: tuple[float, ...]
) -> NDArray[np.float32]:
    """What is finer than shading, whatever the gain."""
    bright = max(float(np.percentile(values, 95)), 1e-6)
    level = np.log(np.maximum(values, 0) / bright + TISSUE)
    level -= _smoothed(level, seen, [DETAIL_MM / mm for mm in spacing_mm])
    bound = float(np.percentile(np.abs(level[seen]), 98)) if seen.any() else 0.0
    return np.where(seen, np.clip(level, -bound, bound), 0).astype(np.float32)


def _well_inside(seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without the outermost voxels in plane, which resampling mixed with what lies beyond the edge."""
    in_plane = np.ones((1, 2 * RIM_VOXELS + 1, 2 * RIM_VOXELS + 1), bool)
    inside: NDArray[np.bool_] = ndimage.binary_erosion(seen, in_plane)
    return inside


def _smoothed(
    values: NDArray[np.float32], seen: NDArray[np.bool_], sigma: Sequence[float]
) -> NDArray[np.float32]:
    """Gaussian mean over the voxels that were seen; sigma in voxels."""
    weight = ndimage.gaussian_filter(seen.astype(np.float32), sigma)
    total = ndimage.gaussian_filter(np.where(seen, values, 0).astype(np.float32), sigma)
    return np.asarray(total / np.maximum(weight, 1e-6), np.float32)


def _matches(
    one: NDArray[np.float32], two: NDArray[np.float32], seen: NDArray[np.bool_], reach: list[int]
) -> NDArray[np.float32]:
    """Correlation [2 reach + 1 along R, A, S] of `one` with `two` moved by each whole number of voxels.

    Only voxels that both saw count. Padfield 2012, doi:10.1109/TIP.2011.2181402, equation 20.
    """
    size = [fft.next_fast_len(n + r, real=True) for n, r in zip(seen.shape, reach, strict=True)]
    mask = seen.astype(np.float32)
    m, a, b, aa, bb = (
        fft.rfftn(x, size) for x in (mask, one * mask, two * mask, one**2 * mask, two**2 * mask)
    )

    def summed(
        left: NDArray[np.complexfloating], right: NDArray[np.complexfloating]
    ) -> NDArray[np.float32]:
        every = fft.irfftn(left * right.conj(), size)
        near = every[np.ix_(*(np.arange(-r, r + 1) for r in reach))]
        return np.asarray(near, np.float32)

    count = np.maximum(summed(m, m), 1)
    sum_a, sum_b = summed(a, m), summed(m, b)
    spread = (summed(aa, m) - sum_a**2 / count) * (summed(m, bb) - sum_b**2 / count)
    match = (summed(a, b) - sum_a * sum_b / count) / np.sqrt(np.maximum(spread, 1e-12))
    return np.where(count >= MIN_SHARED, match, -1).astype(np.float32)


def _vertex(match: NDArray[np.float32], peak: NDArray[np.intp], axis: int) -> float:
    """Where between voxels the parabola through the peak and its two neighbours is highest, -0.5 to 0.5."""
    if not 0 < peak[axis] < match.shape[axis] - 1:
        return 0.0
    at = [tuple(peak + step * np.eye(3, dtype=int)[axis]) for step in (-1, 0, 1)]
    below, top, above = (float(match[index]) for index in at)
    curve = below - 2 * top + above
    return 0.0 if curve >= 0 else float(np.clip(0.5 * (below - above) / curve, -0.5, 0.5))


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
