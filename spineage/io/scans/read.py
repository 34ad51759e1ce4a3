"""One scan from its files: what a worker calls. Decode, set in order, turn to RAS+, stitch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.io import nifti
from spineage.io.dicom.pixels import read_frames
from spineage.io.files.listing import lost_since_ingest
from spineage.science.scan.geometry import Volume, reorient
from spineage.science.scan.slices import Frame, arrange
from spineage.science.scan.stitch import MAX_GAP_MM, Assembly, assemble
from spineage.science.scan.values import value_fault

SCHEMA: Final = 3  # raise it when the same files give other voxels

Source = Mapping[str, Any]
"""One slice: location, kind (dicom or nifti) and seal of its file, and for dicom the frame in the file."""


def read_scan(row: Mapping[str, Any], *, max_gap_mm: float = MAX_GAP_MM) -> Volume:
    """The volume of one row of `sources`: float32, RAS+, stations stitched. See `read_assembly`."""
    return read_assembly(row, max_gap_mm=max_gap_mm).volume


def read_assembly(row: Mapping[str, Any], *, max_gap_mm: float = MAX_GAP_MM) -> Assembly:
    """The volume, and what each station gave to it, numbered as in the row.

    max_gap_mm: `ingest.max_station_gap_mm` of the study. Raises BadScan: changed_since_ingest when a file is
    not the one that ingest saw; unavailable, unreadable, bad_pixels, bad_values, no_geometry, mixed_spacing,
    slice_gap, stations_apart, stations_moved, stations_disagree.
    """
    return assemble(read_stations(row), max_gap_mm=max_gap_mm)


def read_stations(row: Mapping[str, Any]) -> list[Volume]:
    """Each station by itself, for models that want it so; neither moved nor matched. Raises as above."""
    key = bytes.fromhex(row["seal_key"])
    stations: list[list[Source]] = json.loads(row["stations_json"])
    assert key
    assert all(source["seal"] for slices in stations for source in slices)
    return [read_station(slices, key) for slices in stations]


def read_station(slices: Sequence[Source], seal_key: bytes = b"") -> Volume:
    """One station: a NIfTI volume, or DICOM slices in order; with the key of their seals, checked by them."""
    if slices[0]["kind"] == "nifti":
        voxels, grid = _read_nifti(slices[0], seal_key)
        volume = reorient(voxels, grid.affine_RAS)
    else:
        volume = _stack(_read_slices(slices, seal_key))
    values = np.asarray(volume.voxels_RAS, np.float32)
    if not np.isfinite(values).all() or values.min() == values.max():
        raise BadScan("bad_values", "pixels are NaN, infinite or all the same")
    fault = (
        value_fault(values) if slices[0]["kind"] == "dicom" else None
    )  # of NIfTI ingest has asked
    if fault and fault[0] != "not_an_image":
        raise BadScan("bad_values", fault[1])
    return volume


def _read_nifti(source: Source, seal_key: bytes) -> tuple[NDArray[np.float32], Any]:
    try:
        return nifti.read_voxels(source["location"], _seal(source, seal_key), seal_key)
    except OSError as error:
        raise lost_since_ingest(error) from None


def _seal(source: Source, seal_key: bytes) -> str:
    return str(source["seal"]) if seal_key else ""


def _read_slices(
    slices: Sequence[Source], seal_key: bytes
) -> list[tuple[Frame, NDArray[np.float32]]]:
    """The wanted frames in order; every file is opened once."""
    opened: dict[str, Mapping[int, tuple[Frame, NDArray[np.float32]]]] = {}
    found = []
    for source in slices:
        location = source["location"]
        if location not in opened:
            opened[location] = read_frames(location, _seal(source, seal_key), seal_key)
        if source["frame"] not in opened[location]:
            raise BadScan("changed_since_ingest", "a frame is gone since ingest: run ingest again")
        found.append(opened[location][source["frame"]])
    return found


def _stack(slices: Sequence[tuple[Frame, NDArray[np.float32]]]) -> Volume:
    """[Z, rows, columns] to [R, A, S]. Spacing was judged by ingest; here only the grid is wanted."""
    stack = arrange([frame for frame, _ in slices], max_gap_error_mm=np.inf)
    voxels = np.stack([slices[i][1] for i in stack.order])
    return reorient(voxels.transpose(2, 1, 0), stack.grid.affine_RAS)
