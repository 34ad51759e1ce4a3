"""Phantom people of a wanted kind, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spineage.science.phantom import Exam, PhantomRecipe, draw_population
from spineage.science.phantom.ageing import draw_noise, severities
from spineage.science.phantom.lesions import Lesions
from spineage.science.phantom.population import NOISE, Person


def textbook_recipe(**changes: Any) -> PhantomRecipe:
    """Nobody ill, no artefacts, no noise in the anatomy."""
    plain = {
        "num_people": 1, "seed": 5, "feature_noise": 0.0, "pathological_share": 0.0,
        "artefact_share": 0.0, "transitional_share": 0.0, "repeat_share": 0.0,
    }  # fmt: skip
    return PhantomRecipe(**{**plain, **changes})


def one_exam(recipe: PhantomRecipe, number: int = 0) -> Exam:
    return draw_population(recipe)[number]


def aged(exam: Exam, biological_years: float, recipe: PhantomRecipe) -> Exam:
    """The same body at another biological age, without lesions."""
    person: Person = exam.person
    noise = draw_noise(
        recipe.generator(person.number, NOISE), recipe.feature_noise, person.num_lumbar
    )
    planted = severities(biological_years, person.archetype, person.num_lumbar, noise)
    return replace(exam, biological_years=biological_years, severities=planted, lesions=Lesions())
