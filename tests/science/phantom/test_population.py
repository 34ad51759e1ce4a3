"""The population: planted effects are there, null effects are not, everything follows from the seed."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest

from spineage.errors import BadStudy
from spineage.science.phantom import PhantomRecipe, draw_population
from spineage.science.phantom.ageing import AGEING, mean_severity
from spineage.science.phantom.lifestyle import EFFECTS_YEARS, NULL_FACTORS
from tests.made.phantom_people import one_exam, textbook_recipe

MANY = PhantomRecipe(num_people=2000, seed=17, repeat_share=0.0)


@pytest.fixture(scope="module")
def many() -> list:
    return draw_population(MANY)


def test_the_same_recipe_draws_the_same_people_and_another_seed_others() -> None:
    recipe = PhantomRecipe(num_people=12, seed=4)
    first, again = draw_population(recipe), draw_population(recipe)
    other = draw_population(PhantomRecipe(num_people=12, seed=5))
    assert [asdict(e.person) for e in first] == [asdict(e.person) for e in again]
    assert [e.scanner for e in first] == [e.scanner for e in again]
    assert all(np.array_equal(a.severities["bulge"], b.severities["bulge"])
               for a, b in zip(first, again, strict=True))  # fmt: skip
    assert [e.age_years for e in first] != [e.age_years for e in other]
    assert recipe.digest != PhantomRecipe(num_people=12, seed=5).digest


def test_planted_effects_are_recovered_from_the_gaps_and_null_factors_have_none(many: list) -> None:
    names = [*EFFECTS_YEARS, *NULL_FACTORS]
    factors = np.array([[e.person.factors[n] for n in names] for e in many])
    design = np.column_stack([np.ones(len(many)), factors])
    gaps = np.array([e.person.gap_years for e in many])
    coefficients, squares, *_ = np.linalg.lstsq(design, gaps, rcond=None)
    variance = squares[0] / (len(many) - design.shape[1])
    errors = np.sqrt(variance * np.diag(np.linalg.inv(design.T @ design)))
    planted = np.array([EFFECTS_YEARS.get(n, 0.0) for n in names])
    z = (coefficients[1:] - planted) / errors[1:]
    assert np.abs(z).max() < 3.5, dict(zip(names, z.round(1), strict=True))
    assert errors[1] < 0.35  # precise enough to have failed


def test_the_gap_has_the_spread_asked_for_and_no_mean(many: list) -> None:
    gaps = np.array([e.person.gap_years for e in many])
    assert abs(gaps.mean()) < 4 * MANY.gap_sd_years / np.sqrt(len(gaps))
    assert gaps.std() == pytest.approx(MANY.gap_sd_years, rel=0.05)


def test_ages_fill_the_range_evenly_and_follow_from_the_dates(many: list) -> None:
    ages = np.array([e.age_years for e in many])
    assert ages.min() + 0.01 >= 25
    assert ages.max() <= 84.01
    counts, _ = np.histogram(ages, bins=5, range=(25, 84))
    assert counts.min() > 0.85 * len(ages) / 5
    exam = many[0]
    assert exam.age_years == (exam.study_date - exam.birth_date).days / 365.25


def test_the_anatomy_ages_with_biological_age_not_with_the_birthday(many: list) -> None:
    healthy = [e for e in many if e.person.archetype.name == "normal"]
    biological = np.array([e.biological_years for e in healthy])
    gaps = np.array([e.person.gap_years for e in healthy])
    ages = np.array([e.age_years for e in healthy])
    for feature in ("nucleus", "height", "marrow"):
        severity = np.array([e.severities[feature].mean() for e in healthy])
        assert np.corrcoef(severity, biological)[0, 1] > 0.9
        left_over = severity - np.polyval(np.polyfit(ages, severity, 3), ages)
        assert np.corrcoef(left_over, gaps)[0, 1] > 0.5


def test_without_noise_the_anatomy_is_exactly_what_the_biological_age_says() -> None:
    exam = one_exam(textbook_recipe())
    for feature in AGEING:
        at = np.array(exam.biological_years)
        expected = mean_severity(feature, at, exam.person.archetype, exam.person.num_lumbar)
        assert np.array_equal(exam.severities[feature.name], expected)


def test_the_asked_share_of_people_comes_twice_the_same_day_or_years_later() -> None:
    exams = draw_population(PhantomRecipe(num_people=40, seed=3, repeat_share=0.2))
    assert [e.index for e in exams] == list(range(48))
    repeats = [e for e in exams if e.repeat_of is not None]
    assert len(repeats) == 8
    same_day = 0
    for second in repeats:
        first = exams[second.repeat_of]
        assert second.person == first.person
        years = second.age_years - first.age_years
        assert years == 0 or 1.9 < years < 6.1
        assert second.biological_years - first.biological_years == pytest.approx(years)
        assert second.scanner.seed != first.scanner.seed
        same_day += years == 0
    assert same_day == 4


def test_the_shares_of_the_ill_and_of_transitional_anatomy_are_those_asked_for(many: list) -> None:
    ill = np.mean([e.person.archetype.name != "normal" for e in many])
    transitional = np.mean([e.person.anatomy != "regular" for e in many])
    assert ill == pytest.approx(0.25, abs=0.03)
    assert transitional == pytest.approx(0.04, abs=0.015)
    brittle = [e.age_years for e in many if e.person.archetype.name == "osteoporotic"]
    assert min(brittle) >= 50


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_people": 0}, "at least 1"),
        ({"in_plane_mm": 5.0}, "0.5-2 mm"),
        ({"num_slices": 3}, "7-31"),
        ({"age_low_years": 60.0, "age_high_years": 30.0}, "increasing"),
        ({"gap_sd_years": 1.0}, "at least 3"),
        ({"repeat_share": 1.5}, "0-1"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused_with_a_reason(change: dict, words: str) -> None:
    with pytest.raises(BadStudy, match=words):
        PhantomRecipe(**change)
