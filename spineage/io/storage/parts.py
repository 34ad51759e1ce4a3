"""Reading the parts of a table, with distrust: what is cut short, of other columns, or gone, is named.

Arrow alone would cast what has another type and fill a column that is missing with nulls, in silence.
Also where in a table each scan lies, and reading that one row: for tables too heavy to read whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, TypeVar

import pyarrow as pa
import pyarrow.dataset as pads

from spineage.errors import BadScan, BadStudy
from spineage.io.storage.store import Store
from spineage.io.storage.trouble import describe, reason_of
from spineage.tables import KEY, Table

PART = "__filename"
GROUP: Final = 256
"""Parts read at a time: what is known of them is dropped before the next."""
REDONE: Final = ("segment", "prepare", "score")
"""Stages that fill in what is missing: without its part a scan is worked on again."""
FORMAT: Final = pads.ParquetFileFormat(
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(page_checksum_verification=True)
)
GONE: Final = "is gone"
T = TypeVar("T")


class DamagedParts(BadStudy):
    """Parts of a table that cannot be used, relative to the workspace, with the reason for each."""

    def __init__(self, faults: dict[str, str]) -> None:
        part, why = next(iter(faults.items()))
        more = f" (and {len(faults) - 1} parts more)" if len(faults) > 1 else ""
        super().__init__(f"{part} in the workspace {why}{more}: {_remedy(part)}")
        self.faults = faults

    def __reduce__(self) -> tuple[type[DamagedParts], tuple[dict[str, str]]]:
        return DamagedParts, (self.faults,)


def _is_redone(part: str) -> bool:
    """Of a stage that fills in what is missing, or headers, which ingest reads again."""
    stage, *folders = part.split("/")[:-1]
    return stage in REDONE or (stage == "ingest" and folders[-1:] == ["headers"])


def _remedy(part: str) -> str:
    stage, *folders = part.split("/")[:-1]
    if _is_redone(part):
        return f"remove it and run `spineage {stage}` again, which makes it anew"
    whole = "/".join([stage, *folders[:-1]])
    return f"remove the folder {whole} and run `spineage {stage}` again"


def read_sound(read: Callable[[], T], store: Store, tell: Callable[[str], None]) -> T:
    """What `read` returns, once the damaged parts it met are set aside: for stages that make them anew."""
    while True:
        try:
            return read()
        except DamagedParts as damage:
            if not all(map(_is_redone, damage.faults)):
                raise
            for part, why in damage.faults.items():
                store.set_aside(part)
                tell(f"  {part} {why}: set aside, and made anew")


def read_parts(
    store: Store,
    parts: Sequence[str],
    table: Table,
    columns: Sequence[str] | None = None,
    where: pads.Expression | None = None,
) -> pa.Table:
    """The named parts of a table, relative to the root, or no rows. Raises DamagedParts."""
    wanted = list(columns) if columns is not None else table.schema.names
    read: list[pa.Table] = []
    faults: dict[str, str] = {}
    for group in _groups(parts):
        try:
            read.append(_read(store, group, table, wanted, where))
        except Exception as error:
            bad = {part: why for part in group if (why := _fault_of(store, part, table, wanted))}
            if not bad:
                is_bug = store.is_local and not isinstance(error, OSError)
                raise error if is_bug else _unread(error) from None
            faults |= bad
    if faults:
        raise DamagedParts(faults)
    return pa.concat_tables(read) if read else _no_rows(table, wanted)


def _groups(parts: Sequence[str]) -> Iterator[list[str]]:
    rest = iter(parts)
    while group := list(itertools.islice(rest, GROUP)):
        yield group


def _no_rows(table: Table, wanted: Sequence[str]) -> pa.Table:
    fields = [pa.field(PART, pa.string()) if n == PART else table.schema.field(n) for n in wanted]
    return pa.schema(fields).empty_table()


class _WrongColumns(Exception):
    """The part is parquet, and not of this table."""


def _read(
    store: Store,
    parts: Sequence[str],
    table: Table,
    wanted: Sequence[str],
    where: pads.Expression | None = None,
) -> pa.Table:
    if store.is_local:
        data = pads.dataset(
            [address_of(store, part) for part in parts], schema=table.schema, format=FORMAT
        )
        _require_columns(data.get_fragments(), table)
        rows = data.to_table(columns=list(wanted), filter=where)
    else:
        columns = [name for name in wanted if name != PART]
        rows = pa.concat_tables(
            _parse(content, address_of(store, part), table, columns, where).select(list(wanted))
            for part, content in store.read_all(parts).items()
        )
    rows.validate(full=True)
    is_required = {column.name for column in table.columns if not column.nullable}
    if any(rows[name].null_count for name in wanted if name in is_required):
        raise _WrongColumns
    return rows


def _parse(
    content: bytes, place: str, table: Table, columns: Sequence[str], where: pads.Expression | None
) -> pa.Table:
    """A part of an object store, which was fetched whole in one request: an answer takes longer than a small
    part does. It names its place as arrow's own reader does."""
    fragment = FORMAT.make_fragment(pa.BufferReader(content))
    _require_columns([fragment], table)
    rows = fragment.to_table(schema=table.schema, columns=list(columns), filter=where)
    return rows.append_column(PART, pa.array([place] * len(rows), pa.string()))


