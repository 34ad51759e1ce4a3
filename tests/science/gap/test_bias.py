"""The age-bias correction, against independent references."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st

from spineage.errors import BadStudy
from spineage.science.gap.bias import (
    MIN_PEOPLE_FOR_DEGREE,
    AgeBias,
    _left_out_errors,
    calibration_people,
    choose_degree,
    fit_age_bias,
)


def people(age: np.ndarray, predicted: np.ndarray, split: str = "calibrate") -> pd.DataFrame:
    n = len(age)
    return pd.DataFrame(
        {
            "scan_id": [f"{split}{i:05d}" for i in range(n)],
            "person_id": [f"{split}-person{i}" for i in range(n)],
            "split": split,
            "status": "normal",
            "age_years": age,
            "predicted_years": predicted,
        }
    )


def shrunk(
    rng: np.random.Generator, n: int, slope: float = 0.7, noise: float = 4.0, curve: float = 0.0
):
    """Ages, and predictions that are pulled towards 55."""
    age = rng.uniform(25, 84, n)
    centred = age - 55
    return age, 55 + slope * centred + curve * centred**2 + rng.normal(0, noise, n)


def test_the_line_is_that_of_beheshti_and_of_numpy():
    age, predicted = shrunk(np.random.default_rng(1), 300)
    bias = fit_age_bias(people(age, predicted), max_degree=1)
    slope, intercept = np.polyfit(age, predicted - age, 1)
    at = np.array([30.0, 55.0, 80.0])
    assert bias.degree == 1
    np.testing.assert_allclose(
        bias.correct([40.0, 50.0, 60.0], at), [40, 50, 60] - (slope * at + intercept)
    )


def test_the_covariance_is_that_of_ordinary_least_squares():
    age, predicted = shrunk(np.random.default_rng(2), 200, curve=0.01)
    bias = fit_age_bias(people(age, predicted), max_degree=3)
    design = np.vander(age - bias.centre_years, bias.degree + 1, increasing=True)
    reference = sm.OLS(predicted - age, design).fit()
    np.testing.assert_allclose(bias.coefficients, reference.params, rtol=1e-6)
    np.testing.assert_allclose(bias.covariance, reference.cov_params(), rtol=1e-6)
    np.testing.assert_allclose(
        bias.se_years(age[:5]), reference.get_prediction(design[:5]).se_mean, rtol=1e-6
    )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(8, 120), slope=st.floats(0.1, 1.1))
def test_corrected_gaps_of_the_fitted_people_have_no_mean_and_no_correlation_with_age(
    seed, n, slope
):
    """Treder et al. 2021's constraint, imposed afterwards."""
    age, predicted = shrunk(np.random.default_rng(seed), n, slope)
    bias = fit_age_bias(people(age, predicted), max_degree=3)
    gap = bias.correct(predicted, age) - age
    assert abs(gap.mean()) < 1e-8
    assert abs(np.corrcoef(gap, age)[0, 1]) < 1e-8


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_left_out_errors_are_those_of_fitting_again_without_each_person(degree):
    age, predicted = shrunk(np.random.default_rng(3), 25, curve=0.01)
    gap = predicted - age
    again = [
        gap[i] - np.polyval(np.polyfit(np.delete(age, i), np.delete(gap, i), degree), age[i])
        for i in range(25)
    ]
    np.testing.assert_allclose(_left_out_errors(age, gap, degree), again, rtol=1e-6)


def test_few_people_get_no_more_than_they_can_carry():
    rng = np.random.default_rng(4)
    for n, highest in ((2, 0), (7, 0), (8, 1), (29, 1), (30, 2), (59, 2), (60, 3)):
        age, predicted = shrunk(rng, n, curve=0.03, noise=0.1)
        assert choose_degree(age, predicted - age, max_degree=3) <= highest
    assert MIN_PEOPLE_FOR_DEGREE == (2, 8, 30, 60)


