"""What stages took, kept in the workspace: the measured rates that a plan goes by.

A file a run and stage in `rates/<stage>/`, the newest of them; they decide no answer.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from spineage.engine.tally import Pace, StepPace
from spineage.errors import BadStudy
from spineage.io.storage.pointers import read_object
from spineage.io.storage.store import Store

FOLDER: Final = "rates"
MOST_KEPT: Final = 20
"""Files of a stage."""


@dataclass(frozen=True)
class Rate:
    """One run of a stage: when it began, how long it took in all, how much it had to do (in the stage's own
    measure), and of rows through workers how fast those were."""

    stage: str
    address: str
    started: str
    seconds: float
    size: float
    pace: Pace | None = None


@dataclass(frozen=True)
class Work:
    """Of one kind: how many rows have it, and by how many workers it is done, on cores or on devices."""

    rows: int
    workers: int
    is_on_cores: bool = True


def keep_rate(store: Store, rate: Rate) -> None:
    """Write it beside those of earlier runs; the oldest go."""
    now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S%f}"
    name = f"{FOLDER}/{rate.stage}/{now}-{uuid.uuid4().hex[:6]}.json"
    store.write(name, json.dumps(asdict(rate), default=dict).encode())
    for old in sorted(store.list(f"{FOLDER}/{rate.stage}", ".json"))[:-MOST_KEPT]:
        store.remove(old)


def rates_of(store: Store, stages: Collection[str]) -> list[Rate]:
    """What is known of these stages, the newest first; what cannot be read is left out."""
    names = [name for stage in stages for name in store.list(f"{FOLDER}/{stage}", ".json")]
    found = []
    for name in sorted(names, key=lambda n: n.rpartition("/")[2], reverse=True):
        with suppress(BadStudy, FileNotFoundError, KeyError, TypeError, ValueError):
            found.append(_rate(read_object(store, name, "remove it")))
    return found


def _rate(found: Mapping[str, Any]) -> Rate:
    pace = found["pace"]
    rate = Rate(
        str(found["stage"]), str(found["address"]), str(found["started"]),
        float(found["seconds"]), float(found["size"]),
    )  # fmt: skip
    if not pace:
        return rate
    steps = {
        str(work): StepPace(
            int(step["rows"]),
            float(step["seconds"]),
            int(step["workers"]),
            bool(step["is_on_cores"]),
        )
        for work, step in pace["steps"].items()
    }
    figures = {name: float(pace[name]) for name in ("start_s", "seconds", "cores")}
    return replace(rate, pace=Pace(int(pace["rows"]), **figures, steps=steps))


def seconds_for(work: Mapping[str, Work], cores: float, rates: Sequence[Rate]) -> float | None:
    """How long rows with this work will take, the start included; None when some kind was never measured.

    Each kind takes its rows times what a row took, shared by its workers; the slowest kind, or all of those
    on cores together, is what a run waits for. How much longer than that a run with the same kinds of work
    truly took is measured too, on the largest of those, and so is what stands before its first row.
    cores: of the cluster; 0 is one process without Ray, that does one thing after another.
    """
    wanted = {name for name, one in work.items() if one.rows}
    paces = [(rate.pace, rate.seconds) for rate in rates if rate.pace and rate.pace.rows]
    seconds, rows = Counter[str](), Counter[str]()
    for pace, _ in paces:  # of all: a run of one scan is mostly its first, which takes longer
        for name, step in pace.steps.items():
            seconds[name] += step.seconds  # type: ignore[assignment]
            rows[name] += step.rows
    a_row = {name: seconds[name] / rows[name] for name in rows}
    if not paces or not wanted <= a_row.keys():
        return None
    now = {name: (work[name], a_row[name]) for name in wanted}
    if not cores:
        return sum(one.rows * a_row_s for one, a_row_s in now.values())
    pace, stage_s = min(paces, key=lambda p: (len(wanted ^ set(p[0].steps)), -p[0].rows))
    then = {
        name: (Work(step.rows, step.workers, step.is_on_cores), step.seconds / step.rows)
        for name, step in pace.steps.items()
    }
    ideal_then_s = _ideal_s(then, pace.cores)
    slack = max(1.0, pace.seconds / ideal_then_s) if ideal_then_s and pace.rows > 1 else 1.0
    return max(0.0, stage_s - pace.seconds) + slack * _ideal_s(now, cores)


def measured_on(rates: Sequence[Rate]) -> str:
    """When the first of them was measured, "" when there is none."""
    return rates[0].started if rates else ""


def _ideal_s(work: Mapping[str, tuple[Work, float]], cores: float) -> float:
    """If no worker waited: of the slowest kind of work, or of the cores."""
    alone = [
        one.rows * a_row_s / max(1, min(one.workers, one.rows)) for one, a_row_s in work.values()
    ]
    on_cores = sum(one.rows * a_row_s for one, a_row_s in work.values() if one.is_on_cores)
    return max([*alone, on_cores / max(cores, 1.0)], default=0.0)


def scaled_s(size: float, rates: Sequence[Rate]) -> float | None:
    """How long a stage takes that is done at once: as its largest run did, for so much more or less."""
    known = max(rates, key=lambda rate: rate.size, default=None)
    return known.seconds * size / known.size if known and known.size > 0 else None
