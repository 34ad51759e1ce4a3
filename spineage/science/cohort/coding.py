"""Rows of radiology reports become condition vectors; what was not understood is listed.

A row that cannot be read is counted and listed, never dropped in silence; a term is quoted only when it
cannot be somebody's name (see `_printable`). Rows that repeat each other change nothing and are counted; of
rows that contradict each other (one finding at one place with two severities) the worst counts, and they
are listed.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from spineage.science.cohort.conditions import (
    CRANIAL_TO_CAUDAL,
    REGION_WORDS,
    SIDES,
    Codebook,
    Feature,
    canonical,
    regions_of,
    severity_of,
)
from spineage.science.people.quoting import MIN_SHARED, is_harmless

REMARKS = ("duplicate", "contradiction")
"""Entries of the list that were understood all the same."""


@dataclass
class _Reading:
    """What has been read so far. said: the severities of each exam, finding, level and side."""

    codebook: Codebook
    trouble: list[tuple[str, str, int]] = field(default_factory=list)
    said: dict[tuple[int, str, str, str], tuple[float, int]] = field(default_factory=dict)
    rows: set[tuple[int, str, str, str, str]] = field(default_factory=set)


def code(findings: pd.DataFrame, codebook: Codebook) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The condition vector of every exam in a findings table, and what was not understood in it.

    findings: person_id, exam_id, finding, level, side, severity, row (its number in the file); text, empty
    when absent. Returns (one row per exam, see tables.CONDITIONS; a list of terms for people to read).
    A finding whose severity cannot be read is counted as present and ungraded, and listed; one whose side
    cannot be read counts without a side, and is listed.
    """
    rows = findings.reset_index(drop=True)
    columns: dict[Feature, int] = {feature: i for i, feature in enumerate(codebook.features)}
    exams = rows[["person_id", "exam_id"]].drop_duplicates().sort_values(["person_id", "exam_id"])
    exam_index = {key: i for i, key in enumerate(zip(exams.person_id, exams.exam_id, strict=True))}
    matrix = np.zeros((len(exams), len(columns)))
    missed = np.zeros(len(exams), dtype=np.int64)
    reading = _Reading(codebook)
    for i, row in enumerate(rows.itertuples(index=False)):
        exam = exam_index[str(row.person_id), str(row.exam_id)]
        told = str(row.finding), str(row.level), str(row.side), str(row.severity)
        features, severity = _read_row(reading, exam, told, i)
        missed[exam] += severity is None
        for feature in features:
            matrix[exam, columns[feature]] = max(matrix[exam, columns[feature]], severity or 0.0)
    table = exams.reset_index(drop=True).assign(
        features=list(matrix),
        num_findings=(matrix > 0).sum(axis=1),
        burden=matrix.sum(axis=1),
        worst_severity=matrix.max(axis=1, initial=0.0),
        num_not_understood=missed,
    )
    return table, _summary(reading.trouble, rows, codebook)


def _read_row(
    reading: _Reading, exam: int, told: tuple[str, str, str, str], i: int
) -> tuple[list[Feature], float | None]:
    """The features of one row and their severity; None for a row that was not understood."""
    finding, level, side, severity_text = told
    codebook, trouble = reading.codebook, reading.trouble
    if (exam, *told) in reading.rows:
        trouble.append(("duplicate", "a row that repeats another", i))
        return [], 0.0
    reading.rows.add((exam, *told))
    if canonical(finding) in codebook.nothing:
        return [], 0.0
    name = codebook.words.get(canonical(finding))
    if name is None:
        trouble.append(("finding", finding, i))
        return [], None
    regions, problem = _regions(name, level, codebook)
    if problem:
        trouble.append((*problem, i))
        return [], None
    severity = severity_of(severity_text, codebook)
    if severity is None:
        trouble.append(("severity", severity_text, i))
        severity = codebook.ungraded
    sides = SIDES.get(canonical(side))
    if sides is None:
        trouble.append(("side", side, i))
        sides = ()
    _note_contradiction(reading, (exam, name, _place(level), " ".join(sides)), severity, i)
    by_side = codebook.sided.get(name, {})
    names = [by_side[s] for s in sides if s in by_side] or [name]
    features = [Feature(n, region, codebook.kinds[n]) for n in names for region in regions]
    return features, severity


