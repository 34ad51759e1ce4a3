"""The default stability run of 18,000 people x 215 features, against a call of UMAP and HDBSCAN a cell.

    python -m tests.benchmarks.cohort_stability_large [--people 18000] [--draw --workers 2]

Prints one JSON line. Phantoms with the study's default splits and rule. Two cells of the default grid, a seed
and a bootstrap (15 neighbours, 5 dimensions, six settings of HDBSCAN), are drawn by us and by separate calls
of umap-learn (fit, and transform of everybody who did not train it) and hdbscan (fit, approximate_predict),
in this process, after what numba compiles has been compiled; they stand for the 120 and 600 cells of a grid
that is drawn to the end. Ours ends when everybody has settled: `cells_at_most` says after how many cells that
is certain, whoever the people are, and `ratio` counts so many, and the neighbours once. --draw draws until
they have settled, on a crew, for an hour. Target: at most a quarter.

2026-11-26, beside a test: 0.202; cells 0.77 and 0.82 of separate calls. Sharing neighbours alone does not
bring it: umap-learn's descent takes 1 s of 12 for 9,900 people
(it looked like 20 to 30 before, which was numba compiling it); the layout takes 10 s and HDBSCAN 2 s. What
brings it is that draws end. With settled_within 0.1 they had not after 288 cells; 324 are certain.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from dataclasses import asdict, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from spineage.engine import session
from spineage.engine.crew import Crew
from spineage.science.cohort import clusters
from spineage.science.cohort.agreement import Tally
from spineage.science.cohort.arithmetic import pinned_environment
from spineage.science.cohort.burden import with_burdens
from spineage.science.cohort.decide import can_be_judged
from spineage.science.cohort.neighbours import enough_for, find_neighbours
from spineage.science.cohort.stability import Cell, DrawGrid, Sample, draw, run_cell, seed_of
from spineage.stages.cohort.stage import rule_of
from spineage.study import Cohort, Stability
from tests.made.phantom_people import coded_population

TARGET, SEED = 0.25, 7
CELLS = {"seed": Cell(15, 5, "seed", 1), "bootstrap": Cell(15, 5, "bootstrap", 1)}
LIMITS = Stability()
GRID = DrawGrid(
    LIMITS.num_neighbors, LIMITS.num_components, LIMITS.min_cluster_share, LIMITS.min_samples,
    LIMITS.num_seeds, LIMITS.num_bootstraps,
)  # fmt: skip


def sample_of(num: int) -> tuple[Sample, float]:
    """Phantoms, and how many seconds their neighbours took."""
    people, matrix_PF, features = coded_population(num, SEED)
    rule = rule_of(Cohort())
    people = with_burdens(people, matrix_PF, features, rule.disease_findings)
    started = time.monotonic()
    near = find_neighbours(matrix_PF, can_be_judged(people)[1], enough_for(GRID.num_near))
    seconds = time.monotonic() - started
    return Sample(people, matrix_PF, near, rule, tuple(GRID.settings), SEED), seconds


def separately(cell: Cell, sample: Sample) -> float:
    """Seconds of one cell by calls of the libraries."""
    import hdbscan
    import umap

    drawn = draw(cell, can_be_judged(sample.people)[1], sample.seed)
    started = time.monotonic()
    reducer = umap.UMAP(
        n_neighbors=cell.num_neighbors, n_components=cell.num_components, min_dist=0.0,
        metric="canberra", random_state=seed_of(cell, sample.seed), n_jobs=1,
    ).fit(sample.matrix_PF[drawn])  # fmt: skip
    position = reducer.transform(sample.matrix_PF[~drawn]).astype(np.float64)
    for setting in sample.settings:
        recipe = replace(sample.rule.recipe, **asdict(setting))
        clusterer = hdbscan.HDBSCAN(
            **clusters.density_of(recipe, int(drawn.sum())),
            approx_min_span_tree=False,
            prediction_data=True,
        ).fit(reducer.embedding_.astype(np.float64))
        if clusterer.labels_.max() >= 0:
            hdbscan.approximate_predict(clusterer, position)
    return time.monotonic() - started


def ours(cell: Cell, sample: Sample) -> float:
    started = time.monotonic()
    run_cell(cell, sample)
    return time.monotonic() - started


def drawn_until_settled(sample: Sample, workers: int) -> tuple[int, int, float]:
    """Cells drawn, people who have not settled, and core-seconds."""
    usable, num_cells, unsettled = can_be_judged(sample.people)[0], 0, 0
    tally = Tally(usable, len(GRID.rounds))
    started = time.monotonic()
    with Crew(workers, pinned_environment(Cohort().arithmetic)) as crew:
        for some in GRID.rounds:
            for _, outcome in crew.each(run_cell, GRID.cells(some), sample):
                tally.add(outcome)
                num_cells += 1
            unsettled = tally.num_unsettled(
                LIMITS.normal_at, LIMITS.not_normal_at, LIMITS.settled_within
            )
            if not unsettled:
                break
    return num_cells, unsettled, workers * (time.monotonic() - started)


def cells_at_most() -> int:
    """After how many cells everybody has settled, whatever their probability."""
    shares = np.linspace(0, 1, 2001)
    tally, num_cells = Tally(np.ones(len(shares), dtype=bool), len(GRID.rounds)), 0
    for some in GRID.rounds:
        for _ in GRID.cells(some):
            tally.add_votes(shares)
            num_cells += 1
        if not tally.num_unsettled(LIMITS.normal_at, LIMITS.not_normal_at, LIMITS.settled_within):
            break
    return num_cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=18_000)
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="umap|hdbscan")
    small, _ = sample_of(8_000)  # of fewer than 4096 UMAP does not use its descent, nor compile it
    for cell in CELLS.values():
        separately(cell, small)
        run_cell(cell, small)
    sample, near_s = sample_of(options.people)
    separate_s = {kind: separately(cell, sample) for kind, cell in CELLS.items()}
    ours_s = {kind: ours(cell, sample) for kind, cell in CELLS.items()}
    num_layouts = len(GRID.layouts)
    grid_s = num_layouts * (
        GRID.num_seeds * separate_s["seed"] + GRID.num_bootstraps * separate_s["bootstrap"]
    )
    at_most = cells_at_most()
    share = at_most / len(GRID.cells(GRID.draws))
    ours_grid_s = num_layouts * (
        GRID.num_seeds * ours_s["seed"] + GRID.num_bootstraps * ours_s["bootstrap"]
    )
    ratio = (near_s + share * ours_grid_s) / grid_s
    drawn = None
    if options.draw:
        session.connect(num_cpus=options.workers + 1)
        num_cells, unsettled, core_s = drawn_until_settled(sample, options.workers)
        drawn = {"cells": num_cells, "unsettled": unsettled, "core_minutes": round(core_s / 60)}
    print(
        json.dumps(
            {
                "name": "cohort_stability_large",
                "people": options.people,
                "neighbours_s": round(near_s, 1),
                "separate_cell_s": {kind: round(s, 1) for kind, s in separate_s.items()},
                "our_cell_s": {kind: round(s, 1) for kind, s in ours_s.items()},
                "cell_ratio": {kind: round(ours_s[kind] / s, 3) for kind, s in separate_s.items()},
                "cells_at_most": [at_most, len(GRID.cells(GRID.draws))],
                "core_minutes": {
                    "ours_at_most": round((near_s + share * ours_grid_s) / 60),
                    "separate": round(grid_s / 60),
                },
                "drawn": drawn,
                "ratio": round(ratio, 3),
                "target": TARGET,
                "met": ratio <= TARGET,
            }
        )
    )


if __name__ == "__main__":
    main()
