"""SAG against conditions and lifestyle: `gap ~ exposure + natural spline(age) + sex + site`, robust errors.

Age is a spline even though SAG is corrected for age: a line leaves the curve of the bias behind, and any
exposure that grows with age then looks harmful (36 % false positives at a nominal 5 % in simulation, with
a linear covariate still 35 %). Standard errors are HC3 (MacKinnon & White 1985,
doi:10.1016/0304-4076(85)90158-7). Cross-sectional association, not cause; and findings define "normal"
here, so the pooled conditions are circular: read each population by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import statsmodels.api as sm
from scipy.interpolate import CubicSpline
from statsmodels.stats.multitest import multipletests

from spineage.science.gap.exposures import Exposure

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

POPULATIONS = ("all", "normal", "not_normal")
OUTCOMES = {"sag": "sag_years", "raw_gap": "raw_gap_years"}
MIN_TESTABLE = 5
"""Fewer exposed or unexposed people than this are not tested: HC3 rests on their own leverage."""
MIN_RESIDUAL_DF = 10
MIN_CATEGORY = 5
"""Sites and sexes with fewer people are one category `other`: alone each would only explain itself."""
MAX_EXPLAINED = 1 - 1e-8
"""An exposure whose variance the covariates explain beyond this share cannot be told from them."""
DEPENDENT = 1e-8
"""A column of which only this share of its length is new is a combination of the others."""


@dataclass(frozen=True)
class Estimate:
    """One fitted effect, in years per step of the exposure."""

    effect_years: float
    low_years: float
    high_years: float
    p: float


def estimate_all(
    people: pd.DataFrame, exposures: Sequence[Exposure], *, min_exposed: int, spline_df: int
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """Every exposure in every population, for both outcomes; nulls included.

    people: of `sample.people_to_study`, with status. exposures: values aligned with people. Returns (rows of
    tables.ASSOCIATIONS; what was not tested and why). q is Benjamini-Hochberg within family, population,
    outcome.
    """
    rows: list[dict[str, Any]] = []
    not_tested: list[dict[str, str]] = []
    for population in POPULATIONS:
        inside = (
            np.ones(len(people), bool)
            if population == "all"
            else (people.status == population).to_numpy()
        )
        tested: dict[bytes, str] = {}
        designs: dict[bytes, tuple[Floats, str]] = {}
        for exposure in exposures:
            kept = inside & ~np.isnan(exposure.values)
            reason = _why_not(exposure, kept, tested)
            for outcome, column in OUTCOMES.items():
                if not reason:
                    if kept.tobytes() not in designs:
                        designs[kept.tobytes()] = design_of(people[kept], spline_df)
                    gap_years = people[column].to_numpy(float)[kept]
                    row, reason = _row(gap_years, exposure, kept, *designs[kept.tobytes()])
                if reason:
                    not_tested.append(
                        {"family": exposure.family, "exposure": exposure.name, "population": population,
                         "outcome": outcome, "reason": reason}
                    )  # fmt: skip
                    continue
                row |= {"population": population, "outcome": outcome}
                rows.append(row | {"is_small": row["num_exposed"] < min_exposed})
    return _with_q(rows), not_tested


def _why_not(exposure: Exposure, kept: Bools, tested: dict[bytes, str]) -> str:
    """The reason not to test an exposure in a population; empty when it can be tested."""
    values = exposure.values[kept]
    if exposure.is_binary:
        exposed, unexposed = int((values == 1).sum()), int((values == 0).sum())
        if min(exposed, unexposed) < MIN_TESTABLE:
            return f"{exposed} exposed and {unexposed} unexposed people, {MIN_TESTABLE} of each are needed"
    elif len(np.unique(values)) < 3:
        return f"{len(values)} people with {len(np.unique(values))} different values, 3 values are needed"
    same = tested.setdefault(
        exposure.family.encode() + kept.tobytes() + values.tobytes(), exposure.name
    )
    return "" if same == exposure.name else f"the same people as {same}"


def _row(
    gap_years: Floats, exposure: Exposure, kept: Bools, design: Floats, covariates: str
) -> tuple[dict[str, Any], str]:
    """One row of the table, or the reason why there is none."""
    values = exposure.values[kept]
    if not exposure.is_binary:
        values = (values - values.mean()) / values.std(ddof=1)
    estimate, reason = estimate_effect(gap_years, values, design)
    if estimate is None:
        return {}, reason
    return {
        "family": exposure.family,
        "exposure": exposure.name,
        "covariates": covariates,
        "effect_years": estimate.effect_years,
        "low_years": estimate.low_years,
        "high_years": estimate.high_years,
        "p": estimate.p,
        "num_exposed": int((values == 1).sum()) if exposure.is_binary else len(values),
        "num_unexposed": int((values == 0).sum()) if exposure.is_binary else 0,
    }, ""


def design_of(people: pd.DataFrame, spline_df: int) -> tuple[Floats, str]:
    """The covariates' columns (intercept first, linearly independent) and how to name them."""
    spline = natural_spline(people.age_years.to_numpy(float), spline_df)
    blocks, names = (
        [np.ones((len(people), 1)), spline],
        [f"natural spline(age, df {spline.shape[1]})"],
    )
    for column in ("sex", "site"):
        dummies = _dummies(people[column])
        if dummies.shape[1]:
            blocks.append(dummies)
            names.append(column)
    return _independent(np.hstack(blocks)), " + ".join(names)


