"""What the many draws of a cohort say together: probabilities, consensus, and how far the clusters agree.

ARI and AMI compare the groups of neighbouring seeds (the last with the first) on the people both clustered;
Jaccard follows one group of the study through the bootstraps, as Hennig's clusterboot does
(doi:10.1016/j.csda.2006.11.025): under 0.6 it should not be trusted, from 0.75 it is stable.
Letters: P people, S settings of HDBSCAN.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from spineage.science.cohort.stability import (
    BOOTSTRAP,
    NOT_JUDGED,
    SEED,
    Cell,
    DrawGrid,
    Outcome,
    Small,
)
from spineage.science.cohort.status import NORMAL, NOT_CLUSTERED, NOT_NORMAL, UNCERTAIN, UNKNOWN

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CONFIDENCE = 0.99
"""Of the interval in which a probability has settled."""
MIN_JUDGED = 0.5
"""Of the draws that had clusters: who is judged in fewer is known in too few to be called anything."""


@dataclass(frozen=True)
class Agreement:
    """normal_probability: share of the draws that judged a person, NaN for who was judged in too few.

    rows: one a grid cell. jaccard: by cluster of the study, mean of its best match over bootstraps, by grid
    cell.
    """

    normal_probability_P: Floats
    num_draws: int
    num_not_clustered: int
    rows: list[dict[str, Any]]
    jaccard: dict[int, list[float]]


class Tally:
    """Has everybody's probability settled? What each draw says of a person, over its settings, is one vote.

    A probability has settled when its 99 % interval (Wilson 1927, doi:10.1080/01621459.1927.10502953) reaches
    over neither limit, so that more draws would give the same status, or to at most `within` on either side.
    Every draw of every layout has people and a seed of its own, so that votes are independent; that they are
    spread evenly over layouts, seeds and bootstraps makes the interval rather too wide. It is looked at after
    each of `num_looks` rounds, and widened for it (Bonferroni).
    """

    def __init__(self, usable: Bools, num_looks: int) -> None:
        self._usable, self._num_draws = usable, 0
        self._sum_P, self._num_P = np.zeros(len(usable)), np.zeros(len(usable))
        self._z = float(stats.norm.ppf(1 - (1 - CONFIDENCE) / 2 / num_looks))

    def add(self, outcome: Outcome) -> None:
        """One draw."""
        num_judged = (outcome.is_normal_SP != NOT_JUDGED).sum(axis=0)
        num_normal = (outcome.is_normal_SP == 1).sum(axis=0)
        self.add_votes(np.where(num_judged > 0, num_normal / np.maximum(num_judged, 1), np.nan))

    def add_votes(self, share_P: Floats) -> None:
        """What one draw says of each person; NaN of whom it does not judge."""
        self._sum_P += np.nan_to_num(share_P)
        self._num_P += np.isfinite(share_P)
        self._num_draws += 1

    def num_unsettled(self, normal_at: float, not_normal_at: float, within: float) -> int:
        """How many of the usable people have not settled; nobody counts who is judged too seldom to be called
        anything."""
        judged = self._usable & (self._num_P > 0) & (self._num_P >= MIN_JUDGED * self._num_draws)
        num, share, z = self._num_P[judged], self._sum_P[judged] / self._num_P[judged], self._z
        scale = 1 + z**2 / num
        middle = (share + z**2 / (2 * num)) / scale
        half = z * np.sqrt(share * (1 - share) / num + (z / (2 * num)) ** 2) / scale
        limits = np.array([normal_at, not_normal_at])[:, None]
        is_decided = (np.abs(middle - limits) > half).all(axis=0)
        return int((~is_decided & (half > within)).sum())


def agree(
    grid: DrawGrid,
    draws: list[tuple[str, int]],
    outcomes: Iterable[tuple[Cell, Outcome]],
    reference_P: Ints,
) -> Agreement:
    """Read the cells of these draws, in the order of the grid, and keep only sums and the labels of one
    layout's seeds.

    reference_P: the study's own groups.
    """
    num_people, settings = len(reference_P), grid.settings
    num_normal, num_judged = np.zeros(num_people, np.int64), np.zeros(num_people, np.int64)
    rows: list[dict[str, Any]] = []
    num_draws = num_missed = 0
    kept = sorted({int(c) for c in reference_P if c >= 0})
    jaccard: dict[int, list[float]] = {cluster: [] for cluster in kept}
    layout: list[tuple[Cell, Outcome]] = []
    for cell, outcome in outcomes:
        num_normal += (outcome.is_normal_SP == 1).sum(axis=0)
        num_judged += (outcome.is_normal_SP != NOT_JUDGED).sum(axis=0)
        num_draws += len(settings)
        num_missed += int((outcome.is_normal_SP == NOT_JUDGED).all(axis=1).sum())
        layout.append((cell, outcome))
        if len(layout) < len(draws):
            continue
        for s in range(len(settings)):
            rows.append(_row(layout, s, grid))
            for cluster in kept:
                jaccard[cluster].append(_jaccard(layout, s, reference_P == cluster))
        layout = []
    with np.errstate(invalid="ignore"):
        probability = num_normal / num_judged
    probability[num_judged < MIN_JUDGED * (num_draws - num_missed)] = np.nan
    return Agreement(probability, num_draws, num_missed, rows, jaccard)


def consensus(
    normal_probability_P: Floats, usable: Bools, normal_at: float, not_normal_at: float
) -> pd.Series:
    """normal, not_normal, or uncertain between; unknown for who cannot be judged."""
    status = pd.Series(UNCERTAIN, index=range(len(usable)), dtype=object)
    with np.errstate(invalid="ignore"):
        status[normal_probability_P >= normal_at] = NORMAL
        status[normal_probability_P <= not_normal_at] = NOT_NORMAL
    status[~usable | np.isnan(normal_probability_P)] = UNKNOWN
    return status


def matched(first: Small | Ints, second: Small | Ints) -> dict[str, float | None]:
    """ARI and AMI of two groupings; None when there is nobody in both."""
    if not len(first):
        return {"ari": None, "ami": None}
    return {
        "ari": round(float(adjusted_rand_score(first, second)), 4),
        "ami": round(float(adjusted_mutual_info_score(first, second)), 4),
    }


def _row(layout: list[tuple[Cell, Outcome]], s: int, grid: DrawGrid) -> dict[str, Any]:
    cell, setting = layout[0][0], grid.settings[s]
    shares, num_groups = [], []
    for _, outcome in layout:
        judged = outcome.is_normal_SP[s] != NOT_JUDGED
        if judged.any():
            shares.append(float((outcome.is_normal_SP[s][judged] == 1).mean()))
            groups = np.unique(outcome.cluster_SP[s][outcome.is_drawn_P])
            num_groups.append(int((groups >= 0).sum()))
    seeds = [outcome for one, outcome in layout if one.kind == SEED]
    pairs = [
        matched(*_both(first, second, s))
        for first, second in zip(seeds, seeds[1:] + seeds[:1], strict=True)
        if first is not second
    ]
    return {
        "num_neighbors": cell.num_neighbors,
        "num_components": cell.num_components,
        "min_cluster_share": setting.min_cluster_share,
        "min_samples": setting.min_samples,
        "num_draws": len(layout),
        "num_not_clustered": len(layout) - len(shares),
        "median_groups": _round(np.median(num_groups)) if num_groups else None,
        "normal_share": _round(np.mean(shares)) if shares else None,
        "normal_share_low": _round(min(shares)) if shares else None,
        "normal_share_high": _round(max(shares)) if shares else None,
        **_over_pairs(pairs, "ari"),
        **_over_pairs(pairs, "ami"),
    }


def _both(first: Outcome, second: Outcome, s: int) -> tuple[Small, Small]:
    inside = first.is_drawn_P & second.is_drawn_P
    inside &= first.cluster_SP[s] != NOT_CLUSTERED
    inside &= second.cluster_SP[s] != NOT_CLUSTERED
    return first.cluster_SP[s][inside], second.cluster_SP[s][inside]


def _over_pairs(pairs: list[dict[str, float | None]], name: str) -> dict[str, float | None]:
    values = [value for pair in pairs if (value := pair[name]) is not None]
    return {
        f"seed_{name}": _round(np.mean(values)) if values else None,
        f"seed_{name}_low": min(values) if values else None,
    }


def _jaccard(layout: list[tuple[Cell, Outcome]], s: int, inside_P: Bools) -> float:
    """The best match of one group in each bootstrap, among the people that it drew; the mean."""
    found = []
    for cell, outcome in layout:
        own = inside_P & outcome.is_drawn_P
        if cell.kind != BOOTSTRAP or not own.any():
            continue
        labels = np.where(outcome.is_drawn_P, outcome.cluster_SP[s], NOT_CLUSTERED)
        others = [labels == label for label in np.unique(labels) if label >= 0]
        found.append(max([float((own & o).sum() / (own | o).sum()) for o in others] or [0.0]))
    return float(np.mean(found)) if found else float("nan")


def _round(value: Any) -> float:
    return round(float(value), 4)
