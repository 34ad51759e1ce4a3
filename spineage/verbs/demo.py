"""The whole study on a synthetic population, from DICOM to the report, on a laptop."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from spineage.errors import BadStudy
from spineage.flow import ROAD
from spineage.run.checks import require_lasting
from spineage.run.context import Context
from spineage.run.runner import run_stages
from spineage.stages.report.stage import headline, report_path
from spineage.study import Study, read_study
from spineage.verbs import phantom

MIN_PEOPLE = 24
"""Fewer cannot be split four ways with enough normal people in each part."""


def run_demo(
    num_people: int, workspace: str, *, seed: int, say: Callable[[str], None]
) -> dict[str, Any]:
    """Make the people, run the road, return the headline (people, scored, refused, errors in years, ...).

    Run again it recomputes nothing; interrupted it goes on where it was.
    """
    if num_people < MIN_PEOPLE:
        raise BadStudy(f"{num_people} people cannot be split four ways: take at least {MIN_PEOPLE}")
    require_lasting({"--workspace": str(Path(workspace).absolute())})
    started = time.monotonic()
    population = Path(workspace) / "population"
    context = Context(demo_study(population, workspace, seed, num_people), say)
    context.connect()
    say(f"making {num_people} synthetic people")
    phantom.make(str(population), num_people=num_people, seed=seed)
    run_stages(context, [stage.name for stage in ROAD])
    seconds = round(time.monotonic() - started, 1)
    return {**headline(context), "seconds": seconds, "report": report_path(context)}


def demo_study(population: Path, workspace: str, seed: int, num_people: int) -> Study:
    """The demo's study file, written beside the population so that every other verb can be tried on it."""
    path = Path(workspace) / "study.yaml"
    values = {
        "name": "demo",
        "seed": seed,
        "workspace": str(Path(workspace).absolute()),
        "inputs": {
            "scans": "population/dicom",
            "participants": "population/participants.csv",
            "findings": "population/findings.csv",
            "lifestyle": "population/lifestyle.csv",
            "truth": "population/truth.parquet",
            "key_file": "population/phantom.key",
        },
        "cohort": {
            "train": 0.5,
            "validate": 0.075,
            "calibrate": 0.2,
            "test": 0.225,
        },
        # for more people than the demo's 80, of whom no group is judged: a real study leaves the defaults
        "stability": {
            "num_neighbors": [15],
            "num_components": [5],
            "min_cluster_share": [0.08, 0.12],
            "min_samples": [5],
            "num_seeds": 2,
            "num_bootstraps": 4,
        },
        "cluster": {"cohort_workers": 1},
        "train": {"epochs": max(30, round(30 * 60 / num_people))},  # as many steps for fewer people
        "report": {"title": "Spine age: the phantom demo"},
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        path.write_text(yaml.safe_dump(values, sort_keys=False))
    return read_study(path)
