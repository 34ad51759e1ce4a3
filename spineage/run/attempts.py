"""Scans that failed run after run: after some runs they are left alone, until the code changes or one asks.

A scan may kill its worker each time, hang each time, or meet a bug each time. No row of a table is the answer
to it, for another machine or a mended program may do it; so what was tried is kept beside the tables. Other
weights are another address, with attempts of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import spineage
from spineage.errors import TRANSIENT, BadStudy
from spineage.io.storage.pointers import read_object
from spineage.io.storage.store import Store

Key = tuple[str, str]
COUNTED: Final = TRANSIENT - {"changed_since_ingest", "damaged_part"}
"""The others wait for another stage, not for another try."""


@dataclass(frozen=True)
class _Count:
    """In how many runs a scan has failed, how the last time, and when that was counted (seconds of the epoch;
    0 runs: when it was forgotten)."""

    runs: int
    code: str
    when: float


class Attempts:
    """How often each scan of a stage's folder has failed: of a run of all in a file there, of each shard in
    one of its own, which nobody else writes. Of two files the later word counts."""

    def __init__(self, store: Store, folder: str, shard: str = "") -> None:
        """shard: of a run that does a share of the scans."""
        self._store, self._shards = store, f"{folder}/attempts"
        all_scans = f"{folder}/attempts.json"
        self._file = f"{self._shards}/{shard}.json" if shard else all_scans
        self._own: dict[Key, _Count] = {}
        self._runs: dict[Key, _Count] = {}
        for file in (all_scans, *store.list(self._shards, ".json")):
            counts, at_work = self._kept(file)
            if (
                not shard or file == self._file
            ):  # whoever was at work there is dead, or we would wait
                counts |= at_work
            if file == self._file:
                self._own = dict(counts)
            for key, count in counts.items():
                known = self._runs.get(key)
                if known is None or known.when < count.when:
                    self._runs[key] = count

    def given_up(self, after: int) -> dict[Key, str]:
        """The scans that failed in so many runs, with their last code."""
        return {key: c.code for key, c in self._runs.items() if c.runs and c.runs >= after}

    def begin(self, key: Key) -> None:
        """Note that this scan is tried now, by a process that it may kill: until the next one begins, or the
        run ends, it counts as crashed for who finds the process dead."""
        self._write({key: self._one_more(key, "crashed")})

    def add(self, failed: dict[Key, str]) -> None:
        """Note the scans of one run that failed, by their codes; what failed otherwise is not counted."""
        for key, code in failed.items():
            if code in COUNTED:
                self._own[key] = self._runs[key] = self._one_more(key, code)
        if self._own or self._store.exists(self._file):
            self._write({})

    def forget(self, scans: Collection[Key]) -> None:
        """These may be tried again, whichever run has counted them."""
        known = [key for key in scans if key in self._runs]
        for key in known:
            self._own[key] = self._runs[key] = _Count(0, "", time.time())
        if known:
            self._write({})

    def _one_more(self, key: Key, code: str) -> _Count:
        known = self._runs.get(key)
        return _Count(known.runs + 1 if known else 1, code, time.time())

    def _write(self, at_work: Mapping[Key, _Count]) -> None:
        content = {
            "program": digest_of_program(),
            "scans": _rows(self._own),
            "at_work": _rows(at_work),
        }
        self._store.write(self._file, json.dumps(content).encode())

    def _kept(self, file: str) -> tuple[dict[Key, _Count], dict[Key, _Count]]:
        """What is counted, and who was at work. None when the program was another one, or the file is
        damaged: then they are tried again."""
        try:
            found = read_object(self._store, file, "remove it")
        except (FileNotFoundError, BadStudy):
            return {}, {}
        if found.get("program") != digest_of_program():
            return {}, {}
        return _counts(found.get("scans")), _counts(found.get("at_work"))


def _rows(counts: Mapping[Key, _Count]) -> list[list[Any]]:
    return [[*key, c.runs, c.code, c.when] for key, c in sorted(counts.items())]


def _counts(rows: Any) -> dict[Key, _Count]:
    """Of rows as they are written; others are left out."""
    found = rows if isinstance(rows, list) else []
    return {(row[0], row[1]): _Count(*row[2:]) for row in found if _is_row(row)}


def described(given_up: dict[Key, str], after: int) -> str:
    """One line for people."""
    codes = ", ".join(f"{n} {code}" for code, n in Counter(given_up.values()).most_common())
    return (
        f"  {len(given_up)} scans are left alone, which failed in {after} runs ({codes}): another version "
        "tries them again, and so does --retry"
    )


@functools.cache
def digest_of_program() -> str:
    """Over the source of this package."""
    digest = hashlib.sha256()
    for path in sorted(Path(spineage.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _is_row(row: Any) -> bool:
    return (
        isinstance(row, list)
        and [type(value) for value in row] == [str, str, int, str, float]
        and (row[3] in COUNTED or not row[2])
    )
