"""Where each scan's row of a table lies, from the names of the table's parts: one listing, nothing opened.

A part of one scan is named by its key. Of every other part the keys are read: there are few.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pandas as pd

from spineage.errors import BadStudy
from spineage.io.storage.parts import PART, DamagedParts, address_of, read_parts
from spineage.io.storage.store import Store
from spineage.io.storage.trouble import describe
from spineage.tables import KEY, Table

Key = tuple[str, str]
READERS: Final = 16
"""Threads: on a network's disk each look waits for an answer."""
CHUNK: Final = 512
READ_AT_ONCE: Final = 64
"""Parts of many scans: some have 16,384 rows."""
OF_ONE: Final = re.compile(r"[0-9a-z]+-[0-9a-f]{12}")
MAGIC: Final = b"PAR1"
SMALLEST: Final = 12
"""Bytes of a parquet file that holds nothing: the magic at both ends, and a length."""


def part_name(scan_id: str, source_digest: str) -> str:
    """The part that holds one scan's row: reading one scan opens one file, listing nothing."""
    return f"{scan_id}-{source_digest[:12]}"


def parts_of_scans(
    store: Store, folder: str, table: Table, scans: Collection[Key]
) -> dict[Key, str]:
    """Of these scans (scan_id, source_digest) those that have a row, each with its part (relative to the
    workspace).

    What a crash of the machine left cut short on a local disk is found; what a part holds is not looked at
    before somebody reads it. Raises DamagedParts.
    """
    parts = store.list(f"{folder}/{table.name}", ".parquet")
    by_name = {stem: part for part in parts if OF_ONE.fullmatch(stem := stem_of(part))}
    if store.is_local:
        _require_whole(store, list(by_name.values()))
    found = {key: by_name[name] for key in scans if (name := part_name(*key)) in by_name}
    others = [part for part in parts if stem_of(part) not in by_name]
    wanted = set(scans) - found.keys() if others else set()
    return found | {key: part for key, part in read_keys(store, others, table) if key in wanted}


def read_keys(store: Store, parts: Sequence[str], table: Table) -> Iterator[tuple[Key, str]]:
    """Every scan in these parts, with its part. Raises DamagedParts."""
    part_of = {address_of(store, part): part for part in parts}
    for start in range(0, len(parts), READ_AT_ONCE):
        rows = read_parts(store, parts[start : start + READ_AT_ONCE], table, [*KEY, PART])
        for batch in rows.to_batches(max_chunksize=10_000):
            columns = (batch[name].to_pylist() for name in (*KEY, PART))
            for scan_id, source_digest, place in zip(*columns, strict=True):
                yield (scan_id, source_digest), part_of[place]


def keys_of(scans: pd.DataFrame) -> list[Key]:
    """(scan_id, source_digest) of each row."""
    return list(zip(scans["scan_id"], scans["source_digest"], strict=True))


def stem_of(part: str) -> str:
    """Its name without the folder and the ending."""
    return part.rpartition("/")[2].removesuffix(".parquet")


def _require_whole(store: Store, parts: Sequence[str]) -> None:
    chunks = [parts[start : start + CHUNK] for start in range(0, len(parts), CHUNK)]
    with ThreadPoolExecutor(READERS) as pool:
        cut = [
            part for found in pool.map(lambda chunk: _cut(store, chunk), chunks) for part in found
        ]
    if cut:
        raise DamagedParts(dict.fromkeys(cut, "is damaged or cut short"))


def _cut(store: Store, parts: Sequence[str]) -> list[str]:
    """Those that do not end as a parquet file does; one that is gone by now is not cut."""
    try:
        return [part for part in parts if not _ends_well(f"{store.root}/{part}")]
    except OSError as error:
        raise BadStudy(f"the workspace cannot be read: {describe(error)}") from None


def _ends_well(path: str) -> bool:
    """By the system's own calls: a file object for each of 100,000 takes five times as long."""
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        size = os.lseek(file, 0, os.SEEK_END)
        return size >= SMALLEST and os.pread(file, len(MAGIC), size - len(MAGIC)) == MAGIC
    finally:
        os.close(file)
