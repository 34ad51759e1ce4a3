"""Steps for engine tests: importable by Ray workers."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

from spineage.errors import BadScan

Row = dict[str, Any]


class Double:
    def __init__(self, marks: str = "") -> None:
        self.marks = marks

    def __call__(self, row: Row) -> Row:
        name = row["scan_id"]
        if name.startswith("bad"):
            raise BadScan("bad_values", "all voxels are equal, expected an image")
        if name.startswith("kill"):
            os._exit(139)
        if name.startswith("once"):
            mark = pathlib.Path(self.marks) / name
            if not mark.exists():
                mark.touch()
                os._exit(139)
        if name.startswith("hang"):
            time.sleep(60)
        return {**row, "value": row["value"] * 2}


class WriteLines:
    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)

    def __call__(self, rows: list[Row]) -> None:
        for row in rows:
            text = f"{row.get('code', '')}:{row.get('value', '')}"
            (self.folder / row["scan_id"]).write_text(text)


def square(number: int) -> int:
    return number * number
