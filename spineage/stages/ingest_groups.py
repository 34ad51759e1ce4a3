"""The second step of ingest: each person's headers brought together, judged, and made into tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import pandas as pd
import pyarrow as pa

from spineage.engine.shuffle import each_group
from spineage.io.findings import read_participants
from spineage.io.header_rows import GROUPS, Row, read_of
from spineage.io.identity import Keyed
from spineage.io.overrides import Override, read_overrides
from spineage.io.parquet import read_parts, write_part
from spineage.io.store import Store
from spineage.stages.context import Context
from spineage.stages.ingest_scan import Scanned
from spineage.stages.ingest_tables import tables_of
from spineage.study import Ingest, Inputs
from spineage.tables import HEADERS, TABLES

FILES_PER_GROUP = 8192
"""About 50 MB of headers; an archive of fewer files is judged in this process."""


@dataclass(frozen=True)
class Judging:
    """What a worker needs beside the headers of its group."""

    root: str
    folder: str
    section: Ingest
    inputs: Inputs
    keyed: Keyed


def check_tables(inputs: Inputs, keyed: Keyed) -> None:
    """Raise BadStudy before any work when participants or overrides do not fit."""
    _people(inputs, keyed)
    _overrides(inputs)


def _people(inputs: Inputs, keyed: Keyed) -> pd.DataFrame | None:
    return read_participants(inputs.participants, keyed) if inputs.participants else None


def _overrides(inputs: Inputs) -> dict[str, Override]:
    return read_overrides(inputs.overrides) if inputs.overrides else {}


def judge_groups(context: Context, keyed: Keyed, scanned: Scanned, folder: str) -> dict[str, int]:
    """Write the tables into the folder; returns counts of files, series, scans, and refusals by code."""
    study, store = context.study, context.store
    judging = Judging(store.root, folder, study.ingest, study.inputs, keyed)
    num_groups = min(GROUPS, -(-scanned.num_rows // FILES_PER_GROUP))
    if num_groups == 1:
        return judge_group(0, read_parts(store, _paths(scanned), HEADERS), judging)
    context.connect()
    answers = each_group(
        partial(judge_group, judging=judging),
        [f"{store.root}/{path}" for path in _paths(scanned)],
        by="group",
        num_groups=num_groups,
        filesystem=None if store.is_local else store.fs,
    )
    total: Counter[str] = Counter()
    for counts in answers:
        total.update(counts)
    return dict(total)


def _paths(scanned: Scanned) -> list[str]:
    return [f"{scanned.folder}/{HEADERS.name}/{part}.parquet" for part in scanned.parts]


def judge_group(number: int, rows: pa.Table, judging: Judging) -> dict[str, int]:
    """Judge the headers of some people and write what came of them as one part of each table."""
    reads = [read_of(row) for row in rows.to_pylist()]
    overrides = _overrides(judging.inputs)
    people = _people(judging.inputs, judging.keyed)
    tables = tables_of(reads, judging.section, judging.keyed, people, overrides)
    for table, table_rows in tables.items():
        name = f"part-{number:05d}"
        write_part(Store(judging.root), judging.folder, TABLES[table], table_rows, name)
    known = set() if people is None else set(people.person_id)
    return {
        **_counts(tables, overrides),
        "in_participants": sum(scan["person_id"] in known for scan in tables["scans"]),
    }


def _counts(tables: dict[str, list[Row]], overrides: Iterable[str]) -> dict[str, int]:
    """Files, series and scans; refused series and unused files by code; overrides that name a series."""
    counts = Counter({name: len(tables[name]) for name in ("files", "series", "scans")})
    counts.update(f"refused:{row['code']}" for row in tables["series"] if row["code"])
    counts.update(f"unused:{row['code']}" for row in tables["files"] if row["code"])
    counts["overrides"] = len({row["series_id"] for row in tables["series"]} & set(overrides))
    return dict(sorted(counts.items(), key=lambda item: ":" in item[0]))
