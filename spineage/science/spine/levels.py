"""From tissues to names: which vertebra is which, counted along the canal from the sacrum up.

What is counted are the discs, because they part the bodies. A spine from C2 to the sacrum has 23; with 22
the last lumbar vertebra is L4, with 24 there is an L6 (`numbering` says so: T11 + L5 or T13 look the same
and are not told apart). Everything that does not fit is refused: a spine whose levels cannot be told is a
fault, not a guess. Letters: R A S voxel axes; N points.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.science.scan.geometry import Points, Volume, where_mm, without_crumbs
from spineage.science.spine.canal import Canal, find_canal
from spineage.science.spine.discs import Disc, find_discs
from spineage.science.spine.labels import LEVELS, SEMANTIC
from spineage.science.spine.vertebrae import split_vertebrae

MIN_EXTENT_MM = 380.0
"""C2 to S1 is about 0.3 of the body height: 420 mm in a person of 1.40 m."""
MIN_SPINE_MM3 = 20_000.0
"""An adult's vertebrae and discs fill 400,000 mm3 or more; less than this is noise."""
MIN_SACRUM_MM3 = 2_000.0

NUMBERING = {22: "L4 last", 23: "regular", 24: "L6 present"}
"""Number of discs from C2/3 down, to the anatomy assumed."""

# Heights above the top disc in units of the pitch (centre to centre) of the discs below it. C2 with its
# dens is 1.75 to 2.25 pitches high; counted from a false disc across the dens it is 1 to 1.5, with C3
# still on it 2.75 or more.
TOP_PITCHES = (1.55, 2.65)
STRICT_TOP_PITCHES = (1.7, 2.4)
NEAR_TOP_MM, BIN_MM = 64.0, 2.0
# A gap between neighbouring discs over the median of the gaps around it: even, or one disc left out.
EVEN_GAP = (0.6, 1.4)
DOUBLE_GAP = (1.6, 2.6)


@dataclass(frozen=True)
class Levels:
    """The named spine. volume: uint8 in labels.LEVELS; names: vertebrae found, cranial to caudal.

    discs: those seen, cranial to caudal, each with the vertebra above it; canal: the curve they were
    counted along.
    """

    volume: Volume
    names: tuple[str, ...]
    discs: tuple[tuple[str, Disc], ...]
    numbering: str
    num_discs_inferred: int
    canal: Canal


def find_levels(semantic: Volume, *, min_levels: int = 22, max_levels: int = 24) -> Levels:
    """Name every vertebra and disc of a semantic volume (labels.SEMANTIC).

    Raises BadScan: `empty_mask` (no spine), `implausible_mask` (broken, upside down, back to front),
    `incomplete_spine` (sacrum or C2 not shown), `levels_unknown` (cannot be counted with confidence).
    """
    check_presence(semantic)
    sacrum_RAS = without_crumbs(semantic.voxels_RAS == SEMANTIC["sacrum"], share=0.2)
    sacrum_mm = where_mm(semantic, sacrum_RAS)
    canal = find_canal(semantic)
    discs = find_discs(semantic, canal, sacrum_mm)
    discs = _with_bottom(discs, canal, sacrum_mm)
    discs = _with_gaps_filled(discs)
    _check_top(semantic, canal, discs)
    num_inferred = sum(disc.is_inferred for disc in discs)
    check_count(len(discs), num_inferred, min_levels, max_levels)
    return _named(semantic, canal, discs, sacrum_RAS, num_inferred)


