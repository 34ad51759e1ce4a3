"""Label volumes of other tools, turned into ours.

One number means different things to different tools (41 is L1 to TotalSpineSeg, the arch of any vertebra to
SPINEPS), so each tool has a table, a value outside it is refused, and so is a volume whose names contradict
each other. Letters: R A S voxel axes of a Volume; what a value means does not depend on the orientation of
the file it came from, and left and right parts are merged.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from spineage.errors import BadScan, BadStudy
from spineage.science.scan.geometry import Volume, resample, where_mm
from spineage.science.spine.labels import LEVELS, SEMANTIC, VERTEBRAE

ABOVE_SACRUM: Final = "disc above the sacrum"
ENDPLATES: Final = "endplates at "
NEARLY: Final = 5
"""Of so many voxels one tells how far two structures are apart."""
MAX_OUTSIDE: Final = 0.1
"""Of a mask beyond its scan's edge: two tools crop otherwise."""
CRUMB_MM3: Final = 100.0
"""A third of the smallest disc: what is less is none."""
MAX_STRAY_SHARE: Final = 0.05
"""Of the voxels of a vertebra or disc, how many may lie in other tissue of the same scan."""


@dataclass(frozen=True)
class Foreign:
    """What a tool's values mean. names: value to a name in our schema, or to a name resolved by place
    (`ABOVE_SACRUM`, `ENDPLATES`); hint: what to look at when a value is not in the table."""

    schema: Literal["semantic", "levels"]
    names: dict[int, str]
    hint: str


CERVICAL, THORACIC, LUMBAR = VERTEBRAE[:7], VERTEBRAE[7:19], VERTEBRAE[20:25]

_TOTALSPINESEG = {
    1: "cord",
    2: "canal",
    **{11 + i: name for i, name in enumerate(CERVICAL)},
    **{21 + i: name for i, name in enumerate(THORACIC)},
    **{41 + i: name for i, name in enumerate((*LUMBAR, "L6"))},
    50: "sacrum",
    **{63 + i: f"disc_below_{name}" for i, name in enumerate(CERVICAL[1:6])},
    **{71 + i: f"disc_below_{name}" for i, name in enumerate(("C7", *THORACIC[:11]))},
    91: "disc_below_T12",
    **{92 + i: f"disc_below_{name}" for i, name in enumerate(LUMBAR)},  # 96 where there is an L6
    100: ABOVE_SACRUM,
}
_VERIDAH_VERTEBRAE = {
    **{1 + i: name for i, name in enumerate((*CERVICAL, *THORACIC, *LUMBAR, "L6"))},
    28: "T13",
}
_VERIDAH = {
    **_VERIDAH_VERTEBRAE,
    26: "sacrum",
    **{100 + k: f"disc_below_{name}" for k, name in _VERIDAH_VERTEBRAE.items() if name != "C1"},
    **{200 + k: f"{ENDPLATES}{name}" for k, name in _VERIDAH_VERTEBRAE.items()},
}
_SPINEPS = {
    26: "sacrum",
    **dict.fromkeys(range(40, 54), "vertebra"),  # parts, body, dens, upper and lower endplate
    60: "cord",
    61: "canal",
    62: "vertebra",  # endplates
    100: "disc",
}
_VERTEBRAE_MR = {
    1: "sacrum",
    **{2 + i: name for i, name in enumerate((*LUMBAR[::-1], *THORACIC[::-1], *CERVICAL[::-1]))},
}
_TOTAL_MR = {
    **dict.fromkeys(range(1, 51), "background"),  # organs, vessels, muscles
    18: "sacrum",
    19: "vertebra",
    20: "disc",
    21: "cord",
}

TOOLS: Final[dict[str, Foreign]] = {
    "totalspineseg": Foreign(
        "levels",
        _TOTALSPINESEG,
        "its step 2 output is expected; early releases number otherwise (41 was C1, 200 to 224 cord, "
        "canal and discs): segment again with a newer one",
    ),
    "spineps": Foreign("semantic", _SPINEPS, "its seg-spine mask is expected, not seg-vert"),
    "spineps-veridah": Foreign(
        "levels", _VERIDAH, "its seg-vert mask named by VERIDAH is expected, not seg-spine"
    ),
    "vertebrae_mr": Foreign(
        "levels", _VERTEBRAE_MR, "the multilabel output (--ml) of that task is expected"
    ),
    "totalsegmentator": Foreign(
        "levels",
        _VERTEBRAE_MR,
        "the multilabel outputs (--ml) of vertebrae_mr and of total_mr are expected",
    ),
    "total_mr": Foreign(
        "semantic", _TOTAL_MR, "the multilabel output (--ml) of that task is expected"
    ),
    "semantic": Foreign(
        "semantic",
        {v: n for n, v in SEMANTIC.items() if v},
        "see spineage.science.spine.labels.SEMANTIC",
    ),
    "levels": Foreign(
        "levels", {v: n for n, v in LEVELS.items() if v}, "see spineage.science.spine.labels.LEVELS"
    ),
}
"""By the name a user says. SPINEPS' instance mask without VERIDAH only counts from the top and has no table;
TotalSpineSeg's steps before the last have none either. Sources: TotalSpineSeg tss_map.json; SPINEPS README
and TPTBox vert_constants; TotalSegmentator class map. `totalspineseg` never names T13, and calls the disc on
the sacrum 100 whichever vertebra lies on it; its 47, an L7, is no level of ours."""
TISSUES_OF: Final = {"spineps-veridah": "spineps", "totalsegmentator": "total_mr"}
"""Tools of two masks a scan: by which table the second one, that of tissues, is read."""


