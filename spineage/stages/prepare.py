"""Prepare: from a scan and its mask to the network's input; one row a scan.

Voxels are decoded again from the sources: a mask is small, a volume is not worth keeping.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import pandas as pd

from spineage.engine.rows import Step
from spineage.errors import NotYet
from spineage.io.storage.index import keys_of
from spineage.io.storage.parts import PartReader
from spineage.io.storage.store import Store
from spineage.io.storage.volumes import mask_from_row, pack, volume_from_cells
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.run.fill import fill_missing, lasting_faults, without
from spineage.run.plan import Plan, plan_missing
from spineage.science.network.tensor import make_tensor
from spineage.stages.segment import VOXELS, AssembleStep, assemble_kwargs
from spineage.study import Prepare, Study
from spineage.tables import KEY, MASKS, TENSORS

SCHEMA = 2  # raise it when the same scan and mask give another tensor
Row = dict[str, Any]


def recipe(context: Context) -> dict[str, Any]:
    """The section and the masks' address, which covers the weights and everything before."""
    return {
        "schema": SCHEMA,
        **context.study.recipe("prepare"),
        "segment": context.fingerprint("segment"),
    }


def run(context: Context) -> Counts:
    """Prepare the scans that have a mask and neither a tensor nor a lasting fault under this address yet."""
    sources = context.read("sources", KEY)
    context.require_scans(len(sources))
    refused = lasting_faults(context.store, context.folder("segment"))
    asked = without(sources, set(keys_of(refused)))
    if asked.empty:
        raise NotYet(context.why_none("masks"))
    asked = context.in_shard(asked)

    def masked(todo: pd.DataFrame) -> pd.DataFrame:
        if len(todo) == len(asked):
            found = context.having("masks", todo, "mask_part")
        else:
            found = todo.assign(mask_part=context.parts_of("masks", todo))
        return context.read("sources").merge(found[found["mask_part"] != ""], on=KEY)

    return fill_missing(
        context, "prepare", TENSORS, "prepared", asked, lambda: [step(context)], ready=masked
    )


def plan(context: Context, before: Collection[str] = ()) -> Plan:
    """Of the scans that segment has not refused; in a run that segments first, of those too that wait for
    their mask."""
    sources = context.read("sources", KEY)
    refused = lasting_faults(context.store, context.folder("segment"))
    asked = without(sources, set(keys_of(refused)))
    if "segment" not in before:
        asked = asked[context.parts_of("masks", asked) != ""]
    return plan_missing(context, "prepare", TENSORS, asked, lambda todo: [step(context)])


def step(context: Context) -> Step:
    """Decode, fetch the mask, prepare: all on CPU."""
    cluster = context.study.cluster
    return Step(
        FromSources,
        {
            "assemble": assemble_kwargs(context.study),
            "prepare": prepare_kwargs(context.study),
            "root": context.store.root,
        },
        "prepare",
        does="prepare from files",
        workers=cluster.cpu_workers,
        deadline_s=cluster.deadline_s,
        labels=cluster.labels_of("cpu"),
    )


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
        mask = self._masks.row(row["mask_part"], row["scan_id"], row["source_digest"])
        return self._prepare({**self._assemble(row), **mask})
