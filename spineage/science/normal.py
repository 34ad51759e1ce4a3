"""Who is normal, under each rule that a study can name.

Burden is the sum of severities; expected is the burden of training people of that age.

- `clusters`: a group is normal when its people together carry at most `max_burden_ratio` x what is expected
  at their ages (indirect standardisation, as in a standardised mortality ratio; the population's is 1). The
  small groups together are judged in the same way, and so are people of no group unless `noise` says
  otherwise.
  - a person who alone carries more than `max_person_ratio` x what is expected, and `min_person_excess`
    more, is not normal whatever the group. Groups follow age more than illness: on phantoms of 80 to 600
    people no group was above its limit, while this rule alone found 69-72 % of the people with planted
    degeneration at a specificity of 97-98 %. The excess is for the young: where many have no finding at
    all, five mild ones are many times what is expected, and no illness.
  - guard: a person with as little burden as the lowest `low_burden_quantile` of people is normal whatever
    else. People without findings are near-identical vectors: they form an island of their own, which falls
    under the 15 % rule, and without the guard the healthiest would be labelled abnormal.
- `paper`: what is known of the paper taken literally. Groups above `min_share` that carry what their ages
  explain are normal, the merged rest and the noise are not; no rule for one person, and no guard.
- `burden`: the two rules for one person alone; for studies too small to cluster.
- `percentile`: burden at or under the `max_percentile` of training people of that age and sex; and the guard.
- `everyone`: all whose age is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from spineage.science import clusters
from spineage.science.audit import NORMAL, NOT_CLUSTERED, NOT_NORMAL, UNKNOWN, Verdict

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BY_CLUSTER = ("clusters", "paper")
RULES = (*BY_CLUSTER, "burden", "percentile", "everyone")
MIN_PEERS = 20
"""With fewer training people of an age and sex, the other sex counts too; then every age."""


@dataclass(frozen=True)
class Rule:
    """What makes a group, and what makes a person normal; see study.Cohort for the reasons."""

    kind: str
    min_share: float
    low_burden_quantile: float
    max_burden_ratio: float
    max_person_ratio: float
    recipe: clusters.Recipe
    noise: str = "judged"
    max_percentile: float = 0.75
    percentile_window_years: float = 10.0
    min_person_excess: float = 4.0


def judge(
    people: pd.DataFrame, usable: Bools, fitted: Bools, num_kept: int, rule: Rule
) -> tuple[pd.Series, Verdict]:
    """The status of each person, and how it came about.

    people: age_years, sex, burden, cluster. usable: those who can be judged at all (age and findings
    known); the others stay unknown. fitted: training people. num_kept: clusters 0 .. num_kept - 1 are above
    min_share.
    """
    status = pd.Series(UNKNOWN, index=people.index, dtype=object)
    if rule.kind == "everyone":
        status[people.age_years.notna()] = NORMAL
        return status, Verdict("everyone")
    burden = people.burden.to_numpy(float)
    expected = _expected(people, burden, fitted)
    ratios = _ratios(people.cluster.to_numpy()[fitted], burden[fitted], expected[fitted])
    ratio = people.cluster.map(ratios).to_numpy(float)
    is_normal_group = {c: _is_normal(c, value, num_kept, rule) for c, value in ratios.items()}
    limit = low_burden_limit(people[fitted], rule)
    is_low = burden <= limit
    is_heavy = burden > np.maximum(
        rule.max_person_ratio * expected, rule.min_person_excess + expected
    )
    in_normal_group = np.array([is_normal_group.get(c) is True for c in people.cluster], bool)
    is_known = ~np.isnan(ratio)  # nan: of no group, and training had no such people to judge by
    if rule.kind == "burden":
        in_normal_group, is_known = np.ones_like(is_low), np.ones_like(is_low)
    elif rule.kind == "percentile":
        share = burden_percentile(people, fitted, rule.percentile_window_years)
        is_heavy = share > rule.max_percentile
        in_normal_group, is_known = np.ones_like(is_low), np.ones_like(is_low)
    elif rule.kind == "paper":
        is_low, is_heavy = np.zeros_like(is_low), np.zeros_like(is_low)
        is_known = people.cluster.to_numpy() != NOT_CLUSTERED
    if rule.kind == "clusters" and rule.noise == "unknown":
        is_known &= people.cluster.to_numpy() != clusters.NOISE
    status[usable & is_known] = NORMAL
    status[usable & ((is_known & ~in_normal_group) | is_heavy)] = NOT_NORMAL
    status[usable & is_low] = NORMAL
    return status, Verdict(
        "clustered" if (people.cluster != NOT_CLUSTERED).any() else rule.kind,
        limit,
        {cluster: (value, is_normal_group[cluster]) for cluster, value in ratios.items()},
        num_normal_by_guard=int((usable & is_low & ~(in_normal_group & ~is_heavy)).sum()),
        num_not_normal_by_person=int((usable & ~is_low & in_normal_group & is_heavy).sum()),
    )


def _is_normal(cluster: int, ratio: float, num_kept: int, rule: Rule) -> bool | None:
    """None where the rule does not judge the group."""
    if rule.kind not in BY_CLUSTER:
        return None
    is_expected = ratio <= rule.max_burden_ratio
    if rule.kind == "paper":
        return is_expected and 0 <= cluster < num_kept
    if cluster == clusters.NOISE and rule.noise != "judged":
        return False if rule.noise == "not_normal" else None
    return is_expected


def low_burden_limit(fitted_people: pd.DataFrame, rule: Rule) -> float:
    """Burden up to which the guard holds."""
    if not len(fitted_people):
        return 0.0
    return float(fitted_people.burden.quantile(rule.low_burden_quantile))


def expected_burden(age_years: Floats, burden: Floats) -> IsotonicRegression:
    """The mean burden at each age, never falling with age; its sum over these people is theirs."""
    return IsotonicRegression(out_of_bounds="clip").fit(age_years, burden)


def _expected(people: pd.DataFrame, burden: Floats, fitted: Bools) -> Floats:
    age = people.age_years.to_numpy(float)
    model = expected_burden(age[fitted], burden[fitted])
    return np.asarray(model.predict(np.nan_to_num(age)), dtype=np.float64)


def _ratios(cluster: Ints, burden: Floats, expected: Floats) -> dict[int, float]:
    """Observed over expected burden of each group; 0 for a group that carries and expects none."""
    sums = pd.DataFrame({"observed": burden, "expected": expected}).groupby(cluster).sum()
    return {
        int(c): float(o / e) if e > 0 else 0.0
        for c, o, e in zip(sums.index, sums.observed, sums.expected, strict=True)
    }


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
