"""Who was scanned: people by split, sex and age, and the scanners."""

from __future__ import annotations

import pandas as pd

from spineage.report.figures.cohort import one_row_a_person, split_histograms
from spineage.report.page import Block, Chapter, Text, drawing, table
from spineage.report.words import DASH, counted, percent


def data(cohort: pd.DataFrame, scans: pd.DataFrame) -> Chapter:
    """The people by split, sex and age; the scanners."""
    people = one_row_a_person(cohort)
    ages = people["age_years"].dropna()
    words = [
        f"{counted(len(people), 'person', 'people')} with {counted(len(scans), 'scan')}; "
        f"splits are by person, so that no person is on two sides. Ages run from {ages.min():.0f} "
        f"to {ages.max():.0f} years (mean {ages.mean():.1f}, SD {ages.std():.1f}); "
        f"{percent((people['sex'] == 'F').mean())} are women."
        if len(ages)
        else f"{counted(len(people), 'person', 'people')}, none with a known age."
    ]
    blocks: list[Block] = [Text(tuple(words))]
    if len(ages):
        blocks.append(
            drawing(
                split_histograms(cohort),
                "People by split, sex and age bracket. Solid: normal spines, which train, "
                "calibrate and test the network; pale: all others.",
                "Histograms of people by age bracket and sex, one panel for each split",
            )
        )
    blocks += [_splits(people), _scanners(scans)]
    return Chapter("data", "The people", tuple(blocks))


def _splits(people: pd.DataFrame) -> Block:
    rows = []
    for split in ("train", "validate", "calibrate", "test"):
        some = people[people["split"] == split]
        statuses = [
            f"{(some['status'] == status).sum():,}"
            for status in ("normal", "uncertain", "not_normal", "unknown")
        ]
        age = (
            f"{some['age_years'].mean():.1f} ({some['age_years'].std():.1f})"
            if len(some) > 1
            else DASH
        )
        rows.append(
            (
                split,
                f"{len(some):,}",
                *statuses,
                percent((some["sex"] == "F").mean()) if len(some) else DASH,
                age,
            )
        )
    columns = (
        "split", "people", "normal", "uncertain", "not normal", "unknown", "women", "age, mean (SD)",
    )  # fmt: skip
    return table("People by split and by the state of their spine.", columns, rows)


def _scanners(scans: pd.DataFrame) -> Block:
    about = scans.assign(
        site=scans["site"].fillna("unknown"),
        vendor=scans["vendor"].fillna("unknown"),
        field=scans["field_tesla"].map(_tesla),
    )
    rows = [
        (
            *map(str, key if isinstance(key, tuple) else (key,)),
            f"{len(some):,}",
            f"{some['extent_mm'].median():.0f}",
        )
        for key, some in about.groupby(["site", "vendor", "field"])
    ]
    return table(
        "Scans by site and scanner.",
        ("site", "vendor", "field", "scans", "median length, mm"),
        rows,
        text_columns=3,
    )


def _tesla(value: float) -> str:
    return "unknown" if pd.isna(value) else f"{value:g} T"
