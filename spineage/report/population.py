"""Who was scanned and who counts as normal: the data and the cohort."""

from __future__ import annotations

import pandas as pd

from spineage.io.page import Block, Chapter, Text, drawing, table
from spineage.report.evidence import Evidence, Tables
from spineage.report.words import DASH, counted, number, percent, readable
from spineage.science.figures.cohort import (
    burden_by_cluster,
    cluster_shares,
    cohort_map,
    one_row_a_person,
    split_histograms,
)
from spineage.science.frames import rows_of


def data(evidence: Evidence) -> Chapter:
    """The people by split, sex and age; the scanners."""
    tables = evidence.tables
    people = one_row_a_person(tables.cohort)
    ages = people["age_years"].dropna()
    words = [
        f"{counted(len(people), 'person', 'people')} with {counted(len(tables.scans), 'scan')}; "
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
                split_histograms(tables.cohort),
                "People by split, sex and age bracket. Solid: normal spines, which train, "
                "calibrate and test the network; pale: all others.",
                "Histograms of people by age bracket and sex, one panel for each split",
            )
        )
    blocks += [_splits(people), _scanners(tables.scans)]
    return Chapter("data", "The people", tuple(blocks))


def _splits(people: pd.DataFrame) -> Block:
    rows = []
    for split in ("train", "validate", "calibrate", "test"):
        some = people[people["split"] == split]
        statuses = [
            f"{(some['status'] == status).sum():,}"
            for status in ("normal", "not_normal", "unknown")
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
    columns = ("split", "people", "normal", "not normal", "unknown", "women", "age, mean (SD)")
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


def cohort(evidence: Evidence) -> Chapter:
    """The map of findings, its clusters, and who became normal."""
    tables = evidence.tables
    people = one_row_a_person(tables.cohort)
    num_normal = int((people["status"] == "normal").sum())
    blocks: list[Block] = [
        Text(
            (
                "Radiology findings place each person on a map (Canberra distance, UMAP); "
                "HDBSCAN finds the clusters. Those above "
                f"{percent(evidence.study.cohort.min_share)} of the population are kept, the rest "
                f"are merged. {num_normal:,} of {counted(len(people), 'person', 'people')} have a "
                "normal spine: one with no more wear than others of that age. Which clusters "
                "count as normal is our documented rule; the paper does not give one.",
            )
        )
    ]
    if people["umap_x"].notna().sum() > 1:
        blocks += _maps(tables)
    else:
        blocks.append(Text(("No map is drawn: nobody was clustered in this study.",), "note"))
    blocks += _audit(evidence)
    return Chapter("cohort", "Who is normal", tuple(blocks))


def _maps(tables: Tables) -> list[Block]:
    shares = cluster_shares(tables.cohort)
    named = "; ".join(f"{row.cluster_name} {percent(row.share)}" for row in rows_of(shares))
    return [
        drawing(
            cohort_map(tables.cohort),
            "The map of findings: one mark per person, coloured by cluster, with the cluster's "
            "dominant conditions and its share of the people who were clustered. Circles are "
            "normal spines, crosses are not; distances far apart on a UMAP mean little.",
            f"Map of clusters: {named}",
        ),
        drawing(
            burden_by_cluster(tables.cohort),
            "Findings burden of each person by cluster.",
            "Findings burden of each person by cluster",
        ),
    ]


def _audit(evidence: Evidence) -> list[Block]:
    audit = evidence.audit
    if not audit:
        return []
    rows = [_group("everyone", audit["population"], None, None)]
    rows += [
        _group(g["name"], g, g["observed_over_expected"], g["is_normal"]) for g in audit["groups"]
    ]
    columns = (
        "group",
        "people",
        "share",
        "median age",
        "women",
        "median findings",
        "median burden",
        "burden / expected",
        "normal",
    )
    words = [
        f"Outcome of the clustering: {readable(audit['outcome'])}. "
        f"{counted(audit['num_normal_by_guard'], 'person is', 'people are')} normal by the guard "
        f"for low burden (at most {audit['low_burden_limit']:g}): people without findings are "
        "alike, form an island of their own, and a small island would otherwise be called "
        "abnormal.",
        f"Noise: {audit['noise']}.",
    ]
    return [
        table(
            "Audit of the groups against the population; burden / expected compares with others "
            "of the same age.",
            columns,
            rows,
        ),
        Text(tuple(words), "note"),
    ]


def _group(
    name: str, group: dict[str, object], ratio: float | None, is_normal: bool | None
) -> tuple[str, ...]:
    def shown(key: str, digits: int) -> str:
        value = group[key]
        return DASH if value is None else number(float(str(value)), digits)

    share = group["share_female"]
    return (
        name,
        f"{group['num_people']:,}",
        percent(float(str(group["share"]))),
        shown("median_age_years", 0),
        DASH if share is None else percent(float(str(share))),
        shown("median_findings", 0),
        shown("median_burden", 1),
        number(ratio),
        DASH if is_normal is None else "yes" if is_normal else "no",
    )
