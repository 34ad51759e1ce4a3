"""A scan cut into stations as a scanner would have stored them, and how well they come back together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.io.scans.read import read_assembly
from spineage.science.scan.geometry import Volume, resample
from spineage.science.scan.stitch import Assembly
from tests.made.dicom_makers import write_sagittal
from tests.made.sealed import sealed

COARSEST = 1.4  # times the voxels of the original
TILT_degrees = 2.0
GAINS = (1.3, 1.0, 0.8)


def station_of(
    whole: Volume, low: float, high: float, spacing_mm: float, tilt_degrees: float = 0.0
) -> Volume:
    """What a scanner set to this spacing and tilt would store of the share from low to high of the height.

    A coarser voxel sees the mean over its own width: the original is softened by what that adds.
    """
    turn = np.radians(tilt_degrees)
    around_R = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    length_mm, depth_mm = (high - low) * whole.extent_mm[2], whole.extent_mm[1]
    shape = (whole.voxels_RAS.shape[0], int(depth_mm / spacing_mm), int(length_mm / spacing_mm))
    affine = np.eye(4)
    affine[:3, :3] = around_R @ np.diag([whole.spacing_mm[0], spacing_mm, spacing_mm])
    r, a, s = whole.voxels_RAS.shape
    middle = whole.to_mm(np.array([(r - 1) / 2, (a - 1) / 2, (low + high) / 2 * s - 0.5]))
    affine[:3, 3] = middle - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    sigma = 0.4 * np.sqrt(max((spacing_mm / whole.spacing_mm[1]) ** 2 - 1, 0))
    soft = ndimage.gaussian_filter(whole.voxels_RAS.astype(np.float32), (0, sigma, sigma))
    taken = resample(whole.with_voxels(soft), shape, affine, order=3)
    return taken.with_voxels(np.clip(taken.voxels_RAS, 0, 32000))


def cut_and_assembled(whole: Volume, folder: Path) -> Assembly:
    """What comes back of three stations at 1.2, 1.0 and 1.4 times the voxels, the last one tilted."""
    voxel_mm = whole.spacing_mm[1]
    stations = [
        station_of(whole, 0.62, 1.0, 1.2 * voxel_mm),
        station_of(whole, 0.30, 0.74, voxel_mm),
        station_of(whole, 0.0, 0.42, COARSEST * voxel_mm, TILT_degrees),
    ]
    rows = []
    for number, (station, gain) in enumerate(zip(stations, GAINS, strict=True)):
        image = station.with_voxels(station.voxels_RAS * gain)
        paths = write_sagittal(folder, image, series=f"S{number}")
        rows.append([{"location": str(p), "kind": "dicom", "frame": 0} for p in paths])
    return read_assembly(sealed(rows))


def both_on_the_original(whole: Volume, found: Volume) -> tuple[Volume, Volume]:
    """Original and result on the original's voxels, each as sharp as the coarsest station can be."""
    there = resample(found, whole.voxels_RAS.shape, whole.affine_RAS, order=1)
    sigma = (0, COARSEST, COARSEST)
    soft = [
        volume.with_voxels(ndimage.gaussian_filter(volume.voxels_RAS.astype(np.float32), sigma))
        for volume in (whole, there)
    ]
    return soft[0], soft[1]


def inner(whole: Volume) -> tuple[slice, slice, slice]:
    """What all stations surely cover: a tilt of 2 degrees leaves wedges at the edges."""
    margins = [1, *(int(0.05 * n) + 3 for n in whole.voxels_RAS.shape[1:])]
    r, a, s = (slice(m, n - m) for m, n in zip(margins, whole.voxels_RAS.shape, strict=True))
    return r, a, s


def errors(whole: Volume, found: Volume) -> NDArray[np.floating]:
    """Relative error of every tissue voxel of the interior."""
    one, two = both_on_the_original(whole, found)
    truth, came = (volume.voxels_RAS[inner(one)] for volume in (one, two))
    tissue = truth > 0.1 * np.percentile(truth, 99)
    error: NDArray[np.floating] = np.abs(came - truth)[tissue] / truth[tissue]
    return error


def shifts(whole: Volume, found: Volume) -> list[float]:
    """Displacement in voxels of blocks of 24 rows all along the spine, each registered by itself."""
    one, two = both_on_the_original(whole, found)
    _, across, along = inner(one)
    middle = one.voxels_RAS.shape[0] // 2
    pictures = [volume.voxels_RAS[middle, across, along] for volume in (one, two)]
    starts = range(0, pictures[0].shape[1] - 24, 24)
    blocks = [[picture[:, start : start + 24] for picture in pictures] for start in starts]
    return [shift_voxels(*block) for block in blocks]


def sides(whole: Volume, found: Volume) -> tuple[float, float]:
    """Correlation of the result with the original, and of its mirror image."""
    one, two = both_on_the_original(whole, found)
    flat = [volume.voxels_RAS[inner(one)].mean(axis=2) for volume in (one, two)]
    return (
        float(np.corrcoef(flat[0].ravel(), flat[1].ravel())[0, 1]),
        float(np.corrcoef(flat[0].ravel(), flat[1][::-1].ravel())[0, 1]),
    )


def shift_voxels(one: NDArray[np.generic], two: NDArray[np.generic]) -> float:
    """Displacement at the best of all shifts up to 3 voxels in steps of a quarter."""
    steps = np.arange(-3, 3.1, 0.5)
    errors = {
        (a, s): float(np.mean((ndimage.shift(two, (a, s), order=1) - one)[4:-4, 4:-4] ** 2))
        for a in steps
        for s in steps
    }
    return float(np.linalg.norm(min(errors, key=lambda shift: errors[shift])))
