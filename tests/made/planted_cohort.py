"""Populations whose normal people are known: four archetypes, outliers, and an island of no findings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.cohort import clusters
from spineage.science.cohort.conditions import Feature
from spineage.science.cohort.rules import Rule

FEATURES = tuple(
    Feature(f"f{i}", region, "disc")
    for i in range(20)
    for region in ("cervical", "thoracic", "lumbar")
)
RECIPE = clusters.ClusterRecipe(
    num_neighbors=15,
    num_components=5,
    min_dist=0.0,
    min_cluster_share=0.08,
    min_samples=5,
    selection="eom",
)


@dataclass(frozen=True)
class Kind:
    """Findings of one kind of people: each of `width` features from `first` on in nine of ten of them."""

    name: str
    share: float
    first: int
    width: int
    severity: float
    ages: tuple[float, float]
    is_normal: bool


ARCHETYPES = (
    Kind("young, a few mild", 0.30, 0, 5, 1.0, (25, 50), True),
    Kind("old, lumbar wear", 0.28, 5, 10, 1.0, (50, 84), True),
    Kind("old, cervical wear", 0.22, 15, 10, 1.0, (50, 84), True),
    Kind("disease", 0.16, 25, 14, 2.5, (35, 84), False),
)
OUTLIERS = Kind("outlier", 0.04, 0, 14, 3.0, (35, 84), False)


def study_rule(**changes: Any) -> Rule:
    """The study's defaults."""
    defaults: dict[str, Any] = {
        "kind": "clusters", "min_share": 0.15, "low_burden_quantile": 0.25,
        "max_burden_ratio": 1.5, "max_person_ratio": 2.0, "min_person_excess": 7.0, "recipe": RECIPE,
        "min_people": 300, "min_group_people": 30,
    }  # fmt: skip
    return Rule(**(defaults | changes))


def population(
    island_share: float, num_people: int = 400, seed: int = 0
) -> tuple[pd.DataFrame, npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """People as for cohort.decide, their condition vectors, and who of them is normal.

    island_share: of people without any finding, who are the youngest.
    """
    rng = np.random.default_rng(seed)
    num_bare = round(island_share * num_people)
    rest = num_people - num_bare
    matrices, ages, normal = (
        [np.zeros((num_bare, len(FEATURES)))],
        [rng.uniform(25, 45, num_bare)],
        [],
    )
    normal += [True] * num_bare
    for kind in (*ARCHETYPES, OUTLIERS):
        num = round(kind.share * rest)
        block = np.zeros((num, len(FEATURES)))
        for row in block:
            where = np.arange(kind.first, kind.first + kind.width)
            if kind is OUTLIERS:
                where = rng.choice(len(FEATURES), kind.width, replace=False)
            present = rng.random(kind.width) < 0.9
            row[where] = present * np.minimum(3, kind.severity * rng.choice([1, 1.5], kind.width))
        matrices.append(block)
        ages.append(rng.uniform(*kind.ages, num))
        normal += [kind.is_normal] * num
    matrix = np.vstack(matrices)
    num = len(matrix)
    people = pd.DataFrame(
        {
            "person_id": [f"p{i:04d}" for i in range(num)],
            "split": np.where(rng.permutation(num) % 4 < 3, "train", "test"),
            "age_years": np.concatenate(ages),
            "sex": rng.choice(["F", "M"], num),
            "num_findings": (matrix > 0).sum(axis=1),
            "burden": matrix.sum(axis=1),
            "is_coded": True,
        }
    )
    return people, matrix, np.array(normal)
