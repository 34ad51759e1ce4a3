"""Prepared tensors by number: random access for training, out of parquet, with a bounded cache in memory."""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

from spineage.errors import BadStudy
from spineage.io.store import Store
from spineage.io.volumes import tensor_from_row
from spineage.tables import TENSORS

COLUMNS = ["shape", "voxels_zstd", "levels_zstd"]
CACHE_BYTES = 2 * 2**30


def part_name(scan_id: str, source_digest: str) -> str:
    """The part that holds one scan's tensor: reading one scan opens one file, listing nothing."""
    return f"{scan_id}-{source_digest[:12]}"


class TensorPeople:
    """Scans and ages by number, as `science.learn.Examples` asks; tensors stay on storage until asked for.

    Compressed rows are kept in memory up to `cache_bytes`; the longest unused goes first.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        keys: Sequence[tuple[str, str]],
        ages_years: Sequence[float],
        *,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        assert len(keys) == len(ages_years)
        self._store, self._folder = store, folder
        self._keys, self._ages_years = list(keys), [float(a) for a in ages_years]
        self._room = cache_bytes
        self._rows: OrderedDict[int, dict[str, Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._keys)

    def age_years(self, i: int) -> float:
        """The chronological age."""
        return self._ages_years[i]

    def tensor(self, i: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Voxels and levels [R, A, S]; raises BadStudy when the tensor is not there."""
        return tensor_from_row(self._row(i))

    def _row(self, i: int) -> dict[str, Any]:
        if i in self._rows:
            self._rows.move_to_end(i)
            return self._rows[i]
        row = self._read(*self._keys[i])
        self._rows[i] = row
        self._room -= _size(row)
        while self._room < 0 and self._rows:
            self._room += _size(self._rows.popitem(last=False)[1])
        return row

    def _read(self, scan_id: str, source_digest: str) -> dict[str, Any]:
        part = f"{self._folder}/{TENSORS.name}/{part_name(scan_id, source_digest)}.parquet"
        try:
            data = self._store.read(part)
        except FileNotFoundError:
            raise BadStudy(
                f"the tensor of scan {scan_id} is gone: run `spineage prepare` again"
            ) from None
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data), columns=COLUMNS).to_pylist()
        return rows[0]


def _size(row: dict[str, Any]) -> int:
    return len(row["voxels_zstd"]) + len(row["levels_zstd"])


def people_of(store: Store, folder: str, rows: pd.DataFrame, **options: Any) -> TensorPeople:
    """The tensors of a frame with scan_id, source_digest and age_years, in its order."""
    keys = list(zip(rows["scan_id"], rows["source_digest"], strict=True))
    return TensorPeople(store, folder, keys, list(rows["age_years"]), **options)
