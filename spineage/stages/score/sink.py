"""Where `score` writes: finished rows and refusals, a part each; the run merges them when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from spineage.errors import TRANSIENT
from spineage.io.storage.store import Store
from spineage.run.fill import write_each
from spineage.tables import FAULTS, SCORES

AT_ONCE: Final = 16
"""An object store takes longer to answer than to write."""
Row = dict[str, Any]


class WriteScores:
    """Finished rows and fault rows to storage, many at once.

    A fault of segmenting or preparing is also written where that stage keeps its own: it holds for every
    model.
    """

    def __init__(self, root: str, folders: dict[str, str]) -> None:
        self._store, self._folders = Store(root), folders
        self._threads = ThreadPoolExecutor(AT_ONCE)

    def __call__(self, rows: Sequence[Row]) -> None:
        list(self._threads.map(self._write, rows))

    def _write(self, row: Row) -> None:
        code, stage = row.get("code", ""), row.get("stage")
        if code and code not in TRANSIENT and stage in ("segment", "prepare"):
            write_each(self._store, self._folders[stage], FAULTS, [row])
        write_each(self._store, self._folders["score"], FAULTS if code else SCORES, [row])
