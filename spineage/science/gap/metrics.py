"""How good the predictions are. Raw predictions first and always; what uses the age says so in its name.

A correction that uses the chronological age flatters a bad model: with a true R2 of 0.10 the corrected R2
is 0.90 (Butler et al. 2021, doi:10.1002/hbm.25533; de Lange et al. 2022, doi:10.1002/hbm.25837).
Corrected figures therefore exist only under names that end in `_corrected_uses_age`, are never a headline
and never select a model.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

CORRECTED = "_corrected_uses_age"
AGE_BRACKETS_YEARS = (0, 40, 60, 130)


def raw_metrics(age_years: Floats, predicted_years: Floats) -> dict[str, float]:
    """Accuracy of raw predictions on people; NaN where a figure does not exist (one person, equal ages).

    mae_years, rmse_years; r2 = 1 - SSE / SST, which may be negative and is not r squared; r (Pearson);
    slope of predicted on chronological age; mean_gap_years (predicted minus age); spearman_gap_age.
    """
    assert len(age_years) == len(predicted_years) > 0
    gap = predicted_years - age_years
    around_mean = age_years - age_years.mean()
    total = float(around_mean @ around_mean)
    is_varied = len(age_years) > 1 and total > 0
    return {
        "mae_years": float(np.abs(gap).mean()),
        "rmse_years": float(np.sqrt((gap**2).mean())),
        "r2": 1.0 - float(gap @ gap) / total if is_varied else np.nan,
        "r": _correlation(age_years, predicted_years),
        "slope": float(around_mean @ predicted_years) / total if is_varied else np.nan,
        "mean_gap_years": float(gap.mean()),
        "spearman_gap_age": _correlation(stats.rankdata(gap), stats.rankdata(age_years)),
    }


def mean_baseline(age_years: Floats, train_age_years: Floats) -> dict[str, float]:
    """What a model that has learnt nothing scores: everybody gets the mean age of the training people."""
    error = np.abs(age_years - train_age_years.mean())
    return {
        "mean_mae_years": float(error.mean()),
        "mean_rmse_years": float(np.sqrt((error**2).mean())),
    }


def corrected_metrics(age_years: Floats, spine_age_years: Floats) -> dict[str, float]:
    """The same figures after the age-bias correction, named so that nobody mistakes them for accuracy."""
    return {
        name + CORRECTED: value for name, value in raw_metrics(age_years, spine_age_years).items()
    }


def bias_by_age(age_years: Floats, predicted_years: Floats) -> list[dict[str, float]]:
    """People, mean gap and MAE in each age bracket that has anybody."""
    gap = predicted_years - age_years
    rows = []
    for low, high in itertools.pairwise(AGE_BRACKETS_YEARS):
        inside = (age_years >= low) & (age_years < high)
        if inside.any():
            rows.append(
                {
                    "age_from_years": float(low),
                    "age_below_years": float(high),
                    "num_scans": float(inside.sum()),
                    "mean_gap_years": float(gap[inside].mean()),
                    "mae_years": float(np.abs(gap[inside]).mean()),
                }
            )
    return rows


def _correlation(a: Floats, b: Floats) -> float:
    """Pearson's r; NaN when either does not vary."""
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale > 0 else np.nan
