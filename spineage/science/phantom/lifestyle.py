"""What people do, and what it does to their spine: factors with planted effects, and factors with none."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

EFFECTS_YEARS: Mapping[str, float] = {
    "smoking": 3.0,
    "heavy_work": 3.0,
    "bmi": 0.3,
    "exercise": -2.5,
}
"""Years of biological age per step of the factor (`bmi`: per kg/m2)."""

NULL_FACTORS: tuple[str, ...] = ("left_handed", "blood_type_b", "coffee", "height_cm")
"""Recorded like the others, without any effect."""

SHARES: Mapping[str, float] = {
    "smoking": 0.25,
    "heavy_work": 0.3,
    "exercise": 0.4,
    "left_handed": 0.1,
    "blood_type_b": 0.25,
    "coffee": 0.6,
}

BMI_MEAN, BMI_SD = 26.5, 4.0


def draw_factors(rng: np.random.Generator, *, height_cm: float) -> dict[str, float]:
    """One person's factors: 0/1, but for `bmi` (kg/m2) and `height_cm`."""
    factors = {name: float(rng.random() < share) for name, share in SHARES.items()}
    factors["bmi"] = round(float(np.clip(rng.normal(BMI_MEAN, BMI_SD), 17.5, 42.0)), 1)
    factors["height_cm"] = round(height_cm, 1)
    return factors


def gap_from_factors(factors: Mapping[str, float]) -> float:
    """The planted part of the gap in years, 0 on average over people."""
    centre = {**SHARES, "bmi": BMI_MEAN}
    return sum(effect * (factors[name] - centre[name]) for name, effect in EFFECTS_YEARS.items())


def residual_sd(gap_sd_years: float) -> float:
    """SD of the gap that no factor explains, so that the whole gap has `gap_sd_years`."""
    spread = {name: share * (1 - share) for name, share in SHARES.items()} | {"bmi": BMI_SD**2}
    explained = sum(effect**2 * spread[name] for name, effect in EFFECTS_YEARS.items())
    return math.sqrt(gap_sd_years**2 - explained)
