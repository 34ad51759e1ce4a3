"""Is an id one person's? Headers that give it two sexes or two birth dates say that it may be two people's,
and so does a BIDS label (`sub-01`) that two data sets have, since it is unique within one.

Then nobody can tell whose picture is whose: the series are refused, until somebody has corrected the id or
decided by hand. O beside F or M is no contradiction, since scanners write it for unknown; nor is 1 January
beside another day of the same year, which stands for the year where dates were coarsened. Where birth dates
were removed, ages stand in for them: from one exam to the next a person ages as the calendar does. A header
whose own age and dates differ allows both, as nobody can tell which is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from spineage.science.people.age import DISPUTED, settle_age
from spineage.science.scan.accept import Series
from spineage.science.scan.series import About, Header

MAX_SPREAD_YEARS: Final = 2.2
"""Of birth as ages give it: one for the fraction that whole years leave out, one for carelessness or a birth
date that stands for its year, and a little since ages are kept to a tenth."""
OLDEST_TOLD: Final = 89
"""From it on ages may stand for all higher ones."""
MAX_FOLLOWED_YEARS: Final = 25.0
"""Between two ages of one person where a day is missing: nobody is scanned over a longer time."""

Births = tuple[tuple[float, float], ...]
"""The births that one header allows, each from the earliest to the latest, in years of the person's own
calendar."""


def find_doubtful(headers: Iterable[Header], *, labels_hold_everywhere: bool) -> dict[str, str]:
    """What contradicts itself, by person_id, in words: "two sexes", ...; only where something does.

    labels_hold_everywhere: a label of several data sets is one person's.
    """
    sexes: dict[str, set[str]] = {}
    born: dict[str, set[tuple[str, str]]] = {}
    births: dict[str, set[Births]] = {}
    ages: dict[str, set[tuple[float, bool]]] = {}
    labels: dict[str, set[str]] = {}
    for about in (header.about for header in headers):
        person = about.person_id
        if about.sex in ("F", "M"):
            sexes.setdefault(person, set()).add(about.sex)
        if about.label_of and not labels_hold_everywhere:
            labels.setdefault(person, set()).add(about.label_of)
        if about.born:
            born.setdefault(person, set()).add(about.born)
        births.setdefault(person, set()).add(_births(about))
        age_years = about.age_years or about.age_by_dates_years
        if age_years is not None:
            ages.setdefault(person, set()).add((age_years, about.study_day is not None))
    return _in_words(
        {
            "two sexes": {p for p, values in sexes.items() if len(values) > 1},
            "two data sets": {p for p, values in labels.items() if len(values) > 1},
            "two birth dates": {p for p, values in born.items() if _contradict(values)},
            "ages that no one person has": {
                p
                for p in births
                if not _is_one_birth(births[p]) or _are_far_apart(ages.get(p, set()))
            },
        }
    )


def _contradict(born: set[tuple[str, str]]) -> bool:
    years, days = {year for year, _ in born}, {day for _, day in born if day}
    return len(years) > 1 or len(days) > 1


def _births(about: About) -> Births:
    """One for each source of the age; () where the age or the day is unknown."""
    if about.study_day is None:
        return ()
    day_years = about.study_day / 365.25
    ages = (about.age_by_dates_years, about.age_years)
    return tuple(
        (day_years - age if age < OLDEST_TOLD else -math.inf, day_years - min(age, OLDEST_TOLD))
        for age in ages
        if age is not None
    )


def _is_one_birth(by_exam: set[Births]) -> bool:
    """Whether some birth, give or take, is allowed by every header that allows only some."""
    exams = [births for births in by_exam if births]
    latest = sorted({late for births in exams for _, late in births})
    return not exams or any(
        all(
            any(early <= low + MAX_SPREAD_YEARS and low <= late for early, late in births)
            for births in exams
        )
        for low in latest
    )


def _are_far_apart(ages: set[tuple[float, bool]]) -> bool:
    """Whether an age without a day is further from another than anybody is followed.

    ages: each age, and whether it has a day.
    """
    undated = [years for years, has_day in ages if not has_day]
    return any(abs(years - other) > MAX_FOLLOWED_YEARS for years in undated for other, _ in ages)


def _in_words(people: Mapping[str, set[str]]) -> dict[str, str]:
    everyone = set().union(*people.values())
    return {p: " and ".join(what for what, some in people.items() if p in some) for p in everyone}


def refuse_doubtful(series: Series, doubtful: dict[str, str]) -> Series:
    """The series as judged, but refused as two_people when its person's id may be two people's."""
    what = doubtful.get(series.view.first.about.person_id)
    if what is None or series.code:
        return series
    message = f"the files under this person's id give {what}: correct the id, or accept it by hand"
    return replace(series, code="two_people", message=message)


def gives_other_age(about: About, age_years: float | None) -> bool:
    """Whether the participants table's age is over a year from the header's."""
    _, source = settle_age(age_years, about.age_years, about.age_by_dates_years)
    return age_years is not None and source.endswith(DISPUTED)


def gives_other_sex(about: About, sex: str | None) -> bool:
    """Whether a header's sex and the participants table's contradict each other."""
    return {about.sex, sex} == {"F", "M"}
