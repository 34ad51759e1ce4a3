"""A small made-up study on disk, where the stages would have put it: the report reads it like a real one."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spineage.io.storage.parquet import encode, write_part
from spineage.run.context import Context
from spineage.stages.report import stage as report
from spineage.study import Study, study_from
from spineage.tables import TABLES
from tests.made import report_rows as rows

HOMES = {
    "scans": "ingest", "series": "ingest", "files": "ingest", "sources": "ingest", "cohort": "cohort",
    "masks": "segment", "faults": "segment", "tensors": "prepare", "history": "train",
    "predictions": "train", "calibration": "calibrate", "scores": "score",
    "associations": "associate", "explanations": "explain", "ablations": "ablate",
}  # fmt: skip
Tables = dict[str, pd.DataFrame]


class PlainContext(Context):
    """A context whose other stages have a fixed address: the report is tested without running them."""

    def recipe(self, stage: str) -> dict[str, Any]:
        return super().recipe(stage) if stage == "report" else {"stage": stage, "made_up": True}


def make_tables(num_people: int = 40, *, seed: int = 7, phantoms: bool = True) -> Tables:
    """Every table of the road by name. One person in nine came twice; one scan in 23 was refused."""
    rng = np.random.default_rng(seed)
    people = [rows.person(i, rng, phantoms) for i in range(num_people)]
    scans = [*people, *(rows.second_exam(p) for p in people[::9])]
    refused = scans[5::23]
    usable = [scan for scan in scans if scan not in refused]
    return {
        "scans": rows.only("scans", scans),
        "series": pd.DataFrame([row for scan in scans for row in rows.series(scan)]),
        "files": rows.files(scans),
        "sources": pd.DataFrame([rows.source(scan, "/gone") for scan in scans]),
        "cohort": rows.only("cohort", scans),
        "masks": pd.DataFrame([rows.mask(scan, rng) for scan in usable]),
        "tensors": pd.DataFrame([rows.tensor(scan, rng) for scan in usable]),
        "history": rows.history(rng),
        "predictions": rows.only("predictions", usable),
        "calibration": rows.calibration(),
        "scores": pd.DataFrame([rows.score(scan) for scan in usable]),
        "faults": pd.DataFrame([rows.fault(scan) for scan in refused]),
        "associations": rows.associations(rng),
        "explanations": pd.DataFrame([rows.explanation(scan, rng) for scan in usable[:4]]),
        "ablations": rows.ablations(rng),
        "truth": rows.truth(scans),
    }


def write_study(folder: Path, tables: Tables, **settings: Any) -> PlainContext:
    """The tables at their addresses, a truth file when there is a truth table, run records and assets."""
    truth = folder / "truth.parquet"
    context = PlainContext(_study(folder, truth if "truth" in tables else None, settings), say=str)
    for name, data in tables.items():
        if name == "truth":
            truth.write_bytes(encode(TABLES["truth"], data))
        else:
            write_part(context.store, context.folder(HOMES[name]), TABLES[name], data, "part-0")
    for stage in sorted(set(HOMES.values())):
        put(context, stage, "runs/one.json", rows.record(stage))
    put(context, "train", "network.json", {"best_epoch": 24})
    put(context, "cohort", "audit.json", rows.audit(tables["cohort"]))
    if "associations" in tables:
        put(context, "associate", "sample.json", {"num_people": 31, "roles": {}, "status": {}})
        put(context, "associate", "not_tested.json", rows.NOT_TESTED)
    return context


@functools.cache
def shared_report() -> tuple[Tables, PlainContext]:
    """One study with its report, made once for all tests that only read it."""
    tables = make_tables(32)
    context = write_study(Path(_FOLDER.name), tables)
    report.run(context)
    return tables, context


_FOLDER = tempfile.TemporaryDirectory(prefix="spineage-report-")


def put(context: Context, stage: str, name: str, value: Any) -> None:
    """A file a stage leaves beside its tables."""
    context.store.write(f"{context.folder(stage)}/{name}", json.dumps(value).encode())


def _study(folder: Path, truth: Path | None, settings: dict[str, Any]) -> Study:
    key_file = folder / "key"
    key_file.write_bytes(rows.STUDY_KEY)
    inputs = {"truth": str(truth) if truth else None, "key_file": str(key_file)}
    prepare = {"shape": rows.SHAPE, "spacing_mm": rows.SPACING_MM}
    return study_from(
        {"workspace": str(folder / "work"), "inputs": inputs, "prepare": prepare, **settings}
    )
