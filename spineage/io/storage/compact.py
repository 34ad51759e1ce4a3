"""Small parts of a table become large ones, so that half a million scans are tens of files.

Whoever reads meanwhile sees each scan: by our readers in one part or in both, which count once. Plain pyarrow
passes over the names that begin with `_`: it never reads a scan twice, and what is on its way to a large part
only when it has arrived. A run that is killed in between leaves both; the next one goes on.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from spineage.io.storage.index import read_keys, stem_of
from spineage.io.storage.parquet import encode_rows
from spineage.io.storage.parts import PART, address_of, read_parts
from spineage.io.storage.store import Store
from spineage.tables import KEY, Table

MAX_SMALL: Final = 64
"""So many are left as they are: a run of every day adds a few."""
LARGE_ROWS: Final = 16_384
READ_AT_ONCE: Final = 256
ON_ITS_WAY: Final = "_"
MERGED: Final = re.compile(r"_?[0-9a-f]{24}x(\d+)")


def compact(
    store: Store,
    folder: str,
    table: Table,
    is_final: Callable[[pa.Table], pa.ChunkedArray] | None = None,
) -> int:
    """Merge the small parts of `<folder>/<table>` when there are more than MAX_SMALL; how many were.

    One run at a time may write there. is_final: which rows will never be written anew (true or false of
    each); a part with another row stays. Raises DamagedParts.
    """
    parts = store.list(f"{folder}/{table.name}", ".parquet")
    for part in filter(_is_on_its_way, parts):
        _arrive(store, part, [p for p in parts if not _is_on_its_way(p)], table)
        parts = store.list(f"{folder}/{table.name}", ".parquet")
    small = [part for part in parts if _rows_of(part) < LARGE_ROWS // 2]
    if len(small) <= MAX_SMALL:
        return 0
    merged = 0
    for sources, rows in _groups(store, small, table, is_final):
        names = "\n".join(sorted(sources))
        name = f"{hashlib.sha256(names.encode()).hexdigest()[:24]}x{len(rows)}"
        place = f"{folder}/{table.name}/{ON_ITS_WAY}{name}.parquet"
        store.write(place, encode_rows(table, rows))
        _swap(store, place, sources)
        merged += len(sources)
    return merged


def _groups(
    store: Store,
    small: Sequence[str],
    table: Table,
    is_final: Callable[[pa.Table], pa.ChunkedArray] | None,
) -> Iterator[tuple[list[str], pa.Table]]:
    """Parts and their rows, each scan once, up to about LARGE_ROWS."""
    sources: list[str] = []
    kept: list[pa.Table] = []
    for start in range(0, len(small), READ_AT_ONCE):
        chunk = small[start : start + READ_AT_ONCE]
        rows = read_parts(store, chunk, table, [*table.schema.names, PART])
        staying = (
            set(pc.filter(rows[PART], pc.invert(is_final(rows))).to_pylist()) if is_final else set()
        )
        sources += [part for part in chunk if address_of(store, part) not in staying]
        going = rows.filter(pc.invert(pc.is_in(rows[PART], pa.array(sorted(staying), pa.string()))))
        kept.append(going.combine_chunks())  # a chunk a part takes more than its row
        if sum(map(len, kept)) >= LARGE_ROWS:
            yield sources, _once(kept)
            sources, kept = [], []
    if len(sources) > 1:
        yield sources, _once(kept)


def _once(tables: Sequence[pa.Table]) -> pa.Table:
    rows = pa.concat_tables(tables).drop_columns([PART])
    keys = pc.binary_join_element_wise(*(rows[name] for name in KEY), " ")
    numbered = pa.table({"key": keys, "number": pa.array(range(len(rows)))})
    first = numbered.group_by("key").aggregate([("number", "min")])["number_min"]
    return rows.take(first.take(pc.sort_indices(first))).combine_chunks()


def _arrive(store: Store, part: str, others: Sequence[str], table: Table) -> None:
    """Go on where a run was killed: what the large part holds is removed elsewhere."""
    there = {key for key, _ in read_keys(store, [part], table)}
    small = [p for p in others if _rows_of(p) < LARGE_ROWS // 2]
    staying = {source for key, source in read_keys(store, small, table) if key not in there}
    _swap(store, part, [source for source in small if source not in staying])


def _swap(store: Store, part: str, sources: Sequence[str]) -> None:
    """The small parts go before the large one shows, so that nobody reads a scan twice."""
    store.remove_all(sources)
    folder, _, name = part.rpartition("/")
    store.rename(part, f"{folder}/{name.removeprefix(ON_ITS_WAY)}")


def _is_on_its_way(part: str) -> bool:
    return stem_of(part).startswith(ON_ITS_WAY)


def _rows_of(part: str) -> int:
    """Of a merged part as its name says; of any other, few."""
    found = MERGED.fullmatch(stem_of(part))
    return int(found[1]) if found else 0
