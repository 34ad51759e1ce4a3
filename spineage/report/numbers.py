"""The numbers the report and the demo lead with, and on whom they are computed.

Accuracy: raw predictions of the *test split's normal spines with an age*, one row per scan; confidence limits
by person (Student's and BCa; see `science/limits`). Predict-the-mean gives each of them the mean age of
the training people; the oracle is the ideal observer's estimate for the same scans of a phantom population.
r(SAG, planted gap): scored scans the network was neither fitted to nor chosen by (role not
train or validate).
r(SAG, age): of those, only scans the age correction was not fitted on either (role not calibrate): on
calibration people it is zero by construction and would flatter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spineage.errors import TRANSIENT
from spineage.report.evidence import Tables
from spineage.report.words import counted
from spineage.science.frames import column_of
from spineage.science.gap.limits import FEW_PEOPLE, limits_by_person, mae_limits
from spineage.science.gap.metrics import mean_baseline, raw_metrics
from spineage.science.gap.sample import never_used, out_of_sample
from spineage.science.seeds import Stream, rng_of

DRAWS = 1000


@dataclass(frozen=True)
class Accuracy:
    """Raw accuracy on one group of scans; `limits` are 95 % confidence limits by person."""

    num_people: int
    num_scans: int
    figures: dict[str, float]
    limits: dict[str, tuple[float, float]]


def accuracy_of(scans: pd.DataFrame, seed: int, draws: int = DRAWS) -> Accuracy:
    """Raw accuracy of rows with person_id, age_years, predicted_years; the seed draws the
    bootstrap.
    """
    age, predicted = column_of(scans, "age_years"), column_of(scans, "predicted_years")
    rng = rng_of(Stream.LIMITS, seed)
    limits = limits_by_person(scans["person_id"].to_numpy(), age, predicted, rng=rng, draws=draws)
    return Accuracy(scans["person_id"].nunique(), len(scans), raw_metrics(age, predicted), limits)


def test_scans(tables: Tables) -> pd.DataFrame:
    """Held-out normal spines with an age: where accuracy is measured."""
    found = tables.predictions
    return found[
        (found["split"] == "test") & (found["status"] == "normal") & found["age_years"].notna()
    ]


def mean_mae(tables: Tables) -> float:
    """MAE on the test scans of giving everybody the mean age of the training people."""
    is_train = (tables.predictions["split"] == "train") & (tables.predictions["status"] == "normal")
    train = column_of(tables.predictions[is_train], "age_years")
    return mean_baseline(column_of(test_scans(tables), "age_years"), train)["mean_mae_years"]


def oracle_mae(tables: Tables) -> float | None:
    """MAE of the ideal observer on the test scans; None unless the truth of all of them is known."""
    scans = test_scans(tables)
    if not len(scans) or scans["oracle_years"].isna().any():
        return None
    return float(np.abs(scans["oracle_years"] - scans["age_years"]).mean())


def correlation(a: pd.Series, b: pd.Series) -> float | None:
    """Pearson's r of the pairs where both are known; None with fewer than three, or when one does
    not vary.
    """
    both = pd.concat([a, b], axis=1).dropna().to_numpy(float)
    if len(both) < 3 or np.ptp(both, axis=0).min() == 0:
        return None
    return float(np.corrcoef(both.T)[0, 1])


def refused(tables: Tables) -> pd.DataFrame:
    """Scans with a lasting fault and without a score; what the machine did to a scan is tried again."""
    return tables.faults[~tables.faults["code"].isin(TRANSIENT)]


def num_left(tables: Tables) -> int:
    """Scans with neither a score nor a lasting fault: the next run takes them up."""
    return len(tables.scans) - len(tables.scores) - len(refused(tables))


def headline_of(tables: Tables) -> dict[str, Any]:
    """The demo's line: counts, raw error beside its two yardsticks, and what SAG goes with."""
    scans = test_scans(tables)
    sag, unused = out_of_sample(tables.scores), never_used(tables.scores)
    raw = np.abs(scans["predicted_years"] - scans["age_years"]).mean() if len(scans) else None
    low, high = _mae_limits(scans) if len(scans) else (None, None)
    return {
        "people": int(tables.scans["person_id"].nunique()),
        "scored": len(tables.scores),
        "refused": len(refused(tables)),
        "test_people": int(scans["person_id"].nunique()),
        "raw_mae_years": _rounded(raw),
        "raw_mae_low_years": _rounded(low),
        "raw_mae_high_years": _rounded(high),
        "oracle_mae_years": _rounded(oracle_mae(tables)),
        "mean_mae_years": _rounded(mean_mae(tables) if len(scans) else None),
        "r_sag_age": _rounded(correlation(unused["sag_years"], unused["age_years"])),
        "r_sag_gap": _rounded(correlation(sag["sag_years"], sag["gap_years"])),
    }


def _mae_limits(scans: pd.DataFrame) -> tuple[float | None, float | None]:
    """95 % limits of the raw MAE by person; None where one person has none."""
    gap = column_of(scans, "predicted_years") - column_of(scans, "age_years")
    _, person = np.unique(scans["person_id"].to_numpy(), return_inverse=True)
    low, high = mae_limits(person, gap)
    return (None, None) if np.isnan(low) else (low, high)


def too_few_words(num_people: int) -> str:
    """A sentence for figures of few people, "" where they are enough."""
    if num_people >= FEW_PEOPLE:
        return ""
    return (
        f"{counted(num_people, 'person is', 'people are')} too few for a firm figure: with other people of "
        f"the same kind it would be another. Read the limits; from {FEW_PEOPLE} people on a figure says more."
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 3)
