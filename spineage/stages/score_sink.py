"""Where `score` writes: finished rows and refusals, in parts that a repeated write replaces."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from spineage.errors import TRANSIENT
from spineage.io.parquet import write_part
from spineage.io.store import Store
from spineage.tables import FAULTS, SCORES

Row = dict[str, Any]


class WriteScores:
    """Batches of finished rows and fault rows to storage.

    A fault of segmenting or preparing is also written where that stage keeps its own: it holds for every
    model.
    """

    def __init__(self, root: str, folders: dict[str, str]) -> None:
        self._store, self._folders = Store(root), folders

    def __call__(self, rows: Sequence[Row]) -> None:
        faults = [row for row in rows if row.get("code")]
        scores = [row for row in rows if not row.get("code")]
        if scores:
            write_part(self._store, self._folders["score"], SCORES, scores, batch_name(scores))
        if faults:
            write_part(self._store, self._folders["score"], FAULTS, faults, batch_name(faults))
        for stage in ("segment", "prepare"):
            lasting = [f for f in faults if f["stage"] == stage and f["code"] not in TRANSIENT]
            if lasting:
                folder = self._folders[stage]
                write_part(self._store, folder, FAULTS, lasting, batch_name(lasting))


def batch_name(rows: Sequence[Row]) -> str:
    """Named by the scans and outcomes in it: writing the same rows again replaces, it does not double."""
    keys = sorted(f"{r['scan_id']}:{r['source_digest']}:{r.get('code', '')}" for r in rows)
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:24]
