"""What scoring starts from: one work item a scan, which says what of it is there already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from spineage.io.models.bundle import Bundle
from spineage.run.context import Context
from spineage.run.fill import ROWS_AT_ONCE, Row, rows_of
from spineage.tables import KEY


@dataclass(frozen=True)
class Work:
    """One scan to score.

    scan: its row of `scans`, with the role that the bundle gives the person. mask_part, tensor_part: the part
    of `masks` and of `tensors` that holds it, "" where none does; a tensor without its mask is not used.
    source: its row of `sources`, None where the tensor is there: nobody opens its files.
    """

    scan: dict[str, Any]
    mask_part: str
    tensor_part: str
    source: dict[str, Any] | None

    @property
    def needs_mask(self) -> bool:
        return not self.mask_part

    @property
    def needs_tensor(self) -> bool:
        return not self.tensor_part


def work_rows(context: Context, todo: pd.DataFrame, bundle: Bundle) -> Iterator[Row]:
    """Rows for the engine, each with its `work`, made as they are asked for. Those whose tensor is there come
    part by part."""
    if todo.empty:
        return
    masks, tensors = (context.parts_of(table, todo) for table in ("masks", "tensors"))
    role = [bundle.role_of(person) for person in todo["person_id"]]
    joined = todo.assign(mask_part=masks, tensor_part=tensors.where(masks != "", ""), role=role)
    joined = joined.sort_values(["tensor_part", "mask_part", *KEY], ignore_index=True)
    is_raw = joined["tensor_part"] == ""
    sources = context.read("sources") if is_raw.any() else pd.DataFrame(columns=[*KEY])
    for start in range(0, len(joined), ROWS_AT_ONCE):
        some = joined.iloc[start : start + ROWS_AT_ONCE]
        raw = some.loc[is_raw[some.index], KEY].merge(sources, on=KEY)
        source_of = {(row["scan_id"], row["source_digest"]): row for row in rows_of(raw)}
        for scan in rows_of(some):
            yield _row(scan, source_of.get((scan["scan_id"], scan["source_digest"])))


def _row(scan: Row, source: Row | None) -> Row:
    """Large scans go first, so a scan of which nothing is assembled has no size."""
    return {
        **{name: scan[name] for name in KEY},
        "num_voxels": source["num_voxels"] if source else 0,
        "work": Work(scan, scan["mask_part"], scan["tensor_part"], source),
    }
