"""Steps for engine tests: importable by Ray workers."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

import ray

from spineage.errors import BadScan, BadStudy, DeviceFault

Row = dict[str, Any]


class Double:
    def __init__(self, marks: str = "") -> None:
        self.marks = marks

    def __call__(self, row: Row) -> Row:
        name = row["scan_id"]
        if self.marks:
            with (pathlib.Path(self.marks) / "served").open("a") as file:
                file.write(f"{name} {os.getpid()}\n")
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
            (pathlib.Path(self.marks) / name).write_text(str(os.getpid()))
            raise DeviceFault("device_failed", "an illegal memory access")
        return {**row, "value": row["value"] * 2, "pid": os.getpid()}


class Heavy:
    """Adds what a scan weighs, and notes when."""

    def __init__(self, folder: str, num_bytes: int) -> None:
        self.folder, self.num_bytes = pathlib.Path(folder), num_bytes

    def __call__(self, row: Row) -> Row:
        (self.folder / f"{row['scan_id']}.made").write_text(str(time.time()))
        return {**row, "voxels": bytes(self.num_bytes)}


class Slow:
    """Takes it away again, and takes its time."""

    def __init__(self, folder: str, seconds: float) -> None:
        self.folder, self.seconds = pathlib.Path(folder), seconds

    def __call__(self, row: Row) -> Row:
        time.sleep(self.seconds)
        (self.folder / f"{row['scan_id']}.used").write_text(str(time.time()))
        return {key: value for key, value in row.items() if key != "voxels"}


class Buggy:
    """Raises what nobody declared, once a process, and then would answer from a device that is not well."""

    def __init__(self) -> None:
        self.is_ill = False

    def __call__(self, row: Row) -> Row:
        if row["scan_id"].startswith("bug"):
            self.is_ill = True
            raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")
        return {**row, "value": -1 if self.is_ill else row["value"]}


class NeverMade:
    """A step whose weights are not where this worker looks."""

    def __init__(self) -> None:
        raise BadStudy("segmenter w lacks plans.json: give a folder that every node sees")

    def __call__(self, row: Row) -> Row:
        raise NotImplementedError


class WriteLines:
    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)

    def __call__(self, rows: list[Row]) -> None:
        for row in rows:
            text = f"{row.get('code', '')}:{row.get('value', '')}"
            (self.folder / row["scan_id"]).write_text(text)
            with (self.folder.parent / "order").open("a") as order:
                order.write(f"{row['scan_id']} {row.get('pid', 0)}\n")


class Wait:
    """Takes so long for each row."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, row: Row) -> Row:
        time.sleep(self._seconds)
        return {**row}


class TimesOut:
    """A client of its own gives up on the rows called `bad`."""

    def __call__(self, row: Row) -> Row:
        if row["scan_id"].startswith("bad"):
            raise TimeoutError("the server did not answer")
        return row


class LongMade:
    """Takes a minute to be made."""

    def __init__(self) -> None:
        time.sleep(60)


class NodeOf:
    """The label `gpu` of the node that serves the row."""

    def __call__(self, row: Row) -> Row:
        return {**row, "value": ray.get_runtime_context().get_node_labels().get("gpu", "")}


def square(number: int) -> int:
    return number * number


def work_on(item: Any, shared: Any) -> tuple[int, Any, int]:
    """Its square, what is shared, and which process it was."""
    if item == "bad":
        raise ValueError("a bad item")
    if item == "kill":
        os._exit(139)
    return item * item, shared, os.getpid()


def die_once(item: Any, marker: str) -> Any:
    """The item, from a process that was not the first to try `kill`."""
    if item == "kill" and not pathlib.Path(marker).exists():
        pathlib.Path(marker).touch()
        os._exit(139)
    return item


class MadeByBug:
    """A worker that meets a bug while it is made; what the bug says names a person."""

    def __init__(self) -> None:
        raise KeyError("MUELLER Anna 1950-01-02")

    def __call__(self, row: Row) -> Row:
        return row


class FullDisk:
    """A step or a sink that cannot write: true of every scan."""

    def __init__(self, folder: str) -> None:
        self.folder = pathlib.Path(folder)

    def __call__(self, given: Any) -> Any:
        (self.folder / str(time.time_ns())).touch()
        raise BadStudy("the workspace cannot be written: No space left on device")


def refuse_study(number: int) -> int:
    raise BadStudy("the workspace cannot be written: No space left on device")
