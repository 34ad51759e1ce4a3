"""What SAG is tested against: conditions (present or not) and lifestyle factors, as numbers a model can
take.

The exposure's name says what one step of it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.conditions import Feature

Floats = npt.NDArray[np.float64]

YES, NO = (
    ("1", "1.0", "yes", "true", "y"),
    ("0", "0.0", "no", "false", "n", "never", "none", "non-smoker"),
)
UNKNOWN = ("", "na", "n/a", "nan", "null", "unknown")
MAX_LEVELS = 8
"""A column of text with more different words than this is not a factor."""
MIN_LEVEL = 3
"""A word of fewer people is not a level but unknown, and is never quoted: it might be a name."""


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
    found: list[Exposure] = []
    for finding in dict.fromkeys(f.finding for f in features):
        columns = [i for i, f in enumerate(features) if f.finding == finding]
        label = finding.replace("_", " ")
        found.append(Exposure("conditions", label, present[:, columns].max(axis=1), True))
        if len(columns) > 1:
            found += [
                Exposure("conditions", f"{label}, {features[i].region}", present[:, i], True)
                for i in columns
            ]
    return found


def of_lifestyle(factors: pd.DataFrame) -> tuple[list[Exposure], list[dict[str, str]]]:
    """Each column of a lifestyle table (text, one row a person, empty when unknown) as exposures.

    Yes/no columns are binary; numbers are taken per standard deviation; words are compared level by level
    with the one that means no (else the most common), among people of those two. Returns (exposures,
    columns that are none of these and why).
    """
    found: list[Exposure] = []
    refused: list[dict[str, str]] = []
    for column in factors.columns:
        words = factors[column].fillna("").astype(str).str.strip().str.lower()
        words = words.where(~words.isin(UNKNOWN), "")
        levels = sorted(set(words) - {""})
        numbers = pd.to_numeric(words.where(words != ""), errors="coerce").astype("float64")
        if levels and set(levels) <= {*YES, *NO} and len(levels) >= 2:
            values = np.where(words.isin(YES), 1.0, np.where(words.isin(NO), 0.0, np.nan))
            found.append(Exposure("lifestyle", str(column), values, True))
        elif levels and np.isfinite(numbers[words != ""].to_numpy()).all():
            found.append(
                Exposure(
                    "lifestyle", f"{column}, per SD", np.asarray(numbers, dtype=np.float64), False
                )
            )
        elif (
            2 <= len(shared := [w for w in levels if (words == w).sum() >= MIN_LEVEL]) <= MAX_LEVELS
        ):
            found += _by_level(str(column), words, shared)
        else:
            reason = (
                f"{len(levels)} different words: neither yes and no, nor numbers, nor 2 to "
                f"{MAX_LEVELS} levels of at least {MIN_LEVEL} people"
            )
            refused.append({"family": "lifestyle", "exposure": str(column), "reason": reason})
    return found, refused


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
