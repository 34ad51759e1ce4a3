"""What the workers of `score` do with one scan: fill in its mask and tensor where missing, predict."""

from __future__ import annotations

from typing import Any

import torch

from spineage.io.models.bundle import read_bundle
from spineage.io.storage.index import part_name
from spineage.io.storage.parquet import write_part
from spineage.io.storage.parts import PartReader
from spineage.io.storage.store import Store
from spineage.io.storage.volumes import tensor_from_row
from spineage.science.gap.score import (
    flags_of,
    refuse_unfamiliar,
    require_self_test,
    score_one,
    self_test,
)
from spineage.science.network.network import load_network, network_input, predict
from spineage.stages.prepare import FromSources, PrepareStep
from spineage.stages.score.work import Work
from spineage.stages.segment import AssembleStep, DrawStep, NameStep
from spineage.tables import MASKS, TENSORS, Table

Row = dict[str, Any]
INPUT = "scan_CRAS"
MEASURED = ("numbering", "num_discs_inferred")
"""Columns of `masks` that a score's flags hang on."""
OF_SCAN = ("scan_id", "source_digest", "person_id", "exam_id", "age_years", "sex", "site", "role")


class AssembleMissing:
    """A scan without a tensor gains its voxels; the others pass."""

    def __init__(self, **assemble: Any) -> None:
        self._assemble = AssembleStep(**assemble)

    def __call__(self, row: Row) -> Row:
        source = row["work"].source
        return {**row, **self._assemble(source)} if source else row


class DrawMissing:
    """A scan with neither tensor nor mask gains labels; the others pass."""

    def __init__(self, **segment: Any) -> None:
        self._segment = DrawStep(**segment)

    def __call__(self, row: Row) -> Row:
        work: Work = row["work"]
        return self._segment(row) if work.needs_tensor and work.needs_mask else row


class Keeper:
    """A table of another stage: reads the rows that are there, and keeps a new one there at once, as a part
    of its own, so that it outlives whatever happens to the scan afterwards."""

    def __init__(self, table: Table, root: str, folder: str) -> None:
        self._store, self._folder, self._table = Store(root), folder, table
        self._reader = PartReader(self._store, table)

    def read(self, part: str, row: Row) -> Row:
        """The row with the columns that the part has of it. Raises BadScan damaged_part."""
        return {**row, **self._reader.row(part, row["scan_id"], row["source_digest"])}

    def keep(self, row: Row) -> Row:
        """The row itself, written."""
        name = part_name(row["scan_id"], row["source_digest"])
        write_part(self._store, self._folder, self._table, [row], name)
        return row


class NameMissing:
    """A scan without a tensor gains the columns of `masks`: those that are there, or of its new labels."""

    def __init__(self, place: dict[str, str], name: dict[str, Any]) -> None:
        self._masks, self._name = Keeper(MASKS, **place), NameStep(**name)

    def __call__(self, row: Row) -> Row:
        work: Work = row["work"]
        if not work.needs_tensor:
            return row
        if not work.needs_mask:
            return self._masks.read(work.mask_part, row)
        return self._masks.keep(self._name(row))


class PrepareMissing:
    """A scan with voxels and mask gains its tensor; one whose tensor is there passes."""

    def __init__(self, place: dict[str, str], prepare: dict[str, Any]) -> None:
        self._tensors, self._prepare = Keeper(TENSORS, **place), PrepareStep(**prepare)

    def __call__(self, row: Row) -> Row:
        return self._tensors.keep(self._prepare(row)) if row["work"].needs_tensor else row


class PrepareFromMask:
    """The same where every scan has its mask: assembled and prepared in one go."""

    def __init__(self, place: dict[str, str], prepare: dict[str, Any]) -> None:
        self._tensors, self._prepare = Keeper(TENSORS, **place), FromSources(**prepare)

    def __call__(self, row: Row) -> Row:
        work: Work = row["work"]
        if not work.source:
            return row
        return self._tensors.keep(
            {**row, **self._prepare({**work.source, "mask_part": work.mask_part})}
        )


class InputStep:
    """A row gains its tensor as the network takes it, and what was measured on its mask, of this run or from
    storage; one that has them passes."""

    def __init__(self, places: dict[str, str], region: str) -> None:
        store = Store(places["root"])
        self._masks, self._tensors = PartReader(store, MASKS, MEASURED), PartReader(store, TENSORS)
        self._region = region

    def __call__(self, row: Row) -> Row:
        if INPUT in row:
            return row
        work: Work = row["work"]
        if not work.needs_tensor:
            key = row["scan_id"], row["source_digest"]
            measured = self._masks.row(work.mask_part, *key)
            row = {**row, **measured, **self._tensors.row(work.tensor_part, *key)}
        scan_CRAS = network_input(*tensor_from_row(row), self._region).numpy()
        kept = {name: row[name] for name in ("scan_id", "source_digest", "work", *MEASURED)}
        return {**kept, INPUT: scan_CRAS}


class PredictStep:
    """The network of a bundle, one scan at a time: an answer does not depend on what else is being scored,
    and in a batch it would, in the last digits.

    Raises BadStudy when the bundle is not whole, or the network answers otherwise on this device.
    """

    def __init__(
        self, places: dict[str, str], folder: str, digest: str, device: str = "cpu"
    ) -> None:
        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        self._bundle, self._digest = read_bundle(Store(places["root"]), folder, digest)
        self._input = InputStep(places, self._bundle.region)
        self._device = torch.device(device)
        self._model = load_network(self._bundle.weights, self._bundle.network).to(self._device)
        shape = tuple(self._bundle.prepare["shape"])
        require_self_test(self_test(self._model, shape), self._bundle.self_test_years)

    def __call__(self, row: Row) -> Row:
        """A row with a tensor becomes a scores row; BadScan `outside_model` for what the model cannot
        answer for."""
        bundle, work, row = self._bundle, row["work"], self._input(row)
        scan_CRAS = torch.tensor(row[INPUT])
        years, features = predict(self._model, scan_CRAS[None].to(self._device))
        predicted, distance = float(years[0]), bundle.familiarity.distance(features[0])
        refuse_unfamiliar(
            distance=distance,
            domain=bundle.domain,
            is_phantom=work.scan["is_phantom"],
            predicted_years=predicted,
        )
        age_years = work.scan["age_years"]
        flags = flags_of(
            age_years=age_years,
            bias=bundle.bias,
            role=work.scan["role"],
            num_discs_inferred=row["num_discs_inferred"],
            numbering=row["numbering"],
        )
        return {
            **{name: work.scan[name] for name in OF_SCAN},
            **score_one(predicted, age_years, bias=bundle.bias, intervals=bundle.intervals),
            "distance": distance,
            "flags": flags,
            "bundle_digest": self._digest,
        }
