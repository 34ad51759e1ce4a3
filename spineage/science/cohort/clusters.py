"""Groups of people with alike findings: Canberra distance, UMAP, HDBSCAN.

The three are the paper's; their parameters are unknown there and are study settings here. Fitted on
training people only. Everybody else belongs to the group of most of their nearest training people: UMAP's
own `transform` lays people of small cohorts beside the dense groups, and HDBSCAN then calls them noise far
more often than those it was fitted on. Letters: P people, F features, K neighbours, D people drawn, E
dimensions of the embedding, M of the map.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import pairwise_distances
from threadpoolctl import threadpool_limits

from spineage.science.cohort.neighbours import Neighbours

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

NOISE = -1
MIN_PEOPLE = 15
"""Fewer people, or fewer different ones than this many neighbourhoods need, show no density to cluster
by."""
MAP_DIMENSIONS = 2
CHECKED_PEOPLE = 2000
"""At most so many are clustered by distance: 32 MB of distances."""


@dataclass(frozen=True)
class ClusterRecipe:
    """Parameters of UMAP and HDBSCAN; see study.Cohort for the reason of each."""

    num_neighbors: int
    num_components: int
    min_dist: float
    min_cluster_share: float
    min_samples: int
    selection: str


@dataclass(frozen=True)
class Embedding:
    """People as points of a few dimensions: UMAP of those drawn.

    near_PK: of each person the nearest of those drawn, by their place among them, the nearest first.
    """

    is_drawn_P: Bools
    position_DE: Floats
    near_PK: npt.NDArray[np.int32]


@dataclass(frozen=True)
class Clusters:
    """A grouping of everybody. labels_P: NOISE for those of no group.

    map_PM: where they are drawn, the two directions in which the embedding is widest (principal axes), and
    for people it was not fitted on the middle of their neighbours. A second UMAP of two dimensions would cost
    as much as the first and show other neighbours than those that were clustered.
    """

    labels_P: Ints
    map_PM: Floats


def can_cluster(matrix_PF: Floats) -> bool:
    """Whether there are enough people, and any difference between them."""
    return len(matrix_PF) >= MIN_PEOPLE and len(np.unique(matrix_PF, axis=0)) > 2


def fit(
    matrix_PF: Floats, drawn: Bools, neighbours: Neighbours, recipe: ClusterRecipe, seed: int
) -> Clusters:
    """Group people by their condition vectors; the same rows and seed give the same bits."""
    return group(embed(matrix_PF, drawn, neighbours, recipe, seed), recipe)


def embed(
    matrix_PF: Floats,
    drawn: Bools,
    neighbours: Neighbours,
    recipe: ClusterRecipe,
    seed: int,
    num_near: int = 0,
) -> Embedding:
    """UMAP of those drawn, from their exact neighbours.

    num_near: how many neighbours to keep for placing people, when that is more than the recipe asks for.
    Seeded UMAP is single-threaded; BLAS is too, since its sums depend on the number of threads. It starts
    from principal components, which serve as well as its spectral start (Kobak & Linderman 2021,
    doi:10.1038/s41587-020-00809-z): that one asks ARPACK, which draws a fresh random vector, without a seed,
    where people hang together in several parts.
    """
    assert can_cluster(matrix_PF[drawn])
    import umap  # it and hdbscan take seconds to import: the other stages do not pay

    num_people = int(drawn.sum())
    num_neighbors = min(recipe.num_neighbors, num_people - 1)
    num_near = min(max(recipe.num_neighbors, recipe.min_samples, num_near), num_people - 1)
    near_PK, distance_PK = neighbours.among(drawn, num_near, matrix_PF)
    index, distance = (a[drawn][:, :num_neighbors] for a in (near_PK, distance_PK))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"precomputed_knn\[2\]")  # an index for transform
        reducer = umap.UMAP(
            n_neighbors=num_neighbors,
            n_components=min(recipe.num_components, num_people - 3),
            min_dist=recipe.min_dist,
            metric="canberra",
            init="pca",
            precomputed_knn=(index, distance),
            random_state=seed,
            n_jobs=1,
        ).fit(matrix_PF[drawn])
    return Embedding(drawn, reducer.embedding_.astype(np.float64), near_PK)


def group(embedding: Embedding, recipe: ClusterRecipe) -> Clusters:
    """HDBSCAN on the points of an embedding, and everybody else placed by their neighbours."""
    import hdbscan

    drawn, position_DE = embedding.is_drawn_P, embedding.position_DE
    with threadpool_limits(1):
        clusterer = hdbscan.HDBSCAN(
            **density_of(recipe, len(position_DE)), approx_min_span_tree=False
        ).fit(position_DE)
    labels_D = clusterer.labels_.astype(np.int64)
    map_DM = _on_map(position_DE)
    num_asked = min(recipe.min_samples, embedding.near_PK.shape[1])
    labels_P = _most_common(labels_D[embedding.near_PK[:, :num_asked]])
    map_PM = map_DM[embedding.near_PK[:, : recipe.num_neighbors]].mean(axis=1)
    labels_P[drawn], map_PM[drawn] = labels_D, map_DM
    return Clusters(labels_P, map_PM)


def _most_common(labels_PK: Ints) -> Ints:
    """The label that most of K have; of two that are as common the one that comes first in the row."""
    votes_PK = (labels_PK[:, :, None] == labels_PK[:, None, :]).sum(axis=2)
    first_P = (votes_PK == votes_PK.max(axis=1, keepdims=True)).argmax(axis=1)
    return np.asarray(labels_PK[np.arange(len(labels_PK)), first_P], dtype=np.int64)


def group_by_distance(matrix_PF: Floats, recipe: ClusterRecipe) -> Ints:
    """HDBSCAN on the Canberra distances themselves: what the clusters are without UMAP.

    Needs the P x P matrix: for a sample of at most CHECKED_PEOPLE.
    """
    import hdbscan

    assert len(matrix_PF) <= CHECKED_PEOPLE
    with threadpool_limits(1):
        distance_PP = pairwise_distances(matrix_PF, metric="canberra", n_jobs=1)
        found = hdbscan.HDBSCAN(metric="precomputed", **density_of(recipe, len(matrix_PF))).fit(
            distance_PP
        )
    return np.asarray(found.labels_, dtype=np.int64)


def density_of(recipe: ClusterRecipe, num_people: int) -> dict[str, Any]:
    """What HDBSCAN is asked for: a group has five people at least, whatever the share."""
    return {
        "min_cluster_size": max(5, round(recipe.min_cluster_share * num_people)),
        "min_samples": min(recipe.min_samples, num_people - 1),
        "cluster_selection_method": recipe.selection,
        "core_dist_n_jobs": 1,
    }


def _on_map(position_DE: Floats) -> Floats:
    """Points on their two principal axes; each axis points where it is longest."""
    with threadpool_limits(1):
        _, axes = np.linalg.eigh(np.cov(position_DE, rowvar=False))
        axes_EM = axes[:, ::-1][:, :MAP_DIMENSIONS]
        longest = np.abs(axes_EM).argmax(axis=0)
        axes_EM = axes_EM * np.sign(axes_EM[longest, range(MAP_DIMENSIONS)])
        return np.asarray((position_DE - position_DE.mean(axis=0)) @ axes_EM, dtype=np.float64)


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
