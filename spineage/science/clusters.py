"""Groups of people with alike findings: Canberra distance, UMAP, HDBSCAN.

The three are the paper's; their parameters are unknown there and are study settings here. Fitted on
training people only; everybody else is placed by `transform` and `approximate_predict`. Letters: P people,
F features, D UMAP dimensions, M of the map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import pairwise_distances
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
CHECKED_PEOPLE = 2000
"""At most so many are clustered by distance: 32 MB of distances."""
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
class Embedding:
    """People as points of a few dimensions: UMAP, fitted. position_PD: of the people it was fitted on."""

    position_PD: Floats
    reducer: umap.UMAP

    def transform(self, matrix_PF: Floats) -> Floats:
        """The points [P, D] of people it was not fitted on."""
        found = [np.empty((0, self.position_PD.shape[1]))]
        with threadpool_limits(1):
            for start in range(0, len(matrix_PF), PLACED_TOGETHER):
                found.append(self.reducer.transform(matrix_PF[start : start + PLACED_TOGETHER]))
        return np.concatenate(found).astype(np.float64)


@dataclass(frozen=True)
class Clusters:
    """A fitted grouping. labels: of the people it was fitted on, NOISE for those of no group.

    map_PD: where they are drawn, the two directions in which the embedding is widest (principal axes). A
    second UMAP of two dimensions would cost as much as the first and show other neighbours than those that
    were clustered.
    """

    labels: Ints
    map_PD: Floats
    embedding: Embedding
    clusterer: hdbscan.HDBSCAN

    def place(self, matrix_PF: Floats) -> tuple[Ints, Floats]:
        """The group (NOISE for those of none) and the map position of people it was not fitted on."""
        position_PD = self.embedding.transform(matrix_PF)
        return self.labels_at(position_PD), _on_map(position_PD, self.embedding.position_PD)

    def labels_at(self, position_PD: Floats) -> Ints:
        """The group of each point of the embedding; NOISE for those of none."""
        import hdbscan

        if not len(position_PD) or self.labels.max() == NOISE:
            return np.full(len(position_PD), NOISE)
        found, _ = hdbscan.approximate_predict(self.clusterer, position_PD)
        return np.asarray(found, dtype=np.int64)


def can_cluster(matrix_PF: Floats) -> bool:
    """Whether there are enough people, and any difference between them."""
    return len(matrix_PF) >= MIN_PEOPLE and len(np.unique(matrix_PF, axis=0)) > 2


def fit(matrix_PF: Floats, recipe: Recipe, seed: int) -> Clusters:
    """Group people by their condition vectors; the same rows and seed give the same bits."""
    return group(embed(matrix_PF, recipe, seed), recipe)


def embed(matrix_PF: Floats, recipe: Recipe, seed: int) -> Embedding:
    """UMAP by Canberra distance.

    No P x P matrix beyond 4096 people (UMAP's own limit for exact neighbours): above it neighbours are
    found by descent. Seeded UMAP is single-threaded; BLAS is too, since its sums depend on the number of
    threads.
    """
    assert can_cluster(matrix_PF)
    import umap  # it and hdbscan take seconds to import: the other stages do not pay

    num_people = len(matrix_PF)
    with threadpool_limits(1):
        reducer = umap.UMAP(
            n_neighbors=min(recipe.num_neighbors, num_people - 1),
            n_components=min(recipe.num_components, num_people - 3),
            min_dist=recipe.min_dist,
            metric="canberra",
            local_connectivity=LOCAL_CONNECTIVITY,
            random_state=seed,
            n_jobs=1,
        ).fit(matrix_PF)
    return Embedding(reducer.embedding_.astype(np.float64), reducer)


def group(embedding: Embedding, recipe: Recipe) -> Clusters:
    """HDBSCAN on the points of an embedding."""
    import hdbscan

    position_PD = embedding.position_PD
    with threadpool_limits(1):
        clusterer = hdbscan.HDBSCAN(
            **_density(recipe, len(position_PD)), approx_min_span_tree=False, prediction_data=True
        ).fit(position_PD)
    labels = clusterer.labels_.astype(np.int64)
    return Clusters(labels, _on_map(position_PD, position_PD), embedding, clusterer)


def group_by_distance(matrix_PF: Floats, recipe: Recipe) -> Ints:
    """HDBSCAN on the Canberra distances themselves: what the clusters are without UMAP.

    Needs the P x P matrix: for a sample of at most CHECKED_PEOPLE.
    """
    import hdbscan

    assert len(matrix_PF) <= CHECKED_PEOPLE
    with threadpool_limits(1):
        distance_PP = pairwise_distances(matrix_PF, metric="canberra", n_jobs=1)
        found = hdbscan.HDBSCAN(metric="precomputed", **_density(recipe, len(matrix_PF))).fit(
            distance_PP
        )
    return np.asarray(found.labels_, dtype=np.int64)


def _density(recipe: Recipe, num_people: int) -> dict[str, Any]:
    return {
        "min_cluster_size": max(5, round(recipe.min_cluster_share * num_people)),
        "min_samples": min(recipe.min_samples, num_people - 1),
        "cluster_selection_method": recipe.selection,
        "core_dist_n_jobs": 1,
    }


def _on_map(position_PD: Floats, fitted_PD: Floats) -> Floats:
    """Points on the two principal axes of the fitted ones; each axis points where it is longest."""
    with threadpool_limits(1):
        centre = fitted_PD.mean(axis=0)
        _, axes = np.linalg.eigh(np.cov(fitted_PD, rowvar=False))
        axes_DM = axes[:, ::-1][:, :MAP_DIMENSIONS]
        longest = np.abs(axes_DM).argmax(axis=0)
        axes_DM = axes_DM * np.sign(axes_DM[longest, range(MAP_DIMENSIONS)])
        return np.asarray((position_PD - centre) @ axes_DM, dtype=np.float64)


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


def num_large(labels_P: Ints, min_share: float) -> int:
    """How many groups the paper's rule keeps."""
    sizes = np.unique(labels_P[labels_P != NOISE], return_counts=True)[1]
    return int((sizes > min_share * len(labels_P)).sum())
