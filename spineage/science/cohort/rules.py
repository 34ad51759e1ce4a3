"""Who is normal, under each rule that a study can name. Burden and what is expected: see `burden`.

- `clusters`: a group is normal when its people together carry at most `max_burden_ratio` x what is expected
  at their ages (indirect standardisation, as in a standardised mortality ratio; the population's is 1). The
  small groups together are judged in the same way. A group of fewer than `min_group_people` training people
  is not judged, nor is noise unless `noise` says so: its people are judged one by one, for one to six people
  gave ratios of 0.5 to 1.4 by chance alone.
  - a person who alone carries more than `max_person_ratio` x what is expected, and `min_person_excess`
    more, over the whole spine or in one region, is not normal whatever the group; nor is one with a finding
    that no age explains (`disease_findings`), however little else there is. The excess is for the young:
    where many have no finding at all, five mild ones are many times what is expected, and no illness.
  - guard: anybody else with as little burden as the lowest `low_burden_quantile` of people is normal whatever
    the group. People without findings are near-identical vectors: they form an island of their own, which
    falls under the 15 % rule, and without the guard the healthiest would be labelled abnormal.
  With fewer than `min_people` training people the map hangs on UMAP's seed: then `burden` is what decides,
  and the verdict's outcome is `few_people`.
- `paper`: what is known of the paper taken literally. Groups above `min_share` that carry what their ages
  explain are normal, the merged rest and the noise are not; no rule for one person, and no guard.
- `burden`: the rules for one person alone, and the guard.
- `percentile`: burden at or under the `max_percentile` of training people of that age and sex, without a
  finding that no age explains; and the guard.
- `everyone`: all whose age is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.cohort import clusters
from spineage.science.cohort.audit import Verdict
from spineage.science.cohort.burden import burden_percentile, expected_of, is_heavy
from spineage.science.cohort.status import NORMAL, NOT_CLUSTERED, NOT_NORMAL, UNKNOWN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BY_CLUSTER = ("clusters", "paper")
RULES = (*BY_CLUSTER, "burden", "percentile", "everyone")


@dataclass(frozen=True)
class Rule:
    """What makes a group, and what makes a person normal; see study.Cohort for the reasons."""

    kind: str
    min_share: float
    low_burden_quantile: float
    max_burden_ratio: float
    max_person_ratio: float
    min_person_excess: float
    recipe: clusters.ClusterRecipe
    disease_findings: tuple[str, ...] = ()
    min_people: int = 0
    min_group_people: int = 0
    noise: str = "one_by_one"
    max_percentile: float = 0.75
    percentile_window_years: float = 10.0

    def settled(self, fitted: Bools) -> Rule:
        """The rule that decides: `burden` where too few people train for groups to decide."""
        if self.kind == "clusters" and int(fitted.sum()) < self.min_people:
            return replace(self, kind="burden")
        return self


@dataclass(frozen=True)
class _Groups:
    """ratio: observed over expected burden of each group that training people are in. is_normal: None where
    the rule does not judge the group."""

    ratio: Mapping[int, float]
    is_normal: Mapping[int, bool | None]


def judge_people(
    people: pd.DataFrame, usable: Bools, fitted: Bools, num_kept: int, rule: Rule
) -> tuple[pd.Series, Verdict]:
    """The status of each person, and how it came about.

    people: age_years, sex, cluster, and what burden.with_burdens adds. usable: those who can be judged at all
    (age and findings known); the others stay unknown. fitted: training people. num_kept: clusters
    0 .. num_kept - 1 are above min_share.
    """
    status = pd.Series(UNKNOWN, index=people.index, dtype=object)
    if rule.kind == "everyone":
        status[people.age_years.notna()] = NORMAL
        return status, Verdict("everyone")
    groups = _judge_groups(people, fitted, num_kept, rule)
    by_group = people.cluster.map(groups.is_normal)
    in_ill_group = by_group.eq(False).to_numpy()
    if rule.kind == "paper":
        status[usable & (people.cluster != NOT_CLUSTERED).to_numpy()] = NOT_NORMAL
        status[usable & by_group.eq(True).to_numpy()] = NORMAL
        return status, _verdict(people, groups, rule)
    is_ill = _is_ill_alone(people, fitted, rule)
    has_disease = people.has_disease.to_numpy(bool)
    limit = low_burden_limit(people[fitted], rule)
    is_low = (people.burden <= limit).to_numpy() & ~has_disease
    is_known = np.ones(len(people), dtype=bool)
    if rule.kind == "clusters" and rule.noise == "unknown":
        is_known = people.cluster.to_numpy() != clusters.NOISE
    status[usable & is_known] = NORMAL
    status[usable & (in_ill_group | is_ill)] = NOT_NORMAL
    status[usable & is_low] = NORMAL
    return status, _verdict(
        people,
        groups,
        rule,
        limit,
        num_normal_by_guard=int((usable & is_low & (in_ill_group | is_ill)).sum()),
        num_not_normal_by_person=int((usable & ~is_low & ~in_ill_group & is_ill).sum()),
        num_not_normal_by_disease=int((usable & has_disease).sum()),
    )


def low_burden_limit(fitted_people: pd.DataFrame, rule: Rule) -> float:
    """Burden up to which the guard holds."""
    if not len(fitted_people):
        return 0.0
    return float(fitted_people.burden.quantile(rule.low_burden_quantile))


def _verdict(
    people: pd.DataFrame, groups: _Groups, rule: Rule, limit: float = 0.0, **counts: int
) -> Verdict:
    return Verdict(
        "clustered" if (people.cluster != NOT_CLUSTERED).any() else rule.kind,
        limit,
        {cluster: (value, groups.is_normal[cluster]) for cluster, value in groups.ratio.items()},
        **counts,
    )


def _is_ill_alone(people: pd.DataFrame, fitted: Bools, rule: Rule) -> Bools:
    """The rules for one person: too much for the age, or a finding that no age explains."""
    has_disease = people.has_disease.to_numpy(bool)
    if rule.kind == "percentile":
        share = burden_percentile(people, fitted, rule.percentile_window_years)
        is_much: Bools = share > rule.max_percentile
    else:
        is_much = is_heavy(people, fitted, rule.max_person_ratio, rule.min_person_excess)
    return np.asarray(is_much | has_disease, dtype=bool)


def _judge_groups(people: pd.DataFrame, fitted: Bools, num_kept: int, rule: Rule) -> _Groups:
    """Observed over expected burden of the training people of each group, and what the rule makes of it."""
    cluster = people.cluster.to_numpy()[fitted]
    observed = people.burden.to_numpy(float)[fitted]
    expected = expected_of(people, fitted, "burden")[fitted]
    sums = pd.DataFrame({"o": observed, "e": expected, "n": 1}).groupby(cluster).sum()
    ratio = {
        int(c): float(o / e) if e > 0 else 0.0
        for c, o, e in zip(sums.index, sums.o, sums.e, strict=True)
    }
    is_normal = {
        c: _is_normal(c, r, int(num), num_kept, rule)
        for (c, r), num in zip(ratio.items(), sums.n, strict=True)
    }
    return _Groups(ratio, is_normal)


def _is_normal(
    cluster: int, ratio: float, num_people: int, num_kept: int, rule: Rule
) -> bool | None:
    """None where the rule does not judge the group: its people are judged one by one."""
    if rule.kind not in BY_CLUSTER:
        return None
    is_expected = ratio <= rule.max_burden_ratio
    if rule.kind == "paper":
        return is_expected and 0 <= cluster < num_kept
    if cluster == clusters.NOISE:
        return False if rule.noise == "not_normal" else None
    return is_expected if num_people >= rule.min_group_people else None
