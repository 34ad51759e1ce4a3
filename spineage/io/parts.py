"""Where in a table each scan lies, and reading that one row: for tables too heavy to read whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import pyarrow.dataset as pads

from spineage.io.store import Store
from spineage.tables import Table

KEY = ["scan_id", "source_digest"]


def find_parts(
    store: Store, folder: str, table: Table, columns: Sequence[str] = ()
) -> pd.DataFrame:
    """One row per scan of the table: its key, `part` (relative to the workspace) and the named light
    columns.

    A scan written twice, by a run that was killed and its successor, is found once: the rows are equal.
    """
    wanted = [*KEY, *columns]
    parts = store.list(f"{folder}/{table.name}", ".parquet")
    if not parts:
        return table.schema.empty_table().select(wanted).to_pandas().assign(part="")
    part_of = {_address(store, part): part for part in parts}
    data = pads.dataset(
        list(part_of), schema=table.schema, format="parquet", filesystem=_filesystem(store)
    )
    found = data.to_table(columns=[*wanted, "__filename"]).to_pandas()
    found["part"] = found.pop("__filename").map(part_of)
    assert found["part"].notna().all()
    return found.drop_duplicates(KEY, ignore_index=True)


class PartReader:
    """Rows of a table by part and key. The last part is kept: neighbours in a manifest often share it."""

    def __init__(self, store: Store, table: Table) -> None:
        self._store, self._table = store, table
        self._part = ""
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}

    def row(self, part: str, scan_id: str, source_digest: str) -> dict[str, Any]:
        """All columns of one scan's row."""
        if part != self._part:
            data = pads.dataset(
                _address(self._store, part),
                schema=self._table.schema,
                format="parquet",
                filesystem=_filesystem(self._store),
            )
            rows = data.to_table().to_pylist()
            self._rows = {(row["scan_id"], row["source_digest"]): row for row in rows}
            self._part = part
        return self._rows[scan_id, source_digest]


def _address(store: Store, part: str) -> str:
    base = store.root if store.is_local else store.fs._strip_protocol(store.root)
    return f"{base}/{part}"


def _filesystem(store: Store) -> Any:
    return None if store.is_local else store.fs