def from_map(names: Mapping[str, str]) -> Foreign:
    """A table of one's own: value to one of our names, all of one schema. Raises BadStudy."""
    for schema, ours in (("levels", LEVELS), ("semantic", SEMANTIC)):
        if set(names.values()) <= set(ours) and all(value.isdecimal() for value in names):
            values = {int(value): name for value, name in names.items()}
            return Foreign(
                cast("Literal['levels', 'semantic']", schema), values, "see your own map"
            )
    raise BadStudy(
        "segment.masks_of: a map gives whole numbers names, all of them of "
        "spineage.science.spine.labels.LEVELS or all of SEMANTIC"
    )


def adapt(
    foreign: Volume, tool: str, tissues: Volume | None = None, known: Foreign | None = None
) -> Volume:
    """The volume in labels.SEMANTIC or labels.LEVELS (`TOOLS[tool].schema`), uint8, on the same grid.

    tissues: for the tools of `TISSUES_OF` the second mask of the same scan, [R, A, S] like the names: cord,
    canal and sacrum come from it, and discs that the names lack. known: of a tool that is in no table.
    Raises BadScan `implausible_mask`: a value outside the tool's table, values that are not whole, names
    that contradict each other, two masks that are not of one scan.
    """
    assert (tissues is not None) == (tool in TISSUES_OF)
    known = known or TOOLS[tool]
    ours = LEVELS if known.schema == "levels" else SEMANTIC
    values_RAS, index = _present(foreign)
    names = {v: _name_of(v, known, tool) for v in values_RAS}
    if ABOVE_SACRUM in names.values():
        names[100] = _disc_on_sacrum(set(names.values()))
    table = np.array([ours.get(names[v], 0) for v in values_RAS], np.uint8)
    labels_RAS = table[index].reshape(foreign.voxels_RAS.shape)
    if tissues is not None:
        _add_tissues(labels_RAS, foreign, tissues, TISSUES_OF[tool])
    ends = {v: n.removeprefix(ENDPLATES) for v, n in names.items() if n.startswith(ENDPLATES)}
    for value, upper in ends.items():
        _part_endplates(foreign.with_voxels(labels_RAS), foreign.voxels_RAS == value, upper)
    if known.schema == "levels":
        check_names(set(names.values()))
    return foreign.with_voxels(labels_RAS)


def lay_on(labels: Volume, scan: Volume) -> Volume:
    """The labels on the scan's grid, by the nearest voxel, uint8.

    Raises BadScan `implausible_mask` when much of them lies out of the scan.
    """
    points_mm = where_mm(labels, labels.voxels_RAS != 0)[::NEARLY]
    index = scan.to_index(points_mm)
    inside = ((index > -1) & (index < np.array(scan.voxels_RAS.shape))).all(1)
    if len(points_mm) and (share := 1 - float(inside.mean())) > MAX_OUTSIDE:
        raise BadScan(
            "implausible_mask",
            f"{share:.0%} of the mask lies out of the scan, at most {MAX_OUTSIDE:.0%} may: it is another "
            "scan's, or says another place",
        )
    a, b, c = scan.voxels_RAS.shape
    laid = resample(labels, (a, b, c), scan.affine_RAS, order=0)
    return laid.with_voxels(np.ascontiguousarray(laid.voxels_RAS, np.uint8))


def check_names(names: set[str]) -> None:
    """A disc below a vertebra that is not there, though the vertebra above that one is, has a wrong name.

    (At the edge of the image a vertebra may be cut off and its disc not.) Raises BadScan
    `implausible_mask`.
    """
    regular = [n for n in VERTEBRAE if n not in ("T13", "L6") or n in names]
    for upper, vertebra in itertools.pairwise(regular):
        if upper in names and f"disc_below_{vertebra}" in names and vertebra not in names:
            raise BadScan(
                "implausible_mask",
                f"there is {upper} and a disc below {vertebra} but no {vertebra} between them: "
                "the numbering is not that of the stated tool, or a label was lost",
            )


def _present(volume: Volume) -> tuple[list[int], NDArray[np.intp]]:
    """The values there are, and for each voxel which of them it has."""
    values, index = np.unique(volume.voxels_RAS, return_inverse=True)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        raise BadScan(
            "implausible_mask", "a label volume holds whole numbers only; it was interpolated"
        )
    return [int(v) for v in values], index


