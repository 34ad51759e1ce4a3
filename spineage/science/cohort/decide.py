"""Groups of people with alike findings, who of them is normal, and what other rules would say.

Groups come from `clusters.fit` (Canberra, UMAP, HDBSCAN), who is normal from `normal.judge_people`. Groups,
expectations and limits are fitted on training people; others are placed. A person is judged once, at the
first exam with a known age, and the status holds for all scans of that person.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.cohort import clusters
from spineage.science.cohort.audit import Verdict, audit_of, name_groups
from spineage.science.cohort.burden import with_burdens
from spineage.science.cohort.conditions import Feature
from spineage.science.cohort.neighbours import Neighbours, find_neighbours
from spineage.science.cohort.rules import BY_CLUSTER, RULES, Rule, judge_people, low_burden_limit
from spineage.science.cohort.status import NORMAL, NOT_CLUSTERED, UNKNOWN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


NOISE_WORDS = {
    "one_by_one": "people of no group are judged one by one, by the rules for one person",
    "not_normal": "people of no group are not normal, unless the guard or the rule for one person says more",
    "unknown": "people of no group are unknown, unless the guard or the rule for one person says more",
}
NO_NOISE = "the rule judges each person alone, of a group or of none"


@dataclass(frozen=True)
class Decision:
    """people: with cluster, cluster_name, status, umap_x, umap_y. others: the status of each person under
    every rule that can be told from these data, one column a rule."""

    people: pd.DataFrame
    verdict: Verdict
    others: pd.DataFrame


@dataclass(frozen=True)
class Grouped:
    """The group of each person after the 15 % rule; those below num_kept are above the share."""

    cluster: Ints
    num_kept: int


def first_scans(scans: pd.DataFrame) -> pd.DataFrame:
    """One scan a person: the earliest with a known age, else the earliest. Sorted by person.

    scans: person_id, exam_id, scan_id, age_years, days_since_first (unknown days count as late).
    """
    order = scans.assign(
        _no_age=scans.age_years.isna(), _days=scans.days_since_first.fillna(np.inf)
    )
    order = order.sort_values(["person_id", "_no_age", "_days", "age_years", "exam_id", "scan_id"])
    return order.drop_duplicates("person_id")[scans.columns].reset_index(drop=True)


def can_be_judged(people: pd.DataFrame) -> tuple[Bools, Bools]:
    """Who has an age and readable findings, and who of them trains the groups."""
    usable = (people.age_years.notna() & people.is_coded).to_numpy(bool)
    return usable, usable & (people.split == "train").to_numpy(bool)


def decide(
    people: pd.DataFrame,
    matrix_PF: Floats,
    features: tuple[Feature, ...],
    rule: Rule,
    seed: int,
    neighbours: Neighbours | None = None,
) -> Decision:
    """Cluster, status and map position of each person.

    people: one row a person: person_id, split, age_years, sex, num_findings, is_coded. matrix_PF: the
    condition vector of each. neighbours: of these people, when they are known already.

    Outcomes, named in the verdict: `clustered`; `few_people` (the rule is `clusters`, but too few people
    train for groups to decide: `burden` does); `everyone` (the rule: all with an age are normal); `burden`,
    `percentile` (the rule, with fewer people than can be clustered: each is judged alone); `too_alike`
    (groups are to decide, but fewer than 15 people train, or hardly two vectors differ: people of low burden
    are normal by the guard, where the rule has one, and the others unknown). Unknown too are people
    without an age or whose findings could not be coded.
    """
    people = with_burdens(people, matrix_PF, features, rule.disease_findings)
    people = people.assign(
        cluster=NOT_CLUSTERED,
        cluster_name="not clustered",
        status=UNKNOWN,
        umap_x=np.nan,
        umap_y=np.nan,
    ).reset_index(drop=True)
    usable, fitted = can_be_judged(people)
    can_cluster = rule.kind != "everyone" and clusters.can_cluster(matrix_PF[fitted])
    settled = rule.settled(fitted)
    if (settled.kind in BY_CLUSTER and not can_cluster) or not fitted.any():
        return _too_alike(people, usable, fitted, rule)
    num_kept, kinds = 0, ["everyone"]
    if can_cluster:
        neighbours = neighbours or neighbours_of(matrix_PF, fitted, rule.recipe)
        people, num_kept = _clustered(people, matrix_PF, fitted, neighbours, rule, seed)
        names = name_groups(people, matrix_PF, features, fitted)
        people["cluster_name"] = people.cluster.map(names)
        kinds = list(RULES)
    elif rule.kind == "everyone":
        people["cluster_name"] = "everyone"
    else:
        kinds = [kind for kind in RULES if kind not in BY_CLUSTER]
    status, verdict = judge_people(people, usable, fitted, num_kept, settled)
    if settled != rule:
        verdict = replace(verdict, outcome="few_people")
    others = {
        k: judge_people(people, usable, fitted, num_kept, replace(rule, kind=k).settled(fitted))[0]
        for k in kinds
    }
    return Decision(people.assign(status=status), verdict, pd.DataFrame(others))


def neighbours_of(matrix_PF: Floats, fitted: Bools, recipe: clusters.ClusterRecipe) -> Neighbours:
    """As many neighbours as one fit asks for."""
    num = max(recipe.num_neighbors, recipe.min_samples)
    return find_neighbours(matrix_PF, fitted, num)


def audited(
    decision: Decision, matrix_PF: Floats, features: tuple[Feature, ...], rule: Rule
) -> dict[str, Any]:
    """What a reviewer asks, as plain values; see `audit`."""
    noise = noise_share(decision.people)
    return {
        "rule": asdict(rule),
        "noise": _noise_words(rule),
        "noise_share": noise,
        "is_placed_noise_high": is_placed_noise_high(noise),
        **audit_of(decision.people, matrix_PF, features, decision.verdict, decision.others),
    }


def _noise_words(rule: Rule) -> str:
    if rule.kind not in BY_CLUSTER:
        return NO_NOISE
    return NOISE_WORDS["not_normal" if rule.kind == "paper" else rule.noise]


def noise_share(people: pd.DataFrame) -> dict[str, float | None]:
    """The share of people of no group, of those who trained the groups and of those placed among them."""
    clustered = people[people.cluster != NOT_CLUSTERED]
    fits = can_be_judged(clustered)[1]
    return {
        name: round(float((clustered.cluster[who] == clusters.NOISE).mean()), 4)
        if who.any()
        else None
        for name, who in (("fitted", fits), ("placed", ~fits))
    }


def is_placed_noise_high(share: dict[str, float | None]) -> bool:
    """Whether placed people are of no group far more often than those who trained the groups."""
    fitted, placed = share["fitted"], share["placed"]
    return fitted is not None and placed is not None and placed > max(2 * fitted, fitted + 0.1)


def group_people(clustered: clusters.Clusters, fitted: Bools, min_share: float) -> Grouped:
    """The groups of fitted and placed people together, after the 15 % rule."""
    renamed = clusters.keep_large(clustered.labels_P[fitted], min_share)
    num_kept = clusters.num_large(clustered.labels_P[fitted], min_share)
    return Grouped(np.array([renamed[int(label)] for label in clustered.labels_P]), num_kept)


def _too_alike(people: pd.DataFrame, usable: Bools, fitted: Bools, rule: Rule) -> Decision:
    if rule.kind == "everyone":
        status, verdict = judge_people(people, usable, fitted, 0, rule)
        people = people.assign(status=status, cluster_name="everyone")
        return Decision(people, verdict, pd.DataFrame({"everyone": status}))
    if rule.kind == "paper":
        return Decision(people, Verdict("too_alike"), pd.DataFrame(index=people.index))
    limit = low_burden_limit(people[fitted], rule)
    is_low = (people.burden <= limit) & ~people.has_disease
    people.loc[usable & is_low.to_numpy(), "status"] = NORMAL
    return Decision(people, Verdict("too_alike", limit), pd.DataFrame(index=people.index))


def _clustered(
    people: pd.DataFrame,
    matrix_PF: Floats,
    fitted: Bools,
    neighbours: Neighbours,
    rule: Rule,
    seed: int,
) -> tuple[pd.DataFrame, int]:
    """Groups found among the fitted people, everybody else placed among them."""
    found = clusters.fit(matrix_PF, fitted, neighbours, rule.recipe, seed)
    grouped = group_people(found, fitted, rule.min_share)
    uncoded = ~people.is_coded.to_numpy(bool)
    position_PM = np.where(uncoded[:, None], np.nan, found.map_PM)
    people = people.assign(
        cluster=np.where(uncoded, NOT_CLUSTERED, grouped.cluster),
        umap_x=position_PM[:, 0],
        umap_y=position_PM[:, 1],
    )
    return people, grouped.num_kept
