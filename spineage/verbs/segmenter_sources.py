"""What a segmenter is trained on: files with labels of any known tool, nnU-Net's raw layout, or our masks."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spineage.io.scans import read as assemble
from spineage.io.storage.parts import PartReader
from spineage.io.storage.store import Store
from spineage.io.storage.volumes import mask_from_row
from spineage.run.context import Context, digest_of
from spineage.science.scan.geometry import Volume
from spineage.science.spine.foreign import TOOLS
from spineage.segmenter.training.raw import Case, cases_from_folders, cases_from_raw
from spineage.tables import KEY, MASKS


@dataclass(frozen=True)
class Source:
    """What is learned from: the cases, the schema their labels are in, the channels of their images, and
    words that name it in the record."""

    cases: Sequence[Case]
    schema: str
    channels: Sequence[str]
    about: dict[str, Any]


def from_folders(images: str, labels: str, tool: str) -> Source:
    """Image and label files; see `nnunet_raw.cases_from_folders`."""
    cases = cases_from_folders(Path(images), Path(labels), tool)
    channels = ["T2", *(f"channel {i}" for i in range(1, cases[0].num_images))]
    about = {"kind": "folders", "labels_of": tool, "content": _content(images, labels)}
    return Source(cases, TOOLS[tool].schema, channels, about)


def _content(*folders: str) -> str:
    """Names and content of all files: a label that was corrected is another training, whatever its time."""
    files = sorted(path for folder in folders for path in Path(folder).rglob("*") if path.is_file())
    return digest_of({"files": [[path.name, _content_of(path)] for path in files]})


def _content_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _image(row: dict[str, Any], max_gap_mm: float) -> list[Volume]:
    return [assemble.read_scan(row, max_gap_mm=max_gap_mm)]


def _mask(store: Store, row: dict[str, Any]) -> Volume:
    return mask_from_row(
        PartReader(store, MASKS).row(row["part"], row["scan_id"], row["source_digest"])
    )


def from_raw(folder: str, label_map: dict[str, str] | None) -> Source:
    """A dataset in nnU-Net's raw layout; see `nnunet_raw.cases_from_raw`."""
    cases, channels, schema = cases_from_raw(Path(folder), label_map)
    about = {"kind": "raw", "content": _content(folder), "label_map": label_map or {}}
    return Source(cases, schema, channels, about)


def from_masks(context: Context) -> Source:
    """The scans of a study that have a mask: what one segmenter drew (and somebody looked at) teaches the
    next. Raises NotYet when there are none."""
    masked = context.having("masks", context.read("sources"))
    people = context.read("scans", [*KEY, "person_id"])
    rows = masked.merge(people, on=KEY).sort_values(KEY)
    gap = context.study.ingest.max_station_gap_mm
    cases = [
        Case(
            str(row["scan_id"]),
            str(row["person_id"]),
            functools.partial(_image, row, gap),
            functools.partial(_mask, context.store, row),
        )
        for row in ({str(k): v for k, v in r.items()} for r in rows.to_dict("records"))
    ]
    keys = rows[list(KEY)].to_numpy().tolist()
    about = {"kind": "masks", "segment": context.fingerprint("segment"), "content": digest_of(keys)}
    return Source(cases, "levels", ["T2"], about)
