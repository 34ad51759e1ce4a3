"""How much a person carries, and how much people of that age do: the measure of every rule for who is normal.

Burden is the sum of severities; expected is the mean burden of training people of that age. It is counted
over the whole spine and in each region: disease is often of one region, where it is many times what the age
explains though hardly anything in the sum over all three.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from spineage.science.cohort.conditions import Feature
from spineage.science.spine.labels import REGIONS

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

PARTS = ("burden", *(f"burden_{region}" for region in REGIONS))
"""Columns of people: of the whole spine, then of each region."""
MIN_PEERS = 20
"""With fewer training people of an age and sex, the other sex counts too; then every age."""


def with_burdens(
    people: pd.DataFrame,
    matrix_PF: Floats,
    features: tuple[Feature, ...],
    diseases: tuple[str, ...],
) -> pd.DataFrame:
    """People with what their condition vectors say: PARTS, and has_disease (a finding that no age explains).

    diseases: findings of the codebook, whatever their severity.
    """
    region = np.array([feature.region for feature in features])
    is_disease = np.array([feature.finding in diseases for feature in features], dtype=bool)
    return people.assign(
        burden=matrix_PF.sum(axis=1),
        **{f"burden_{name}": matrix_PF[:, region == name].sum(axis=1) for name in REGIONS},
        has_disease=np.asarray((matrix_PF[:, is_disease] > 0).any(axis=1)),
    )


def expected_burden(age_years: Floats, burden: Floats) -> IsotonicRegression:
    """The mean burden at each age, never falling with age; its sum over these people is theirs."""
    return IsotonicRegression(out_of_bounds="clip").fit(age_years, burden)


def expected_of(people: pd.DataFrame, fitted: Bools, part: str) -> Floats:
    """What training people of each person's age carry in one of PARTS; an unknown age counts as 0 years."""
    age = people.age_years.to_numpy(float)
    model = expected_burden(age[fitted], people[part].to_numpy(float)[fitted])
    return np.asarray(model.predict(np.nan_to_num(age)), dtype=np.float64)


def is_heavy(people: pd.DataFrame, fitted: Bools, max_ratio: float, min_excess: float) -> Bools:
    """Who carries more than max_ratio x what is expected, and min_excess more, in one of PARTS."""
    heavy = np.zeros(len(people), dtype=bool)
    for part in PARTS:
        expected = expected_of(people, fitted, part)
        limit = np.maximum(max_ratio * expected, min_excess + expected)
        heavy |= people[part].to_numpy(float) > limit
    return heavy


def burden_percentile(people: pd.DataFrame, fitted: Bools, window_years: float) -> Floats:
    """The share of training people of a person's age and sex who carry less; equals count half.

    NaN for a person without an age.
    """
    age, burden = people.age_years.to_numpy(float), people.burden.to_numpy(float)
    sex = people.sex.fillna("").to_numpy(str)
    order = np.flatnonzero(fitted)[np.argsort(age[fitted], kind="stable")]
    by_sex = {value: order[sex[order] == value] for value in np.unique(sex)}
    found = np.full(len(people), np.nan)
    for i in np.flatnonzero(~np.isnan(age)):
        peers = _near(by_sex[sex[i]], age, age[i], window_years)
        if len(peers) < MIN_PEERS:
            peers = _near(order, age, age[i], window_years)
        theirs = burden[peers if len(peers) >= MIN_PEERS else order]
        found[i] = (theirs < burden[i]).mean() + (theirs == burden[i]).mean() / 2
    return found


def _near(by_age: Ints, age: Floats, own: float, window_years: float) -> Ints:
    ages = age[by_age]
    low = np.searchsorted(ages, own - window_years)
    return by_age[low : np.searchsorted(ages, own + window_years, side="right")]
