"""Read everything the report is made of: tables joined by scan, a few slices, run records."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow.dataset as pads

from spineage.errors import BadStudy
from spineage.flow import ROAD
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import read_truth
from spineage.report.evidence import Evidence, Tables
from spineage.run.context import Context
from spineage.science.frames import dicts_of
from spineage.segmenter.folder import segmenter_of
from spineage.stages.report.pictures import draw_pictures
from spineage.tables import KEY, TABLES

FAULT_STAGES = ("segment", "prepare", "score")
ABOUT_COHORT = [*KEY, "status", "cluster", "cluster_name"]
MEASURES = [
    *KEY, "numbering", "num_discs_inferred", "level_names", "level_height_mm", "disc_names", "disc_height_mm",
    "disc_signal", "canal_diameter_mm", "segmented",
]  # fmt: skip


def gather(context: Context) -> Evidence:
    """All of it. Raises BadStudy naming the verb to run when the road has not been walked to its
    end.
    """
    tables = gather_tables(context)
    upstream = [stage.name for stage in ROAD if stage.name != "report"]
    records = {name: _last(context.records(name)) for name in upstream if is_there(context, name)}
    return Evidence(
        study=context.study,
        tables=tables,
        pictures=draw_pictures(context, tables),
        audit=_asset(context, "cohort", "audit.json") or {},
        sample=_asset(context, "associate", "sample.json") or {},
        not_tested=_asset(context, "associate", "not_tested.json") or [],
        best_epoch=(_asset(context, "train", "network.json") or {}).get("best_epoch"),
        records={name: record for name, record in records.items() if record},
        fingerprints={
            name: context.fingerprint(name) for name in upstream if is_there(context, name)
        },
        segmenter=segmenter_of(context.study.segment),
    )


def gather_tables(context: Context) -> Tables:
    """The tables only: enough for the headline."""
    scans, cohort = context.read("scans"), context.read("cohort")
    scores = _ours(context.read("scores"), scans)
    predictions = _ours(_optional(context, "predictions"), scans)
    calibration = _optional(context, "calibration")
    about = scans[[*KEY, "exam_id", "sex", "site"]]
    truth = _truth(context)
    bad_files = context.read("files", ["code"], where=pads.field("code") != "")
    return Tables(
        file_faults=Counter(bad_files["code"]),
        series=context.read("series"),
        scans=_with(_with(scans, cohort[ABOUT_COHORT], KEY), truth, ["exam_id"]),
        cohort=cohort,
        masks=_ours(context.read("masks", MEASURES), scans),
        prepared=context.having("tensors", scans)[KEY],
        history=_optional(context, "history"),
        predictions=_with(_with(predictions, about, KEY), truth, ["exam_id"]),
        calibration=dicts_of(calibration)[0] if len(calibration) else {},
        scores=_with(_with(scores, cohort[ABOUT_COHORT], KEY), truth, ["exam_id"]),
        faults=_faults(_ours(fault_rows(context), scans), scores),
        associations=_optional(context, "associations"),
        explanations=_ours(_optional(context, "explanations"), scans),
        ablations=_optional(context, "ablations"),
    )


def is_there(context: Context, stage: str) -> bool:
    """Whether a stage has an address in this study: one that lacks its inputs has none."""
    try:
        context.fingerprint(stage)
    except BadStudy:
        return False
    return True


def fault_rows(context: Context) -> pd.DataFrame:
    """The faults of all per-scan stages, in the order of the road."""
    return pd.concat(
        [context.read("faults", stage=stage) for stage in FAULT_STAGES], ignore_index=True
    )


def _ours(rows: pd.DataFrame, scans: pd.DataFrame) -> pd.DataFrame:
    """Rows of the study's scans: an address also keeps what earlier inputs, or earlier pixels, left there."""
    wanted = pd.MultiIndex.from_frame(scans[KEY])
    return rows[pd.MultiIndex.from_frame(rows[KEY]).isin(wanted)].reset_index(drop=True)


def _faults(faults: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The last fault of each scan that has no score: a scan that crashed and was then scored is not
    refused.
    """
    faults = faults.drop_duplicates(KEY, keep="last")
    scored = pd.MultiIndex.from_frame(scores[KEY])
    return faults[~pd.MultiIndex.from_frame(faults[KEY]).isin(scored)].reset_index(drop=True)


def _with(rows: pd.DataFrame, more: pd.DataFrame, on: Sequence[str]) -> pd.DataFrame:
    """The same rows with the columns of `more` that they lack; a scan outside the cohort has status
    `unknown`.
    """
    added = [name for name in more.columns if name in on or name not in rows.columns]
    joined = rows.merge(more[added], on=list(on), how="left", validate="many_to_one")
    assert len(joined) == len(rows)
    return joined.fillna({"status": "unknown"}) if "status" in joined.columns else joined


def _truth(context: Context) -> pd.DataFrame:
    """exam_id, gap_years, oracle_years of a phantom population; no rows when the study names no
    truth.
    """
    location = context.study.inputs.truth
    if not location:
        return pd.DataFrame({"exam_id": [], "gap_years": [], "oracle_years": []}).astype(
            {"exam_id": str}
        )
    truth = read_truth(location, Keyed(load_key(context.study)))
    return truth[["exam_id", "gap_years", "oracle_years"]].drop_duplicates("exam_id")


def _optional(context: Context, table: str) -> pd.DataFrame:
    """The table, or no rows when its stage has not run."""
    stage = "ablate" if table == "ablations" else None
    try:
        return context.read(table, stage=stage)
    except BadStudy:
        return TABLES[table].schema.empty_table().to_pandas()


def _asset(context: Context, stage: str, name: str) -> Any:
    """What a stage published beside its tables; None when it has not."""
    try:
        return json.loads(context.asset(stage, name))
    except BadStudy:
        return None


def _last(records: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    return records[-1] if records else None
