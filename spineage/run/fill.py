"""Filling in: which scans of a stage have no answer yet, the run over those, and how it went.

A scan is answered for by a row of the stage's table, or by a fault that would come out the same again. What
the machine did to a scan (errors.TRANSIENT) is no answer: the next run takes the scan up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from spineage.engine.alone import run_rows_alone
from spineage.engine.rows import Step, run_rows
from spineage.engine.tally import Manifest, Pace, StopRule
from spineage.errors import TRANSIENT, BadStudy, StoppedEarly
from spineage.io.storage.compact import compact
from spineage.io.storage.index import keys_of, part_name, parts_of_scans
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.parts import read_sound
from spineage.io.storage.store import Store
from spineage.run.attempts import Attempts, described
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.run.progress import Progress
from spineage.tables import FAULTS, KEY, TABLES, Table

ROWS_AT_ONCE: Final = 1024
SEEN_WITHIN_S: Final = 90.0
"""A folder on a network's disk may be listed as it was a minute ago."""
Row = dict[str, Any]
Key = tuple[str, str]


def answered(store: Store, folder: str, table: Table, scans: pd.DataFrame) -> set[Key]:
    """The scans that this address answers for, of these and some more. Raises DamagedParts."""
    made = parts_of_scans(store, folder, table, keys_of(scans)).keys()
    return made | set(keys_of(lasting_faults(store, folder)))


def lasting_faults(store: Store, folder: str) -> pd.DataFrame:
    """Key and code of the scans refused for good."""
    faults = read_table(store, folder, FAULTS, [*KEY, "code"])
    return faults[~faults["code"].isin(TRANSIENT)]


def compact_table(context: Context, stage: str, table: Table) -> None:
    """Merge small parts of a table that the stage keeps; of faults those that will not be tried again."""
    if context.shard:
        return  # others write beside it
    folder, is_final = context.folder(stage), _is_lasting if table is FAULTS else None
    read_sound(lambda: compact(context.store, folder, table, is_final), context.store, context.say)


def _is_lasting(rows: pa.Table) -> pa.ChunkedArray:
    return pc.invert(pc.is_in(rows["code"], pa.array(sorted(TRANSIENT))))


def missing(context: Context, stage: str, table: Table, scans: pd.DataFrame) -> pd.DataFrame:
    """The scans that the stage has no answer for, but for those that are given up; damaged parts that it met
    are set aside first."""
    folder = context.folder(stage)
    known = read_sound(
        lambda: answered(context.store, folder, table, scans), context.store, context.say
    )
    todo = without(scans, known)
    left_alone = given_up(context, stage, todo)
    if left_alone:
        context.say(described(left_alone, context.study.cluster.give_up_after))
    return without(todo, set(left_alone))


def given_up(context: Context, stage: str, scans: pd.DataFrame) -> dict[Key, str]:
    """Of these scans those that failed in too many runs, with their last code; none with --retry."""
    if context.retry:
        return {}
    known = _attempts(context, stage).given_up(context.study.cluster.give_up_after)
    return {key: known[key] for key in keys_of(scans) if key in known}


def _attempts(context: Context, stage: str) -> Attempts:
    shard = context.shard.name if context.shard else ""
    return Attempts(context.store, context.folder(stage), shard)


def without(scans: pd.DataFrame, keys: set[Key]) -> pd.DataFrame:
    """The rows of other scans."""
    return scans.loc[np.array([key not in keys for key in keys_of(scans)], dtype=bool)]


def rows_of(scans: pd.DataFrame) -> list[Row]:
    """One dict a row; what pandas calls NaN is unknown, and unknown is None."""
    return [
        {str(k): None if isinstance(v, float) and v != v else v for k, v in row.items()}
        for row in scans.to_dict("records")
    ]


def each_row(scans: pd.DataFrame) -> Iterator[Row]:
    """The same one after another: as dicts the scans of a population take gigabytes."""
    for start in range(0, len(scans), ROWS_AT_ONCE):
        yield from rows_of(scans.iloc[start : start + ROWS_AT_ONCE])


