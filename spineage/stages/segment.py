"""Segment: from files to named vertebrae. Assemble the volume, nnU-Net, levels, morphometry; one row a
scan."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import pandas as pd

from spineage.engine.rows import Step
from spineage.errors import BadScan, DeviceFault
from spineage.io.scans import read as assemble
from spineage.io.scans.given import read_given
from spineage.io.storage.volumes import pack, place_to_cells, volume_from_cells, volume_to_cells
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.run.fill import fill_missing, keys_of, missing, without, write_each
from spineage.run.plan import Plan, plan_missing
from spineage.science.scan.geometry import Volume
from spineage.science.spine.foreign import Foreign, adapt, lay_on
from spineage.science.spine.landmarks import levels_from_landmarks
from spineage.science.spine.levels import Levels, find_levels
from spineage.science.spine.morphometry import measure
from spineage.science.spine.named import levels_from_named
from spineage.science.spine.quality import QualityLimits, assess, refuse_implausible
from spineage.segmenter.folder import given_by, require_segmenter, segmenter_of
from spineage.study import Study
from spineage.tables import FAULTS, KEY, MASKS

SCHEMA = 5  # raise it when the same volume and weights give other masks
NO_MASK = "no_mask"
VOXELS = "voxels"
LABELS = "labels"
LOCATIONS = ("stations_json", "seal_key")
"""What only the step that opens files needs."""
Row = dict[str, Any]
Mode = Literal["exact", "fast"]


def recipe(context: Context) -> dict[str, Any]:
    """The section, the weights by digest, and how volumes are assembled.

    Where weights or masks lie is not identity; which mask a scan is given is in its source_digest. Raises
    BadStudy when the weights are not a whole segmenter, or one that looks at more than a T2 image.
    """
    section = {**context.study.recipe("segment")["segment"]}
    places = {name: section.pop(name) for name in ("weights", "masks", "masks_of")}
    require_segmenter(context.study.segment)
    if places["masks"]:
        section["needs_csf"] = needs_csf(context.study)
    return {
        "schema": SCHEMA,
        "segment": section,
        "weights": segmenter_of(context.study.segment)["digest"],
        "assemble": assemble.SCHEMA,
        "max_station_gap_mm": context.study.ingest.max_station_gap_mm,
    }


def run(context: Context) -> Counts:
    """Segment the scans that have neither a mask nor a lasting fault under this address yet."""
    scans = context.read("sources", KEY)
    context.require_scans(len(scans))
    scans = context.in_shard(scans)
    bare = refuse_without_mask(context, scans)
    counts = fill_missing(
        context, "segment", MASKS, "segmented", without(scans, set(keys_of(bare))),
        lambda: steps(context.study),
        ready=lambda todo: context.read("sources").merge(todo, on=KEY),
    )  # fmt: skip
    if bare.empty:
        return counts
    return dataclasses.replace(counts, refused={**counts.refused, NO_MASK: len(bare)})


def refuse_without_mask(context: Context, scans: pd.DataFrame) -> pd.DataFrame:
    """Of a study whose masks are given the scans that have none; they have a fault now. No worker is troubled
    with them, nor the rule that stops a run in which many fail alike: masks may be there of a few only."""
    if not context.study.segment.masks:
        return scans.iloc[:0]
    bare = context.read("sources", [*KEY, "masks_json"]).merge(scans[KEY], on=KEY)
    bare = bare.loc[bare.masks_json == "[]", KEY]
    fault = {
        "stage": "segment",
        "code": NO_MASK,
        "message": "segment.masks has no mask of this scan",
    }
    rows = [{**key, **fault} for key in missing(context, "segment", MASKS, bare).to_dict("records")]
    write_each(context.store, context.folder("segment"), FAULTS, rows)
    return bare


def plan(context: Context, before: Collection[str] = ()) -> Plan:
    """Of the scans that ingest knows; where masks are given, of those that have one."""
    sources = context.read("sources", [*KEY, "masks_json"])
    is_given = bool(context.study.segment.masks)
    scans = sources.loc[(sources.masks_json != "[]") | (not is_given), KEY]
    return plan_missing(context, "segment", MASKS, scans, lambda todo: steps(context.study))


def steps(study: Study) -> list[Step]:
    """Assembling on CPU, segmenting on a GPU where the study has one, naming on CPU: while one scan is on the
    device, the next is read and the one before is named."""
    cluster = study.cluster
    return [
        Step(
            AssembleStep,
            assemble_kwargs(study),
            name="segment",
            does="decode",
            workers=cluster.cpu_workers,
            deadline_s=cluster.deadline_s,
            labels=cluster.labels_of("cpu"),
        ),
        _draw_step(study),
        Step(
            NameStep,
            name_kwargs(study),
            name="segment",
            does="name levels",
            workers=cluster.cpu_workers,
            deadline_s=cluster.deadline_s,
            labels=cluster.labels_of("cpu"),
        ),
    ]


def _draw_step(study: Study) -> Step:
    """On the device; masks that are given need none."""
    cluster, is_given = study.cluster, bool(study.segment.masks)
    return Step(
        DrawStep,
        segment_kwargs(study),
        name="segment",
        does="draw",
        workers=cluster.cpu_workers if is_given else cluster.segment_workers,
        num_gpus=0.0 if is_given else cluster.gpus_per_worker,
        deadline_s=cluster.deadline_s,
        labels=cluster.labels_of("cpu" if is_given else "segment"),
        is_measured=True,
    )


def needs_csf(study: Study) -> bool:
    """Whether a mask without a canal is of no use; a segmenter always draws one."""
    return not study.segment.masks or study.prepare.normalise == "csf"


def assemble_kwargs(study: Study) -> dict[str, Any]:
    """What AssembleStep is made with."""
    return {"max_gap_mm": study.ingest.max_station_gap_mm}


def segment_kwargs(study: Study) -> dict[str, Any]:
    """What DrawStep is made with."""
    section = study.segment
    if section.masks_of:
        is_mapped = section.masks_of.endswith(".json")
        return {
            "given_by": section.masks_of,
            "known": given_by(section.masks_of) if is_mapped else None,
        }
    return {
        "weights": study.segment.weights,
        "mode": study.segment.mode,
        "mirror": study.segment.mirror,
        "device": study.cluster.device,
    }


def name_kwargs(study: Study) -> dict[str, Any]:
    """What NameStep is made with. Raises BadStudy when the weights are not a whole segmenter."""
    section = study.segment
    return {
        "schema": segmenter_of(section)["schema"],
        "needs_csf": needs_csf(study),
        "min_levels": section.min_levels,
        "max_levels": section.max_levels,
        "limits": {f.name: getattr(section, f.name) for f in dataclasses.fields(QualityLimits)},
    }


class AssembleStep:
    """A row of `sources` gains its voxels (float32 bytes), shape and affine."""

    def __init__(self, max_gap_mm: float = 2.0) -> None:
        self._max_gap_mm = max_gap_mm

    def __call__(self, row: Row) -> Row:
        volume = assemble.read_scan(row, max_gap_mm=self._max_gap_mm)
        kept = {key: value for key, value in row.items() if key not in LOCATIONS}
        return {**kept, **volume_to_cells(volume, VOXELS)}


@contextmanager
def device_faults() -> Iterator[None]:
    """What the device throws becomes a DeviceFault: after it nothing it answers can be trusted."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError:
        raise DeviceFault("out_of_memory", "the device's memory does not hold it") from None
    except torch.AcceleratorError as error:
        raise DeviceFault("device_failed", f"the device failed ({type(error).__name__})") from None


