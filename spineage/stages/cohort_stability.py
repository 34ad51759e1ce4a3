"""The stability run of the cohort stage: the grid over a crew of workers, each cell kept as it comes.

A cell is kept at an address of its own, which covers people, findings, splits and rule but not how many
seeds and bootstraps there are: a run that was stopped goes on where it was, and a larger grid adds to it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from spineage.engine.crew import Crew
from spineage.engine.rows import plain_progress
from spineage.io.cells import pack_arrays, unpack_arrays
from spineage.science.agreement import Agreement, agree, consensus, matched
from spineage.science.audit import NORMAL, NOT_CLUSTERED
from spineage.science.cohort import Decision, can_be_judged
from spineage.science.normal import BY_CLUSTER
from spineage.science.stability import (
    NOT_JUDGED,
    Cell,
    Grid,
    Outcome,
    Sample,
    run_cell,
    without_umap,
)
from spineage.stages.context import Context, digest_of

SCHEMA = 1


@dataclass(frozen=True)
class Stability:
    """normal_probability and consensus of each person (NaN and unknown where nothing was drawn), and what
    the audit says of it."""

    normal_probability: np.ndarray
    consensus: pd.Series
    audit: dict[str, Any]


def grid_of(context: Context) -> Grid:
    """The study's grid."""
    s = context.study.stability
    return Grid(
        s.num_neighbors, s.num_components, s.min_cluster_share, s.min_samples, s.num_seeds,
        s.num_bootstraps,
    )  # fmt: skip


def draw_again(
    context: Context, crew: Crew, decision: Decision, sample: Sample, recipe: dict[str, Any]
) -> Stability | None:
    """Run what is missing of the grid and say what all of it says; None when there is nothing to draw again.

    recipe: everything but the stability section that makes the cohort.
    """
    grid = grid_of(context)
    is_by_cluster = sample.rule.kind in BY_CLUSTER and decision.verdict.outcome == "clustered"
    if not is_by_cluster or not grid.draws:
        return None
    address = {"schema": SCHEMA, "recipe": recipe, "settings": [asdict(s) for s in grid.settings]}
    folder = f"cohort/cells/{digest_of(address)}"
    _run_missing(context, crew, grid, sample, folder)
    kept = ((cell, _read(context, folder, cell)) for cell in grid.cells)
    agreement = agree(grid, kept, decision.people.cluster.to_numpy())
    usable, _ = can_be_judged(decision.people)
    limits = context.study.stability
    found = consensus(
        agreement.normal_probability_P, usable, limits.normal_at, limits.not_normal_at
    )
    checked = crew.alone(without_umap, sample, sample.seed)
    audit = _audit(grid, agreement, found, decision, checked)
    probability = np.where(usable, agreement.normal_probability_P, np.nan)
    return Stability(probability, found, audit)


def _run_missing(context: Context, crew: Crew, grid: Grid, sample: Sample, folder: str) -> None:
    there = set(context.store.list(folder, ".npz"))
    missing = [cell for cell in grid.cells if _path(folder, cell) not in there]
    if not missing:
        return
    say = plain_progress("cohort drawn again", every_s=30)
    for i, (cell, outcome) in enumerate(crew.each(run_cell, missing, sample)):
        context.store.write(_path(folder, cell), pack_arrays(vars(outcome)))
        say(i + 1, len(missing))


def _path(folder: str, cell: Cell) -> str:
    return f"{folder}/{cell.name}.npz"


def _read(context: Context, folder: str, cell: Cell) -> Outcome:
    return Outcome(**unpack_arrays(context.store.read(_path(folder, cell))))  # type: ignore[arg-type]


def _audit(
    grid: Grid,
    agreement: Agreement,
    found: pd.Series,
    decision: Decision,
    checked: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> dict[str, Any]:
    people = decision.people
    rows, cluster, is_normal = checked
    judged = is_normal != NOT_JUDGED
    own = people.status.iloc[rows].to_numpy()
    same = (own[judged] == NORMAL) == (is_normal[judged] == 1)
    both = (cluster != NOT_CLUSTERED) & (people.cluster.iloc[rows].to_numpy() != NOT_CLUSTERED)
    return {
        "grid": asdict(grid),
        "num_draws": agreement.num_draws,
        "num_not_clustered": agreement.num_not_clustered,
        "rows": agreement.rows,
        "jaccard": [
            {
                "cluster": c,
                "name": str(people.cluster_name[people.cluster == c].iloc[0]),
                "mean": _mean(values),
                "low": None if np.isnan(values).all() else round(float(np.nanmin(values)), 4),
            }
            for c, values in agreement.jaccard.items()
        ],
        "against_the_fit": [
            {"fit": fit, "consensus": said, "num_people": num}
            for (fit, said), num in sorted(Counter(zip(people.status, found, strict=True)).items())
        ],
        "without_umap": {
            "num_people": len(rows),
            "share_same_status": round(float(same.mean()), 4) if len(same) else None,
            "num_groups": len(set(cluster[cluster >= 0])),
            **matched(cluster[both], people.cluster.iloc[rows].to_numpy()[both]),
        },
    }


def _mean(values: list[float]) -> float | None:
    return None if np.isnan(values).all() else round(float(np.nanmean(values)), 4)