def natural_spline(age_years: Floats, df: int) -> Floats:
    """Columns that with an intercept span the natural cubic splines of age; [person, df].

    Knots at the quantiles 0, 1/df, ..., 1 (Harrell); the columns are the cardinal splines of all knots but
    the first. Fewer different ages give fewer knots; one age gives no column.
    """
    df = min(df, len(np.unique(age_years)) - 1)
    knots = np.unique(np.quantile(age_years, np.linspace(0, 1, df + 1)))
    if len(knots) == 1:
        return np.empty((len(age_years), 0))
    if len(knots) == 2:
        return np.asarray((age_years - age_years.mean())[:, None], np.float64)
    return np.asarray(
        CubicSpline(knots, np.eye(len(knots)), bc_type="natural")(age_years)[:, 1:], np.float64
    )


def _dummies(column: pd.Series) -> Floats:
    """One column for each category but the most common; rare ones together."""
    values = column.astype(object).where(column.notna(), "unknown")
    counts = values.value_counts()
    values = values.where(values.map(counts) >= MIN_CATEGORY, "other")
    counts = values.value_counts()
    if counts.get("other", MIN_CATEGORY) < MIN_CATEGORY:
        values = values.where(values != "other", counts.index[0])
    order = sorted(values.unique(), key=lambda v: (-int((values == v).sum()), str(v)))
    return np.column_stack(
        [np.empty((len(values), 0)), *((values == v).to_numpy(float) for v in order[1:])]
    )


def _independent(design: Floats) -> Floats:
    """The columns that are not combinations of those before them (a site of one sex, for example)."""
    kept: list[int] = []
    basis = np.empty((len(design), 0))
    for i, column in enumerate(design.T):
        rest = column - basis @ (basis.T @ column)
        rest = rest - basis @ (basis.T @ rest)  # twice is enough (Kahan)
        length = float(np.linalg.norm(rest))
        if length > DEPENDENT * float(np.linalg.norm(column)):
            kept.append(i)
            basis = np.column_stack([basis, rest / length])
    return design[:, kept]


def estimate_effect(
    gap_years: Floats, exposure: Floats, covariates: Floats
) -> tuple[Estimate | None, str]:
    """Ordinary least squares with HC3 errors and t limits; or None and the reason."""
    num_people, num_columns = covariates.shape
    residual_df = num_people - num_columns - 1
    if residual_df < MIN_RESIDUAL_DF:
        return None, f"{num_people} people are too few for {num_columns + 1} coefficients"
    fitted = covariates @ np.linalg.lstsq(covariates, exposure, rcond=None)[0]
    total = float(((exposure - exposure.mean()) ** 2).sum())
    if float(((exposure - fitted) ** 2).sum()) <= (1 - MAX_EXPLAINED) * total:
        return None, "it cannot be told apart from age, sex and site"
    design = np.column_stack([exposure, covariates])
    leverage = np.square(np.linalg.qr(design)[0]).sum(axis=1)
    if leverage.max() > MAX_EXPLAINED:
        return None, "one person alone decides a coefficient"
    model = sm.OLS(gap_years, design).fit(cov_type="HC3", use_t=True)
    low, high = model.conf_int(alpha=0.05)[0]
    return Estimate(float(model.params[0]), float(low), float(high), float(model.pvalues[0])), ""


def _with_q(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = ["family", "exposure", "population", "outcome", "covariates", "effect_years", "low_years",
               "high_years", "p", "q", "num_exposed", "num_unexposed", "is_small"]  # fmt: skip
    table = pd.DataFrame(rows, columns=columns)
    for _, part in table.groupby(["family", "population", "outcome"]):
        table.loc[part.index, "q"] = multipletests(part.p.to_numpy(float), method="fdr_bh")[1]
    return table
