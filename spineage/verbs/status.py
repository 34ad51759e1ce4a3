"""What runs on a workspace, and what has run: how far each stage is, at what rate, and who works on it."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.flow import STAGES
from spineage.io.storage import lease
from spineage.io.storage.pointers import read_object
from spineage.io.storage.store import Store
from spineage.run.progress import FOLDER, span

MOST_SHOWN: Final = 6
"""Workers of a kind, in a line for people."""
SILENT_AFTER_S: Final = 600.0


@dataclass(frozen=True)
class Worker:
    """One that has done this kind of work for so many scans of the run, the last of which ended some seconds
    ago, as the driver heard."""

    work: str
    worker: str
    scans: int
    heard_s: float


@dataclass(frozen=True)
class Status:
    """Of one stage's last run.

    state: `works`, `died` (it holds its lease and is not heard of), or `ended`. done, faults (by code), left:
    scans of that run; already: scans that had their answer before. per_s, left_s: of a run that works.
    workers: by kind of work; crew: those that have done a scan. heard_s: since the run was last heard of,
    seconds by this machine's clock.
    """

    stage: str
    state: str
    who: str
    heard_s: float
    done: int | None = None
    faults: dict[str, int] | None = None
    left: int | None = None
    already: int | None = None
    per_s: float | None = None
    left_s: float | None = None
    workers: dict[str, int] | None = None
    crew: tuple[Worker, ...] = ()

    def line(self) -> str:
        """For people."""
        words = {"works": "at work", "died": "DIED, run it again to go on", "ended": "ended"}
        told = [f"{self.stage}: {words[self.state]}"]
        if self.left is not None and self.done is not None:
            told.append(f"{self.done} done ({self.already} before), {self.left} left")
        if self.faults:
            told.append(", ".join(f"{n} {code}" for code, n in sorted(self.faults.items())))
        if self.state == "works" and self.per_s:
            told.append(f"{self.per_s:.2f}/s, {span(self.left_s or 0)} left")
        if self.state == "works" and self.workers:
            told.append(", ".join(f"{n} x {work}" for work, n in self.workers.items()))
        told.append(f"{self.who}, heard of {span(self.heard_s)} ago")
        return "; ".join(told)

    def crew_lines(self) -> Iterator[str]:
        """Who does what, by kind of work: of those heard of lately so many, and how many were not."""
        if self.state != "works":
            return
        for work in dict.fromkeys(one.work for one in self.crew):
            all_of_it = [one for one in self.crew if one.work == work]
            lately = [one for one in all_of_it if one.heard_s <= SILENT_AFTER_S]
            lately.sort(key=lambda one: one.heard_s)
            told = [
                f"{one.worker} {one.scans} scans ({span(one.heard_s)} ago)"
                for one in lately[:MOST_SHOWN]
            ]
            if len(lately) > MOST_SHOWN:
                told.append(f"{len(lately) - MOST_SHOWN} more")
            if num_silent := len(all_of_it) - len(lately):
                told.append(
                    f"{num_silent} not heard of for {span(SILENT_AFTER_S)}: gone, or at one scan"
                )
            yield f"  {work}: {', '.join(told)}"


def look(store: Store, now: datetime.datetime | None = None) -> Iterator[Status]:
    """The stages of which there is a word, and their shards, in the order of the road."""
    now = now or datetime.datetime.now(datetime.UTC)
    records = {_named(name, FOLDER): record for name, record in _read_all(store, FOLDER)}
    holders = {_holder_of(name): record for name, record in _read_all(store, lease.FOLDER)}
    order = list(STAGES)
    known = [name for name in {*records, *holders} if name.split(" ")[0] in order]
    scoring = _process(holders.get("score"))
    if "score" in holders:  # it fills in masks and tensors, and holds their leases too
        known = [n for n in known if n == "score" or _process(holders.get(n)) != scoring]
    for name in sorted(known, key=lambda name: (order.index(name.split(" ")[0]), name)):
        yield _status(name, records.get(name), holders.get(name), now)


def _status(
    stage: str,
    record: dict[str, Any] | None,
    holder: dict[str, Any] | None,
    now: datetime.datetime,
) -> Status:
    who = holder or record or {}
    heard_s = _ago(who.get("seen"), now)
    state = "ended"
    if holder:
        is_dead = lease.is_gone(holder) or heard_s > lease.DEAD_AFTER_S
        state = "died" if is_dead else "works"
    if not record or (holder and not _is_of(record, holder)):
        return Status(stage, state, lease.describe(who), heard_s)  # a stage that counts no scans
    counts = {str(code): int(n) for code, n in record["counts"].items()}
    done = counts.pop("ok", 0)
    left = int(record["total"]) - done - sum(counts.values())
    return Status(
        stage, state, lease.describe(who), heard_s, done, counts, left, int(record["already"]),
        float(record["per_s"]), float(record["left_s"]), record.get("workers"), _crew(record, now),
    )  # fmt: skip


def _crew(record: dict[str, Any], now: datetime.datetime) -> tuple[Worker, ...]:
    return tuple(
        Worker(str(one["work"]), str(one["worker"]), int(one["scans"]), _ago(one["seen"], now))
        for one in record.get("crew", ())
    )


def _process(record: dict[str, Any] | None) -> tuple[Any, Any]:
    return ((record or {}).get("machine"), (record or {}).get("process"))


def _is_of(record: dict[str, Any], holder: dict[str, Any]) -> bool:
    """Whether the word is of the run that holds the lease now, and not of one before."""
    began = str(record.get("started")) >= str(holder.get("started"))
    return began and _process(record) == _process(holder)


def _read_all(store: Store, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name in sorted(store.list(folder, ".json")):
        if record := _record(store, name):
            yield name, record


def _named(name: str, folder: str) -> str:
    """`score`, or `score 3-of-16` of a shard, as a file of progress is called."""
    return name.removeprefix(f"{folder}/").removesuffix(".json").replace(".", " ")


def _holder_of(name: str) -> str:
    """The same of a lease: leases/score/ADDRESS/[SHARD/]NUMBER.json."""
    _, stage, _, *rest = name.split("/")
    return " ".join([stage, *rest[:-1]])


def _record(store: Store, name: str) -> dict[str, Any] | None:
    with suppress(FileNotFoundError, BadStudy):
        return read_object(store, name, "remove it")
    return None


def _ago(seen: Any, now: datetime.datetime) -> float:
    try:
        return max(0.0, (now - datetime.datetime.fromisoformat(seen)).total_seconds())
    except (TypeError, ValueError):
        return 0.0
