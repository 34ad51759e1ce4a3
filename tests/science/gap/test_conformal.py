"""Intervals keep their promise, overall and within each bin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineage.science.gap.conformal import (
    conformal_quantile,
    coverage_and_width,
    fewest_people,
    fit_intervals,
)


def draw(rng: np.random.Generator, n: int, fan: float = 0.0):
    """Ages and predictions whose error grows with age when fan > 0."""
    predicted = rng.uniform(25, 84, n)
    age = predicted + rng.normal(0, 1, n) * (4 + fan * (predicted - 25))
    return age, predicted


def average_coverage(n: int, *, coverage: float, num_bins: int, fan: float = 0.0) -> np.ndarray:
    """Coverage of new people, overall and by third of the prediction, over many calibrations."""
    rng = np.random.default_rng(n)
    seen = []
    for _ in range(1500):
        intervals = fit_intervals(*draw(rng, n, fan), coverage=coverage, num_bins=num_bins)
        age, predicted = draw(rng, 300, fan)
        low, high = intervals.around(predicted)
        inside = (low <= age) & (age <= high)
        thirds = np.digitize(predicted, [44.7, 64.3])
        seen.append([inside.mean(), *(inside[thirds == k].mean() for k in range(3))])
    return np.mean(seen, axis=0)


@pytest.mark.parametrize(("n", "bins"), [(9, 3), (20, 3), (40, 3), (150, 3)])
def test_coverage_holds_at_any_size(n, bins):
    """At least 0.9 and at most 0.9 + 1 / (people in the bin + 1); 0.008 is three Monte-Carlo errors."""
    overall = average_coverage(n, coverage=0.9, num_bins=bins)[0]
    people = fit_intervals(
        *draw(np.random.default_rng(0), n), coverage=0.9, num_bins=bins
    ).num_people
    assert 0.9 - 0.008 <= overall <= 0.9 + 1 / (min(people) + 1) + 0.008


def test_one_width_for_all_fails_the_old_and_bins_do_not():
    plain = average_coverage(200, coverage=0.9, num_bins=1, fan=0.15)
    binned = average_coverage(200, coverage=0.9, num_bins=3, fan=0.15)
    assert plain[1] > 0.97
    assert plain[3] < 0.83
    assert all(0.87 < share < 0.94 for share in binned[1:])


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(2, 200),
    coverage=st.sampled_from([0.5, 0.8, 0.9, 0.95]),
    bins=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
def test_every_bin_is_large_enough_for_the_promise(n, coverage, bins, seed):
    age, predicted = draw(np.random.default_rng(seed), n)
    intervals = fit_intervals(age, predicted, coverage=coverage, num_bins=bins)
    assert (
        len(intervals.half_width_years)
        == len(intervals.num_people)
        == len(intervals.edges_years) + 1
        <= bins
    )
    assert list(intervals.edges_years) == sorted(intervals.edges_years)
    assert all(np.isfinite(intervals.half_width_years))
    assert sum(intervals.num_people) + len(intervals.edges_years) == n
    assert all(people >= fewest_people(intervals.coverage) for people in intervals.num_people)
    if n >= fewest_people(coverage):
        assert intervals.coverage == coverage
    else:
        assert intervals.coverage == pytest.approx(n / (n + 1))
        assert intervals.coverage < coverage


def test_too_few_people_lower_the_promise_and_say_so():
    age, predicted = draw(np.random.default_rng(0), 5)
    intervals = fit_intervals(age, predicted, coverage=0.9, num_bins=3)
    assert intervals.coverage == pytest.approx(5 / 6)
    assert intervals.half_width_years == (pytest.approx(np.abs(age - predicted).max()),)


def test_bins_are_those_of_the_people_in_them():
    age, predicted = draw(np.random.default_rng(1), 100)
    intervals = fit_intervals(age, predicted, coverage=0.9, num_bins=3)
    which = np.searchsorted(intervals.edges_years, predicted, side="right")
    on_edge = np.isin(predicted, intervals.edges_years)
    for k, half in enumerate(intervals.half_width_years):
        errors = np.abs(age - predicted)[(which == k) & ~on_edge]
        assert half == conformal_quantile(errors, 0.9)
        assert len(errors) == intervals.num_people[k]


@pytest.mark.parametrize(
    ("coverage", "people"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99)]
)
def test_the_fewest_people_are_the_first_for_which_the_rank_exists(coverage, people):
    assert fewest_people(coverage) == people
    assert conformal_quantile(np.arange(1.0, people + 1), coverage) == people


def test_the_rank_is_that_of_the_formula():
    errors = np.random.default_rng(2).permutation(np.arange(1.0, 100.0))  # 1..99
    assert conformal_quantile(errors, 0.9) == 90  # ceil(100 * 0.9), not interpolated


def test_coverage_and_width_are_counted_in_years():
    intervals = fit_intervals(np.arange(20.0) + 5, np.arange(20.0), coverage=0.9, num_bins=1)
    figures = coverage_and_width(intervals, np.array([0.0, 100.0]), np.array([4.0, 40.0]))
    assert figures == {"coverage": 0.5, "width_years": 10.0}
