"""The figures of one calibrated model: raw accuracy on people it never met first, everything else beside
it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.gap.bias import AgeBias
from spineage.science.gap.conformal import Intervals, coverage_and_width
from spineage.science.gap.limits import limits_by_person
from spineage.science.gap.metrics import (
    bias_by_age,
    corrected_metrics,
    mean_baseline,
    raw_metrics,
)

Floats = npt.NDArray[np.float64]
HEADLINE = "raw predictions, normal people of the test split"


def appraise(
    predictions: pd.DataFrame, bias: AgeBias, intervals: Intervals, *, rng: np.random.Generator
) -> dict[str, Any]:
    """Plain JSON values; None where a figure does not exist.

    headline: raw metrics of normal test people with 95 % limits by person, beside predict-the-mean and
    the intervals' coverage. raw: raw metrics of every split and status. What uses the age stands last,
    and says so.
    """
    normal = predictions[predictions["status"] == "normal"]
    test = normal[normal["split"] == "test"]
    train_age = _ages(normal[normal["split"] == "train"])
    figures: dict[str, Any] = {
        "raw": {
            f"{split}/{status}": {"num_scans": len(rows), **raw_metrics(*_age_and_raw(rows))}
            for (split, status), rows in predictions.groupby(["split", "status"])
        },
        "calibration": {
            "degree": bias.degree,
            "num_people": bias.num_people,
            "age_range_years": [bias.age_low_years, bias.age_high_years],
            "interval_people": list(intervals.num_people),
            "nominal_coverage": intervals.coverage,
        },
    }
    if len(test):
        age, raw = _age_and_raw(test)
        limits = limits_by_person(test["person_id"].to_numpy(), age, raw, rng=rng)
        figures["headline"] = {
            "what": HEADLINE,
            "num_people": int(test["person_id"].nunique()),
            "num_scans": len(test),
            **raw_metrics(age, raw),
            "limits_95": {name: list(pair) for name, pair in limits.items()},
            **(mean_baseline(age, train_age) if len(train_age) else {}),
            **coverage_and_width(intervals, age, raw),
        }
        figures["bias_by_age"] = bias_by_age(age, raw)
        figures.update(corrected_metrics(age, bias.correct(raw, age)))
    plain: dict[str, Any] = _plain(figures)
    return plain


def _age_and_raw(rows: pd.DataFrame) -> tuple[Floats, Floats]:
    return _ages(rows), rows["predicted_years"].to_numpy(dtype=np.float64)


def _ages(rows: pd.DataFrame) -> Floats:
    return rows["age_years"].to_numpy(dtype=np.float64)


def _plain(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