def _require_columns(fragments: Iterable[pads.Fragment], table: Table) -> None:
    if not all(fragment.physical_schema.equals(table.schema) for fragment in fragments):
        raise _WrongColumns


def _fault_of(store: Store, part: str, table: Table, wanted: Sequence[str]) -> str:
    """What is wrong with one part, "" when nothing is. Raises BadStudy when the disk is at fault."""
    try:
        _read(store, [part], table, wanted)
    except FileNotFoundError:
        return GONE
    except _WrongColumns:
        return f"holds other columns or types than table {table.name}"
    except pa.ArrowException:
        return "is damaged or cut short"
    except OSError as error:
        if error.errno:
            raise _unread(error) from None
        return "is damaged or cut short"
    return ""


def _unread(error: Exception) -> Exception:
    """What the disk, or an object store, answers instead of a part."""
    if isinstance(error, BadStudy):
        return error
    why = describe(error) if isinstance(error, OSError) and error.errno else reason_of(error)
    return BadStudy(f"the workspace cannot be read: {why}")


class PartReader:
    """Rows of a table, all columns or the named ones, by part and key. The last part is kept: neighbours in a
    manifest often share it."""

    def __init__(self, store: Store, table: Table, columns: Sequence[str] = ()) -> None:
        self._store, self._table = store, table
        self._columns = [*KEY, *columns] if columns else None
        self._part = ""
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def row(self, part: str, scan_id: str, source_digest: str) -> dict[str, Any]:
        """One scan's row. Raises BadScan damaged_part; the part is set aside, so that the
        next run makes it anew."""
        if part != self._part:
            self._rows = self._read(part)
            self._part = part
        if (scan_id, source_digest) not in self._rows:
            raise self._refuse(part, "holds other scans")
        return self._rows[scan_id, source_digest]

    def _read(self, part: str) -> dict[tuple[str, str], dict[str, Any]]:
        try:
            rows = read_parts(self._store, [part], self._table, self._columns).to_pylist()
        except DamagedParts as damage:
            raise self._refuse(part, damage.faults[part]) from None
        return {(row["scan_id"], row["source_digest"]): row for row in rows}

    def _refuse(self, part: str, why: str) -> BadScan:
        self._store.set_aside(part)
        self._part = ""
        return BadScan(
            "damaged_part", f"its part of table {self._table.name} {why}; it is made anew next time"
        )


def address_of(store: Store, part: str) -> str:
    """The part as arrow names it."""
    base = store.root if store.is_local else store.fs._strip_protocol(store.root)
    return f"{base}/{part}"
