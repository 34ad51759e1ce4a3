"""Who is normal: people whose findings are no more than their age explains.

Groups come from `clusters.fit` (Canberra, UMAP, HDBSCAN). Which groups are normal is not in the paper; here
burden (the sum of severities) is compared with the burden expected at that age among training people:
- a group is normal when its people together carry at most `max_burden_ratio` x what is expected at their ages
  (indirect standardisation, as in a standardised mortality ratio; the population's is 1). The small groups
  together, and the people of no group (noise), are judged in the same way.
- a person who alone carries more than `max_person_ratio` x what is expected is not normal whatever the group.
  Groups follow age more than illness: on phantoms of 80 to 2000 people no group was above its limit, while
  this rule alone found 55-76 % of the people with planted degeneration at a specificity of 97-98 %.
- guard: a person with as little burden as the lowest `low_burden_quantile` of people is normal whatever else.
  People without findings are near-identical vectors: they form an island of their own, which falls under the
  15 % rule, and without the guard the healthiest would be labelled abnormal.

Groups, expectations and limits are fitted on training people; others are placed. A person is judged once, at
the first exam with a known age, and the status holds for all scans of that person.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.isotonic import IsotonicRegression

from spineage.science import clusters
from spineage.science.audit import (
    NORMAL,
    NOT_CLUSTERED,
    NOT_NORMAL,
    UNKNOWN,
    Verdict,
    audit_of,
    name_groups,
)
from spineage.science.conditions import Feature

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MIN_EXPECTED = 2.0
"""Where less than two mild findings are expected (the young), a person is compared with two."""


@dataclass(frozen=True)
class Rule:
    """What makes a group, and what makes a group normal; see study.Cohort for the reasons."""

    kind: str
    min_share: float
    low_burden_quantile: float
    max_burden_ratio: float
    max_person_ratio: float
    recipe: clusters.Recipe


def first_scans(scans: pd.DataFrame) -> pd.DataFrame:
    """One scan a person: the earliest with a known age, else the earliest. Sorted by person.

    scans: person_id, exam_id, scan_id, age_years, days_since_first (unknown days count as late).
    """
    order = scans.assign(
        _no_age=scans.age_years.isna(), _days=scans.days_since_first.fillna(np.inf)
    )
    order = order.sort_values(["person_id", "_no_age", "_days", "age_years", "exam_id", "scan_id"])
    return order.drop_duplicates("person_id")[scans.columns].reset_index(drop=True)


def decide(
    people: pd.DataFrame, matrix_PF: Floats, features: tuple[Feature, ...], rule: Rule, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Cluster, status and map position of each person, and the audit of the groups.

    people: one row a person: person_id, split, age_years, sex, num_findings, burden, is_coded. matrix_PF:
    the condition vector of each. Returns people with cluster, cluster_name, status, umap_x, umap_y.

    Outcomes, named in the audit: `clustered`; `everyone` (the rule: all with an age are normal);
    `burden` (the rule, with fewer people than can be clustered: each is judged alone);
    `too_alike` (fewer than 15 training people, or hardly two different vectors: no group can be told,
    people of low burden are normal, the others unknown). Unknown too are people without an age or whose
    findings could not be coded.
    """
    people = people.assign(
        cluster=NOT_CLUSTERED,
        cluster_name="not clustered",
        status=UNKNOWN,
        umap_x=np.nan,
        umap_y=np.nan,
    ).reset_index(drop=True)
    usable = (people.age_years.notna() & people.is_coded).to_numpy()
    fitted = usable & (people.split == "train").to_numpy()
    if rule.kind == "everyone":
        people.loc[people.age_years.notna(), "status"] = NORMAL
        people["cluster_name"] = "everyone"
        verdict = Verdict("everyone")
    elif rule.kind == "burden" and fitted.any() and not clusters.can_cluster(matrix_PF[fitted]):
        people, verdict = _judged(people, usable, fitted, rule)
    elif not clusters.can_cluster(matrix_PF[fitted]):
        limit = _low_burden_limit(people[fitted], rule)
        people.loc[usable & (people.burden <= limit).to_numpy(), "status"] = NORMAL
        verdict = Verdict("too_alike", limit)
    else:
        people = _clustered(people, matrix_PF, fitted, rule, seed)
        people["cluster_name"] = people.cluster.map(
            name_groups(people, matrix_PF, features, fitted)
        )
        people, verdict = _judged(people, usable, fitted, rule)
    return people, {"rule": asdict(rule), **audit_of(people, matrix_PF, features, verdict)}


