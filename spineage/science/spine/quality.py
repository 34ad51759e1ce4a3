"""Whether a named spine can be believed: what a good mask cannot look like.

Counting and order are checked where names are given (`levels`, `named`). Here the mask as a whole is
measured, every figure is kept, and what lies outside the study's limits is refused. Letters: R A S voxel
axes; N voxels of one structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.scan.geometry import Points
from spineage.science.spine.labels import LEVELS, disc_name
from spineage.science.spine.levels import Levels
from spineage.science.spine.morphometry import Morphometry, by_label
from spineage.science.spine.vertebrae import BODY_FORWARD_MM

Voxels = NDArray[np.int64]
Check = tuple[bool, str, Callable[[], str]]
"""Whether it fails, the fault code, the words."""
CANAL_RADIUS_MM = 14.0
"""Half of the widest canal (about 25 mm across in the neck): the cord is nearer to its centre line."""
NUM_NEIGHBOURS = 2
"""A level is compared with this many on either side: one broken neighbour does not move their median."""


@dataclass(frozen=True)
class Quality:
    """What makes a mask believable, one number each; the limits are in `QualityLimits`."""

    coverage: float
    off_centre: float
    loose_share: float
    canal_gap_mm: float
    cord_inside: float
    discs_in_front: float
    length_mm: float
    height_ratio: float
    volume_ratio: float


@dataclass(frozen=True)
class QualityLimits:
    """What is refused: study.Segment says why each is what it is. Sizes as (lowest, highest)."""

    min_coverage: float
    max_off_centre: float
    max_loose_share: float
    max_canal_gap_mm: float
    min_cord_inside: float
    min_discs_in_front: float
    length_mm: tuple[float, float]
    body_height_mm: tuple[float, float]
    disc_height_mm: tuple[float, float]
    max_height_ratio: float
    max_volume_ratio: float
    max_disc_signal: float


def assess(levels: Levels, measured: Morphometry) -> Quality:
    """Measure the mask as a whole.

    coverage: share of vertebral bodies (C2 down) and discs that touch no side of the image; off_centre: the
    median over the bodies of |right - left| / (right + left), their reach to either side of the canal;
    loose_share: of the body or disc most broken up, what is not in its largest piece; canal_gap_mm: the
    longest stretch from C2 to the last disc without canal or cord, NaN of a mask without canal; cord_inside:
    share of the cord within CANAL_RADIUS_MM of the canal's centre line, 1 without a cord; discs_in_front:
    share of discs in front of that line; length_mm: along it from the top disc to the lowest; height_ratio,
    volume_ratio: a body's height, or a vertebra's volume, over the median of its neighbours', the largest.
    """
    voxels = by_label(levels.volume.voxels_RAS)
    bodies = _bodies(levels, voxels)
    parts = [index for index, _ in bodies]
    parts += [voxels[LEVELS[f"disc_below_{name}"]] for name, _ in levels.discs]
    shape, edge_mm = levels.volume.voxels_RAS.shape, levels.volume.spacing_mm[0]
    _, forward, _ = levels.canal.locate(np.stack([disc.centre_mm for _, disc in levels.discs]))
    places = [disc.along_mm for _, disc in levels.discs]
    gap_mm, cord_inside = _canal(levels, voxels, (min(places), max(places)))
    return Quality(
        coverage=float(np.mean([not _touches_side(part, shape) for part in parts])),
        off_centre=_usual([_off_centre(side, edge_mm) for _, side in bodies]),
        loose_share=max(_loose_share(part) for part in parts),
        canal_gap_mm=gap_mm,
        cord_inside=cord_inside,
        discs_in_front=float(np.mean(forward > 0)),
        length_mm=max(places) - min(places),
        height_ratio=_largest_ratio(_below_axis(measured, measured.level_height_mm)),
        volume_ratio=_largest_ratio(_below_axis(measured, measured.level_volume_mm3)),
    )


def refuse_implausible(quality: Quality, measured: Morphometry, limits: QualityLimits) -> None:
    """Raise BadScan with the first of `failings`."""
    for code, message in failings(quality, measured, limits):
        raise BadScan(code, message)


def failings(
    quality: Quality, measured: Morphometry, limits: QualityLimits
) -> list[tuple[str, str]]:
    """Every limit that is not kept, as (code, message), the most telling first."""
    q = quality
    signal = float(np.median(measured.disc_signal))
    checks: Sequence[Check] = (
        (q.discs_in_front < limits.min_discs_in_front, "implausible_mask",
         lambda: f"{q.discs_in_front:.0%} of the discs lie in front of the canal, expected "
                 f"{limits.min_discs_in_front:.0%} or more: back to front, or labels are mixed up"),
        (q.cord_inside < limits.min_cord_inside, "implausible_mask",
         lambda: f"{q.cord_inside:.0%} of the cord lies inside the canal, expected "
                 f"{limits.min_cord_inside:.0%} or more: labels are mixed up"),
        (q.coverage < limits.min_coverage, "cut_off",
         lambda: f"{q.coverage:.0%} of bodies and discs lie whole inside the image, expected "
                 f"{limits.min_coverage:.0%} or more"),
        (q.off_centre > limits.max_off_centre, "one_sided",
         lambda: f"bodies reach {q.off_centre:.2f} further to one side of the canal than to the other, as a "
                 f"share of their width; expected {limits.max_off_centre:.2f} or less"),
        (q.canal_gap_mm > limits.max_canal_gap_mm, "broken_mask",
         lambda: f"the canal is interrupted over {q.canal_gap_mm:.0f} mm, expected "
                 f"{limits.max_canal_gap_mm:.0f} mm or less"),
        (q.loose_share > limits.max_loose_share, "broken_mask",
         lambda: f"{q.loose_share:.0%} of a body or disc is apart from the rest of it, expected "
                 f"{limits.max_loose_share:.0%} or less"),
        (not _within(q.length_mm, limits.length_mm), "implausible_size",
         lambda: f"the spine from C2 to the sacrum is {q.length_mm:.0f} mm long, expected "
                 f"{_span(limits.length_mm)} mm: the voxel size may be wrong"),
        *_sizes(measured, limits),
        (q.height_ratio > limits.max_height_ratio, "implausible_size",
         lambda: f"a body is {q.height_ratio:.1f} times as high as its neighbours, expected "
                 f"{limits.max_height_ratio:.1f} or less: two may be taken for one"),
        (q.volume_ratio > limits.max_volume_ratio, "implausible_size",
         lambda: f"a vertebra is {q.volume_ratio:.1f} times as large as its neighbours, expected "
                 f"{limits.max_volume_ratio:.1f} or less: two may be taken for one"),
        (signal > limits.max_disc_signal, "implausible_signal",
         lambda: f"discs have {signal:.2f} times the signal of the fluid, expected "
                 f"{limits.max_disc_signal:.2f} or less: not T2-weighted, or the mask lies beside the spine"),
    )  # fmt: skip
    return [(code, message()) for is_bad, code, message in checks if is_bad]


def _sizes(measured: Morphometry, limits: QualityLimits) -> list[Check]:
    """One check for bodies and one for discs: of the first that is outside."""
    discs = [disc_name(n, _below(n, measured.level_names)) for n in measured.disc_names]
    return [
        _size("body", measured.level_names, measured.level_height_mm, limits.body_height_mm),
        _size("disc", discs, measured.disc_height_mm, limits.disc_height_mm),
    ]


def _size(
    kind: str, names: Sequence[str], heights_mm: Sequence[float], span: tuple[float, float]
) -> Check:
    bad = [(h, n) for h, n in zip(heights_mm, names, strict=True) if not _within(h, span)]

    def message() -> str:
        return f"{kind} {bad[0][1]} is {bad[0][0]:.1f} mm high, expected {_span(span)} mm"

    return bool(bad), "implausible_size", message


def _below(name: str, names: Sequence[str]) -> str:
    """The vertebra below one, or the sacrum."""
    place = list(names).index(name) + 1
    return names[place] if place < len(names) else "sacrum"


def _within(value: float, span: tuple[float, float]) -> bool:
    """NaN (no such measure) is nothing to refuse."""
    return not (value < span[0] or value > span[1])


def _span(span: tuple[float, float]) -> str:
    return f"{span[0]:g} to {span[1]:g}"


def _bodies(levels: Levels, voxels: dict[int, Voxels]) -> list[tuple[Voxels, Points]]:
    """Of each vertebra from C2 down the voxels in front of the canal, and how far beside it they are."""
    names = [n for n in levels.names if n != "C1"]
    index = np.concatenate([voxels[LEVELS[n]] for n in names])
    _, forward, side = levels.canal.locate(levels.volume.to_mm(index))
    ends = np.cumsum([len(voxels[LEVELS[n]]) for n in names])[:-1]
    parts = zip(*(np.split(values, ends) for values in (index, forward, side)), strict=True)
    in_front = [(i[f > BODY_FORWARD_MM + 2.0], s[f > BODY_FORWARD_MM + 2.0]) for i, f, s in parts]
    return [(index, side) for index, side in in_front if len(index)]


def _touches_side(index: Voxels, shape: tuple[int, ...]) -> bool:
    return bool((index.min(0) == 0).any() or (index.max(0) == np.array(shape) - 1).any())


def _off_centre(side_mm: Points, edge_mm: float) -> float:
    """How unevenly a body reaches to both sides: 0 is even, 1 or more is all on one side."""
    left, right = np.percentile(side_mm, (2, 98)) + np.array([-0.5, 0.5]) * edge_mm
    return float(abs(right + left) / (right - left))


def _usual(values: Sequence[float]) -> float:
    """The median; NaN of nothing, as when a mask is back to front and no body lies in front of the canal."""
    return float(np.median(values)) if values else float("nan")


def _loose_share(index: Voxels) -> float:
    """The share of voxels that are not in the largest piece."""
    low = index.min(0)
    inside = np.zeros(index.max(0) - low + 1, bool)
    inside[tuple((index - low).T)] = True
    pieces, _ = ndimage.label(inside, np.ones((3, 3, 3)))
    return 1.0 - float(np.bincount(pieces[inside])[1:].max()) / len(index)


def _canal(
    levels: Levels, voxels: dict[int, Voxels], span_mm: tuple[float, float]
) -> tuple[float, float]:
    """The longest stretch of a span without canal or cord (mm), and the share of the cord near their centre
    line."""
    canal, cord = voxels[LEVELS["canal"]], voxels[LEVELS["cord"]]
    along, forward, side = levels.canal.locate(levels.volume.to_mm(np.concatenate([canal, cord])))
    off_mm = np.hypot(forward, side)[len(canal) :]
    inside = float(np.mean(off_mm < CANAL_RADIUS_MM)) if len(cord) else 1.0
    if not len(canal):  # none was drawn, and the cord ends long before the last disc
        return float("nan"), inside
    seen = np.unique(np.clip(along, *span_mm))
    gap_mm = float(np.diff(np.concatenate([[span_mm[0]], seen, [span_mm[1]]])).max())
    return gap_mm, inside


def _below_axis(measured: Morphometry, values: Sequence[float]) -> list[float]:
    """Values of C3 and below: C1 is a ring and C2 has the dens, which nothing compares with."""
    named = zip(measured.level_names, values, strict=True)
    return [value for name, value in named if name not in ("C1", "C2")]


def _largest_ratio(values: Sequence[float]) -> float:
    """The largest of each value over the median of its neighbours; values that are NaN take no part."""
    known = np.array([value for value in values if value == value])
    ratios = [0.0]
    for i in range(len(known)):
        around = np.delete(known, i)[max(0, i - NUM_NEIGHBOURS) : i + NUM_NEIGHBOURS]
        if len(around) and (usual := float(np.median(around))) > 0:
            ratios.append(float(known[i]) / usual)
    return max(ratios)
