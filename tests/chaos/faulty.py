"""The real segment step with a network that fails on chosen scans: importable by Ray workers."""

from __future__ import annotations

import os
import pathlib
import time
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from spineage.stages.segment import SegmentStep

Row = dict[str, Any]


class FaultySegmentStep:
    """SegmentStep, whose network fails as soon as it sees a tile of a scan named in `faults`.

    faults: scan id to `killed` (the process ends; once, as when a node is taken away), `hung` (the network
    never answers) or `full` (the device's memory does not hold it). marks: a folder that outlives the actor.
    """

    def __init__(self, faults: dict[str, str], marks: str, **kwargs: Any) -> None:
        self._serve = SegmentStep(**kwargs)
        self._faults, self._marks = faults, pathlib.Path(marks)
        self._fault = ""
        register_module_forward_pre_hook(self._fail)

    def __call__(self, row: Row) -> Row:
        name = row["scan_id"]
        self._fault = self._faults.get(name, "")
        with (self._marks / name).open("a") as mark:
            mark.write(f"{os.getpid()}\n")
        if self._fault == "killed" and len((self._marks / name).read_text().splitlines()) > 1:
            self._fault = ""
        return self._serve(row)

    def _fail(self, module: torch.nn.Module, tiles: Any) -> None:
        if self._fault == "killed":
            os._exit(137)
        if self._fault == "hung":
            time.sleep(600)
        if self._fault == "full":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
