"""Real spines cut into stations, written as DICOM and assembled again: the same spine at the same place."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from spineage.io.assemble import read_assembly, read_station
from spineage.science.geometry import Volume, resample
from spineage.science.stitch import Assembly
from tests.realdata.folder import ROOT, needs_realdata
from tests.stages.dicom_makers import write_sagittal

pytestmark = needs_realdata

SCANS = {
    "cervicothoracic": "spinalcordtoolbox__sct_testing_data/t2_cervicothoracic_full.nii.gz",
    "lumbar": "spinalcordtoolbox__sct_tutorial_data/t2_lumbar.nii.gz",
}
COARSEST_mm = 1.4
TILT_degrees = 2.0


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


@pytest.fixture(scope="module", params=SCANS)
def cut(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Volume, Assembly, Path]:
    """The original and what comes back of three stations: 1.0, 1.2 and 1.4 mm, the last one tilted."""
    folder = tmp_path_factory.mktemp(request.param)
    whole = read_station([{"location": str(ROOT / SCANS[request.param]), "kind": "nifti"}])
    whole = whole.with_voxels(whole.voxels_RAS * (2000 / np.percentile(whole.voxels_RAS, 99)))
    stations = [
        station_of(whole, 0.62, 1.0, 1.2),
        station_of(whole, 0.30, 0.74, 1.0),
        station_of(whole, 0.0, 0.42, COARSEST_mm, TILT_degrees),
    ]
    rows = []
    for number, (station, gain) in enumerate(zip(stations, (1.3, 1.0, 0.8), strict=True)):
        image = station.with_voxels(station.voxels_RAS * gain)
        paths = write_sagittal(folder, image, series=f"S{number}")
        rows.append([{"location": str(p), "kind": "dicom", "frame": 0} for p in paths])
    return whole, read_assembly({"stations_json": json.dumps(rows)}), folder


def both_on_the_original(cut: tuple[Volume, Assembly, Path]) -> tuple[Volume, Volume]:
    """Original and result on the original's voxels, each as sharp as the coarsest station can be."""
    whole, found, _ = cut
    there = resample(found.volume, whole.voxels_RAS.shape, whole.affine_RAS, order=1)
    sigma = (0, COARSEST_mm, COARSEST_mm)
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


def test_intensities_come_back_within_five_percent(cut: tuple[Volume, Assembly, Path]) -> None:
    one, two = both_on_the_original(cut)
    truth, found = (volume.voxels_RAS[inner(one)] for volume in (one, two))
    tissue = truth > 0.1 * np.percentile(truth, 99)
    error = np.abs(found - truth)[tissue] / truth[tissue]
    print("median, 95th, 99th percentile of the error:", np.percentile(error, [50, 95, 99]))
    assert np.percentile(error, 95) < 0.05


def test_every_part_comes_back_within_a_voxel_of_its_place(
    cut: tuple[Volume, Assembly, Path],
) -> None:
    """Blocks of 24 rows all along the spine, each registered by itself."""
    one, two = both_on_the_original(cut)
    _, across, along = inner(one)
    middle = one.voxels_RAS.shape[0] // 2
    pictures = [volume.voxels_RAS[middle, across, along] for volume in (one, two)]
    for start in range(0, pictures[0].shape[1] - 24, 24):
        block = slice(start, start + 24)
        shift = shift_voxels(pictures[0][:, block], pictures[1][:, block])
        assert shift < 1.0, f"rows from {start}"


def shift_voxels(one: NDArray[np.generic], two: NDArray[np.generic]) -> float:
    """Displacement at the best of all shifts up to 3 voxels in steps of a quarter."""
    steps = np.arange(-3, 3.1, 0.5)
    errors = {
        (a, s): float(np.mean((ndimage.shift(two, (a, s), order=1) - one)[4:-4, 4:-4] ** 2))
        for a in steps
        for s in steps
    }
    return float(np.linalg.norm(min(errors, key=lambda shift: errors[shift])))


def test_nobody_who_lay_still_is_moved_and_gains_are_found(
    cut: tuple[Volume, Assembly, Path],
) -> None:
    pieces = {piece.station: piece for piece in cut[1].pieces}
    assert {piece.shift_mm for piece in pieces.values()} == {(0.0, 0.0, 0.0)}
    assert pieces[0].gain / pieces[1].gain == pytest.approx(1 / 1.3, rel=0.02)
    assert pieces[2].gain / pieces[1].gain == pytest.approx(1 / 0.8, rel=0.02)


def test_left_stays_left_and_the_picture_is_drawn(cut: tuple[Volume, Assembly, Path]) -> None:
    one, two = both_on_the_original(cut)
    sides = [volume.voxels_RAS[inner(one)].mean(axis=2) for volume in (one, two)]
    straight = np.corrcoef(sides[0].ravel(), sides[1].ravel())[0, 1]
    mirrored = np.corrcoef(sides[0].ravel(), sides[1][::-1].ravel())[0, 1]
    assert straight > 0.999
    assert mirrored < 0.99
    draw(cut[0], cut[1].volume, cut[2] / "assembled.png")
    print(cut[2] / "assembled.png")


def draw(whole: Volume, found: Volume, path: Path) -> None:
    """Middle slices of the original and of the result: head up, front on the left."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 7))
    for axis, volume in zip(axes, (whole, found), strict=True):
        middle = volume.voxels_RAS[volume.voxels_RAS.shape[0] // 2]
        aspect = volume.spacing_mm[2] / volume.spacing_mm[1]
        axis.imshow(middle.T[::-1, ::-1], cmap="gray", vmin=0, vmax=2000, aspect=aspect)
        axis.set_axis_off()
    figure.savefig(path, dpi=60)
    plt.close(figure)
