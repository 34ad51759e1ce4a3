"""Steps for engine tests: importable by Ray workers."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

from spineage.errors import BadScan, DeviceFault

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
        if name.startswith("slow"):
            time.sleep(3)
        if name.startswith("broken"):
            raise DeviceFault("device_failed", "an illegal memory access")
        return {**row, "value": row["value"] * 2, "pid": os.getpid()}


class WriteLines:
    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)

    def __call__(self, rows: list[Row]) -> None:
        for row in rows:
            text = f"{row.get('code', '')}:{row.get('value', '')}"
            (self.folder / row["scan_id"]).write_text(text)
            with (self.folder.parent / "order").open("a") as order:
                order.write(f"{row['scan_id']} {row.get('pid', 0)}\n")


def square(number: int) -> int:
    return number * number


def work_on(item: Any, shared: Any) -> tuple[int, Any, int]:
    """Its square, what is shared, and which process it was."""
    if item == "bad":
        raise ValueError("a bad item")
    if item == "kill":
        os._exit(139)
    return item * item, shared, os.getpid()
