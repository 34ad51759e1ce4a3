"""Scans that failed run after run: after some runs they are left alone, until the code changes or one asks.

A scan may kill its worker each time, hang each time, or meet a bug each time. No row of a table is the answer
to it, for another machine or a mended program may do it; so what was tried is kept beside the tables. Other
weights are another address, with attempts of its own.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import spineage
from spineage.errors import TRANSIENT, BadStudy
from spineage.io.storage.pointers import read_object
from spineage.io.storage.store import Store

Key = tuple[str, str]
COUNTED: Final = TRANSIENT - {"changed_since_ingest", "damaged_part"}
"""The others wait for another stage, not for another try."""


class Attempts:
    """How often each scan of a stage's folder has failed, in a file there; one run writes at a time."""

    def __init__(self, store: Store, folder: str, shard: str = "") -> None:
        """shard: of a run that does a share of the scans, which keeps a file of its own."""
        self._store, self._folder, self._shards = store, folder, f"{folder}/attempts"
        self._file = f"{self._shards}/{shard}.json" if shard else f"{folder}/attempts.json"
        self._runs: dict[Key, tuple[int, str]] = {}
        for scan_id, source_digest, runs, code in (
            row for file in self._files() for row in self._kept(file)
        ):
            key = scan_id, source_digest
            self._runs[key] = max(self._runs.get(key, (0, "")), (runs, code))

    def given_up(self, after: int) -> dict[Key, str]:
        """The scans that failed in so many runs, with their last code."""
        return {key: code for key, (runs, code) in self._runs.items() if runs >= after}

    def begin(self, key: Key) -> None:
        """Note that this scan is tried now, by a process that it may kill: until the next one begins, or the
        run ends, it counts as crashed."""
        runs, _ = self._runs.get(key, (0, ""))
        self._write(self._file, {**self._runs, key: (runs + 1, "crashed")})

    def add(self, failed: dict[Key, str]) -> None:
        """Note the scans of one run that failed, by their codes; what failed otherwise is not counted."""
        for key, code in failed.items():
            if code in COUNTED:
                self._runs[key] = self._runs.get(key, (0, ""))[0] + 1, code
        if self._runs or self._store.exists(self._file):
            self._write(self._file, self._runs)

    def forget(self, scans: Collection[Key]) -> None:
        """These may be tried again, whichever run has counted them."""
        for file in self._files():
            kept = {(a, b): (runs, code) for a, b, runs, code in self._kept(file)}
            if kept.keys() & set(scans):
                self._write(file, {key: n for key, n in kept.items() if key not in scans})
        for key in scans:
            self._runs.pop(key, None)

    def _files(self) -> list[str]:
        """Of runs of all, and of shards."""
        return [f"{self._folder}/attempts.json", *self._store.list(self._shards, ".json")]

    def _write(self, file: str, runs: Mapping[Key, tuple[int, str]]) -> None:
        rows = [[*key, num, code] for key, (num, code) in sorted(runs.items())]
        content = {"program": digest_of_program(), "scans": rows}
        self._store.write(file, json.dumps(content).encode())

    def _kept(self, file: str) -> list[Any]:
        """None when the program was another one, or the file is damaged: then they are tried again."""
        try:
            found = read_object(self._store, file, "remove it")
        except (FileNotFoundError, BadStudy):
            return []
        rows = found.get("scans")
        is_ours = found.get("program") == digest_of_program() and isinstance(rows, list)
        return [row for row in rows if _is_row(row)] if is_ours and rows else []


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
        and [type(value) for value in row] == [str, str, int, str]
        and row[3] in COUNTED
    )
