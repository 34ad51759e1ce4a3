"""Phantom people of a wanted kind, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.io.people.tables import read_codebook
from spineage.science.cohort.coding import REMARKS, code
from spineage.science.cohort.conditions import Feature, aligned
from spineage.science.cohort.splits import draw_splits
from spineage.science.phantom import Exam, PhantomRecipe, draw_population
from spineage.science.phantom.ageing import draw_noise, severities
from spineage.science.phantom.findings import read_findings
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


def coded_population(
    num_people: int, seed: int
) -> tuple[pd.DataFrame, npt.NDArray[np.float64], tuple[Feature, ...]]:
    """Phantom people as for cohort.decide (one exam each, the study's default splits), with their archetype;
    their condition vectors, from what a reader found; and the features of those."""
    recipe = PhantomRecipe(num_people=num_people, seed=seed, repeat_share=0.0)
    exams, book = draw_population(recipe), read_codebook()[0]
    names = [exam.person.code for exam in exams]
    rows = [
        (name, name, found.finding, found.level, "", found.severity)
        for name, exam in zip(names, exams, strict=True)
        for found in read_findings(exam, recipe)
    ]
    columns = ["person_id", "exam_id", "finding", "level", "side", "severity"]
    coded, missed = code(pd.DataFrame(rows, columns=columns).assign(row=0), book)
    assert {term["column"] for term in missed} <= set(REMARKS)
    people = pd.DataFrame(
        {
            "person_id": names,
            "exam_id": names,
            "age_years": [exam.age_years for exam in exams],
            "sex": [exam.person.sex for exam in exams],
            "site": [exam.person.site for exam in exams],
            "archetype": [exam.person.archetype.name for exam in exams],
        }
    )
    matrix, about = aligned(people, coded, len(book.features))
    shares = {"train": 0.55, "validate": 0.1, "calibrate": 0.15, "test": 0.2}
    people["split"] = people.person_id.map(draw_splits(people, shares, seed))
    return pd.concat([people, about], axis=1), matrix, book.features
