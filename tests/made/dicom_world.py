"""A scanner for tests: an object with known places in the patient, cut by any planes into DICOM slices.

What is planted are three balls of different brightness, at the left, in front and at the top, so that no
turn or reflection of the patient looks like another.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from scipy import ndimage

from spineage.science.scan.geometry import Volume
from tests.made.dicom_makers import classic_slice, shaded, uid

Points = NDArray[np.float64]

BALLS_RAS_mm = {"left": (-14.0, 5.0, 8.0), "front": (4.0, 42.0, -15.0), "top": (8.0, -20.0, 60.0)}
BRIGHT = {"left": 3000.0, "front": 2000.0, "top": 1000.0}
RADIUS_mm = 6.0
LPS = np.array([-1.0, -1.0, 1.0])


def seen_at(points_RAS: Points) -> NDArray[np.float64]:
    """The signal at places [..., 3] in millimetres."""
    signal = np.zeros(points_RAS.shape[:-1])
    for name, centre in BALLS_RAS_mm.items():
        away = np.linalg.norm(points_RAS - np.array(centre), axis=-1)
        signal += BRIGHT[name] * np.exp(-0.5 * (away / RADIUS_mm) ** 2)
    return signal


@dataclass(frozen=True)
class Planes:
    """Slices through the patient: directions of rows and columns and of the stack (LPS, unit vectors)."""

    across: Points
    down: Points
    along: Points
    columns: int
    rows: int
    slices: int
    pixel_mm: tuple[float, float] = (2.0, 1.5)  # between rows, between columns
    step_mm: float = 3.0
    position: str = "HFS"

    def turned(self, rotation: Points) -> Planes:
        """The same planes after every direction was turned; rotation: 3 x 3 in LPS."""
        ways = {name: rotation @ getattr(self, name) for name in ("across", "down", "along")}
        return replace(self, **ways)

    def first_pixel(self, number: int) -> Points:
        """Centre of the first pixel of a slice, LPS mm; the middle of the stack is at the origin."""
        return (
            self.along * self.step_mm * (number - (self.slices - 1) / 2)
            - self.across * self.pixel_mm[1] * (self.columns - 1) / 2
            - self.down * self.pixel_mm[0] * (self.rows - 1) / 2
        )

    def pixels(self, number: int) -> NDArray[np.int64]:
        """[rows, columns] as PS3.3 C.7.6.2.1.1 places them."""
        row, column = np.indices((self.rows, self.columns))[..., None]
        lps = (
            self.first_pixel(number)
            + self.across * self.pixel_mm[1] * column
            + self.down * self.pixel_mm[0] * row
        )
        return np.round(seen_at(lps * LPS)).astype(np.int64)


SAGITTAL = Planes(
    across=np.array([0.0, 1.0, 0.0]), down=np.array([0.0, 0.0, -1.0]),
    along=np.array([1.0, 0.0, 0.0]), columns=100, rows=90, slices=17,
)  # fmt: skip
AXIAL = Planes(
    across=np.array([1.0, 0.0, 0.0]), down=np.array([0.0, 1.0, 0.0]),
    along=np.array([0.0, 0.0, 1.0]), columns=50, rows=70, slices=60,
)  # fmt: skip
CORONAL = Planes(
    across=np.array([1.0, 0.0, 0.0]), down=np.array([0.0, 0.0, -1.0]),
    along=np.array([0.0, 1.0, 0.0]), columns=50, rows=90, slices=46,
)  # fmt: skip


def classic(planes: Planes, number: int) -> FileDataset:
    """One slice, not yet written."""
    dataset = classic_slice(shaded((1, 2, 2)))
    pixels = planes.pixels(number)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.astype("<i2").tobytes()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid("world", number)
    dataset.ImagePositionPatient = [f"{x:.5f}" for x in planes.first_pixel(number)]
    dataset.ImageOrientationPatient = [f"{x:.6f}" for x in (*planes.across, *planes.down)]
    dataset.PixelSpacing = [f"{x:.4f}" for x in planes.pixel_mm]
    dataset.PatientPosition = planes.position
    dataset.InstanceNumber = number + 1
    return dataset


def write_classic(folder: Path, planes: Planes) -> list[dict[str, Any]]:
    """One file a slice; returns what a worker is given to read."""
    sources = []
    for number in range(planes.slices):
        path = folder / f"{number:03d}.dcm"
        classic(planes, number).save_as(path, enforce_file_format=True)
        sources.append({"location": str(path), "kind": "dicom", "frame": 0})
    return sources


def find_balls(volume: Volume) -> dict[str, Points]:
    """Where the planted balls are in a volume, RAS mm: the brightest first, as they were made."""
    values = np.asarray(volume.voxels_RAS, float)
    labels, count = ndimage.label(values > 0.4 * BRIGHT["top"])
    assert count == len(BRIGHT)
    numbers = sorted(range(1, count + 1), key=lambda n: -float(values[labels == n].max()))
    middles = ndimage.center_of_mass(np.where(labels > 0, values, 0), labels, numbers)
    return {
        name: volume.to_mm(np.array(middle)) for name, middle in zip(BRIGHT, middles, strict=True)
    }
