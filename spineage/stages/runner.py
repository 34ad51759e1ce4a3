"""Run stages in order, keep a record of each, and say how it went."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence

import yaml

from spineage.errors import BadStudy
from spineage.flow import ROAD, SIDE_ROADS
from spineage.stages.context import Context

STAGES = {stage.name: stage for stage in (*ROAD, *SIDE_ROADS)}
NEEDS_RAY = frozenset({"segment", "prepare", "train", "ablate", "sweep", "score"})
"""The others start it themselves where there is enough to do."""
NEEDS_MLFLOW = frozenset({"train", "ablate", "sweep", "calibrate"})


def run_stages(context: Context, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Run the named stages; returns the counts of each.

    Raises BadStudy before any work when a stage is unknown, or Ray or MLflow do not answer.
    """
    for name in names:
        if name not in STAGES:
            raise BadStudy(f"there is no stage {name!r}; stages are {', '.join(STAGES)}")
    _preflight(context, set(names))
    total = len(names)
    return {name: _run(context, name, f"[{i}/{total}]") for i, name in enumerate(names, start=1)}


def _preflight(context: Context, names: set[str]) -> None:
    """What would fail after hours fails now."""
    if names & NEEDS_MLFLOW and context.study.cluster.mlflow:
        from spineage.io import tracking  # mlflow takes seconds to import

        tracking.check(context.study.cluster.mlflow)
    cluster = context.study.cluster
    if names & NEEDS_RAY or cluster.ray or cluster.gpus_per_worker:
        context.connect()


def _run(context: Context, name: str, place: str) -> dict[str, int]:
    context.forget()
    started = datetime.datetime.now(datetime.UTC)
    context.say(f"{place} {name}: {STAGES[name].does}")
    counts: dict[str, int] = importlib.import_module(f"spineage.stages.{name}").run(context)
    context.forget()
    context.write_record(name, started, counts)
    _keep_study(context)
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    summary = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in counts.items())
    context.say(f"{place} {name}: {summary or 'done'} ({seconds:.1f} s)")
    return counts


def _keep_study(context: Context) -> None:
    """The study as it ran, in the workspace: `spineage show --workspace` reads it."""
    text = yaml.safe_dump(context.study.model_dump(mode="json", by_alias=True), sort_keys=False)
    context.store.write("study.resolved.yaml", text.encode())
