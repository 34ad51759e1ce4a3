"""Prepare: from a scan and its mask to the network's input; one row a scan.

Voxels are decoded again from the sources: a mask is small, a volume is not worth keeping.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from spineage.engine.rows import Limits, Step, plain_progress, run_rows
from spineage.errors import TRANSIENT
from spineage.io.parquet import read_keys, read_table, write_part
from spineage.io.parts import PartReader, find_parts
from spineage.io.store import Store
from spineage.io.tensors import part_name
from spineage.io.volumes import mask_from_row, pack, volume_from_cells
from spineage.science.tensor import make_tensor
from spineage.stages.context import Context
from spineage.stages.segment import VOXELS, AssembleStep, assemble_kwargs
from spineage.study import Prepare, Study
from spineage.tables import FAULTS, MASKS, TENSORS

SCHEMA = 1  # raise it when the same scan and mask give another tensor
KEY = ["scan_id", "source_digest"]
Row = dict[str, Any]


def recipe(context: Context) -> dict[str, Any]:
    """The section and the masks' address, which covers the weights and everything before."""
    return {
        "schema": SCHEMA,
        **context.study.recipe("prepare"),
        "segment": context.fingerprint("segment"),
    }


def run(context: Context) -> dict[str, int]:
    """Prepare the scans that have a mask and neither a tensor nor a lasting fault under this address yet."""
    folder = context.folder("prepare")
    masks = find_parts(context.store, context.folder("segment"), MASKS)
    sources = context.read("sources").merge(masks, on=KEY)
    known = known_keys(context.store, folder)
    rows = [{str(k): v for k, v in row.items()} for row in sources.to_dict("records")]
    manifest = [row for row in rows if (row["scan_id"], row["source_digest"]) not in known]
    counts = {"already": len(sources) - len(manifest)}
    if not manifest:
        return counts
    cluster = context.study.cluster
    outcomes = run_rows(
        manifest,
        steps(context),
        Step(WriteTensors, {"root": context.store.root, "folder": folder}, num_cpus=0.25),
        limits=Limits(cluster.max_fault_fraction, cluster.min_scans_before_stop),
        say=plain_progress("prepare"),
    )
    counts["prepared"] = outcomes.pop("ok", 0)
    return {**counts, **{f"refused:{code}": n for code, n in sorted(outcomes.items())}}


def known_keys(store: Store, folder: str) -> set[tuple[str, str]]:
    """Scans that this address answers for: tensors, and faults that would come out the same again."""
    faults = read_table(store, folder, FAULTS, [*KEY, "code"])
    lasting = faults[~faults["code"].isin(TRANSIENT)]
    return read_keys(store, folder, TENSORS) | set(
        zip(lasting["scan_id"], lasting["source_digest"], strict=True)
    )


def steps(context: Context) -> list[Step]:
    """Decode, fetch the mask, prepare: all on CPU."""
    cluster = context.study.cluster
    kwargs = {
        "assemble": assemble_kwargs(context.study),
        "prepare": prepare_kwargs(context.study),
        "root": context.store.root,
    }
    return [
        Step(
            FromSources,
            kwargs,
            "prepare",
            workers=cluster.cpu_workers,
            deadline_s=cluster.deadline_s,
        )
    ]


def prepare_kwargs(study: Study) -> dict[str, Any]:
    """What PrepareStep is made with."""
    return {"recipe": study.recipe("prepare")["prepare"]}


class PrepareStep:
    """A row with voxels and the columns of `masks` gains those of `tensors`; the voxels are dropped."""

    def __init__(self, recipe: dict[str, Any]) -> None:
        self._recipe = Prepare.model_validate(recipe)

    def __call__(self, row: Row) -> Row:
        scan = volume_from_cells(row, VOXELS)
        voxels, levels = make_tensor(scan, mask_from_row(row), self._recipe)
        kept = {k: v for k, v in row.items() if k not in (VOXELS, f"{VOXELS}_dtype", "affine")}
        return {**kept, **tensor_columns(voxels, levels)}


def tensor_columns(voxels: np.ndarray, levels: np.ndarray) -> Row:
    """The columns of `tensors` beside the key."""
    return {
        "shape": [int(n) for n in voxels.shape],
        "voxels_zstd": pack(voxels),
        "levels_zstd": pack(levels),
    }


class FromSources:
    """A row of `sources` that names its mask's part becomes a tensor: assembled, masked, prepared."""

    def __init__(self, assemble: dict[str, Any], prepare: dict[str, Any], root: str) -> None:
        self._assemble = AssembleStep(**assemble)
        self._prepare = PrepareStep(**prepare)
        self._masks = PartReader(Store(root), MASKS)

    def __call__(self, row: Row) -> Row:
        mask = self._masks.row(row["part"], row["scan_id"], row["source_digest"])
        return self._prepare({**self._assemble(row), **mask})


class WriteTensors:
    """One part a scan: training reads scans one at a time, in any order."""

    def __init__(self, root: str, folder: str) -> None:
        self._store, self._folder = Store(root), folder

    def __call__(self, rows: Sequence[Row]) -> None:
        for row in rows:
            table = FAULTS if row.get("code") else TENSORS
            name = part_name(row["scan_id"], row["source_digest"])
            write_part(self._store, self._folder, table, [row], name)
