"""Tables on storage: parquet parts with a declared schema, written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from spineage.errors import BadStudy
from spineage.io.storage.parts import GONE, DamagedParts, read_parts
from spineage.io.storage.store import Store
from spineage.tables import Table


def write_part(
    store: Store,
    folder: str,
    table: Table,
    rows: pd.DataFrame | Sequence[dict[str, Any]],
    name: str,
) -> None:
    """Write one part of a table as `<folder>/<table>/<name>.parquet`; rows are checked first."""
    store.write(f"{folder}/{table.name}/{name}.parquet", encode(table, rows))


def encode(table: Table, rows: pd.DataFrame | Sequence[dict[str, Any]]) -> bytes:
    """The rows as a parquet file. Columns of no value keep their type (a null-typed part breaks readers)."""
    records: Sequence[Any] = rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows
    schema = table.schema
    missing = [n for n in schema.names if records and n not in records[0]]
    if missing:
        raise BadStudy(f"table {table.name}: rows lack {missing}")
    columns = [_column([_plain(row[f.name]) for row in records], f.type) for f in schema]
    return encode_rows(table, pa.table(columns, names=schema.names))


def encode_rows(table: Table, data: pa.Table) -> bytes:
    """The same of rows that arrow holds: as dicts they would take many times more."""
    sink = io.BytesIO()
    pq.write_table(
        table.check(data), sink, compression="zstd", row_group_size=_rows_per_group(table),
        write_page_checksum=True,
    )  # fmt: skip
    return sink.getvalue()


def _rows_per_group(table: Table) -> int:
    """Rows with volumes are read a few at a time; of light ones, each costs a reader 1 kB a column."""
    return 64 if any(pa.types.is_binary(column.dtype) for column in table.columns) else 16_384


def _column(values: list[Any], dtype: pa.DataType) -> pa.Array:
    """Text that no encoding can hold (half a character of a damaged file) is written with question marks."""
    try:
        return pa.array(values, dtype)
    except UnicodeEncodeError:
        texts = (v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for v in values)
        return pa.array(list(texts), dtype)


def _plain(value: Any) -> Any:
    """NaN and NaT mean unknown in pandas; in a table unknown is null."""
    if isinstance(value, float) and value != value:
        return None
    if value is pd.NA or value is pd.NaT:
        return None
    return value


def read_table(
    store: Store,
    folder: str,
    table: Table,
    columns: Sequence[str] | None = None,
    where: pads.Expression | None = None,
    *,
    listed: Sequence[str] | None = None,
) -> pd.DataFrame:
    """All parts of a table, or an empty frame. Private location columns are read only by name.

    A run beside this one may merge parts between the listing and the reading: then it is listed again. Raises
    DamagedParts.
    """
    place = f"{folder}/{table.name}"
    parts = store.list(place, ".parquet") if listed is None else listed
    for _ in range(2):
        try:
            return read_parts(store, parts, table, columns, where).to_pandas()
        except DamagedParts as damage:
            if set(damage.faults.values()) != {GONE}:
                raise
        parts = store.list(place, ".parquet")
    return read_parts(store, parts, table, columns, where).to_pandas()
