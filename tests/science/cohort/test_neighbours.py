"""Neighbours are exact, the same whatever sorts them, and a bootstrap's are those of the whole sample."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import pairwise_distances
from umap.umap_ import fuzzy_simplicial_set

from spineage.science.cohort import neighbours
from spineage.science.cohort.neighbours import (
    HALVES,
    SCALE,
    Block,
    canberra,
    canberra_of_halves,
    enough_for,
    find_neighbours,
    has_halves,
    nearest_of_block,
)

Floats = npt.NDArray[np.float64]


def severities(num_people: int, seed: int = 0) -> Floats:
    """Few and coarse findings: many people are equally near, some are alike."""
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random((num_people, 12)) < 0.3, rng.choice([1.0, 2.0, 3.0], (num_people, 12)), 0
    )


def by_hand(matrix: Floats, fitted: npt.NDArray[np.bool_], num: int) -> list[list[int]]:
    """Everything sorted in plain Python: by distance, then by who comes next on the ring."""
    distance = pairwise_distances(matrix, metric="canberra").astype(np.float32)
    return [
        sorted(np.flatnonzero(fitted), key=lambda j: (distance[i, j], (j - i) % len(matrix)))[:num]
        for i in range(len(matrix))
    ]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(2, 60), st.integers(1, 20))
def test_the_nearest_are_the_nearest_and_ties_go_round_the_ring(
    seed: int, num_people: int, num: int
) -> None:
    matrix = severities(num_people, seed)
    fitted = np.random.default_rng(seed).random(num_people) < 0.7
    fitted[0] = True
    found = find_neighbours(matrix, fitted, num)
    assert found.index_PK.tolist() == by_hand(matrix, fitted, num)
    assert (np.diff(found.distance_PK, axis=1) >= 0).all()


@pytest.mark.parametrize("step", [0.5, 0.3], ids=["halves", "others"])
def test_distances_are_scipys_and_those_of_halves_are_exact(step: float) -> None:
    rng = np.random.default_rng(0)
    matrix = np.where(rng.random((80, 215)) < 0.2, step * rng.integers(1, 7, (80, 215)), 0)
    assert has_halves(matrix) == (step == 0.5)
    distances = canberra_of_halves if step == 0.5 else canberra
    found = distances(matrix[:30], matrix)
    assert found == pytest.approx(cdist(matrix[:30], matrix, "canberra"), rel=1e-6, abs=1e-6)
    if step == 0.5:
        others = rng.permutation(215)
        assert np.array_equal(found, distances(matrix[:30, others], matrix[:, others]))


def test_a_term_of_any_two_severities_is_whole() -> None:
    u, v = np.meshgrid(HALVES, HALVES)
    terms = SCALE * np.abs(u - v) / (u + v)
    assert np.abs(terms - np.rint(terms)).max() < 1e-9


def test_a_training_person_is_nearest_to_themself_and_the_alike_have_no_hub() -> None:
    matrix = np.zeros((50, 3))
    found = find_neighbours(matrix, np.ones(50, dtype=bool), 5)
    assert found.index_PK[:, 0].tolist() == list(range(50))
    assert np.bincount(found.index_PK.ravel(), minlength=50).tolist() == [5] * 50


@pytest.mark.parametrize("num_found", [60, 12])
def test_neighbours_of_a_bootstrap_are_those_of_the_people_it_drew(num_found: int) -> None:
    """Twelve are too few for some people: theirs are found anew."""
    matrix = severities(90)
    fitted = np.arange(90) % 3 > 0
    drawn = fitted & (np.random.default_rng(1).random(90) < 0.6)
    shared = find_neighbours(matrix, fitted, num_found)
    is_short = drawn[shared.index_PK].sum(axis=1) < 10
    assert is_short.any() == (num_found == 12)
    place, distance = shared.among(drawn, 10, matrix)
    anew = find_neighbours(matrix, drawn, 10)
    assert np.array_equal(np.flatnonzero(drawn)[place], anew.index_PK)
    assert np.array_equal(distance, anew.distance_PK)


def test_few_people_have_fewer_neighbours() -> None:
    found = find_neighbours(severities(6), np.arange(6) < 4, 15)
    assert found.index_PK.shape == (6, 4)
    assert found.among(np.arange(6) < 2, 15, severities(6))[0].shape == (6, 2)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, fitted = severities(70), np.arange(70) % 2 == 0
    whole = find_neighbours(matrix, fitted, 9)
    monkeypatch.setattr(neighbours, "BLOCK_PAIRS", 35 * 8)
    again = find_neighbours(matrix, fitted, 9)
    assert np.array_equal(whole.index_PK, again.index_PK)
    index, distance = nearest_of_block(Block(10, 20), (matrix, fitted, 9))
    assert np.array_equal(index, whole.index_PK[10:20])
    assert np.array_equal(distance, whole.distance_PK[10:20])


def test_a_bootstrap_keeps_enough_neighbours_but_for_one_person_in_a_million() -> None:
    rng = np.random.default_rng(0)
    num = enough_for(30)
    kept = rng.binomial(num - 1, 1 - np.exp(-1), 1_000_000)
    assert (kept < 29).sum() <= 10
    assert num < 3 * 30


def test_umap_makes_of_our_neighbours_the_graph_it_makes_of_all_distances() -> None:
    """Where nobody is equally near to two people."""
    matrix = np.random.default_rng(0).uniform(0.5, 3, (60, 12))
    found = find_neighbours(matrix, np.ones(60, dtype=bool), 15)
    distance = pairwise_distances(matrix, metric="canberra").astype(np.float32)
    state = np.random.RandomState(0)
    theirs = fuzzy_simplicial_set(distance, 15, state, "precomputed")[0]
    ours = fuzzy_simplicial_set(
        matrix, 15, state, "canberra", knn_indices=found.index_PK, knn_dists=found.distance_PK
    )[0]
    assert ours.toarray() == pytest.approx(theirs.toarray(), abs=1e-5)
