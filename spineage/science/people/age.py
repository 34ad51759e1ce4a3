"""Chronological age at the exam, from whichever source gives it; every source is remembered.

Precedence: participants table (curated by the study), then PatientAge (written at the exam), then study
date minus birth date (often shifted or blanked when data are de-identified).
"""

from __future__ import annotations

import re
from typing import Final

MAX_AGE_YEARS: Final = 120.0
YEARS_OF: Final = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}
DISPUTED: Final = ", disputed"
DISPUTE_YEARS: Final = 1.0  # PatientAge counts whole years, so sources may differ by just under one


def in_tenths(years: float) -> float:
    """An age as it is kept: to a tenth of a year, so that no day of birth can be found from it."""
    return round(years, 1)


def is_withheld(*ages_years: float | None, most: int | None) -> bool:
    """Whether any of the ages is above the most that the study shows.

    Such an age is treated as unknown, not set to the limit: a gap to a false age would be false. 89.9 is 89.
    """
    return most is not None and any(years is not None and years >= most + 1 for years in ages_years)


def age_from_text(text: str) -> float | None:
    """A DICOM age string (`045Y`, `018M`, `003W`, `010D`; PS3.5 6.2) in years, None when it is not one.

    Zero of any unit is taken as absent: scanners write `000Y` for phantoms and unknown birth dates.
    `45Y` without the padding is read, since nothing else can be meant; `0Y` is zero and absent.
    """
    found = re.fullmatch(r"(\d{1,3})([DWMY])", text.strip().upper())
    if not found or int(found[1]) == 0:
        return None
    years = in_tenths(int(found[1]) * YEARS_OF[found[2]])
    return years if years <= MAX_AGE_YEARS else None


def age_between(birth_day: int | None, study_day: int | None) -> float | None:
    """Tenths of years between two days (proleptic ordinals), None when unknown, equal or impossible.

    Equal dates are those of a de-identified header, not of a scan on the day of birth.
    """
    if birth_day is None or study_day is None:
        return None
    years = in_tenths((study_day - birth_day) / 365.25)
    return years if 0 < years <= MAX_AGE_YEARS else None


def settle_age(
    participants: float | None, patient_age: float | None, dates: float | None
) -> tuple[float | None, str]:
    """The age and where it is from; `, disputed` is added when another source differs by over a year."""
    sources = {"participants": participants, "PatientAge": patient_age, "dates": dates}
    known = {name: years for name, years in sources.items() if years is not None}
    if not known:
        return None, ""
    name, years = next(iter(known.items()))
    slack = DISPUTE_YEARS + 1e-6
    is_disputed = any(abs(other - years) > slack for other in known.values())
    return years, f"{name}{DISPUTED}" if is_disputed else name
