"""Run stages in order, keep a record of each, and say in the last lines how it went."""

from __future__ import annotations

import datetime
import importlib
from collections.abc import Sequence

from spineage.errors import BadStudy
from spineage.flow import ROAD, SIDE_ROADS
from spineage.stages.context import Context

STAGES = {stage.name: stage for stage in (*ROAD, *SIDE_ROADS)}


def run_stages(context: Context, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """Run the named stages; returns the counts of each. Raises BadStudy before any work for an unknown name."""
    for name in names:
        if name not in STAGES:
            raise BadStudy(f"there is no stage {name!r}; stages are {', '.join(STAGES)}")
    return {
        name: _run(context, name, f"[{i}/{len(names)}]") for i, name in enumerate(names, start=1)
    }


def _run(context: Context, name: str, place: str) -> dict[str, int]:
    context.forget()
    started = datetime.datetime.now(datetime.UTC)
    context.say(f"{place} {name}: {STAGES[name].does}")
    counts: dict[str, int] = importlib.import_module(f"spineage.stages.{name}").run(context)
    context.forget()
    context.write_record(name, started, counts)
    seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
    summary = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in counts.items())
    context.say(f"{place} {name}: {summary or 'done'} ({seconds:.1f} s)")
    return counts
