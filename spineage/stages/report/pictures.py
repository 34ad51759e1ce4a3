"""The slices the report draws: one of each prepared scan shown, a few whole ones, Grad-CAM maps.

Volumes are read one at a time and left; a report keeps one slice of each.
Letters: R left->right, A posterior->anterior, S inferior->superior; Y X rows and columns of a picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.io.scans.read import read_scan
from spineage.io.storage.parts import PartReader
from spineage.io.storage.volumes import mask_from_row, tensor_from_row, unpack
from spineage.report.evidence import (
    Key,
    Pictures,
    Tables,
    people_shown,
    scans_not_drawn,
    title_of,
)
from spineage.report.figures.anatomy import (
    SagittalSlice,
    box_of_spine,
    cropped,
    for_display,
    mid_sagittal,
    mid_sagittal_index,
    to_picture_grid,
)
from spineage.report.words import signed_years
from spineage.run.context import Context
from spineage.science.frames import dicts_of, rows_of
from spineage.science.scan.geometry import resample
from spineage.tables import KEY, TENSORS

MARGIN_MM = 12.0
WHOLE_MARGIN_MM = 35.0
AGE_QUANTILES = (0.05, 0.35, 0.65, 0.95)
"""Ages of the scans shown with their whole anatomy: from a young spine to an old one."""


def draw_pictures(context: Context, tables: Tables) -> Pictures:
    """Slices of the people that get a section, of the scans explained, and of four ages."""
    hidden = scans_not_drawn(tables, context.study)
    chosen = _four_ages(tables, hidden)
    people = people_shown(tables, context.study.report.max_people)
    shown = tables.scans[tables.scans["person_id"].isin(people)]
    wanted = {*shown["scan_id"], *tables.explanations["scan_id"], *chosen["scan_id"]} - hidden
    maps = {row["scan_id"]: row for row in dicts_of(tables.explanations)}
    titles = {row.scan_id: _with_gap(row) for row in rows_of(tables.scores)}
    slices: dict[Key, SagittalSlice] = {}
    gradcam = []
    for row in _tensors(context, wanted):
        voxels_RAS, levels_RAS = tensor_from_row(row)
        whole = mid_sagittal(voxels_RAS, levels_RAS, context.study.prepare.spacing_mm)
        box = box_of_spine(whole, MARGIN_MM)
        picture = cropped(whole, box)
        slices[row["scan_id"], row["source_digest"]] = picture
        if row["scan_id"] in maps:
            cam_YX = _map_on(whole, maps[row["scan_id"]], levels_RAS)[box]
            gradcam.append((titles.get(row["scan_id"], ""), picture, cam_YX))
    drawn = [(title_of(row), _whole(context, row)) for row in rows_of(chosen)]
    anatomy = [(title, picture) for title, picture in drawn if picture is not None]
    return Pictures(
        prepared=slices,
        anatomy=tuple(anatomy) or _prepared_instead(chosen, slices),
        is_whole_anatomy=bool(anatomy),
        gradcam=tuple(gradcam),
    )


def _with_gap(score: Any) -> str:
    gap = "" if pd.isna(score.sag_years) else f", SAG {signed_years(score.sag_years, 0)}"
    return f"{title_of(score)}{gap}"


def _four_ages(tables: Tables, hidden: set[str]) -> pd.DataFrame:
    """Scored scans that may be drawn, at four quantiles of age; any four where no age is known."""
    drawn = tables.scans[~tables.scans["scan_id"].isin(hidden)]
    scored = drawn.merge(tables.scores[KEY], on=KEY).sort_values(["age_years", "scan_id"])
    ranks = [round(q * (len(scored) - 1)) for q in AGE_QUANTILES]
    return scored.iloc[sorted(set(ranks))] if len(scored) else scored


def _prepared_instead(
    chosen: pd.DataFrame, slices: dict[Key, SagittalSlice]
) -> tuple[tuple[str, SagittalSlice], ...]:
    """The prepared slices of the same scans, for a report made where the images are no longer."""
    keys = [(title_of(row), (row.scan_id, row.source_digest)) for row in rows_of(chosen)]
    return tuple((title, slices[key]) for title, key in keys if key in slices)


def _whole(context: Context, scan: Any) -> SagittalSlice | None:
    """The slice with all anatomy and the levels on it; None when the images cannot be read any more."""
    is_it = pads.field("scan_id") == scan.scan_id
    is_it &= pads.field("source_digest") == scan.source_digest
    sources = context.read("sources", where=is_it)
    masks = context.read("masks", where=is_it)
    if not len(sources) or not len(masks):
        return None
    try:
        volume = read_scan(dicts_of(sources)[0], max_gap_mm=context.study.ingest.max_station_gap_mm)
    except (BadScan, OSError):
        return None
    levels = mask_from_row(dicts_of(masks)[0])
    r, a, s = volume.voxels_RAS.shape
    if levels.voxels_RAS.shape != (r, a, s) or not np.allclose(
        levels.affine_RAS, volume.affine_RAS
    ):
        levels = resample(levels, (r, a, s), volume.affine_RAS, order=0)
    picture = mid_sagittal(volume.voxels_RAS, levels.voxels_RAS.astype(np.uint8), volume.spacing_mm)
    return cropped(picture, box_of_spine(picture, WHOLE_MARGIN_MM))


def _tensors(context: Context, scan_ids: set[str]) -> Iterator[dict[str, Any]]:
    """Rows of the tensors table, one at a time, in a fixed order."""
    scans = context.read("scans", KEY)
    wanted = scans[scans["scan_id"].isin(scan_ids)]
    wanted = wanted.assign(part=context.parts_of("tensors", wanted))
    reader = PartReader(context.store, TENSORS)
    for row in rows_of(wanted[wanted["part"] != ""].sort_values(["part", *KEY])):
        yield reader.row(row.part, row.scan_id, row.source_digest)


def _map_on(
    picture: SagittalSlice, row: dict[str, Any], levels_RAS: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """The Grad-CAM at the slice that is drawn, on the picture's grid."""
    cam_RAS = unpack(row["gradcam_zstd"], np.float16, row["gradcam_shape"])
    share = (mid_sagittal_index(levels_RAS) + 0.5) / levels_RAS.shape[0]
    nearest = min(int(share * cam_RAS.shape[0]), cam_RAS.shape[0] - 1)
    coarse_YX = for_display(cam_RAS[nearest]).astype(np.float64)
    rows, columns = picture.image_YX.shape
    return to_picture_grid(coarse_YX, (rows, columns))
