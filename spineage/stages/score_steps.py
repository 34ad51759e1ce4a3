"""What the workers of `score` do with one scan: fill in its mask and tensor where missing, predict."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from spineage.io.bundle import read_bundle
from spineage.io.parquet import write_part
from spineage.io.parts import PartReader
from spineage.io.store import Store
from spineage.io.tensors import part_name
from spineage.io.volumes import tensor_from_row
from spineage.science.network import load_network, network_input, predict
from spineage.science.score import (
    flags_of,
    refuse_unfamiliar,
    require_self_test,
    score_one,
    self_test,
)
from spineage.tables import TABLES, TENSORS

Row = dict[str, Any]
ABOUT = ("scan_id", "source_digest", "person_id", "exam_id", "age_years", "sex", "site", "role")


class WhenNeeded:
    """Another stage's step, for the scans of which none of the named tables has a part yet; the others
    pass."""

    def __init__(
        self,
        make: Callable[..., Callable[[Row], Row]],
        kwargs: dict[str, Any],
        unless: tuple[str, ...],
    ) -> None:
        self._serve = make(**kwargs)
        self._parts = [f"{table}_part" for table in unless]

    def __call__(self, row: Row) -> Row:
        return row if any(row[part] for part in self._parts) else self._serve(row)


class Fill:
    """Another stage's step and its table: what is there is read, what is new is kept in that stage's
    folder.

    A new answer is a part of its own, so that it outlives whatever happens to the scan afterwards. A scan
    whose tensor is there passes: nobody needs its mask.
    """

    def __init__(
        self,
        make: Callable[..., Callable[[Row], Row]],
        kwargs: dict[str, Any],
        root: str,
        folder: str,
        table: str,
    ) -> None:
        self._serve = make(**kwargs)
        self._store, self._folder, self._table = Store(root), folder, TABLES[table]
        self._reader = PartReader(self._store, self._table)

    def __call__(self, row: Row) -> Row:
        if row["tensors_part"]:
            return row
        part = row[f"{self._table.name}_part"]
        if part:
            return {**row, **self._reader.row(part, row["scan_id"], row["source_digest"])}
        row = self._serve(row)
        name = part_name(row["scan_id"], row["source_digest"])
        write_part(self._store, self._folder, self._table, [row], name)
        return row


class PredictStep:
    """The network of a bundle, one scan at a time: an answer does not depend on what else is being scored.

    Raises BadStudy when the bundle is not whole, or the network answers otherwise on this device.
    """

    def __init__(self, root: str, folder: str, digest: str, device: str = "cpu") -> None:
        torch.set_num_threads(1)
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        self._tensors = PartReader(Store(root), TENSORS)
        self._bundle, self._digest = read_bundle(Store(root), folder, digest)
        self._device = torch.device(device)
        self._model = load_network(self._bundle.weights, self._bundle.network).to(self._device)
        shape = tuple(self._bundle.prepare["shape"])
        require_self_test(self_test(self._model, shape), self._bundle.self_test_years)

    def __call__(self, row: Row) -> Row:
        """A row with a tensor becomes a scores row; BadScan `outside_model` for what the model cannot
        answer for."""
        bundle = self._bundle
        if row["tensors_part"]:
            key = row["scan_id"], row["source_digest"]
            row = {**row, **self._tensors.row(row["tensors_part"], *key)}
        scan_CRAS = network_input(*tensor_from_row(row), bundle.region)
        years, features = predict(self._model, scan_CRAS[None].to(self._device))
        predicted, distance = float(years[0]), bundle.familiarity.distance(features[0])
        refuse_unfamiliar(
            distance=distance,
            domain=bundle.domain,
            is_phantom=row["is_phantom"],
            predicted_years=predicted,
        )
        flags = flags_of(
            age_years=row["age_years"],
            bias=bundle.bias,
            role=row["role"],
            num_discs_inferred=row["num_discs_inferred"],
            numbering=row["numbering"],
        )
        age_columns = score_one(
            predicted, row["age_years"], bias=bundle.bias, intervals=bundle.intervals
        )
        return {
            **{name: row[name] for name in ABOUT},
            **age_columns,
            "distance": distance,
            "flags": flags,
            "bundle_digest": self._digest,
        }