def _name_of(value: int, known: Foreign, tool: str) -> str:
    if value == 0:
        return "background"
    if value not in known.names:
        raise BadScan(
            "implausible_mask", f"value {value} is not one of the labels of {tool}: {known.hint}"
        )
    return known.names[value]


def _disc_on_sacrum(names: set[str]) -> str:
    """TotalSpineSeg's 100 lies below the last lumbar vertebra, be it L4, L5 or L6."""
    lumbar = [n for n in VERTEBRAE if n.startswith("L") and n in names]
    last = lumbar[-1] if lumbar else "L5"
    if f"disc_below_{last}" in names:
        raise BadScan(
            "implausible_mask",
            f"two discs lie below {last}, the last lumbar vertebra: the numbering is not that of "
            "TotalSpineSeg's final output",
        )
    return f"disc_below_{last}"


def _part_endplates(labels: Volume, where_RAS: NDArray[np.bool_], upper: str) -> None:
    """SPINEPS numbers both endplates of a disc after the vertebra above it; each voxel goes to the nearer
    of that vertebra and the next one. Changes the labels in place."""
    present = set(np.unique(labels.voxels_RAS).tolist())
    place = VERTEBRAE.index(upper)
    following = [LEVELS[n] for n in (*VERTEBRAE[place + 1 :], "sacrum") if LEVELS[n] in present]
    candidates = [v for v in (LEVELS[upper], *following[:1]) if v in present]
    if not candidates:
        raise BadScan("implausible_mask", f"there are endplates at {upper} but no vertebra near")
    points_mm = labels.to_mm(np.argwhere(where_RAS).astype(np.float64))
    far = [
        cKDTree(labels.to_mm(np.argwhere(labels.voxels_RAS == v).astype(np.float64))).query(
            points_mm
        )[0]
        for v in candidates
    ]
    labels.voxels_RAS[where_RAS] = np.array(candidates, np.uint8)[np.argmin(far, axis=0)]


def _add_tissues(labels_RAS: NDArray[np.uint8], names: Volume, tissues: Volume, tool: str) -> None:
    """Cord, canal and sacrum from the tissue mask, in place, after a look at whether the two fit; its discs
    too, where the names have none."""
    if names.voxels_RAS.shape != tissues.voxels_RAS.shape or not np.allclose(
        names.affine_RAS, tissues.affine_RAS, atol=1e-3
    ):
        raise BadScan("implausible_mask", "names and tissues lie on different grids")
    tissue_RAS = adapt(tissues, tool).voxels_RAS
    is_bone = (labels_RAS > 0) & (labels_RAS < LEVELS["sacrum"])
    is_disc = labels_RAS > 100
    for what, where_RAS in (("vertebra", is_bone), ("disc", is_disc)):
        stray = where_RAS & (tissue_RAS != SEMANTIC[what])
        if tool == "total_mr":  # two networks draw two outlines: only another tissue contradicts
            stray &= tissue_RAS != SEMANTIC["background"]
        if stray.sum() > MAX_STRAY_SHARE * where_RAS.sum():
            raise BadScan(
                "implausible_mask",
                f"{stray.sum() / where_RAS.sum():.0%} of what is named a {what} is other tissue; "
                f"expected {MAX_STRAY_SHARE:.0%} at most: the two masks are not of one scan",
            )
    for name in ("cord", "canal", "sacrum"):
        labels_RAS[(tissue_RAS == SEMANTIC[name]) & (labels_RAS == 0)] = LEVELS[name]
    if not is_disc.any():
        _name_discs(names.with_voxels(labels_RAS), tissue_RAS == SEMANTIC["disc"])


def _name_discs(labels: Volume, discs_RAS: NDArray[np.bool_]) -> None:
    """Each disc is below the upper one of the two bones next to it. Changes the labels in place.

    Raises BadScan `implausible_mask` for one that does not lie between two that follow each other.
    """
    bones = [n for n in (*VERTEBRAE, "sacrum") if (labels.voxels_RAS == LEVELS[n]).any()]
    trees = [cKDTree(where_mm(labels, labels.voxels_RAS == LEVELS[n])[::NEARLY]) for n in bones]
    pieces_RAS, _ = ndimage.label(discs_RAS & (labels.voxels_RAS == 0), np.ones((3, 3, 3)))
    for number, box in enumerate(ndimage.find_objects(pieces_RAS), 1):
        inside = np.zeros(pieces_RAS.shape, bool)
        inside[box] = pieces_RAS[box] == number
        if inside.sum() * labels.voxel_mm3 < CRUMB_MM3:
            continue
        points_mm = where_mm(labels, inside)[::NEARLY]
        far = np.array([tree.query(points_mm)[0].mean() for tree in trees])
        upper, lower = sorted(np.argsort(far)[:2].tolist()) if len(far) > 1 else (0, 0)
        if lower - upper != 1:
            raise BadScan(
                "implausible_mask",
                "a disc does not lie between two bones that follow each other: the two masks are not of one "
                "scan, or a vertebra was lost",
            )
        labels.voxels_RAS[inside] = LEVELS[f"disc_below_{bones[upper]}"]
