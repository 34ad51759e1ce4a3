"""The second step of ingest: each person's headers brought together, judged, and made into tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa

from spineage.engine.training.shuffle import each_group
from spineage.io.people.identity import Keyed
from spineage.io.people.overrides import Override, read_overrides
from spineage.io.people.tables import read_participants
from spineage.io.scans.given import Given, find_given
from spineage.io.scans.header_rows import GROUPS, Row
from spineage.io.storage.parquet import read_parts, write_part
from spineage.io.storage.store import Store
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.stages.ingest.each import judge_each
from spineage.stages.ingest.scan import Scanned
from spineage.stages.ingest.tables import OTHER_AGE, OTHER_SEX, find_person, list_people, tables_of
from spineage.study import Ingest, Inputs, Study
from spineage.tables import HEADERS, TABLES

FILES_PER_GROUP = 8192
"""About 12 MB of headers as they are kept, and 160 MB while they are judged."""
GROUPS_HERE = 4
"""So many are judged in this process, one after the other, which takes some seconds: a shuffle between
processes would take a minute and gigabytes to start."""
CONTRADICTIONS = {"other_sex": OTHER_SEX, "other_age": OTHER_AGE}


@dataclass(frozen=True)
class Judging:
    """What a worker needs beside the headers of its group."""

    root: str
    folder: str
    section: Ingest
    inputs: Inputs
    keyed: Keyed
    named_sites: tuple[str, ...]
    given: Given | None = None


def check_tables(study: Study, keyed: Keyed) -> None:
    """Raise BadStudy before any work when participants or overrides do not fit."""
    _people(study.inputs, keyed, study.cohort.test_sites)
    _overrides(study.inputs)


def _people(inputs: Inputs, keyed: Keyed, named_sites: tuple[str, ...]) -> pd.DataFrame | None:
    if not inputs.participants:
        return None
    return read_participants(inputs.participants, keyed, inputs.max_age_shown, named_sites)


def _overrides(inputs: Inputs) -> dict[str, Override]:
    return read_overrides(inputs.overrides) if inputs.overrides else {}


def judge_groups(context: Context, keyed: Keyed, scanned: Scanned, folder: str) -> dict[str, int]:
    """Write the tables into the folder; returns counts of files, series, scans, and refusals by code."""
    study, store = context.study, context.store
    sites = study.cohort.test_sites
    given = given_of(study, keyed)
    judging = Judging(store.root, folder, study.ingest, study.inputs, keyed, sites, given)
    num_groups = min(GROUPS, -(-scanned.num_rows // FILES_PER_GROUP))
    if num_groups <= GROUPS_HERE:
        return _judge_here(read_parts(store, _paths(scanned), HEADERS), num_groups, judging)
    context.connect()
    answers = each_group(
        partial(judge_group, judging=judging),
        [f"{store.root}/{path}" for path in _paths(scanned)],
        by="group",
        num_groups=num_groups,
        filesystem=None if store.is_local else store.fs,
    )
    total: Counter[str] = Counter()
    try:
        for counts in answers:
            total.update(counts)
    except Exception:
        _require_sound(store, scanned)
        raise
    return dict(total)


def _judge_here(rows: pa.Table, num_groups: int, judging: Judging) -> dict[str, int]:
    """Group by group, as `each_group` cuts them: the same parts of the same tables."""
    numbers = rows["group"].to_numpy() % num_groups
    total: Counter[str] = Counter()
    for number in np.unique(numbers).tolist():
        total.update(judge_group(number, rows.filter(pa.array(numbers == number)), judging))
    return dict(total)


def _require_sound(store: Store, scanned: Scanned) -> None:
    """Raise DamagedParts where workers could not read a part: theirs is another library's error."""
    for path in _paths(scanned):
        read_parts(store, [path], HEADERS)


def _paths(scanned: Scanned) -> list[str]:
    return [f"{scanned.folder}/{HEADERS.name}/{part}.parquet" for part in scanned.parts]


def judge_group(number: int, rows: pa.Table, judging: Judging) -> dict[str, int]:
    """Judge the headers of some people and write what came of them as one part of each table."""
    overrides = _overrides(judging.inputs)
    people = _people(judging.inputs, judging.keyed, judging.named_sites)
    judge = partial(
        tables_of, section=judging.section, keyed=judging.keyed, people=people, overrides=overrides,
        given=judging.given,
    )  # fmt: skip
    tables = judge_each(rows.to_pylist(), judge)
    for table, table_rows in tables.items():
        name = f"part-{number:05d}"
        write_part(Store(judging.root), judging.folder, TABLES[table], table_rows, name)
    return {**_counts(tables, overrides), **_participants(tables, people)}


def given_of(study: Study, keyed: Keyed) -> Given | None:
    """The masks that a study gives."""
    section = study.segment
    if not (section.masks and section.masks_of):
        return None
    return find_given(section.masks, section.masks_of, study.inputs.scans, keyed)


def _participants(tables: dict[str, list[Row]], people: pd.DataFrame | None) -> dict[str, int]:
    """Scans that a row of the participants table was used for, those whose person it lists at other exams
    only, and those that it contradicts."""
    listed, names = list_people(people), set() if people is None else set(people.person_id)
    is_used = [bool(find_person(s["person_id"], s["exam_id"], listed)) for s in tables["scans"]]
    is_known = [scan["person_id"] in names for scan in tables["scans"]]
    return {
        "in_participants": sum(is_used),
        "at_other_exams": sum(is_known) - sum(is_used),
        **{name: _num_scans(tables["series"], m) for name, m in CONTRADICTIONS.items()},
    }


def _num_scans(series: list[Row], message: str) -> int:
    """Scans with a series of which this is said."""
    return len({row["scan_id"] for row in series if row["scan_id"] and message in row["message"]})


def _counts(tables: dict[str, list[Row]], overrides: Iterable[str]) -> dict[str, int]:
    """Files, series and scans; refused series and unused files by code; overrides that name a series."""
    done = {name: len(tables[name]) for name in ("files", "series", "scans")}
    done["overrides"] = len({row["series_id"] for row in tables["series"]} & set(overrides))
    refused = Counter(row["code"] for row in tables["series"] if row["code"])
    unused = Counter(row["code"] for row in tables["files"] if row["code"])
    return Counts(done, refused, unused).flat()
