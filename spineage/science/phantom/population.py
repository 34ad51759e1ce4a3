"""Who is in the population: people, their exams, their scanners. All of it planted, all of it recorded.

Each person is drawn from their own random streams, so one exam can be made without the others.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spineage.science.phantom.ageing import (
    ARCHETYPES,
    Archetype,
    Severities,
    archetype_shares,
    draw_noise,
    severities,
)
from spineage.science.phantom.lesions import Lesions, draw_lesions
from spineage.science.phantom.lifestyle import draw_factors, gap_from_factors, residual_sd
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.scanner import Scanner, draw_scanner

WHO, NOISE, BODY, VISIT, PIXELS, LESIONS = range(1, 7)
"""Purposes of the random streams: (person, purpose[, visit])."""

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class Build:
    """The lasting shape of one person's spine; factors are around 1, shifts around 0."""

    size: float
    lordosis: float
    kyphosis: float
    neck: float
    canal: float
    disc: float
    depth: float
    scoliosis_mm: float
    conus: float  # level of the conus: 0 at T12/L1, 1 at L1/2
    fat_mm: float  # subcutaneous fat at the lumbar spine


@dataclass(frozen=True)
class Person:
    """One phantom person; `code` is the PatientID."""

    number: int
    code: str
    sex: str
    site: str
    factors: Mapping[str, float]
    gap_years: float
    archetype: Archetype
    anatomy: str
    num_lumbar: int
    build: Build


@dataclass(frozen=True)
class Exam:
    """One visit to a scanner. `index` is its place in the population."""

    index: int
    person: Person
    visit: int
    birth_date: datetime.date
    study_date: datetime.date
    age_years: float
    biological_years: float
    severities: Severities
    lesions: Lesions
    scanner: Scanner
    repeat_of: int | None  # index of the exam it repeats


def draw_population(recipe: PhantomRecipe) -> list[Exam]:
    """Every exam of the population; a person's exams follow each other."""
    order = recipe.generator(0, 0).permutation(recipe.num_people)
    again = order[: round(recipe.num_people * recipe.repeat_share)]
    longitudinal = frozenset(again[::2].tolist())
    same_day = frozenset(again[1::2].tolist())
    exams: list[Exam] = []
    for number in range(recipe.num_people):
        exams += _exams_of(recipe, number, number in longitudinal, number in same_day, len(exams))
    return exams


def _exams_of(
    recipe: PhantomRecipe, number: int, is_longitudinal: bool, is_same_day: bool, index: int
) -> list[Exam]:
    rng = recipe.generator(number, WHO)
    wanted_years = rng.uniform(recipe.age_low_years, recipe.age_high_years)
    study_date = datetime.date(2015, 1, 5) + datetime.timedelta(days=int(rng.integers(0, 2800)))
    birth_date = study_date - datetime.timedelta(days=round(wanted_years * DAYS_PER_YEAR))
    age_years = (study_date - birth_date).days / DAYS_PER_YEAR
    person = _draw_person(recipe, rng, number, age_years)
    dates = [study_date]
    if is_longitudinal:
        dates.append(study_date + datetime.timedelta(days=int(rng.integers(730, 2200))))
    elif is_same_day:
        dates.append(study_date)
    return [
        _draw_exam(recipe, person, visit, birth_date, date, index)
        for visit, date in enumerate(dates)
    ]


def _draw_person(
    recipe: PhantomRecipe, rng: np.random.Generator, number: int, age_years: float
) -> Person:
    sex = "F" if rng.random() < 0.5 else "M"
    size = float(np.clip(rng.normal(0.0, 0.03), -0.06, 0.06))
    height_cm = (164.0 if sex == "F" else 177.0) * (1 + 0.9 * size) + rng.normal(0, 2.5)
    factors = draw_factors(rng, height_cm=height_cm)
    residual = rng.normal(0.0, residual_sd(recipe.gap_sd_years))
    shares = archetype_shares(recipe.pathological_share, age_years)
    archetype = ARCHETYPES[int(rng.choice(len(ARCHETYPES), p=shares))]
    anatomy, num_lumbar = "regular", 5
    if rng.random() < recipe.transitional_share:
        anatomy, num_lumbar = ("L4 last", 4) if rng.random() < 0.5 else ("L6 present", 6)
    build = _draw_build(recipe.generator(number, BODY), sex, size, factors["bmi"])
    return Person(
        number=number,
        code=f"P{number + 1:05d}",
        sex=sex,
        site=("harbour", "hill", "meadow")[int(rng.choice(3, p=(0.45, 0.35, 0.2)))],
        factors=factors,
        gap_years=gap_from_factors(factors) + float(residual),
        archetype=archetype,
        anatomy=anatomy,
        num_lumbar=num_lumbar,
        build=build,
    )


def _draw_build(rng: np.random.Generator, sex: str, size: float, bmi: float) -> Build:
    def around(mean: float, sd: float) -> float:
        return mean + sd * float(np.clip(rng.standard_normal(), -2.2, 2.2))

    return Build(
        size=(0.865 if sex == "F" else 0.92) * (1 + size),
        lordosis=around(1.0, 0.13) * (1.05 if sex == "F" else 0.97),
        kyphosis=around(1.0, 0.13),
        neck=around(1.0, 0.45),
        canal=around(1.0, 0.05),
        disc=around(1.0, 0.03),
        depth=around(0.97 if sex == "F" else 1.03, 0.03),
        scoliosis_mm=around(0.0, 1.6),
        conus=around(0.5, 0.35),
        fat_mm=max(6.0, 12.0 + 1.5 * (bmi - 24.0) + around(3.0 if sex == "F" else 0.0, 2.5)),
    )


def _draw_exam(
    recipe: PhantomRecipe,
    person: Person,
    visit: int,
    birth_date: datetime.date,
    study_date: datetime.date,
    first_index: int,
) -> Exam:
    age_years = (study_date - birth_date).days / DAYS_PER_YEAR
    biological_years = age_years + person.gap_years
    noise = draw_noise(
        recipe.generator(person.number, NOISE), recipe.feature_noise, person.num_lumbar
    )
    planted = severities(biological_years, person.archetype, person.num_lumbar, noise)
    return Exam(
        index=first_index + visit,
        person=person,
        visit=visit,
        birth_date=birth_date,
        study_date=study_date,
        age_years=age_years,
        biological_years=biological_years,
        severities=planted,
        lesions=draw_lesions(recipe.generator(person.number, LESIONS), planted, person.archetype),
        scanner=draw_scanner(
            recipe.generator(person.number, VISIT, visit), person.site, recipe.artefact_share
        ),
        repeat_of=first_index if visit else None,
    )