def _low_burden_limit(fitted_people: pd.DataFrame, rule: Rule) -> float:
    return (
        float(fitted_people.burden.quantile(rule.low_burden_quantile))
        if len(fitted_people)
        else 0.0
    )


def _clustered(
    people: pd.DataFrame, matrix_PF: Floats, fitted: Bools, rule: Rule, seed: int
) -> pd.DataFrame:
    """Groups found among the fitted people, everybody else placed among them."""
    found = clusters.fit(matrix_PF[fitted], rule.recipe, seed)
    labels = np.empty(len(people), dtype=np.int64)
    position = np.empty((len(people), clusters.MAP_DIMENSIONS))
    labels[fitted], position[fitted] = found.labels, found.map_PD
    labels[~fitted], position[~fitted] = found.place(matrix_PF[~fitted])
    renamed = clusters.keep_large(found.labels, rule.min_share)
    cluster = np.array([renamed[int(label)] for label in labels])
    uncoded = ~people.is_coded.to_numpy()
    cluster[uncoded], position[uncoded] = NOT_CLUSTERED, np.nan
    return people.assign(cluster=cluster, umap_x=position[:, 0], umap_y=position[:, 1])


def expected_burden(age_years: Floats, burden: Floats) -> IsotonicRegression:
    """The mean burden at each age, never falling with age; its sum over these people is theirs."""
    return IsotonicRegression(out_of_bounds="clip").fit(age_years, burden)


def _judged(
    people: pd.DataFrame, usable: Bools, fitted: Bools, rule: Rule
) -> tuple[pd.DataFrame, Verdict]:
    """The status of everybody usable: by group, then by person, then the guard."""
    known = people[fitted]
    burden = people.burden.to_numpy(float)
    model = expected_burden(known.age_years.to_numpy(float), burden[fitted])
    expected = model.predict(people.age_years.fillna(0.0).to_numpy(float))
    ratios = _ratios(known.cluster.to_numpy(), burden[fitted], expected[fitted])
    ratio = people.cluster.map(ratios).to_numpy(float)
    if rule.kind == "burden":  # groups are drawn, where there are any, and judge nobody
        ratio = np.ones(len(people))
    limit = _low_burden_limit(known, rule)
    in_normal_group = ratio <= rule.max_burden_ratio
    is_heavy = burden > rule.max_person_ratio * np.maximum(expected, MIN_EXPECTED)
    is_low = burden <= limit
    is_placed = ~np.isnan(
        ratio
    )  # nan: placed in no group, and training had no such people to judge by
    people.loc[usable & is_placed, "status"] = NORMAL
    people.loc[usable & ((is_placed & ~in_normal_group) | is_heavy), "status"] = NOT_NORMAL
    people.loc[usable & is_low, "status"] = NORMAL
    return people, Verdict(
        "clustered" if (people.cluster != NOT_CLUSTERED).any() else "burden",
        limit,
        {cluster: (value, value <= rule.max_burden_ratio) for cluster, value in ratios.items()},
        num_normal_by_guard=int((usable & is_low & ~(in_normal_group & ~is_heavy)).sum()),
        num_not_normal_by_person=int((usable & ~is_low & in_normal_group & is_heavy).sum()),
    )


def _ratios(cluster: Ints, burden: Floats, expected: Floats) -> dict[int, float]:
    """Observed over expected burden of each group; 0 for a group that carries and expects none."""
    sums = pd.DataFrame({"observed": burden, "expected": expected}).groupby(cluster).sum()
    return {
        int(c): float(o / e) if e > 0 else 0.0
        for c, o, e in zip(sums.index, sums.observed, sums.expected, strict=True)
    }
