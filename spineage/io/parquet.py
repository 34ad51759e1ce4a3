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
from spineage.io.store import Store
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
    columns = [pa.array([_plain(row[f.name]) for row in records], f.type) for f in schema]
    data = pa.table(columns, names=schema.names)
    sink = io.BytesIO()
    pq.write_table(table.check(data), sink, compression="zstd", row_group_size=64)
    return sink.getvalue()


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
) -> pd.DataFrame:
    """All parts of a table, or an empty frame. Private location columns are read only by name."""
    wanted = list(columns) if columns is not None else table.schema.names
    parts = store.list(f"{folder}/{table.name}", ".parquet")
    return read_parts(store, parts, table, wanted, where).to_pandas()


def read_parts(
    store: Store,
    parts: Sequence[str],
    table: Table,
    columns: Sequence[str] | None = None,
    where: pads.Expression | None = None,
) -> pa.Table:
    """The named parts of a table, relative to the root, or no rows."""
    wanted = list(columns) if columns is not None else table.schema.names
    if not parts:
        return table.schema.empty_table().select(wanted)
    base = store.root if store.is_local else store.fs._strip_protocol(store.root)
    filesystem = None if store.is_local else store.fs
    dataset = pads.dataset(
        [f"{base}/{part}" for part in parts],
        schema=table.schema,
        format="parquet",
        filesystem=filesystem,
    )
    return dataset.to_table(columns=wanted, filter=where)


def read_keys(store: Store, folder: str, table: Table) -> set[tuple[str, str]]:
    """Which scans the table already answers for: (scan_id, source_digest)."""
    keys = read_table(store, folder, table, ["scan_id", "source_digest"])
    return set(zip(keys.scan_id, keys.source_digest, strict=True))
