"""Judging headers so that a bug met on one series stays with its files, and all others are judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from spineage.errors import SpineageError
from spineage.io.files.seen import Seen
from spineage.io.scans.header_rows import Row, read_of
from spineage.io.scans.headers import Read, fault_from

Tables = dict[str, list[Row]]
Judge = Callable[[Sequence[Read]], Tables]


def judge_each(rows: Sequence[Row], judge: Judge) -> Tables:
    """The tables of all rows of `headers`. Where judging all of them fails, person by person and, of whom
    that fails, without the series that fails alone; its files get the code `bug`."""
    reads = [_read_of(row) for row in rows]
    try:
        return judge(reads)
    except SpineageError:
        raise
    except Exception:
        people = [_judge_person(group, judge) for group in _grouped(reads, _person)]
    return {name: [row for tables in people for row in tables[name]] for name in people[0]}


def _judge_person(reads: list[Read], judge: Judge) -> Tables:
    sound: list[Read] = []
    for group in _grouped(reads, _series):
        fault = _failure(group, judge)
        sound += [_refused(read, fault) for read in group] if fault else group
    fault = _failure(sound, judge)
    return judge([_refused(read, fault) for read in sound] if fault else sound)


def _failure(reads: list[Read], judge: Judge) -> Exception | None:
    try:
        judge(reads)
    except SpineageError:
        raise
    except Exception as error:
        return error
    return None


def _refused(read: Read, error: Exception) -> Read:
    if read.header is None:
        return read
    fault = fault_from(error)
    return replace(read, header=None, code=fault.code, message=str(fault))


def _read_of(row: Row) -> Read:
    try:
        return read_of(row)
    except Exception as error:
        fault = fault_from(error)
        seen = Seen("", "", row["bytes"], "")
        return Read(seen, row["file_id"], None, fault.code, str(fault))


def _person(read: Read) -> str:
    return read.header.about.person_id if read.header else ""


def _series(read: Read) -> str:
    return read.header.series_id if read.header else ""


def _grouped(reads: Sequence[Read], key: Callable[[Read], str]) -> list[list[Read]]:
    groups: dict[str, list[Read]] = {}
    for read in reads:
        groups.setdefault(key(read), []).append(read)
    return [groups[name] for name in sorted(groups)]
