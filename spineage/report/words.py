"""Numbers as the report prints them: a unit, a sign where it matters, a dash where there is none."""

from __future__ import annotations

import math
from collections.abc import Sequence

DASH = "–"

PHANTOM_WORDS = (
    "Synthetic phantom population, not people. Every scan here was computed; nothing in this "
    "report is a result about human spines."
)
MIXED_WORDS = (
    "{num} of the {total} scans are synthetic phantoms, not people: figures below mix both."
)
DISCLAIMER = (
    "Research output. Not a medical device and not a diagnosis; it must not guide the care of "
    "any person. A spine age gap describes a picture, not a cause."
)

COLOPHON = (
    "Made by spineage from the tables of this study. Persons, exams and scans are named by keyed "
    "hashes only."
)


def phantom_words(num_phantoms: int, total: int) -> str:
    """What the banner says when any scan is a phantom."""
    return (
        PHANTOM_WORDS
        if num_phantoms == total
        else MIXED_WORDS.format(num=num_phantoms, total=total)
    )


def years(value: float | None, digits: int = 1) -> str:
    """`12.3 y`, or a dash when there is no number."""
    return DASH if _is_none(value) else f"{value:.{digits}f}\u00a0y"


def signed_years(value: float | None, digits: int = 1) -> str:
    """`+2.1 y` or `−0.4 y` with a true minus sign."""
    return DASH if _is_none(value) else f"{value:+.{digits}f}\u00a0y".replace("-", "−")


def number(value: float | None, digits: int = 2) -> str:
    """A bare number, or a dash."""
    if _is_none(value):
        return DASH
    text = f"{value:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.removeprefix("-")


def percent(share: float | None) -> str:
    """`12 %`, or a dash."""
    return DASH if _is_none(share) else f"{100 * float(share or 0):.0f} %"


def limits(low_high: Sequence[float], digits: int = 2) -> str:
    """`3.1 to 4.2`."""
    return f"{number(low_high[0], digits)} to {number(low_high[1], digits)}"


def counted(num: int, one: str, many: str = "") -> str:
    """`1 scan`, `2 scans`, `3,000 people`."""
    return f"{num:,} {one if num == 1 else many or one + 's'}"


def readable(name: str) -> str:
    """A column's or code's name in words."""
    return name.replace("_", " ")


def _is_none(value: float | None) -> bool:
    return value is None or not math.isfinite(value)
