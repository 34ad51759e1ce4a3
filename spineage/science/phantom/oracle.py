"""The ideal observer: what could be known of age by someone who sees the planted anatomy without error.

It knows the severities of every level, how they age, their noise, the diagnosis and the spread of the gap,
but not the age: the best any network can do on these people. Bayes on a grid; the gap is taken as normal.
It is not told the lifestyle; BMI shows in the fat under the skin and would explain a share of the gap.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spineage.science.phantom.ageing import AGEING, ARCHETYPES, archetype_shares, mean_severity
from spineage.science.phantom.population import Exam
from spineage.science.phantom.recipe import PhantomRecipe

Floats = NDArray[np.float64]

STEP_YEARS = 0.25
FLOOR = 0.01
"""Smallest noise assumed, so that a population without noise has an oracle too."""


def oracle_years(exam: Exam, recipe: PhantomRecipe) -> float:
    """The estimate of chronological age with the smallest expected absolute error: the posterior median."""
    ages, posterior = age_posterior(exam, recipe)
    cumulated = np.cumsum(posterior)
    return float(np.interp(0.5, cumulated - posterior / 2, ages))


def age_posterior(exam: Exam, recipe: PhantomRecipe) -> tuple[Floats, Floats]:
    """Ages [N] and the probability of each given the anatomy; before, all of the recipe's are as likely."""
    ages, biological, prior = _prior(recipe)
    log_likelihood = anatomy_log_likelihood(exam, biological, recipe.feature_noise)
    likelihood = np.exp(log_likelihood - log_likelihood.max())
    posterior = prior[ARCHETYPES.index(exam.person.archetype)] @ likelihood
    return ages, posterior / posterior.sum()


@lru_cache(maxsize=4)
def _prior(recipe: PhantomRecipe) -> tuple[Floats, Floats, Floats]:
    """Ages [N], biological ages [B], and the weight [archetype, N, B] of each pair for each diagnosis."""
    low, high = recipe.age_low_years, recipe.age_high_years
    reach = 5 * recipe.gap_sd_years
    biological = np.arange(low - reach, high + reach, STEP_YEARS)
    ages = np.arange(low, high + STEP_YEARS / 2, STEP_YEARS)
    gaps = biological[None, :] - ages[:, None]
    spread = np.exp(-0.5 * (gaps / recipe.gap_sd_years) ** 2)
    shares = np.array([archetype_shares(recipe.pathological_share, age) for age in ages])
    return ages, biological, shares.T[:, :, None] * spread


def anatomy_log_likelihood(exam: Exam, biological_years: Floats, feature_noise: float) -> Floats:
    """Log density of the planted severities at each biological age [B], up to a constant.

    The noise of L levels has covariance shared^2 J + own^2 I, whose inverse is known in closed form
    (Sherman-Morrison).
    """
    total = np.zeros(len(biological_years))
    for feature in AGEING:
        planted = exam.severities[feature.name]
        mean = mean_severity(
            feature, biological_years, exam.person.archetype, exam.person.num_lumbar
        )
        shared = max(feature.shared * feature_noise, FLOOR) ** 2
        own = max(feature.own * feature_noise, FLOOR) ** 2
        rest = planted - mean
        common = shared / (own + len(planted) * shared) * rest.sum(axis=1) ** 2
        total -= 0.5 * ((rest**2).sum(axis=1) - common) / own
    return total
