"""Any table of a study, for a person to read or a program to parse."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.types as pat
from rich.markup import escape
from rich.table import Table as Grid

from spineage.errors import FAULTS, BadStudy
from spineage.io.findings import read_codebook
from spineage.io.store import Store
from spineage.stages.context import Context
from spineage.study import read_study
from spineage.tables import TABLES


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
    columns = [c.name for c in TABLES[table].columns if not pat.is_binary(c.dtype)]
    if table == "truth":
        return _truth(context)
    if table == "faults" and stage is None:
        return _all_faults(context)
    return context.read(table, columns, stage=stage)


def _all_faults(context: Context) -> pd.DataFrame:
    stages = [s for s in ("segment", "prepare", "score") if context.has("faults", s)]
    frames = [context.read("faults", stage=s) for s in stages]
    return pd.concat(frames) if frames else TABLES["faults"].schema.empty_table().to_pandas()


def _truth(context: Context) -> pd.DataFrame:
    if not context.study.inputs.truth:
        raise BadStudy("this study has no planted truth: only phantom populations do")
    return pd.read_parquet(context.study.inputs.truth)


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


def codebook_grid(entries: list[dict[str, Any]]) -> Grid:
    """The features for a person to read."""
    title = f"the codebook: {len(entries)} features, one finding in one region each"
    grid = Grid("no.", "feature", "at a", "SNOMED CT", "words", title=title)
    for e in entries:
        grid.add_row(
            str(e["number"]), e["feature"], e["kind"], e["snomed"] or "", ", ".join(e["words"])
        )
    return grid


MAX_SERIES = 60
"""More lines than this nobody reads; `--json` has them all."""


def grids(table: str, data: pd.DataFrame) -> list[Grid]:
    """What `show` prints: every column in a line, what was refused and why, and of series each one."""
    found = [summary(table, data)]
    if "code" in data and (data["code"] != "").any():
        found.append(refusals(data["code"][data["code"] != ""]))
    if table == "series" and len(data):
        found.append(each_series(data))
    return found


def refusals(codes: pd.Series[str]) -> Grid:
    """How many by code, and what the code means."""
    grid = Grid("code", "rows", "what it means", title="refused or unused")
    for code, count in codes.value_counts().items():
        grid.add_row(str(code), str(count), FAULTS[str(code)])
    return grid


def each_series(data: pd.DataFrame) -> Grid:
    """The verdict on every series, those that became part of a scan first."""
    title = f"the first {MAX_SERIES} of {len(data)} series" if len(data) > MAX_SERIES else None
    grid = Grid("series_id", "exam_id", "plane", "slices", "TE ms", "mm", "verdict", title=title)
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


def summary(table: str, data: pd.DataFrame) -> Grid:
    """One line a column: how many are known, and what they look like."""
    grid = Grid("column", "unit", "known", "values", title=f"{table}: {len(data)} rows")
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
