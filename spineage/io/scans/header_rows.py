"""Headers on storage: one row a file, kept so that an unchanged file is never read again.

A header is stored as JSON of its fields: plain values, so nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import fields
from typing import Any

import numpy as np

from spineage.io.files.seen import Seen
from spineage.io.scans.headers import Read
from spineage.science.scan.series import About, Header, Physics
from spineage.science.scan.slices import Frame, SliceGrid

GROUPS = 1 << 16
"""A person's files are in one of so many groups; a file without a person is in one by itself."""

Row = dict[str, Any]


def row_of(read: Read) -> Row:
    """A row of tables.HEADERS."""
    owner = read.header.about.person_id if read.header else read.file_id
    return {
        "file_id": read.file_id,
        "location": os.fsencode(read.seen.location),
        "bytes": read.seen.bytes,
        "group": int(owner[:4], 16) % GROUPS,
        "code": read.code,
        "message": read.message,
        "header_json": _encoded(read.header) if read.header else None,
    }


def read_of(row: Row) -> Read:
    """The Read that `row_of` was given, but for the file's name and stamp, which nothing needs any more."""
    seen = Seen("", os.fsdecode(row["location"]), row["bytes"], "")
    header = _decoded(row["header_json"]) if row["header_json"] else None
    return Read(seen, row["file_id"], header, row["code"], row["message"])


def _encoded(header: Header) -> str:
    values = _values(header)
    values["about"] = _values(header.about)
    values["physics"] = _values(header.physics)
    values["frames"] = [list(_values(frame).values()) for frame in header.frames]
    if header.grid:
        values["grid"] = [header.grid.shape, header.grid.affine_RAS.tolist()]
    return json.dumps(values, default=sorted, separators=(",", ":"))  # sets become sorted lists


def _decoded(text: str) -> Header:
    values = json.loads(text)
    physics = values["physics"]
    for name in ("image_type", "sequence"):
        physics[name] = frozenset(physics[name])
    for name in ("words", "study_words", "body_part"):
        values[name] = frozenset(values[name])
    about = values["about"]
    values["about"] = About(**{**about, "born": _as_tuple(about["born"])})
    values["physics"] = Physics(**physics)
    values["frames"] = tuple(Frame(*map(_as_tuple, frame)) for frame in values["frames"])
    if values["grid"]:
        shape, affine_RAS = values["grid"]
        values["grid"] = SliceGrid(tuple(shape), np.array(affine_RAS))
    values["value_fault"] = _as_tuple(values["value_fault"])
    return Header(**values)


def _values(thing: Any) -> Row:
    return {field.name: getattr(thing, field.name) for field in fields(thing)}


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
