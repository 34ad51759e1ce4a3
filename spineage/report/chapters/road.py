"""What happened to every file and scan, and the reasons of what was refused."""

from __future__ import annotations

import pandas as pd

from spineage.errors import FAULTS, TRANSIENT
from spineage.report import numbers
from spineage.report.evidence import Evidence, Tables
from spineage.report.page import Block, Chapter, Text, WordTable, table
from spineage.report.words import counted, readable
from spineage.science.frames import rows_of

MOST_FAULTS = 200


def chapter(evidence: Evidence) -> Chapter:
    """Files to series to scans to scores: what came in, what went on, what stayed behind and why."""
    tables = evidence.tables
    grid = WordTable(
        "Each step's input either goes on or ends with a code; nothing is dropped in silence.",
        ("step", "in", "on", "refused", "codes"),
        tuple(_cells(*row) for row in road_rows(tables)),
        numeric=frozenset({1, 2, 3}),
    )
    left = numbers.num_left(tables)
    blocks: list[Block] = [Text((_in_words(tables),)), grid]
    if left:
        blocks.append(
            Text(
                (
                    f"{counted(left, 'scan')} have neither a score nor a fault: run spineage "
                    "score again.",
                ),
                "warning",
            )
        )
    return Chapter("road", "What happened to every file", tuple(blocks))


def road_rows(tables: Tables) -> list[tuple[str, int, int, pd.Series]]:
    """(step, came in, went on, faults by code) for each step; in = on + refused, except for scans
    not reached.
    """
    num_files = int(tables.series["num_files"].sum())
    num_bad_files = sum(tables.file_faults.values())
    accepted = tables.series["code"] == ""
    series_faults = tables.series.loc[~accepted, "code"].value_counts()
    rows = [
        ("files into series", num_files + num_bad_files, num_files,
         pd.Series(tables.file_faults, dtype="int64")),
        ("series, sagittal T2 of the spine", len(tables.series), int(accepted.sum()), series_faults),
    ]  # fmt: skip
    num = len(tables.scans)
    steps = (
        ("scans: levels segmented", "segment"),
        ("scans: prepared for the network", "prepare"),
        ("scans: scored", "score"),
    )
    for name, stage in steps:
        faults = tables.faults[_stage_of(tables.faults) == stage]["code"].value_counts()
        on = len(tables.scores) if stage == "score" else num - int(faults.sum())
        rows.append((name, num, on, faults))
        num = on
    return rows


def _stage_of(faults: pd.DataFrame) -> pd.Series:
    """The step a fault belongs to; what the machine did to a scan counts where the score is
    missing.
    """
    return faults["stage"].where(faults["stage"].isin(["segment", "prepare"]), "score")


def _cells(step: str, came: int, went: int, faults: pd.Series) -> tuple[str, ...]:
    codes = ", ".join(f"{readable(str(code))} {num:,}" for code, num in faults.items())
    return step, f"{came:,}", f"{went:,}", f"{int(faults.sum()):,}", codes


def _in_words(tables: Tables) -> str:
    stations = tables.scans["num_stations"].value_counts().sort_index()
    made_of = ", ".join(
        f"{num:,} of {counted(int(str(n)), 'station')}" for n, num in stations.items()
    )
    return (
        f"{counted(len(tables.scans), 'scan')} of the whole spine were assembled ({made_of}). A "
        "scan is refused rather than given a doubtful age: when levels cannot be counted, when "
        "part of the spine is missing, or when it is unlike what the model was trained on."
    )


def refusals(evidence: Evidence) -> Chapter:
    """Every code met, what it means, how often; then each refused scan with what was found."""
    tables = evidence.tables
    rows = []
    for step, _, _, faults in road_rows(tables):
        rows += [
            (
                readable(str(code)),
                step.split(":")[0].split(",")[0],
                f"{num:,}",
                FAULTS.get(str(code), ""),
            )
            for code, num in faults.items()
        ]
    blocks: list[Block] = [
        Text(
            (
                "Codes are a closed list. “crashed” and “deadline” are the machine's fault and "
                "are tried again at the next run.",
            )
        ),
        WordTable(
            "Faults by code.", ("code", "of", "how many", "meaning"), tuple(rows), frozenset({2})
        )
        if rows
        else Text(("No file, series or scan was refused.",)),
    ]
    if len(tables.faults):
        shown = tables.faults.sort_values(["stage", "code", "scan_id"]).head(MOST_FAULTS)
        cells = [(f.scan_id, f.stage, readable(str(f.code)), f.message) for f in rows_of(shown)]
        is_all = len(shown) == len(tables.faults)
        which = "" if is_all else f", the first {MOST_FAULTS} of {len(tables.faults):,}"
        title = f"Refused scans{which}."
        blocks.append(
            table(title, ("scan", "stage", "code", "what was found"), cells, text_columns=4)
        )
    again = int(tables.faults["code"].isin(TRANSIENT).sum())
    if again:
        blocks.append(Text((f"{counted(again, 'scan')} will be tried again at the next run.",)))
    return Chapter("refusals", "What was refused, and why", tuple(blocks))