def check_presence(semantic: Volume) -> None:
    """The image is long enough; vertebrae, discs and sacrum are there, the sacrum is the lower end, and the
    cord ends above the cauda."""
    extent_mm = semantic.extent_mm[2]
    if extent_mm < MIN_EXTENT_MM:
        raise BadScan(
            "incomplete_spine",
            f"the image covers {extent_mm:.0f} mm along the body; from C2 to the sacrum are "
            f"{MIN_EXTENT_MM:.0f} mm or more",
        )
    present = np.bincount(semantic.voxels_RAS.ravel(), minlength=256) * semantic.voxel_mm3
    spine_mm3 = present[SEMANTIC["vertebra"]] + present[SEMANTIC["disc"]]
    if spine_mm3 < MIN_SPINE_MM3:
        raise BadScan(
            "empty_mask",
            f"vertebrae and discs fill {spine_mm3 / 1000:.1f} ml, expected "
            f"{MIN_SPINE_MM3 / 1000:.0f} ml or more",
        )
    if present[SEMANTIC["sacrum"]] < MIN_SACRUM_MM3:
        raise BadScan(
            "incomplete_spine", "no sacrum was found; expected the spine from C2 to the sacrum"
        )

    def heights(tissue: str) -> Points:
        return where_mm(semantic, semantic.voxels_RAS == SEMANTIC[tissue])[:, 2]

    if np.median(heights("sacrum")) > np.percentile(heights("vertebra"), 10):
        raise BadScan(
            "implausible_mask",
            "the sacrum lies above vertebrae: upside down, or labels are mixed up",
        )
    cord, csf = heights("cord"), heights("canal")
    if len(cord) and len(csf) and np.percentile(cord, 5) < np.percentile(csf, 5):
        raise BadScan(
            "implausible_mask",
            "the cord reaches below the cauda: upside down, or labels are mixed up",
        )


def _with_bottom(discs: list[Disc], canal: Canal, sacrum_mm: Points) -> list[Disc]:
    """Discs from the sacrum up; the last one is inferred when a whole body stands between it and the
    sacrum."""
    pitch_mm = float(np.median([_apart(a, b) for a, b in itertools.pairwise(discs[:5])]))
    along, forward, _ = canal.locate(sacrum_mm)
    top = sacrum_mm[(forward > 5.0) & (along > np.percentile(along[forward > 5.0], 95) - 4.0)]
    gap = float(np.linalg.norm(top.mean(0) - discs[0].centre_mm)) / pitch_mm
    if gap < 0.6:
        return discs
    if 0.75 <= gap <= 1.5:
        centre_mm = top.mean(0)
        return [Disc.inferred(centre_mm, canal), *discs]
    raise BadScan(
        "levels_unknown",
        f"the lowest disc is {gap:.1f} vertebrae above the sacrum; expected less than 0.6",
    )


def _apart(lower: Disc, upper: Disc) -> float:
    return float(np.linalg.norm(upper.centre_mm - lower.centre_mm))


def _with_gaps_filled(discs: list[Disc]) -> list[Disc]:
    """Put a disc into every gap that is certainly two vertebrae high; refuse gaps that are neither one
    nor two."""
    gaps = np.array([_apart(a, b) for a, b in itertools.pairwise(discs)])
    filled = [discs[0]]
    for i, gap in enumerate(gaps):
        around = np.delete(gaps[max(0, i - 2) : i + 3], i - max(0, i - 2))
        ratio = gap / np.median(around)
        if DOUBLE_GAP[0] <= ratio <= DOUBLE_GAP[1]:
            filled.append(Disc.between(discs[i], discs[i + 1]))
        elif not EVEN_GAP[0] <= ratio <= EVEN_GAP[1]:
            raise BadScan(
                "levels_unknown",
                f"discs {i + 1} and {i + 2} above the sacrum are {gap:.0f} mm apart, {ratio:.1f} times their "
                f"neighbours; expected {EVEN_GAP[0]} to {EVEN_GAP[1]}",
            )
        filled.append(discs[i + 1])
    return filled


def _check_top(semantic: Volume, canal: Canal, discs: list[Disc]) -> None:
    """Above the top disc stands C2 with its dens, whole, and nothing else.

    A false disc across the dens, or a missed disc C2/3, would shift every name by one: their heights
    differ by a vertebra. When the count is not the regular one, only a C2 of ordinary height counts as
    proof.
    """
    pitch_mm = float(
        np.median([_apart(a, b) for a, b in zip(discs[-4:-1], discs[-3:], strict=True)])
    )
    top_mm, is_cut = _bone_above(semantic, canal, discs)
    height = top_mm / pitch_mm
    low, high = TOP_PITCHES if len(discs) == 23 else STRICT_TOP_PITCHES
    if is_cut or height < TOP_PITCHES[0]:
        raise BadScan(
            "incomplete_spine",
            f"above the top disc stands {height:.1f} times the height of a vertebra"
            f"{', and the image ends there' * is_cut}; expected C2 with its dens, {low} to "
            f"{high}, inside the image",
        )
    if not low <= height <= high:
        raise BadScan(
            "levels_unknown",
            f"above the top disc stands {height:.1f} times the height of a vertebra; expected C2 with its "
            f"dens, {low} to {high}: a disc next to it was missed, or is none",
        )


