"""Rows of `sources` by hand, sealed as ingest seals them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spineage.io.dicom.header import seal_of_object
from spineage.io.files.seals import seal_of

KEY = b"the key of seals in the tests"


def sealed(stations: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """The columns that say where voxels are; a file that is not there has the seal of an empty one."""
    found = [[{**one, "seal": _seal(one)} for one in slices] for slices in stations]
    return {"stations_json": json.dumps(found), "seal_key": KEY.hex(), "masks_json": "[]"}


def sealed_nifti(path: Path | str) -> dict[str, str]:
    """The columns of a scan that is one NIfTI file."""
    return sealed([[{"location": str(path), "kind": "nifti"}]])


def _seal(source: Mapping[str, Any]) -> str:
    path = Path(source["location"])
    if not path.exists():
        return seal_of([b""], KEY)
    if source["kind"] == "nifti":
        return seal_of([path.read_bytes()], KEY)
    with path.open("rb") as stream:
        return seal_of_object(stream, path.stat().st_size, KEY)
