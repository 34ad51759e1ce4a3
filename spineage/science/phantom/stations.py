"""One rendered spine as the series a scanner would store: three overlapping stations, or one composed.

Letters: R A S voxel axes (left->right, posterior->anterior, inferior->superior).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from spineage.science.phantom.scanner import Scanner
from spineage.science.scan.geometry import Volume

OVERLAP = 0.2
"""Share of a station that its neighbour shows too."""
FALL_OFF = 0.22
"""Signal lost at the far ends of a station."""


@dataclass(frozen=True)
class Station:
    """One series: name is its folder, description and body_part are DICOM's."""

    name: str
    description: str
    body_part: str
    image: Volume


def stations_of(
    whole: Volume, scanner: Scanner, kind: Literal["three", "composed"]
) -> list[Station]:
    """The series of an exam, cranial to caudal, on the grid of the whole, each with its own gain."""
    if kind == "composed":
        return [Station("whole", "T2 TSE SAG COMPOSED", "SPINE", whole)]
    num_s = whole.voxels_RAS.shape[2]
    length = math.ceil(num_s / (3 - 2 * OVERLAP))
    starts = (num_s - length, (num_s - length) // 2, 0)
    names = (("cervical", "C", "CSPINE"), ("thoracic", "T", "TSPINE"), ("lumbar", "L", "LSPINE"))
    return [
        Station(name, f"T2 TSE SAG {letter}", part, _scanned(whole, scanner, number, start, length))
        for number, ((name, letter, part), start) in enumerate(zip(names, starts, strict=True))
    ]


def _scanned(whole: Volume, scanner: Scanner, number: int, start: int, length: int) -> Volume:
    """A stretch of the whole with its own gain, fall-off towards its ends, and a little noise of its own."""
    rng = np.random.default_rng([scanner.seed, 20 + number])
    along = np.linspace(-1, 1, length, dtype=np.float32)
    gain = np.float32(scanner.station_gains[number]) * (1 - np.float32(FALL_OFF) * along**4)
    voxels = whole.voxels_RAS[:, :, start : start + length].astype(np.float32) * gain
    sd = 0.5 * scanner.noise * scanner.gain
    voxels = np.abs(voxels + np.float32(sd) * rng.standard_normal(voxels.shape, dtype=np.float32))
    affine = whole.affine_RAS.copy()
    affine[:3, 3] += affine[:3, 2] * start
    return Volume(voxels, affine)
