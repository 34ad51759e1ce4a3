"""Any table of a study, for a person to read or a program to parse."""

from __future__ import annotations

import json
from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.types as pat
from rich.markup import escape
from rich.table import Table as RichTable

from spineage.errors import FAULTS, BadStudy, NotYet
from spineage.io.people.tables import read_codebook, read_planted
from spineage.io.storage.index import keys_of, parts_of_scans
from spineage.io.storage.parquet import read_table
from spineage.io.storage.store import Store
from spineage.run.context import Context, writers_of
from spineage.study import read_study
from spineage.tables import KEY, TABLES

SECRETS = ("seal_key",)
"""Columns that no screen shows."""
MADE = {"segment": "masks", "prepare": "tensors", "score": "scores"}
"""The stages that keep faults, and the table of those that had none."""


def read(table: str, study: str | None, workspace: str | None, stage: str | None) -> pd.DataFrame:
    """The rows of a table, without volumes. The study is named, or found in its workspace."""
    if table not in TABLES:
        raise BadStudy(f"there is no table {table!r}; tables are {', '.join(TABLES)}")
    if study is None and workspace is not None:
        store = Store(workspace)
        if not store.exists("study.resolved.yaml"):
            raise BadStudy("nothing has run in that workspace yet: name the study with --study")
        study = str(store.local("study.resolved.yaml"))
    context = Context(read_study(study or "study.yaml", workspace=workspace))
    _require_writer(table, stage)
    kept = (c for c in TABLES[table].columns if not pat.is_binary(c.dtype))
    columns = [c.name for c in kept if c.name not in SECRETS]
    if table == "truth":
        return _truth(context)
    if table == "faults":
        return find_faults(context, [stage] if stage else writers_of(table))
    return context.read(table, columns, stage=stage)


def _require_writer(table: str, stage: str | None) -> None:
    writers = writers_of(table)
    if stage is None or stage in writers:
        return
    hint = "; ingest refuses series and files: `spineage show series`, `spineage show files`"
    raise BadStudy(
        f"no stage {stage!r} writes {table}: --stage is {' or '.join(writers) or 'not for this table'}"
        + (hint if table == "faults" else "")
    )


def find_faults(context: Context, stages: Sequence[str]) -> pd.DataFrame:
    """One row a scan and reason, of the study's scans as they are now; what was done since is no fault.

    A stage that cannot be addressed yet (score before there is a model) has none.
    """
    wanted = context.read("scans", KEY)
    frames = [_faults_of(context, stage).merge(wanted, on=KEY) for stage in stages]
    found = pd.concat(frames, ignore_index=True)
    return found.drop_duplicates([*KEY, "code", "message"], ignore_index=True)


def _faults_of(context: Context, stage: str) -> pd.DataFrame:
    nothing = TABLES["faults"].schema.empty_table().to_pandas()
    try:
        folder = context.folder(stage)
    except NotYet:
        return nothing
    faults = read_table(context.store, folder, TABLES["faults"])
    if faults.empty:
        return nothing
    keys = keys_of(faults)
    done = parts_of_scans(context.store, folder, TABLES[MADE[stage]], keys)
    return faults[[key not in done for key in keys]]


def _truth(context: Context) -> pd.DataFrame:
    if not context.study.inputs.truth:
        raise BadStudy("this study has no planted truth: only phantom populations do")
    return read_planted(context.study.inputs.truth)


def as_json(table: str, data: pd.DataFrame) -> str:
    """The rows as a JSON array; unknown is null."""
    rows = pa.Table.from_pandas(data, preserve_index=False).to_pylist()
    return json.dumps(rows, default=str)


def codebook() -> list[dict[str, Any]]:
    """One entry a feature, in the order of the condition vector: its name, and what reports may call it."""
    book, _ = read_codebook()
    words = {
        finding: sorted(w for w, f in book.words.items() if f == finding) for finding in book.kinds
    }
    return [
        {
            "number": i + 1,
            "feature": feature.name,
            "finding": feature.finding,
            "region": feature.region,
            "kind": feature.kind,
            "snomed": book.snomed.get(feature.finding),
            "words": words[feature.finding],
        }
        for i, feature in enumerate(book.features)
    ]


def codebook_grid(entries: list[dict[str, Any]]) -> RichTable:
    """The features for a person to read."""
    title = f"the codebook: {len(entries)} features, one finding in one region each"
    grid = RichTable("no.", "feature", "at a", "SNOMED CT", "words", title=title)
    for e in entries:
        grid.add_row(
            str(e["number"]), e["feature"], e["kind"], e["snomed"] or "", ", ".join(e["words"])
        )
    return grid


MAX_SERIES = 60
"""More lines than this nobody reads; `--json` has them all."""


def grids(table: str, data: pd.DataFrame) -> list[RichTable]:
    """What `show` prints: every column in a line, what was refused and why, and of series each one."""
    found = [summary(table, data)]
    if "code" in data and (data["code"] != "").any():
        found.append(refusals(data["code"][data["code"] != ""]))
    if table == "series" and len(data):
        found.append(each_series(data))
    return found


def refusals(codes: pd.Series[str]) -> RichTable:
    """How many by code, and what the code means."""
    grid = RichTable("code", "rows", "what it means", title="refused or unused")
    for code, count in codes.value_counts().items():
        grid.add_row(str(code), str(count), FAULTS[str(code)])
    return grid


def each_series(data: pd.DataFrame) -> RichTable:
    """The verdict on every series, those that became part of a scan first."""
    title = f"the first {MAX_SERIES} of {len(data)} series" if len(data) > MAX_SERIES else None
    grid = RichTable(
        "series_id", "exam_id", "plane", "slices", "TE ms", "mm", "verdict", title=title
    )
    ordered = data.sort_values(["code", "exam_id", "series_id"]).head(MAX_SERIES)
    rows: list[dict[Hashable, Any]] = ordered.to_dict("records")
    for row in rows:
        message = escape(row["message"])
        grid.add_row(
            row["series_id"], row["exam_id"], row["plane"], str(row["num_slices"]),
            _short(row["echo_ms"]), _short(row["extent_mm"]),
            f"[b]{row['code']}[/b] {message}" if row["code"] else message,
        )  # fmt: skip
    return grid


def _short(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.0f}"


def summary(table: str, data: pd.DataFrame) -> RichTable:
    """One line a column: how many are known, and what they look like."""
    grid = RichTable("column", "unit", "known", "values", title=f"{table}: {len(data)} rows")
    for column in TABLES[table].columns:
        if column.name in data:
            grid.add_row(
                column.name, column.unit, str(int(data[column.name].notna().sum())),
                escape(_digest(data[column.name].dropna(), column.dtype)),
            )  # fmt: skip
    return grid


def _digest(values: pd.Series[Any], dtype: pa.DataType) -> str:
    if values.empty:
        return ""
    if pat.is_list(dtype):
        return f"lists of {values.map(len).min()}-{values.map(len).max()}"
    if pat.is_floating(dtype) or (pat.is_integer(dtype) and values.nunique() > 8):
        low, middle, high = values.min(), values.median(), values.max()
        return f"{low:.4g} .. {middle:.4g} .. {high:.4g}"
    counts = values.astype(str).value_counts()
    if len(counts) > 12:
        return f"{len(counts)} different"
    return ", ".join(f"{name or '(none)'} {n}" for name, n in counts.items())