def _bone_above(semantic: Volume, canal: Canal, discs: list[Disc]) -> tuple[float, bool]:
    """How far bone in front of the canal goes on above the top disc (mm), and whether the image cuts it
    off."""
    up = np.sum([disc.up for disc in discs[-3:]], axis=0)
    up /= np.linalg.norm(up)
    index = np.argwhere(semantic.voxels_RAS == SEMANTIC["vertebra"])
    offset = semantic.to_mm(index) - discs[-1].centre_mm
    near = np.linalg.norm(offset, axis=1) < NEAR_TOP_MM
    index, offset = index[near], offset[near]
    _, forward, side = canal.locate(offset + discs[-1].centre_mm)
    body = (forward > 4.0) & (np.abs(side - discs[-1].side_mm) < 14.0)
    height = offset[body] @ up
    area_mm2 = (
        np.histogram(height, np.arange(0, NEAR_TOP_MM, BIN_MM))[0] * semantic.voxel_mm3 / BIN_MM
    )
    usual = np.percentile(area_mm2, 80)
    thin = np.flatnonzero((area_mm2 < 0.2 * usual) & (np.arange(len(area_mm2)) * BIN_MM > 6.0))
    top_mm = float(thin[0] * BIN_MM) if len(thin) else NEAR_TOP_MM
    rows = index[body, 2][height <= top_mm]
    return top_mm, len(rows) == 0 or int(rows.max()) >= semantic.voxels_RAS.shape[2] - 2


def check_count(num_discs: int, num_inferred: int, min_levels: int, max_levels: int) -> None:
    """As many vertebrae as a spine may have, and no count that rests on a disc nobody saw."""
    if num_inferred > 1:
        raise BadScan(
            "levels_unknown", f"{num_inferred} discs were not found; at most 1 can be inferred"
        )
    if not min_levels <= num_discs <= max_levels or num_discs not in NUMBERING:
        raise BadScan(
            "levels_unknown",
            f"{num_discs} vertebrae were counted from C2 to the sacrum, expected {min_levels} to "
            f"{max_levels}",
        )
    if num_discs != 23 and num_inferred:
        raise BadScan(
            "levels_unknown",
            f"{num_discs} vertebrae were counted, one of them without its disc being seen",
        )


def _named(
    semantic: Volume,
    canal: Canal,
    discs: list[Disc],
    sacrum_RAS: NDArray[np.bool_],
    num_inferred: int,
) -> Levels:
    num_lumbar = len(discs) - 18
    names = (
        *(f"C{i}" for i in range(2, 8)),
        *(f"T{i}" for i in range(1, 13)),
        *(f"L{i}" for i in range(1, num_lumbar + 1)),
    )
    down = discs[::-1]
    levels_RAS = np.zeros(semantic.voxels_RAS.shape, np.uint8)
    for tissue in ("canal", "cord"):
        levels_RAS[without_crumbs(semantic.voxels_RAS == SEMANTIC[tissue], share=0.05)] = LEVELS[
            tissue
        ]
    levels_RAS[sacrum_RAS] = LEVELS["sacrum"]
    for name, disc in zip(names, down, strict=True):
        levels_RAS[tuple(disc.voxels.T)] = LEVELS[f"disc_below_{name}"]
    vertebra_RAS = split_vertebrae(semantic, canal, down)
    for place, name in enumerate(("C1", *names)):
        levels_RAS[vertebra_RAS == place + 1] = LEVELS[name]
    if not (levels_RAS == LEVELS["C1"]).any():
        all_names: tuple[str, ...] = names
    else:
        all_names = ("C1", *names)
    seen = tuple((n, d) for n, d in zip(names, down, strict=True) if not d.is_inferred)
    volume = Volume(levels_RAS, semantic.affine_RAS)
    return Levels(volume, all_names, seen, NUMBERING[len(discs)], num_inferred, canal)
