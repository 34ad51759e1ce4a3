"""What a reviewer asks of a data-driven cohort: who is in each group, against the population it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.cohort.clusters import NOISE
from spineage.science.cohort.conditions import Feature
from spineage.science.cohort.splits import bracket
from spineage.science.cohort.status import NORMAL, NOT_CLUSTERED, NOT_NORMAL, STATUSES

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

NAMED_SHARE = 0.5
"""A condition names a group when half its people have it, and more of them than of the population."""
NUM_IN_NAME, NUM_LISTED, NUM_DRAWN = 3, 5, 14


@dataclass(frozen=True)
class Verdict:
    """How the statuses came about. groups: observed over expected burden, and whether that is normal (None:
    the rule does not judge this group)."""

    outcome: str
    low_burden_limit: float = 0.0
    groups: Mapping[int, tuple[float, bool | None]] = field(default_factory=dict)
    num_normal_by_guard: int = 0
    num_not_normal_by_person: int = 0
    num_not_normal_by_disease: int = 0


def name_groups(
    people: pd.DataFrame, matrix_PF: Floats, features: tuple[Feature, ...], fitted: Bools
) -> dict[int, str]:
    """A group is named by its dominant conditions, namesakes by a number too; noise says what it is."""
    names = {NOISE: "no group (noise)", NOT_CLUSTERED: "not clustered"}
    for cluster in sorted(set(people.cluster) - set(names)):
        inside = fitted & (people.cluster == cluster).to_numpy()
        dominant = _dominant(matrix_PF, features, inside, fitted)
        few = (
            "no findings" if people.num_findings[inside].median() == 0 else "few or mixed findings"
        )
        name = " + ".join(d["condition"] for d in dominant[:NUM_IN_NAME]) or few
        same = sum(known == name or known.startswith(f"{name} (") for known in names.values())
        names[int(cluster)] = f"{name} ({same + 1})" if same else name
    return names


def audit_of(
    people: pd.DataFrame,
    matrix_PF: Floats,
    features: tuple[Feature, ...],
    verdict: Verdict,
    others: pd.DataFrame,
) -> dict[str, Any]:
    """Plain values: each group and the population described alike; counts are of people.

    others: the status of each person under other rules, one column a rule.
    """
    everyone = np.ones(len(people), dtype=bool)
    groups = []
    for cluster in sorted(set(people.cluster)):
        inside = (people.cluster == cluster).to_numpy()
        ratio, is_normal = verdict.groups.get(int(cluster), (None, None))
        groups.append(
            {
                "cluster": int(cluster),
                "name": str(people.cluster_name[inside].iloc[0]),
                "observed_over_expected": None if ratio is None else round(ratio, 4),
                "is_normal": is_normal,
                "dominant": _dominant(matrix_PF, features, inside, everyone),
                **_described(people, inside),
            }
        )
    return {
        "outcome": verdict.outcome,
        "low_burden_limit": verdict.low_burden_limit,
        "num_normal_by_guard": verdict.num_normal_by_guard,
        "num_not_normal_by_person": verdict.num_not_normal_by_person,
        "num_not_normal_by_disease": verdict.num_not_normal_by_disease,
        "population": _described(people, everyone),
        "groups": groups,
        "findings": _findings_by_group(people, matrix_PF, features),
        "status": {name: int((people.status == name).sum()) for name in STATUSES},
        "splits": {
            str(split): {str(k): int(v) for k, v in part.status.value_counts().sort_index().items()}
            for split, part in people.groupby("split")
        },
        "alternatives": [
            _compared(people, str(name), others[name]) for name in others if len(people)
        ],
    }


def _findings_by_group(
    people: pd.DataFrame, matrix_PF: Floats, features: tuple[Feature, ...]
) -> dict[str, Any]:
    """How common each condition is in the population and in each group, for the conditions that set some
    group apart most; shares of people."""
    present = matrix_PF > 0
    overall = present.mean(axis=0)
    shares = {
        int(cluster): present[(people.cluster == cluster).to_numpy()].mean(axis=0)
        for cluster in sorted(set(people.cluster) - {NOT_CLUSTERED})
    }
    excess = np.max([share - overall for share in shares.values()] or [0 * overall], axis=0)
    told = [i for i in np.argsort(-excess, kind="stable")[:NUM_DRAWN] if excess[i] > 0]
    return {
        "conditions": [features[i].name.replace("_", " ") for i in told],
        "population": [round(float(overall[i]), 4) for i in told],
        "groups": {
            str(cluster): [round(float(share[i]), 4) for i in told]
            for cluster, share in shares.items()
        },
    }


def _compared(people: pd.DataFrame, name: str, status: pd.Series) -> dict[str, Any]:
    """Who would be normal under another rule, against who is."""
    here, there = people.status == NORMAL, status == NORMAL
    decade = bracket(people.age_years)
    is_bare = (people.num_findings.fillna(0) == 0) & people.is_coded
    return {
        "rule": name,
        "num_normal": int(there.sum()),
        "num_not_normal": int((status == NOT_NORMAL).sum()),
        "num_train_normal": int((there & (people.split == "train")).sum()),
        "num_gained": int((there & ~here).sum()),
        "num_lost": int((here & ~there).sum()),
        "num_without_findings_not_normal": int((is_bare & (status == NOT_NORMAL)).sum()),
        "median_age_years": round(float(people.age_years[there].median()), 2)
        if there.any()
        else None,
        "share_female": round(float((people.sex[there] == "F").mean()), 4) if there.any() else None,
        "normal_by_decade": {
            str(age): round(float(there[decade == age].mean()), 4)
            for age in sorted(set(decade) - {-1})
        },
    }


def _dominant(
    matrix_PF: Floats, features: tuple[Feature, ...], inside: Bools, everyone: Bools
) -> list[dict[str, Any]]:
    """The conditions that half of a group has and that set it apart most, by excess over the population."""
    if not inside.any():
        return []
    here, overall = (matrix_PF[inside] > 0).mean(axis=0), (matrix_PF[everyone] > 0).mean(axis=0)
    order = sorted(range(len(features)), key=lambda i: (overall[i] - here[i], i))
    return [
        {
            "condition": features[i].name.replace("_", " "),
            "share": round(float(here[i]), 4),
            "population_share": round(float(overall[i]), 4),
        }
        for i in order
        if here[i] >= NAMED_SHARE and here[i] > overall[i]
    ][:NUM_LISTED]


def _described(people: pd.DataFrame, inside: Bools) -> dict[str, Any]:
    part = people[inside]

    def middle(column: str) -> float | None:
        return None if part[column].isna().all() else round(float(part[column].median()), 3)

    return {
        "num_people": len(part),
        "share": round(len(part) / max(len(people), 1), 4),
        "num_train": int((part.split == "train").sum()),
        "num_normal": int((part.status == NORMAL).sum()),
        "median_burden": middle("burden"),
        "median_findings": middle("num_findings"),
        "median_age_years": middle("age_years"),
        "share_female": round(float((part.sex == "F").mean()), 4) if len(part) else None,
    }
