"""The stability run of the cohort stage: the grid over a crew of workers, each cell kept as it comes.

A cell is kept at an address of its own, which covers people, findings, splits and rule but not how many
seeds and bootstraps there are: a run that was stopped goes on where it was, and a larger grid adds to it.
So are the neighbours, block by block.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.engine.crew import Crew
from spineage.io.storage.arrays import pack_arrays, unpack_arrays
from spineage.run.context import Context, digest_of
from spineage.run.progress import plain_progress
from spineage.science.cohort.agreement import Agreement, Tally, agree, consensus, matched
from spineage.science.cohort.clusters import can_cluster
from spineage.science.cohort.decide import Decision, can_be_judged
from spineage.science.cohort.neighbours import (
    Block,
    Neighbours,
    blocks,
    enough_for,
    joined,
    nearest_of_block,
)
from spineage.science.cohort.rules import BY_CLUSTER, Rule
from spineage.science.cohort.stability import (
    BOOTSTRAP,
    NOT_JUDGED,
    SEED,
    Cell,
    DrawGrid,
    Outcome,
    Sample,
    run_cell,
    without_umap,
)
from spineage.science.cohort.status import NORMAL, NOT_CLUSTERED

SCHEMA = 4
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Stability:
    """normal_probability and consensus of each person (NaN and unknown where nothing was drawn), and what
    the audit says of it."""

    normal_probability: np.ndarray
    consensus: pd.Series
    audit: dict[str, Any]


def grid_of(context: Context) -> DrawGrid:
    """The study's grid."""
    s = context.study.stability
    return DrawGrid(
        s.num_neighbors, s.num_components, s.min_cluster_share, s.min_samples, s.num_seeds,
        s.num_bootstraps,
    )  # fmt: skip


def draw_again(
    context: Context, crew: Crew, decision: Decision, sample: Sample, folder: str
) -> Stability | None:
    """Draw until everybody's probability has settled, and say what all draws say.

    None when there is nothing to draw again. folder: where cells are kept (see `folder_of`).
    """
    grid = grid_of(context)
    is_by_cluster = sample.rule.kind in BY_CLUSTER and decision.verdict.outcome == "clustered"
    if not is_by_cluster or not grid.draws:
        return None
    usable, _ = can_be_judged(decision.people)
    limits = context.study.stability
    tally, draws, num_unsettled = Tally(usable, len(grid.rounds)), [], 0
    _say_cost(context, crew, grid, sample, folder)
    for number, some in enumerate(grid.rounds):
        cells = grid.cells(some)
        _run_missing(context, crew, cells, sample, folder)
        for cell in cells:
            tally.add(_read(context, folder, cell))
        draws += some
        num_unsettled = tally.num_unsettled(
            limits.normal_at, limits.not_normal_at, limits.settled_within
        )
        context.say(
            f"  round {number + 1} of at most {len(grid.rounds)}: {num_unsettled} people unsettled"
        )
        if not num_unsettled:
            break
    kept = ((cell, _read(context, folder, cell)) for cell in grid.cells(draws))
    agreement = agree(grid, draws, kept, decision.people.cluster.to_numpy())
    found = consensus(
        agreement.normal_probability_P, usable, limits.normal_at, limits.not_normal_at
    )
    checked = crew.alone(without_umap, sample, sample.seed)
    audit = _audit(grid, agreement, found, decision, checked)
    audit |= {
        "num_seeds": sum(kind == SEED for kind, _ in draws),
        "num_bootstraps": sum(kind == BOOTSTRAP for kind, _ in draws),
        "num_unsettled": num_unsettled,
        "settled_within": limits.settled_within,
    }
    probability = np.where(usable, agreement.normal_probability_P, np.nan)
    return Stability(probability, found, audit)


def folder_of(context: Context, recipe: dict[str, Any]) -> str:
    """Where the neighbours and cells of these people are kept, relative to the workspace.

    recipe: everything but the stability section that makes the cohort.
    """
    settings = [asdict(setting) for setting in grid_of(context).settings]
    return f"cohort/cells/{digest_of({'schema': SCHEMA, 'recipe': recipe, 'settings': settings})}"


def find_all_neighbours(
    context: Context, crew: Crew, matrix_PF: Floats, fitted: Bools, rule: Rule, folder: str
) -> Neighbours | None:
    """The nearest training people of everybody, as many as any draw asks for; None without clusters.

    Blocks of people go to the crew, and each is kept: a run that was stopped goes on.
    """
    if rule.kind == "everyone" or not can_cluster(matrix_PF[fitted]):
        return None
    num = num_to_find(grid_of(context), rule, fitted)
    items = [
        Block(int(rows[0]), int(rows[-1]) + 1)
        for rows in blocks(np.arange(len(matrix_PF)), int(fitted.sum()))
    ]
    paths = {block: f"{folder}/near-{num}-{block.start}-{block.stop}.npz" for block in items}
    there = set(context.store.list(folder, ".npz"))
    missing = [block for block in items if paths[block] not in there]
    say = plain_progress("neighbours found", every_s=30)
    shared = matrix_PF, fitted, num
    for i, (block, (index, distance)) in enumerate(crew.each(nearest_of_block, missing, shared)):
        content = pack_arrays({"index": index, "distance": distance})
        context.store.write(paths[block], content)
        say(i + 1, len(missing))
    found: list[Any] = [unpack_arrays(context.store.read(paths[block])) for block in items]
    return joined([(one["index"], one["distance"]) for one in found])


def num_to_find(grid: DrawGrid, rule: Rule, fitted: Bools) -> int:
    """Of neighbours: for the study's own fit, and for every cell where groups may decide."""
    num = max(rule.recipe.num_neighbors, rule.recipe.min_samples)
    if rule.settled(fitted).kind in BY_CLUSTER and grid.draws:
        num = max(num, grid.num_near)
        num = enough_for(num) if grid.num_bootstraps else num
    return min(num, int(fitted.sum()))


def _say_cost(context: Context, crew: Crew, grid: DrawGrid, sample: Sample, folder: str) -> None:
    """What all draws will cost at most, from the first, which is drawn for it."""
    there = set(context.store.list(folder, ".npz"))
    in_order = [cell for some in grid.rounds for cell in grid.cells(some)]
    left = [cell for cell in in_order if _path(folder, cell) not in there]
    if not left:
        return
    started = time.monotonic()
    first = crew.alone(run_cell, left[0], sample)
    seconds = time.monotonic() - started
    context.store.write(_path(folder, left[0]), pack_arrays(vars(first)))
    minutes = seconds * len(left) / crew.num_workers / 60
    context.say(
        f"  {len(left)} draws at most, {seconds:.1f} s each, on {crew.num_workers} workers: up to "
        f"{minutes:.0f} min; they end when everybody's probability has settled"
    )


def _run_missing(
    context: Context, crew: Crew, cells: list[Cell], sample: Sample, folder: str
) -> None:
    there = set(context.store.list(folder, ".npz"))
    missing = [cell for cell in cells if _path(folder, cell) not in there]
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
    grid: DrawGrid,
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
