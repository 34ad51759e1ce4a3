"""Prepared tensors by number: random access for training, out of parquet, with a bounded cache in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineage.errors import BadStudy
from spineage.io.storage.index import keys_of, part_name
from spineage.io.storage.parts import DamagedParts, read_parts
from spineage.io.storage.store import Store
from spineage.io.storage.volumes import tensor_from_row
from spineage.tables import KEY, TENSORS

COLUMNS = [*KEY, "shape", "voxels_zstd", "levels_zstd"]
CACHE_BYTES = 2 * 2**30


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
            rows: list[dict[str, Any]] = read_parts(
                self._store, [part], TENSORS, COLUMNS
            ).to_pylist()
        except DamagedParts as damage:
            raise self._refuse(scan_id, part, damage.faults[part]) from None
        for row in rows:
            if (row["scan_id"], row["source_digest"]) == (scan_id, source_digest):
                return row
        raise self._refuse(scan_id, part, "holds another scan")

    def _refuse(self, scan_id: str, part: str, why: str) -> BadStudy:
        self._store.set_aside(part)
        return BadStudy(
            f"the tensor of scan {scan_id} {why}: run `spineage prepare` again, which makes it anew"
        )


def _size(row: dict[str, Any]) -> int:
    return len(row["voxels_zstd"]) + len(row["levels_zstd"])


def people_of(store: Store, folder: str, rows: pd.DataFrame, **options: Any) -> TensorPeople:
    """The tensors of a frame with scan_id, source_digest and age_years, in its order."""
    return TensorPeople(store, folder, keys_of(rows), list(rows["age_years"]), **options)
