"""The oracle is the best observer there can be: checked against brute force, and against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from spineage.science.phantom import PhantomRecipe, draw_population
from spineage.science.phantom.ageing import AGEING, mean_severity
from spineage.science.phantom.oracle import age_posterior, oracle_years

RECIPE = PhantomRecipe(num_people=400, seed=9, repeat_share=0.0)


@pytest.fixture(scope="module")
def people() -> list:
    return draw_population(RECIPE)


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_the_oracle_equals_brute_force_over_people_drawn_at_random(
    people: list, number: int
) -> None:
    healthy = [e for e in people if e.person.archetype.name == "normal"]
    exam = healthy[number]
    rng = np.random.default_rng(number)
    ages = rng.uniform(RECIPE.age_low_years, RECIPE.age_high_years, 60_000)
    biological = ages + rng.normal(0, RECIPE.gap_sd_years, len(ages))
    log_weights = np.zeros(len(ages))
    for feature in AGEING:
        planted = exam.severities[feature.name]
        mean = mean_severity(feature, biological, exam.person.archetype, exam.person.num_lumbar)
        spread = feature.shared**2 + feature.own**2 * np.eye(len(planted))
        log_weights += multivariate_normal(cov=spread).logpdf(planted - mean)
    weights = np.exp(log_weights - log_weights.max())
    order = np.argsort(ages)
    cumulated = np.cumsum(weights[order]) / weights.sum()
    brute = ages[order][np.searchsorted(cumulated, 0.5)]
    assert oracle_years(exam, RECIPE) == pytest.approx(brute, abs=0.6)


def test_the_oracle_errs_as_much_as_it_expects_to(people: list) -> None:
    errors, expected, inside = [], [], []
    for exam in people:
        ages, posterior = age_posterior(exam, RECIPE)
        errors.append(abs(oracle_years(exam, RECIPE) - exam.age_years))
        expected.append(float(posterior @ np.abs(ages - oracle_years(exam, RECIPE))))
        low, high = np.interp([0.1, 0.9], np.cumsum(posterior), ages)
        inside.append(low <= exam.age_years <= high)
    standard_error = np.std(errors) / np.sqrt(len(errors))
    assert np.mean(errors) == pytest.approx(np.mean(expected), abs=3 * standard_error)
    assert np.mean(inside) == pytest.approx(0.8, abs=0.07)
    assert 3.5 < np.mean(errors) < 5.0


def test_a_harder_population_has_a_worse_oracle_and_the_gap_is_its_floor() -> None:
    def mae(**changes: float) -> float:
        recipe = PhantomRecipe(num_people=150, seed=2, repeat_share=0.0, **changes)
        exams = draw_population(recipe)
        return float(np.mean([abs(oracle_years(e, recipe) - e.age_years) for e in exams]))

    easy, usual, hard = mae(feature_noise=0.0), mae(), mae(feature_noise=4.0)
    assert easy <= usual + 0.15
    assert hard > usual + 0.5
    assert easy > 3.0  # nobody can see the gap
    assert mae(feature_noise=0.0, gap_sd_years=8.0) > easy + 1.0
