"""Is "normal" a property of the person, or of one seed and one setting? The cohort, drawn again and again.

A cell is one UMAP: a number of neighbours, a number of dimensions, and one draw (a seed on all training
people, or a bootstrap of them). HDBSCAN is cheap beside UMAP, so every setting of it is tried in the cell.
In each the rule of the study says who is normal; the share of draws that call a person normal is that
person's probability. A bootstrap's repeats would lie on each other, and HDBSCAN would call them a cluster:
each person drawn counts once (63 % of them on average), and the others are placed like anybody not fitted
on. Neighbours are found once, on all training people, and shared by all cells. Draws come in rounds, each of
all layouts, and end when everybody's probability has settled (`agreement.Tally`).

Good agreement between seeds does not show that the cohort is right: on a population whose healthiest people
formed a small island that was called abnormal, ARI from seed to seed was 0.985. Letters: P people, S
settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.science.cohort import clusters
from spineage.science.cohort.decide import can_be_judged, group_people
from spineage.science.cohort.neighbours import Neighbours
from spineage.science.cohort.rules import Rule, judge_people
from spineage.science.cohort.status import NORMAL, NOT_CLUSTERED, NOT_NORMAL
from spineage.science.seeds import Stream, int_of, rng_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Small = npt.NDArray[np.int8]

SEED, BOOTSTRAP = "seed", "bootstrap"
DRAWS_A_ROUND = 6
"""Of each layout: one seed and five bootstraps of the default grid."""
NOT_JUDGED = -1


@dataclass(frozen=True)
class Setting:
    """One way to run HDBSCAN."""

    min_cluster_share: float
    min_samples: int


@dataclass(frozen=True)
class Cell:
    """One UMAP. kind: whether `number` counts seeds or bootstraps."""

    num_neighbors: int
    num_components: int
    kind: str
    number: int

    @property
    def name(self) -> str:
        return f"n{self.num_neighbors}-d{self.num_components}-{self.kind}{self.number:04d}"

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class DrawGrid:
    """Everything that is tried; see study.Stability."""

    num_neighbors: tuple[int, ...]
    num_components: tuple[int, ...]
    min_cluster_share: tuple[float, ...]
    min_samples: tuple[int, ...]
    num_seeds: int
    num_bootstraps: int

    @property
    def settings(self) -> list[Setting]:
        return [Setting(*pair) for pair in product(self.min_cluster_share, self.min_samples)]

    @property
    def layouts(self) -> list[tuple[int, int]]:
        """(number of neighbours, number of dimensions)."""
        return list(product(self.num_neighbors, self.num_components))

    @property
    def draws(self) -> list[tuple[str, int]]:
        return [(SEED, i) for i in range(self.num_seeds)] + [
            (BOOTSTRAP, i) for i in range(self.num_bootstraps)
        ]

    @property
    def rounds(self) -> list[list[tuple[str, int]]]:
        """The draws, some seeds and some bootstraps at a time in the same proportion throughout."""
        num = max(1, round(len(self.draws) / DRAWS_A_ROUND))

        def part(total: int, number: int) -> range:
            return range(total * number // num, total * (number + 1) // num)

        return [
            [(SEED, i) for i in part(self.num_seeds, number)]
            + [(BOOTSTRAP, i) for i in part(self.num_bootstraps, number)]
            for number in range(num)
        ]

    @property
    def num_near(self) -> int:
        """How many neighbours the hungriest cell asks for."""
        return max(*self.num_neighbors, *self.min_samples)

    def cells(self, draws: list[tuple[str, int]]) -> list[Cell]:
        """In the order in which they are read back: layout by layout."""
        return [Cell(*layout, *draw) for layout in self.layouts for draw in draws]


@dataclass(frozen=True)
class Sample:
    """What every cell starts from: people as for cohort.decide, with their burdens and without groups, their
    neighbours, and the study's own rule."""

    people: pd.DataFrame
    matrix_PF: Floats
    neighbours: Neighbours
    rule: Rule
    settings: tuple[Setting, ...]
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What one cell found. is_drawn: who trained it. cluster: after the 15 % rule. is_normal: 1, 0, or
    NOT_JUDGED. Nobody is judged in a setting that found too little difference to cluster by."""

    is_drawn_P: Bools
    cluster_SP: Small
    is_normal_SP: Small


def run_cell(cell: Cell, sample: Sample) -> Outcome:
    """Draw, embed, and judge everybody under each setting of HDBSCAN."""
    people, matrix_PF = sample.people, sample.matrix_PF
    usable, fitted = can_be_judged(people)
    drawn = draw(cell, fitted, sample.seed)
    shape = len(sample.settings), len(people)
    cluster_SP = np.full(shape, NOT_CLUSTERED, dtype=np.int8)
    is_normal_SP = np.full(shape, NOT_JUDGED, dtype=np.int8)
    if not clusters.can_cluster(matrix_PF[drawn]):
        return Outcome(drawn, cluster_SP, is_normal_SP)
    recipe = replace(
        sample.rule.recipe, num_neighbors=cell.num_neighbors, num_components=cell.num_components
    )
    num_near = max(setting.min_samples for setting in sample.settings)
    seed = seed_of(cell, sample.seed)
    embedding = clusters.embed(matrix_PF, drawn, sample.neighbours, recipe, seed, num_near)
    is_coded = people.is_coded.to_numpy(bool)
    # the study's people were enough for groups to decide, and its large groups are so in a sample of it
    share = float(drawn.sum() / fitted.sum())
    min_group_people = max(1, round(share * sample.rule.min_group_people))
    for i, setting in enumerate(sample.settings):
        own = replace(
            recipe,
            min_cluster_share=setting.min_cluster_share,
            min_samples=setting.min_samples,
        )
        rule = replace(sample.rule, recipe=own, min_people=0, min_group_people=min_group_people)
        grouped = group_people(clusters.group(embedding, own), drawn, rule.min_share)
        cluster_SP[i] = np.where(is_coded, grouped.cluster, NOT_CLUSTERED)
        groups = people.assign(cluster=cluster_SP[i].astype(np.int64))
        status, _ = judge_people(groups, usable, drawn, grouped.num_kept, rule)
        is_normal_SP[i, (status == NORMAL).to_numpy()] = 1
        is_normal_SP[i, (status == NOT_NORMAL).to_numpy()] = 0
    return Outcome(drawn, cluster_SP, is_normal_SP)


def draw(cell: Cell, fitted: Bools, seed: int) -> Bools:
    """Who trains this cell: all training people, or those that a bootstrap draws at least once."""
    if cell.kind == SEED:
        return fitted
    rng = rng_of(
        Stream.COHORT_BOOTSTRAP, seed, cell.num_neighbors, cell.num_components, cell.number
    )
    where = np.flatnonzero(fitted)
    drawn = np.zeros_like(fitted)
    drawn[rng.choice(where, len(where))] = True
    return drawn


def seed_of(cell: Cell, seed: int) -> int:
    """UMAP's seed: the study's own for the first of a layout; all others are drawn from it, each its own."""
    if cell.kind == SEED and cell.number == 0:
        return seed
    which = cell.kind == SEED, cell.num_neighbors, cell.num_components, cell.number
    return int_of(Stream.COHORT_MAP, seed, *map(int, which))


def without_umap(sample: Sample, seed: int) -> tuple[npt.NDArray[np.int64], Small, Small]:
    """The same rule on clusters of the Canberra distances themselves: rows of a sample of the training
    people, their groups after the 15 % rule, and who of them is normal (1, 0 or NOT_JUDGED)."""
    _, fitted = can_be_judged(sample.people)
    where = np.flatnonzero(fitted)
    num = min(len(where), clusters.CHECKED_PEOPLE)
    rows = np.sort(rng_of(Stream.COHORT_SAMPLE, seed).choice(where, num, replace=False)).astype(
        np.int64
    )
    labels = clusters.group_by_distance(sample.matrix_PF[rows], sample.rule.recipe)
    renamed = clusters.keep_large(labels, sample.rule.min_share)
    cluster = np.array([renamed[int(label)] for label in labels])
    people = sample.people.iloc[rows].reset_index(drop=True).assign(cluster=cluster)
    everybody = np.ones(num, dtype=bool)
    num_kept = clusters.num_large(labels, sample.rule.min_share)
    status, _ = judge_people(people, everybody, everybody, num_kept, sample.rule)
    is_normal = np.select([status == NORMAL, status == NOT_NORMAL], [1, 0], NOT_JUDGED)
    return rows, cluster.astype(np.int8), is_normal.astype(np.int8)
