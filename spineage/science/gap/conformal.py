"""How far the truth may lie from a raw prediction: split conformal intervals, one width per range of
predictions.

The interval is of the *chronological* age a person may have, given the raw prediction: prediction +-
half-width. Bins are ranges of the raw prediction and not of age, because age may be unknown when the
interval is needed. One width for everybody over-covers the young and under-covers the old (Mondrian
conformal prediction: Vovk, Lindsay, Nouretdinov & Gammerman 2003; split conformal: Lei et al. 2018,
doi:10.1080/01621459.2017.1307116).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Intervals:
    """Half-widths by bin of the raw prediction.

    edges_years: the inner edges, rising, one fewer than there are bins; the outer bins are open.
    coverage: what the intervals promise for a new person from the population of the calibration people.
    num_people: calibration people in each bin.
    """

    edges_years: tuple[float, ...]
    half_width_years: tuple[float, ...]
    num_people: tuple[int, ...]
    coverage: float

    def around(self, predicted_years: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Lower and upper limit of chronological age for each raw prediction."""
        predicted = np.asarray(predicted_years, dtype=np.float64)
        which = np.searchsorted(np.asarray(self.edges_years), predicted, side="right")
        half = np.asarray(self.half_width_years)[which]
        return predicted - half, predicted + half


def fewest_people(coverage: float) -> int:
    """People a bin needs so that the promised rank exists among them: (1 - a) / a rounded up, a = 1 -
    coverage."""
    return math.ceil(coverage / (1.0 - coverage) - 1e-9)


def fit_intervals(
    age_years: Floats, predicted_years: Floats, *, coverage: float, num_bins: int
) -> Intervals:
    """Split conformal intervals from people held out of training, one scan a person.

    Bins hold equally many people, and there are as many as `num_bins` if each has `fewest_people`, else
    fewer: a bin that is too small for finite-sample validity is merged. The inner edges are predictions
    of calibration people, who then belong to no bin: given the edges the others are exchangeable with a
    new person of their bin, so the promise holds within each bin exactly. With fewer people than one bin
    needs, the largest error is the half-width and the promise is lowered to n / (n + 1), which is all
    that n people can promise.
    """
    assert 0 < coverage < 1
    assert num_bins >= 1
    assert len(age_years) == len(predicted_years) >= 2
    error = np.abs(age_years - predicted_years)
    num_people = len(error)
    needed = fewest_people(coverage)
    if num_people < needed:
        coverage = num_people / (num_people + 1)
    bins = max(1, min(num_bins, (num_people + 1) // (needed + 1)))
    order = np.argsort(predicted_years, kind="stable")
    edge_ranks = [round(k * (num_people + 1) / bins) - 1 for k in range(1, bins)]
    starts, stops = [0, *(rank + 1 for rank in edge_ranks)], [*edge_ranks, num_people]
    members = [order[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return Intervals(
        edges_years=tuple(float(predicted_years[order[rank]]) for rank in edge_ranks),
        half_width_years=tuple(conformal_quantile(error[m], coverage) for m in members),
        num_people=tuple(len(m) for m in members),
        coverage=coverage,
    )


def conformal_quantile(error_years: Floats, coverage: float) -> float:
    """The ceil((n + 1) coverage)-th smallest error: covers a new one with at least this probability."""
    rank = math.ceil((len(error_years) + 1) * coverage - 1e-9)
    assert 1 <= rank <= len(error_years), "too few people for this coverage"
    return float(np.sort(error_years)[rank - 1])


def coverage_and_width(
    intervals: Intervals, age_years: Floats, predicted_years: Floats
) -> dict[str, float]:
    """Share of people whose age lies within their interval, and the mean full width in years."""
    low, high = intervals.around(predicted_years)
    return {
        "coverage": float(np.mean((low <= age_years) & (age_years <= high))),
        "width_years": float(np.mean(high - low)),
    }