def test_a_plain_line_is_preferred_and_a_real_curve_is_found():
    rng = np.random.default_rng(5)
    lines, curves = [], []
    for _ in range(60):
        age, predicted = shrunk(rng, 300)
        lines.append(choose_degree(age, predicted - age, max_degree=3))
        age, predicted = shrunk(rng, 300, curve=0.008)
        curves.append(choose_degree(age, predicted - age, max_degree=3))
    assert np.mean(np.array(lines) == 1) >= 0.75
    assert np.mean(np.array(curves) >= 2) >= 0.95


def test_the_study_can_forbid_a_slope():
    age, predicted = shrunk(np.random.default_rng(6), 100)
    assert fit_age_bias(people(age, predicted), max_degree=0).degree == 0


def test_a_wrong_correction_is_as_uncertain_far_from_the_mean_age_as_repeating_the_fit_shows():
    rng = np.random.default_rng(7)
    at_85, claimed = [], []
    for _ in range(400):
        age, predicted = shrunk(rng, 40)
        bias = fit_age_bias(people(age, predicted), max_degree=1)
        at_85.append(float(bias.bias_years(85.0)))
        claimed.append(float(bias.se_years(85.0)))
    assert np.mean(claimed) == pytest.approx(np.std(at_85), rel=0.12)


def test_people_of_the_calibration_split_only_and_each_once():
    age, predicted = shrunk(np.random.default_rng(8), 20)
    ours = people(age, predicted)
    repeated = pd.concat([ours, ours.head(5).assign(scan_id=[f"again{i}" for i in range(5)])])
    overfitted = people(age, age, "train")
    abnormal = people(age, predicted + 30, "calibrate").assign(
        status="not_normal", person_id=[f"ill{i}" for i in range(20)]
    )
    test = people(age, predicted, "test")
    chosen = calibration_people(
        pd.concat([overfitted, repeated, abnormal, test], ignore_index=True)
    )
    assert sorted(chosen.person_id) == sorted(ours.person_id)
    assert set(chosen.split) == {"calibrate"}
    assert set(chosen.status) == {"normal"}


def test_somebody_the_network_was_trained_on_cannot_calibrate_it():
    age, predicted = shrunk(np.random.default_rng(9), 20)
    ours = people(age, predicted)
    leaked = people(age, age, "train").assign(person_id=ours.person_id)
    with pytest.raises(BadStudy, match="20 people are both"):
        calibration_people(pd.concat([ours, leaked]))
    with pytest.raises(AssertionError):
        fit_age_bias(people(age, age, "train"), max_degree=1)


def test_nobody_to_calibrate_on_is_a_study_mistake():
    age, predicted = shrunk(np.random.default_rng(10), 20)
    with pytest.raises(BadStudy, match=r"cohort\.calibrate"):
        calibration_people(people(age, predicted, "test"))


def test_overfitted_training_predictions_would_leave_the_bias_where_it_is():
    """Why held-out people: notes say r(gap, age) stays near -0.44 else."""
    rng = np.random.default_rng(11)
    age, predicted = shrunk(rng, 400)
    test_age, test_predicted = shrunk(rng, 400)
    trained_age = rng.uniform(25, 84, 400)
    trained = people(trained_age, trained_age + rng.normal(0, 0.5, 400))

    def left(held_out: pd.DataFrame) -> float:
        bias = fit_age_bias(held_out, max_degree=1)
        return float(np.corrcoef(bias.correct(test_predicted, test_age) - test_age, test_age)[0, 1])

    assert abs(left(people(age, predicted))) < 0.12
    assert left(trained) < -0.6  # the mistake, dressed up as calibration people


def test_ages_outside_the_fitted_people_are_known():
    bias = AgeBias((0.0,), ((1.0,),), 50.0, 10, 30.0, 70.0)
    assert bias.covers(30.0)
    assert bias.covers(70.0)
    assert not bias.covers(29.9)
    assert not bias.covers(70.1)