def _regions(name: str, level: str, codebook: Codebook) -> tuple[list[str], tuple[str, str] | None]:
    """The regions of one row, or (which column, the term) that was not understood."""
    possible = codebook.regions[name]
    if not level.strip() and len(possible) == 1:
        return [possible[0]], None
    regions = regions_of(level, codebook.kinds[name])
    if not regions:
        return [], ("level", level)
    found = [region for region in regions if region in possible]
    return (found, None) if found else ([], ("region", f"{name} in {regions[0]}"))


def _place(level: str) -> str:
    """L4/5, L4-L5 and l4 / l5 are one place."""
    plain = "/".join(re.findall(r"[a-z]*\d+|[a-z]+", level.lower().replace(" ", "")))
    return re.sub(r"^([a-z])(\d+)/\1", r"\1\2/", plain)


def _note_contradiction(
    reading: _Reading, where: tuple[int, str, str, str], severity: float, i: int
) -> None:
    before, _ = reading.said.setdefault(where, (severity, i))
    if before == severity:
        return
    low, high = sorted((before, severity))
    what = f"{where[1]}: {low:g} and {high:g} at one place"
    reading.trouble.append(("contradiction", what, i))
    reading.said[where] = high, i


def _summary(
    trouble: list[tuple[str, str, int]], rows: pd.DataFrame, codebook: Codebook
) -> list[dict[str, Any]]:
    """One entry for each term that was not understood, the most frequent first."""
    known = {
        "finding": list(codebook.words),
        "level": [*CRANIAL_TO_CAUDAL, *REGION_WORDS, "L4/5", "T12/L1", "L5/S1"],
        "severity": list(codebook.severities),
        "side": [word for word in SIDES if len(word) > 1],
    }
    grouped: dict[tuple[str, str], list[int]] = {}
    for column, term, i in trouble:
        grouped.setdefault((column, term.strip()), []).append(i)
    entries = []
    for (column, term), where in grouped.items():
        near = difflib.get_close_matches(canonical(term), known.get(column, []), n=1, cutoff=0.5)
        num_people = rows.person_id.iloc[where].nunique()
        nearest = near[0] if near else None
        is_ours = column in ("region", *REMARKS)  # words of ours, not of the file
        entries.append(
            {
                "column": column,
                "term": term if is_ours else _printable(term, nearest, num_people),
                "nearest": codebook.words.get(nearest, nearest) if nearest else None,
                "num_rows": len(where),
                "num_people": int(num_people),
                "first_row": int(rows["row"].iloc[where[0]]),
            }
        )
    return sorted(entries, key=lambda e: (-e["num_rows"], e["column"], e["first_row"]))


def _printable(term: str, nearest: str | None, num_people: int) -> str:
    """The term, unless it may be a name or free text: then the row number alone says where to look."""
    if not term:
        return "(empty)"
    is_plain = is_harmless(term) and not re.search(r"\d{4}", term)
    if is_plain and (num_people >= MIN_SHARED or _is_misspelt(term, nearest)):
        return term
    return "(not shown: it may be free text; see first_row)"


def _is_misspelt(term: str, known: str | None) -> bool:
    """Whether every word of the term is nearly one of the known term: a word more may be a name."""
    words, known_words = canonical(term).split(), (known or "").split()
    pairs = zip(words, known_words, strict=False)
    alike = [difflib.SequenceMatcher(None, word, other).ratio() for word, other in pairs]
    return len(words) == len(known_words) > 0 and min(alike) >= 0.75
