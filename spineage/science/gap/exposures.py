"""What SAG is tested against: conditions (present or not) and lifestyle factors, as numbers a model can
take.

The exposure's name says what one step of it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.cohort.conditions import Feature
from spineage.science.people.quoting import MIN_SHARED, is_harmless, may_be_quoted

Floats = npt.NDArray[np.float64]

YES, NO = (
    ("1", "1.0", "yes", "true", "y"),
    ("0", "0.0", "no", "false", "n", "never", "none", "non-smoker"),
)
UNKNOWN = ("", "na", "n/a", "nan", "null", "unknown")
MAX_LEVELS = 8
"""A column of text with more different words than this is not a factor."""


@dataclass(frozen=True)
class Exposure:
    """One factor. values: by person, nan when unknown; 1 and 0 when binary, else on the factor's own
    scale."""

    family: str
    name: str
    values: Floats
    is_binary: bool


def of_conditions(
    matrix_PF: Floats, is_coded: npt.NDArray[np.bool_], features: Sequence[Feature]
) -> list[Exposure]:
    """Each finding anywhere, and in each region: present or not. Unknown for people whose findings were
    not coded.

    matrix_PF: condition vectors, [person, feature].
    """
    present = np.where(is_coded[:, None], (matrix_PF > 0).astype(float), np.nan)
    exposures: list[Exposure] = []
    for finding in dict.fromkeys(f.finding for f in features):
        columns = [i for i, f in enumerate(features) if f.finding == finding]
        label = finding.replace("_", " ")
        exposures.append(Exposure("conditions", label, present[:, columns].max(axis=1), True))
        if len(columns) > 1:
            exposures += [
                Exposure("conditions", f"{label}, {features[i].region}", present[:, i], True)
                for i in columns
            ]
    return exposures


def of_lifestyle(
    factors: pd.DataFrame, *, are_named: bool = False
) -> tuple[list[Exposure], list[dict[str, str]]]:
    """Each column of a lifestyle table (text, one row a person, empty when unknown) as exposures.

    Yes/no columns are binary; numbers are taken per standard deviation; words are compared level by level
    with the one that means no (else the most common), among people of those two. Returns (exposures,
    columns that are none of these and why). A word that may not be quoted (see quoting.py) is no level, and
    unknown; a column whose heading may not be shown is numbered. are_named: the study names the columns.
    """
    found: list[Exposure] = []
    refused: list[dict[str, str]] = []
    headings = show_headings(factors.columns, are_named=are_named)
    for column, name in zip(map(str, factors.columns), headings, strict=True):
        words = factors[column].fillna("").astype(str).str.strip().str.lower()
        words = words.where(~words.isin(UNKNOWN), "")
        exposures, reason = _of_column(name, words)
        found += exposures
        if reason:
            refused.append({"family": "lifestyle", "exposure": name, "reason": reason})
    return found, refused


PLAIN: Final = re.compile(r"(?!.*\d{4})\w{1,40}")
"""Letters, digits and underscores, and no year: what lies on its side has people for headings."""


def show_headings(columns: Iterable[str], *, are_named: bool) -> list[str]:
    """Each heading where it may come out, else `factor 3` by its place.

    are_named: the study names the columns, so that only what does something (see quoting.py) is left out.
    """
    may_be_shown = is_harmless if are_named else PLAIN.fullmatch
    return [
        column if may_be_shown(column) else f"factor {number}"
        for number, column in enumerate(map(str, columns), 1)
    ]


def _of_column(name: str, words: pd.Series) -> tuple[list[Exposure], str]:
    """What a column can be tested as, or why not. words: lower case, "" where unknown."""
    num_people = words[words != ""].value_counts()
    levels = sorted(num_people.index)
    numbers = pd.to_numeric(words.where(words != ""), errors="coerce").astype("float64")
    if len(levels) >= 2 and set(levels) <= {*YES, *NO}:
        values = np.where(words.isin(YES), 1.0, np.where(words.isin(NO), 0.0, np.nan))
        return [Exposure("lifestyle", name, values, True)], ""
    if levels and np.isfinite(numbers[words != ""].to_numpy()).all():
        values = np.asarray(numbers, dtype=np.float64)
        return [Exposure("lifestyle", f"{name}, per SD", values, False)], ""
    shared = [level for level in levels if may_be_quoted(level, int(num_people[level]))]
    if 2 <= len(shared) <= MAX_LEVELS:
        return _by_level(name, words, shared), ""
    return [], (
        f"{len(levels)} different words: neither yes and no, nor numbers, nor 2 to {MAX_LEVELS} short levels "
        f"of at least {MIN_SHARED} people"
    )


def _by_level(column: str, words: pd.Series, levels: list[str]) -> list[Exposure]:
    """Each level against the reference, unknown for people of other levels."""
    known = words[words.isin(levels)]
    means_no = [level for level in levels if level in NO]
    reference = (
        means_no[0] if means_no else str(known.value_counts().sort_index(kind="stable").idxmax())
    )
    return [
        Exposure(
            "lifestyle",
            f"{column}: {level} (vs {reference})",
            np.where(words == level, 1.0, np.where(words == reference, 0.0, np.nan)),
            True,
        )
        for level in levels
        if level != reference
    ]
