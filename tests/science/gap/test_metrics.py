"""Metrics against independent references; corrected ones never under a plain name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from spineage.science.gap.appraise import appraise
from spineage.science.gap.bias import calibration_people, fit_age_bias
from spineage.science.gap.conformal import fit_intervals
from spineage.science.gap.limits import bca_limits, limits_by_person, limits_of_mean
from spineage.science.gap.metrics import (
    CORRECTED,
    bias_by_age,
    corrected_metrics,
    mean_baseline,
    raw_metrics,
)
from tests.science.gap.test_bias import people

ages_and_predictions = st.integers(3, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.floats(18, 90), min_size=n, max_size=n, unique=True),
        st.lists(st.floats(0, 120), min_size=n, max_size=n, unique=True),
    )
)


@settings(max_examples=100, deadline=None)
@given(ages_and_predictions)
def test_metrics_are_those_of_sklearn_and_scipy(drawn):
    age, predicted = np.array(drawn[0]), np.array(drawn[1])
    found = raw_metrics(age, predicted)
    line = stats.linregress(age, predicted)
    assert found["mae_years"] == pytest.approx(reference.mean_absolute_error(age, predicted))
    assert found["rmse_years"] == pytest.approx(reference.root_mean_squared_error(age, predicted))
    assert found["r2"] == pytest.approx(reference.r2_score(age, predicted), rel=1e-6, abs=1e-9)
    assert found["slope"] == pytest.approx(line.slope, rel=1e-6, abs=1e-9)
    assert found["r"] == pytest.approx(line.rvalue, rel=1e-4, abs=1e-6)
    assert found["mean_gap_years"] == pytest.approx(np.mean(predicted - age))
    gap = predicted - age
    if len(np.unique(gap)) > 1:
        assert found["spearman_gap_age"] == pytest.approx(
            stats.spearmanr(gap, age).statistic, abs=1e-9
        )


def test_r2_is_not_r_squared():
    age = np.linspace(30, 80, 50)
    found = raw_metrics(age, 0.2 * age)
    assert found["r"] == pytest.approx(1.0)
    assert found["r2"] < 0


def test_predicting_the_mean_has_r2_zero_and_is_the_baseline():
    age = np.random.default_rng(0).uniform(25, 84, 100)
    found = raw_metrics(age, np.full(100, age.mean()))
    assert found["r2"] == pytest.approx(0.0)
    assert mean_baseline(age, age) == {
        "mean_mae_years": pytest.approx(found["mae_years"]),
        "mean_rmse_years": pytest.approx(found["rmse_years"]),
    }


def test_the_baseline_knows_training_ages_only():
    age = np.array([70.0, 80.0])
    assert mean_baseline(age, np.array([30.0, 50.0]))["mean_mae_years"] == 35.0


def test_one_person_has_an_error_and_no_correlation():
    found = raw_metrics(np.array([50.0]), np.array([53.0]))
    assert found["mae_years"] == 3.0
    assert all(np.isnan(found[name]) for name in ("r2", "r", "slope", "spearman_gap_age"))


@settings(max_examples=50, deadline=None)
@given(ages_and_predictions)
def test_corrected_figures_say_that_they_use_age(drawn):
    age, predicted = np.array(drawn[0]), np.array(drawn[1])
    corrected = corrected_metrics(age, predicted)
    assert all(name.endswith(CORRECTED) for name in corrected)
    assert not set(corrected) & set(raw_metrics(age, predicted))
    assert not set(corrected) & set(mean_baseline(age, age))


def test_correction_flatters_a_bad_model_which_is_why_it_is_no_headline():
    """True R2 0.10: raw 0.1, corrected about 0.9 (Butler 2021; simulated in notes/paper.md)."""
    rng = np.random.default_rng(3)
    age = np.clip(rng.normal(55, 12, 4000), 25, 84)
    predicted = 55 + 0.1 * (age - 55) + rng.normal(0, 12 * np.sqrt(0.1 * 0.9), 4000)
    half = people(age[:2000], predicted[:2000])
    spine_age = fit_age_bias(half, max_degree=1).correct(predicted[2000:], age[2000:])
    assert raw_metrics(age[2000:], predicted[2000:])["r2"] < 0.15
    assert corrected_metrics(age[2000:], spine_age)["r2" + CORRECTED] > 0.85


def test_limits_contain_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(4)
    truth, hits = 4.0 * np.sqrt(2 / np.pi), 0
    for _ in range(60):
        age = rng.uniform(25, 84, 60)
        predicted = age + rng.normal(0, 4, 60)
        limits = limits_by_person(np.arange(60), age, predicted, rng=rng, draws=100)
        low, high = limits["mae_years"]
        hits += low <= truth <= high
    assert 0.83 <= hits / 60 <= 1.0


def test_copies_of_a_person_add_no_certainty():
    rng = np.random.default_rng(5)
    age = rng.uniform(25, 84, 40)
    predicted = age + rng.normal(0, 4, 40)
    once = limits_by_person(np.arange(40), age, predicted, rng=np.random.default_rng(1), draws=500)
    four = limits_by_person(
        np.repeat(np.arange(40), 4), np.repeat(age, 4), np.repeat(predicted, 4),
        rng=np.random.default_rng(1), draws=500,
    )  # fmt: skip
    for name in ("mae_years", "rmse_years", "r2"):
        np.testing.assert_allclose(four[name], once[name])


def coverage_of_mae(num_people: int, limits: Callable[..., tuple[float, float]]) -> float:
    """How often 95 % limits hold the true MAE of normal errors of 5 years, over 2000 samples."""
    rng = np.random.default_rng(0)
    truth, hits = 5 * np.sqrt(2 / np.pi), 0
    for _ in range(2000):
        error = np.abs(rng.normal(0, 5, num_people))
        low, high = limits(error, rng)
        hits += low <= truth <= high
    return hits / 2000


def test_limits_of_eight_people_hold_the_mae_more_often_than_a_percentile_bootstrap() -> None:
    """0.92 against 0.86; of 30 people and more the difference is small."""

    def student(error, rng):
        return limits_of_mean(np.arange(len(error)), error, 0.95)

    def percentile(error, rng):
        means = error[rng.integers(0, len(error), (500, len(error)))].mean(axis=1)
        return tuple(np.quantile(means, [0.025, 0.975]))

    assert coverage_of_mae(8, student) >= 0.91
    assert coverage_of_mae(8, percentile) <= 0.89
    assert coverage_of_mae(60, student) == pytest.approx(0.95, abs=0.02)


def test_limits_of_a_mean_are_students_and_scans_of_a_person_belong_together() -> None:
    values = np.array([3.0, 5.0, 1.0, 8.0])
    low, high = limits_of_mean(np.arange(4), values, 0.95)
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    twice = limits_of_mean(np.repeat(np.arange(4), 2), np.repeat(values, 2), 0.95)
    assert twice == pytest.approx((low, high))
    assert np.isnan(limits_of_mean(np.zeros(3, int), values[:3], 0.95)).all()


def test_bca_limits_are_scipys() -> None:
    rng = np.random.default_rng(3)
    sample = rng.exponential(4, 25)
    reference_limits = stats.bootstrap(
        (sample,), np.std, method="BCa", n_resamples=4000, rng=np.random.default_rng(1)
    )
    drawn = reference_limits.bootstrap_distribution
    left_out = np.array([np.std(np.delete(sample, k)) for k in range(25)])
    found = bca_limits(float(np.std(sample)), drawn, left_out, 0.95)
    assert found == pytest.approx(tuple(reference_limits.confidence_interval), rel=1e-6)


def test_bias_is_reported_for_every_age_bracket_with_people():
    age, predicted = np.array([30.0, 35.0, 70.0]), np.array([40.0, 41.0, 60.0])
    rows = bias_by_age(age, predicted)
    assert [(r["age_from_years"], r["num_scans"], r["mean_gap_years"]) for r in rows] == [
        (0.0, 2.0, 8.0),
        (60.0, 1.0, -10.0),
    ]


def _predictions(rng: np.random.Generator) -> pd.DataFrame:
    parts = []
    for split, n in (("train", 60), ("calibrate", 40), ("test", 50)):
        age = rng.uniform(25, 84, n)
        shrunk = 55 + 0.7 * (age - 55) + rng.normal(0, 0.1 if split == "train" else 4, n)
        parts.append(people(age, shrunk, split))
    ill = people(np.linspace(30, 80, 20), np.full(20, 90.0), "test")
    parts.append(
        ill.assign(
            status="not_normal", person_id=ill.person_id + "ill", scan_id=ill.scan_id + "ill"
        )
    )
    return pd.concat(parts, ignore_index=True)


def _names(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _names(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def test_the_headline_is_raw_of_normal_test_people_beside_its_baseline():
    predictions = _predictions(np.random.default_rng(6))
    ours = calibration_people(predictions)
    bias = fit_age_bias(ours, max_degree=3)
    age, raw = ours.age_years.to_numpy(), ours.predicted_years.to_numpy()
    intervals = fit_intervals(age, raw, coverage=0.9, num_bins=3)
    figures = appraise(predictions, bias, intervals, rng=np.random.default_rng(0))
    test = predictions[(predictions.split == "test") & (predictions.status == "normal")]
    headline = figures["headline"]
    assert headline["num_people"] == 50
    assert headline["mae_years"] == pytest.approx(
        (test.predicted_years - test.age_years).abs().mean()
    )
    low, high = headline["limits_95"]["mae_years"]
    assert low < headline["mae_years"] < high < headline["mean_mae_years"]
    assert not any(name.endswith(CORRECTED) for name in _names(headline))
    corrected = {name for name in figures if name.endswith(CORRECTED)}
    assert corrected == {name + CORRECTED for name in raw_metrics(age, raw)}
    spine_age = bias.correct(test.predicted_years, test.age_years)
    assert figures["mae_years" + CORRECTED] == pytest.approx(
        np.abs(spine_age - test.age_years).mean()
    )
    assert set(figures["raw"]) == {
        "train/normal",
        "calibrate/normal",
        "test/normal",
        "test/not_normal",
    }
    json.dumps(figures, allow_nan=False)


def test_a_study_without_test_people_has_no_headline():
    predictions = _predictions(np.random.default_rng(7))
    predictions = predictions[predictions.split != "test"]
    bias = fit_age_bias(calibration_people(predictions), max_degree=1)
    intervals = fit_intervals(np.arange(20.0), np.arange(20.0) + 1, coverage=0.9, num_bins=1)
    figures = appraise(predictions, bias, intervals, rng=np.random.default_rng(0))
    assert "headline" not in figures
    assert not any(n.endswith(CORRECTED) for n in _names(figures))
