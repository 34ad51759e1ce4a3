"""One volume that an archive holds in several forms: as DICOM, converted, copied, processed.

It is one scan, or its person would be counted twice; the other forms say what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from spineage.science.scan.accept import Series
from spineage.science.scan.choose import preference
from spineage.science.scan.slices import SliceGrid

ELSEWHERE: Final = (
    "another file has the same voxels with another place or size of them: keep the right one"
)
SAME_PLACE_MM: Final = 0.5
"""Between corners: converters round positions and quaternions."""


def find_copies(accepted: Sequence[Series]) -> dict[str, tuple[str, str]]:
    """(code, message) of each series that is another form of a kept one, by series_id.

    accepted: of one person, all exams. Kept is DICOM before NIfTI, NIfTI before what is derived from it, then
    as `choose.preference` has it; of equal voxels that are said to lie at two places, or to be of two sizes,
    neither is.
    """
    kept: list[Series] = []
    copies: dict[str, tuple[str, str]] = {}
    for series in sorted(accepted, key=lambda one: (_remove(one), preference(one))):
        forms = ((other, _form_of(series, other)) for other in kept)
        other, what = next((found for found in forms if found[1]), (None, ""))
        if other and what == ELSEWHERE:
            copies |= dict.fromkeys(
                (series.series_id, other.series_id), ("geometry_conflict", what)
            )
        elif what:
            copies[series.series_id] = ("not_chosen", what)
        else:
            kept.append(series)
    return copies


def _remove(series: Series) -> int:
    """How far it is from what the scanner wrote."""
    first = series.view.first
    return 0 if first.kind == "dicom" else 1 + first.is_derived


def _form_of(series: Series, other: Series) -> str:
    """In which form `series` is the volume that `other` is; "" when it is another one."""
    one, two = series.view.first, other.view.first
    has_same_voxels = bool(one.pixels and one.pixels == two.pixels)
    if not _lie_alike(series.view.grid, other.view.grid):
        return ELSEWHERE if has_same_voxels else ""
    if has_same_voxels:
        return "another file holds the same voxels"
    if one.kind != two.kind:
        return "converted from DICOM that is there too: it lies just where a DICOM series does"
    if one.is_derived and not two.is_derived and one.about.exam_id == two.about.exam_id:
        return "derived from an image that is there too: it lies just where that does"
    if (
        one.kind == "dicom"
        and one.about.exam_id != two.about.exam_id
        and _is_one_moment(series, other)
    ):
        return "the same series under another exam: its place, day and time are equal"
    return ""


def _is_one_moment(series: Series, other: Series) -> bool:
    one, two = series.view.first.about, other.view.first.about
    is_known = one.study_day is not None and one.has_time
    return is_known and (one.study_day, one.acquired_s) == (two.study_day, two.acquired_s)


def _lie_alike(one: SliceGrid | None, other: SliceGrid | None) -> bool:
    """Whether two grids are the same, in whatever order their axes run."""
    if one is None or other is None or sorted(one.shape) != sorted(other.shape):
        return False
    between = one.corners_mm[:, None] - other.corners_mm[None]
    nearest = np.linalg.norm(between, axis=-1).min(axis=1)
    return bool(nearest.max() <= SAME_PLACE_MM)
