"""From a raw prediction to what a person is told: spine age, gap (SAG), interval, flags, or a refusal.

SAG = spine age - chronological age; positive is older-looking. The raw prediction stays beside it, always.
Letters: F penultimate features of the network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from spineage.errors import BadScan, BadStudy
from spineage.science.gap.bias import AgeBias
from spineage.science.gap.conformal import Intervals
from spineage.science.network.network import SpineAgeNet, predict

Floats = npt.NDArray[np.float64]

DOMAINS = ("phantom", "mixed", "real")
SELF_TEST_TOLERANCE_YEARS = 0.05
"""Convolutions add in another order on another machine (about 1e-4 years) or in TF32 (about 1e-2)."""


@dataclass(frozen=True)
class Familiarity:
    """What training scans look like to the network, and how far from them is too far.

    mean_F, precision_FF: of the penultimate features; limit: the Mahalanobis distance that is refused.
    """

    mean_F: Floats
    precision_FF: Floats
    limit: float

    def distance(self, features_F: npt.ArrayLike) -> float:
        """Mahalanobis distance as a share of the limit: above 1 is refused."""
        return (
            mahalanobis(np.asarray(features_F, np.float64), self.mean_F, self.precision_FF)
            / self.limit
        )


def mahalanobis(features_F: Floats, mean_F: Floats, precision_FF: Floats) -> float:
    """sqrt((f - m)' P (f - m)); infinite when a feature is not a number."""
    away_F = features_F - mean_F
    if not np.isfinite(away_F).all():
        return float("inf")
    return math.sqrt(max(float(away_F @ precision_FF @ away_F), 0.0))


def domain_of(is_phantom: npt.ArrayLike) -> str:
    """What a model was trained on: phantom, real, or mixed."""
    share = float(np.mean(np.asarray(is_phantom, dtype=bool)))
    return "phantom" if share == 1.0 else "real" if share == 0.0 else "mixed"


def refuse_unfamiliar(
    *, distance: float, domain: str, is_phantom: bool, predicted_years: float
) -> None:
    """Raise BadScan `outside_model` for a scan the model cannot answer for.

    A model trained on phantoms hands no real person an age, however plausible it looks.
    """
    assert domain in DOMAINS
    if domain == "phantom" and not is_phantom:
        raise BadScan(
            "outside_model",
            "the scan is of a person and the model was trained on phantoms only: train on people of your own",
        )
    if not distance <= 1.0:
        raise BadScan(
            "outside_model",
            f"the scan lies {distance:.1f} times the allowed distance from the training scans: another "
            "protocol, another anatomy or a failed segmentation; look at its mask",
        )
    if not np.isfinite(predicted_years):
        raise BadScan("outside_model", "the network's answer is not a number")


def score_one(
    predicted_years: float, age_years: float | None, *, bias: AgeBias, intervals: Intervals
) -> dict[str, Any]:
    """The age columns of a scores row.

    Without an age there is no correction and no gap: they are None, and the raw prediction with its
    interval remains. The standard error is that of the correction only, shared by everybody of that age.
    """
    low, high = intervals.around(predicted_years)
    row: dict[str, Any] = {
        "predicted_years": float(predicted_years),
        "interval_low_years": float(low),
        "interval_high_years": float(high),
        "spine_age_years": None,
        "sag_years": None,
        "correction_se_years": None,
    }
    if age_years is not None:
        spine_age = float(bias.correct(predicted_years, age_years))
        row["spine_age_years"] = spine_age
        row["sag_years"] = spine_age - age_years
        row["correction_se_years"] = float(bias.se_years(age_years))
    return row


def flags_of(
    *, age_years: float | None, bias: AgeBias, role: str, num_discs_inferred: int, numbering: str
) -> list[str]:
    """What a reader of this score must know, in a fixed order."""
    is_outside = age_years is not None and not bias.covers(age_years)
    raised = {
        "age_outside_range": is_outside,
        "no_age": age_years is None,
        "trained_on": role == "train",
        "discs_inferred": num_discs_inferred > 0,
        "transitional": numbering != "regular",
    }
    return [flag for flag, is_raised in raised.items() if is_raised]


def self_test_tensor(shape_RAS: tuple[int, int, int]) -> torch.Tensor:
    """A smooth pattern in 0-1 that is the same everywhere and uses no random numbers: [1, 1, R, A, S]."""
    axes = [torch.arange(n, dtype=torch.float64) for n in shape_RAS]
    R, A, S = torch.meshgrid(*axes, indexing="ij")
    pattern = torch.sin(0.7 * R) * torch.cos(0.11 * A) * torch.sin(0.05 * S + 0.3)
    return ((pattern + 1) / 2).to(torch.float32)[None, None]


def self_test(model: SpineAgeNet, shape_RAS: tuple[int, int, int]) -> float:
    """What a network in evaluation mode says of `self_test_tensor`, in years."""
    years, _ = predict(model, self_test_tensor(shape_RAS))
    return float(years[0])


def require_self_test(found_years: float, expected_years: float) -> None:
    """Raise BadStudy when the network does not answer here as it did where it was published."""
    if not abs(found_years - expected_years) <= SELF_TEST_TOLERANCE_YEARS:
        raise BadStudy(
            f"the model answers its self-test with {found_years:.3f} years, with {expected_years:.3f} when "
            f"it was published; they may differ by {SELF_TEST_TOLERANCE_YEARS}: this device or version of "
            "torch computes otherwise"
        )
