"""Real spines cut into stations, written as DICOM and assembled again: the same spine at the same place."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from spineage.io.scans.read import read_station
from spineage.science.scan.geometry import Volume
from spineage.science.scan.stitch import Assembly
from tests.made.cut_stations import GAINS, cut_and_assembled, errors, shifts, sides
from tests.realdata.folder import ROOT, needs_realdata

pytestmark = needs_realdata

SCANS = {
    "cervicothoracic": "spinalcordtoolbox__sct_testing_data/t2_cervicothoracic_full.nii.gz",
    "lumbar": "spinalcordtoolbox__sct_tutorial_data/t2_lumbar.nii.gz",
}


@pytest.fixture(scope="module", params=SCANS)
def cut(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Volume, Assembly, Path]:
    """The original, what comes back of its stations, and the folder."""
    folder = tmp_path_factory.mktemp(request.param)
    whole = read_station([{"location": str(ROOT / SCANS[request.param]), "kind": "nifti"}])
    whole = whole.with_voxels(whole.voxels_RAS * (2000 / np.percentile(whole.voxels_RAS, 99)))
    return whole, cut_and_assembled(whole, folder), folder


def test_intensities_come_back_within_five_percent(cut: tuple[Volume, Assembly, Path]) -> None:
    assert np.percentile(errors(cut[0], cut[1].volume), 95) < 0.05


def test_every_part_comes_back_within_a_voxel_of_its_place(
    cut: tuple[Volume, Assembly, Path],
) -> None:
    assert max(shifts(cut[0], cut[1].volume)) < 1.0


def test_nobody_who_lay_still_is_moved_and_gains_are_found(
    cut: tuple[Volume, Assembly, Path],
) -> None:
    pieces = {piece.station: piece for piece in cut[1].pieces}
    assert {piece.shift_mm for piece in pieces.values()} == {(0.0, 0.0, 0.0)}
    assert pieces[0].gain / pieces[1].gain == pytest.approx(1 / GAINS[0], rel=0.02)
    assert pieces[2].gain / pieces[1].gain == pytest.approx(1 / GAINS[2], rel=0.02)


def test_left_stays_left_and_the_picture_is_drawn(cut: tuple[Volume, Assembly, Path]) -> None:
    straight, mirrored = sides(cut[0], cut[1].volume)
    assert straight > 0.999
    assert mirrored < 0.99
    draw(cut[0], cut[1].volume, cut[2] / "assembled.png")


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
