"""Groups of people with alike findings: Canberra distance, UMAP, HDBSCAN.

The three are the paper's; their parameters are unknown there and are study settings here. Fitted on
training people only; everybody else is placed by `transform` and `approximate_predict`. Letters: P people,
F features, D UMAP dimensions.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

if TYPE_CHECKING:
    import hdbscan
    import umap

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

NOISE = -1
MIN_PEOPLE = 15
"""Fewer people, or fewer different ones than this many neighbourhoods need, show no density to cluster
by."""
MAP_DIMENSIONS = 2
MAP_MIN_DIST = 0.1
LOCAL_CONNECTIVITY = 1 + 1e-6
"""UMAP's default is 1, and fitting gives the same bits. But with 1 umap-learn 0.5.12's transform asks for the
nearest person who is not alike of somebody whose neighbours are all alike, finds none, reads past the end of
an empty array, and answers NaN whenever NaN lies there (3 of 30 processes, 2026-11-23)."""
PLACED_TOGETHER = 2000
"""People placed at a time: memory is this many x the people fitted, or x 4096 at most."""


@dataclass(frozen=True)
class Recipe:
    """Parameters of UMAP and HDBSCAN; see study.Cohort for the reason of each."""

    num_neighbors: int
    num_components: int
    min_dist: float
    min_cluster_share: float
    min_samples: int
    selection: str


@dataclass(frozen=True)
class Clusters:
    """A fitted grouping. labels: of the people it was fitted on, NOISE for those of no group."""

    labels: Ints
    map_PD: Floats
    reducer: umap.UMAP
    mapper: umap.UMAP
    clusterer: hdbscan.HDBSCAN

    def place(self, matrix_PF: Floats) -> tuple[Ints, Floats]:
        """The group (NOISE for those of none) and the map position of people it was not fitted on."""
        labels, positions = [np.empty(0, dtype=np.int64)], [np.empty((0, MAP_DIMENSIONS))]
        for start in range(0, len(matrix_PF), PLACED_TOGETHER):
            labels_P, map_PD = self._place(matrix_PF[start : start + PLACED_TOGETHER])
            labels.append(labels_P)
            positions.append(map_PD)
        return np.concatenate(labels), np.concatenate(positions)

    def _place(self, matrix_PF: Floats) -> tuple[Ints, Floats]:
        import hdbscan

        with threadpool_limits(1):
            found = np.full(len(matrix_PF), NOISE)
            if self.labels.max() > NOISE:
                position_PD = self.reducer.transform(matrix_PF)
                found, _ = hdbscan.approximate_predict(self.clusterer, position_PD)
            position = self.mapper.transform(matrix_PF)
        return found.astype(np.int64), position.astype(np.float64)


def can_cluster(matrix_PF: Floats) -> bool:
    """Whether there are enough people, and any difference between them."""
    return len(matrix_PF) >= MIN_PEOPLE and len(np.unique(matrix_PF, axis=0)) > 2


def fit(matrix_PF: Floats, recipe: Recipe, seed: int) -> Clusters:
    """Group people by their condition vectors; the same rows and seed give the same bits.

    No P x P matrix beyond 4096 people (UMAP's own limit for exact neighbours): above it neighbours are
    found by descent. Seeded UMAP is single-threaded; BLAS is too, since its sums depend on the number of
    threads.
    """
    assert can_cluster(matrix_PF)
    import hdbscan  # it and umap take seconds to import: the other stages do not pay
    import umap

    num_people = len(matrix_PF)
    layout = functools.partial(
        umap.UMAP,
        n_neighbors=min(recipe.num_neighbors, num_people - 1),
        metric="canberra",
        local_connectivity=LOCAL_CONNECTIVITY,
        random_state=seed,
        n_jobs=1,
    )
    with threadpool_limits(1):
        reducer = layout(
            n_components=min(recipe.num_components, num_people - 3), min_dist=recipe.min_dist
        ).fit(matrix_PF)
        mapper = layout(n_components=MAP_DIMENSIONS, min_dist=MAP_MIN_DIST).fit(matrix_PF)
        clusterer = hdbscan.HDBSCAN(
            min_cluster_size=max(5, round(recipe.min_cluster_share * num_people)),
            min_samples=min(recipe.min_samples, num_people - 1),
            cluster_selection_method=recipe.selection,
            approx_min_span_tree=False,
            prediction_data=True,
            core_dist_n_jobs=1,
        ).fit(reducer.embedding_.astype(np.float64))
    return Clusters(
        clusterer.labels_.astype(np.int64),
        mapper.embedding_.astype(np.float64),
        reducer,
        mapper,
        clusterer,
    )


def keep_large(labels_P: Ints, min_share: float) -> dict[int, int]:
    """The paper's rule: groups above a share of the people are kept, the rest become one.

    Returns the new label of each old one: 0, 1, ... from the largest kept group down, then one for all
    small groups together. Noise stays noise; it counts as people when shares are taken.
    """
    found, sizes = np.unique(labels_P[labels_P != NOISE], return_counts=True)
    kept = [
        int(label)
        for size, label in sorted(zip(-sizes, found, strict=True))
        if -size > min_share * len(labels_P)
    ]
    merged = {int(label): len(kept) for label in found if int(label) not in kept}
    return {NOISE: NOISE, **{label: i for i, label in enumerate(kept)}, **merged}