class SegmentStep:
    """A row with voxels gains labels (uint8 on the same grid). The network is loaded once, on one CPU thread
    by default, and warmed up.

    mode, mirror: see `Segmenter` and `load_segmenter`. Ray gives an actor as many threads as it has CPUs;
    `threads` says it again, so that a step outside Ray is the same.
    Raises BadStudy when the weights are not a whole segmenter, or the device is not there.
    """

    def __init__(
        self,
        weights: str,
        mode: Mode = "exact",
        mirror: bool = False,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        from spineage.segmenter.predict.predictor import (
            load_segmenter,  # 4 s to import: only where it is used
        )

        self._segmenter = load_segmenter(weights, device=device, threads=threads, mirror=mirror)
        self._mode: Mode = mode
        self._segmenter.warm_up()

    def __call__(self, row: Row) -> Row:
        image = volume_from_cells(row, VOXELS)
        with device_faults():
            found = self._segmenter.segment_and_say(image, self._mode)
        labels_RAS = np.ascontiguousarray(found.labels.voxels_RAS, np.uint8)
        return {**row, "segmented": found.how, LABELS: labels_RAS.tobytes()}


class GivenStep:
    """A row with voxels and the place of a given mask gains labels on the grid of the voxels.

    given_by: one of foreign.TOOLS, or any word with `known`, a table of one's own. Raises BadScan: no_mask,
    implausible_mask, and as `read_given`.
    """

    def __init__(self, given_by: str, known: Foreign | None = None) -> None:
        self._tool, self._known = "a map of one's own" if known else given_by, known

    def __call__(self, row: Row) -> Row:
        files = json.loads(row["masks_json"])
        if not files:
            raise BadScan(NO_MASK, "segment.masks has no mask of this scan")
        drawn, tissues = [*map(read_given, files), None][:2]
        assert drawn
        labels = adapt(drawn, self._tool, tissues, self._known)
        on_scan = lay_on(labels, volume_from_cells(row, VOXELS))
        return {**row, "segmented": f"given, by {self._tool}", LABELS: on_scan.voxels_RAS.tobytes()}


class DrawStep:
    """The labels of a row: by the network of SegmentStep, or those that GivenStep is given."""

    def __init__(self, **kwargs: Any) -> None:
        is_given = "given_by" in kwargs
        self._draw: Callable[[Row], Row] = (
            GivenStep(**kwargs) if is_given else SegmentStep(**kwargs)
        )

    def __call__(self, row: Row) -> Row:
        return self._draw(row)


class NameStep:
    """A row with labels gains the columns of `masks`: levels, measures, quality.

    `schema` is what the labels mean (labels.SCHEMAS), `limits` the fields of quality.Limits. On CPU: it
    takes as long as a GPU takes to segment. Voxels go on only to who needs them.
    """

    def __init__(
        self,
        schema: str,
        min_levels: int,
        max_levels: int,
        limits: dict[str, Any],
        keep_voxels: bool = False,
        needs_csf: bool = True,
    ) -> None:
        self._find: Callable[..., Levels] = {
            "semantic": find_levels,
            "levels": levels_from_named,
            "landmarks": levels_from_landmarks,
        }[schema]
        self._count = {"min_levels": min_levels, "max_levels": max_levels}
        self._limits, self._needs_csf = QualityLimits(**limits), needs_csf
        self._dropped = {LABELS} if keep_voxels else {LABELS, VOXELS}

    def __call__(self, row: Row) -> Row:
        image = volume_from_cells(row, VOXELS)
        labels_RAS = np.frombuffer(row[LABELS], np.uint8).reshape(image.voxels_RAS.shape)
        levels = self._find(image.with_voxels(labels_RAS), **self._count)
        kept = {key: value for key, value in row.items() if key not in self._dropped}
        return {**kept, **mask_columns(image, levels, self._limits, needs_csf=self._needs_csf)}


def mask_columns(
    image: Volume, levels: Levels, limits: QualityLimits, *, needs_csf: bool = True
) -> Row:
    """The columns of `masks` beside the key. Raises BadScan when the mask is not believable."""
    measured = measure(image, levels, needs_csf=needs_csf)
    quality = assess(levels, measured)
    refuse_implausible(quality, measured, limits)
    return {
        **place_to_cells(levels.volume),
        "levels_zstd": pack(levels.volume.voxels_RAS.astype(np.uint8)),
        "numbering": levels.numbering,
        "num_discs_inferred": levels.num_discs_inferred,
        **dataclasses.asdict(measured),
        **dataclasses.asdict(quality),
    }
