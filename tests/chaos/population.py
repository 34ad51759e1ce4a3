"""Many tiny scans, some of which hurt, segmented by the real stage on a cluster: a driver to kill.

    python -m tests.chaos.population WORKSPACE ADDRESS MARKS

ADDRESS is that of the cluster, MARKS a folder that every node sees: what happens once leaves its mark there.
Importable by Ray workers. A scan's number says what befalls it: see BEFALLS.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from spineage.engine.rows import Step
from spineage.errors import BadScan
from spineage.io.storage.volumes import pack
from spineage.run.context import Context
from spineage.run.entry import guarded, run_all, say
from spineage.stages import segment
from spineage.study import study_from

Row = dict[str, Any]
NUM = 520
BEFALLS = {
    "refused": (52, 7),
    "killer": (520, 11),
    "killed once": (260, 37),
    "hung once": (260, 60),
}
"""What: every how many scans, from which on."""
DEADLINE_S = 3.0


def name_of(number: int) -> tuple[str, str]:
    return f"{number:016x}", f"{number:08x}" * 8


def befalls(number: int) -> str:
    for what, (every, first) in BEFALLS.items():
        if number % every == first:
            return what
    return ""


def mask_of(number: int) -> Row:
    """The columns of `masks`, from the number alone."""
    return {
        "shape": [2, 2, 2],
        "affine": [float(x) for x in np.eye(4).ravel()],
        "levels_zstd": pack(np.full((2, 2, 2), number % 200, np.uint8)),
        "segmented": "whole volume",
        "numbering": "regular",
        "num_discs_inferred": number % 3,
        **{
            name: []
            for name in ("level_names", "level_height_mm", "level_volume_mm3", "disc_names")
        },
        **{name: [] for name in ("disc_height_mm", "disc_signal", "canal_diameter_mm")},
        **dict.fromkeys(("coverage", "off_centre", "loose_share", "canal_gap_mm"), 1.0),
        **dict.fromkeys(("cord_inside", "discs_in_front", "length_mm"), 1.0),
        **dict.fromkeys(("height_ratio", "volume_ratio"), number / 7),
    }


class Read:
    """The number of a row."""

    def __call__(self, row: Row) -> Row:
        return {**row, "number": int(row["scan_id"], 16)}


class Draw:
    """What befalls it, then its mask. marks: a folder that every node sees."""

    def __init__(self, marks: str) -> None:
        self._marks = Path(marks)

    def __call__(self, row: Row) -> Row:
        what = befalls(row["number"])
        if what == "refused":
            raise BadScan("incomplete_spine", "as planned")
        if what == "killer" or (what == "killed once" and self._is_first(row)):
            os._exit(137)
        if what == "hung once" and self._is_first(row):
            time.sleep(600)
        time.sleep(0.02)
        return {**row, **mask_of(row["number"])}

    def _is_first(self, row: Row) -> bool:
        try:
            (self._marks / row["scan_id"]).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def steps(marks: str) -> list[Step]:
    return [
        Step(Read, name="read", num_cpus=0.3, deadline_s=DEADLINE_S),
        Step(Draw, {"marks": marks}, "draw", workers=2, num_cpus=0.5, deadline_s=DEADLINE_S),
    ]


def context_of(workspace: str, address: str | None = None) -> Context:
    cluster = {"ray": address, "give_up_after": 2}
    context = Context(study_from({"workspace": workspace, "cluster": cluster}), say=say)
    fixed = context.forget

    def forget() -> None:
        fixed()
        context._fingerprints["ingest"] = "pinned"

    context.forget = forget  # type: ignore[method-assign]
    forget()
    return context


if __name__ == "__main__":
    workspace, address, marks = sys.argv[1:]
    segment.steps = lambda study: steps(marks)
    sys.exit(guarded(lambda: run_all(context_of(workspace, address), ["segment"])))