def fill(
    context: Context,
    stage: str,
    table: Table,
    rows: Manifest,
    steps: Sequence[Step],
    sink: Step,
    *,
    rows_per_part: int = 1,
    rows_per_block: int = 1,
    already: int = 0,
) -> dict[str, int]:
    """Pass the rows through the steps into the sink, as the study's cluster section says; how many ended how:
    `ok`, or a fault code. already: how many have their answer, which is shown beside. See
    `engine.rows.run_rows`.

    Raises BadStudy when fewer rows of the table can be seen from here than workers say they wrote."""
    context.connect()
    cluster = context.study.cluster
    attempts, failed = _attempts(context, stage), dict[Key, str]()
    if context.retry:
        attempts.forget(set(rows.keys()))

    def hear(key: Key, code: str, message: str) -> None:
        failed[key] = code
        if code == "bug":
            context.bugs[message] += 1

    def measure(pace: Pace) -> None:
        context.work_done += pace.rows
        context.paces.append(pace)

    shard = context.shard.name if context.shard else ""
    progress = Progress(
        context.store, stage, context.folder(stage), already, len(rows), steps, shard
    )
    told: dict[str, Any] = {
        "stop_rule": StopRule(cluster.max_fault_fraction, cluster.min_scans_before_stop),
        "say": progress,
        "hear": hear,
        "measure": measure,
    }
    if context.is_alone:
        try:
            outcomes = run_rows_alone(rows, steps, sink, begin=attempts.begin, **told)
        except StoppedEarly:
            # else the next run would meet the same scans first, and stop again
            attempts.add(failed)
            raise
        except BaseException:  # it was stopped: that says nothing of the scan at work
            with suppress(Exception):  # why it was stopped is worth more
                attempts.add({})
            raise
    else:
        outcomes = run_rows(
            rows, steps, sink, rows_per_part=rows_per_part, rows_per_block=rows_per_block,
            tell=lambda text: context.say(f"  {text}"), see=progress.see, **told,
        )  # fmt: skip
    # of a run that came to its end: one that stops early may be of an ill machine
    attempts.add(failed)
    _require_visible(context, stage, table, rows.keys(), outcomes.get("ok", 0))
    return outcomes


def _require_visible(
    context: Context, stage: str, table: Table, keys: Sequence[Key], num_ok: int
) -> None:
    """A disk of its own, or a bucket of the same name elsewhere, takes a worker's results and keeps them."""
    folder, deadline = context.folder(stage), time.monotonic() + SEEN_WITHIN_S
    while True:
        seen = len(parts_of_scans(context.store, folder, table, keys))
        if seen >= num_ok:
            return
        if time.monotonic() > deadline:
            raise BadStudy(
                f"workers wrote {table.name} of {num_ok} scans, and {seen} are in {folder} as this node sees "
                "it: do all nodes have the same workspace? Run again when they have"
            )
        time.sleep(1.0)


def fill_missing(
    context: Context,
    stage: str,
    table: Table,
    done: str,
    scans: pd.DataFrame,
    steps: Callable[[], list[Step]],
    ready: Callable[[pd.DataFrame], pd.DataFrame] = lambda todo: todo,
) -> Counts:
    """Have the steps make the stage's row of every scan that has no answer, a part each.

    done: what a scan that has its row is called in the counts. steps: made only when there is work. ready:
    of the scans without an answer those that can be worked on, with what the steps need.
    """
    todo = missing(context, stage, table, scans)
    attempted = given_up(context, stage, scans)
    alone = (
        len(attempted.keys() - answered(context.store, context.folder(stage), table, scans))
        if attempted
        else 0
    )
    already = {"already": len(scans) - len(todo) - alone} | ({"given_up": alone} if alone else {})
    if todo.empty or (todo := ready(todo)).empty:
        compact_table(context, stage, FAULTS)  # a killed run may have left it half done
        return Counts(already)
    place = {"root": context.store.root, "folder": context.folder(stage), "table": table.name}
    outcomes = fill(
        context, stage, table, Manifest(each_row(todo)), steps(), Step(WriteEach, place, num_cpus=0.25),
        already=already["already"],
    )  # fmt: skip
    left = {code: n for code, n in sorted(outcomes.items()) if code in TRANSIENT}
    if left:
        context.say("  for the next run: " + ", ".join(f"{n} {code}" for code, n in left.items()))
    compact_table(context, stage, FAULTS)
    refused = {code: n for code, n in outcomes.items() if code != "ok" and code not in left}
    return Counts({**already, done: outcomes.get("ok", 0)}, refused, left=sum(left.values()))


class WriteEach:
    """A sink: one part a scan, so that a run that is killed loses the scans it was at and no others, and that
    whoever reads one scan opens one file."""

    def __init__(self, root: str, folder: str, table: str) -> None:
        self._store, self._folder, self._table = Store(root), folder, TABLES[table]

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            table = FAULTS if row.get("code") else self._table
            write_each(self._store, self._folder, table, [row])


def write_each(store: Store, folder: str, table: Table, rows: Sequence[Row]) -> None:
    """A part a scan, by its name: written again it is replaced, however a run came to it."""
    for row in rows:
        write_part(store, folder, table, [row], part_name(row["scan_id"], row["source_digest"]))
