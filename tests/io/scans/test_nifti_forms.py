"""sform and qform of a NIfTI file: which one holds, and what happens when they disagree."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.io.nifti import read_voxels

PLACE = np.array([[4.0, 0, 0, -20], [0, 1, 0, -120], [0, 0, 1, -150], [0, 0, 0, 1]])


def written(
    path: Path, sform: np.ndarray | None, qform: np.ndarray | None, codes: tuple[int, int] = (1, 1)
) -> str:
    voxels = np.random.default_rng(0).normal(100, 10, (8, 60, 90)).astype(np.float32)
    image = nib.Nifti1Image(voxels, None)
    if qform is not None:
        image.header.set_qform(qform, codes[1])
    if sform is not None:
        image.header["sform_code"] = codes[0]
        for row, name in enumerate(("srow_x", "srow_y", "srow_z")):
            image.header[name] = sform[row]
    image.to_filename(path)
    return str(path)


def turned(degrees: float) -> np.ndarray:
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[1:3, 1:3] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    return turn @ PLACE


def affine_of(path: str) -> np.ndarray:
    found: np.ndarray = read_voxels(path)[1].affine_RAS
    return found


def test_one_alone_holds_and_equal_ones_do(tmp_path: Path) -> None:
    for sform, qform in ((PLACE, None), (None, PLACE), (PLACE, PLACE)):
        path = written(tmp_path / "a.nii", sform, qform)
        np.testing.assert_allclose(affine_of(path), PLACE, atol=1e-3)


def test_an_sform_of_zeros_stands_behind_a_sound_qform(tmp_path: Path) -> None:
    path = written(tmp_path / "a.nii", np.zeros((4, 4)), PLACE)
    np.testing.assert_allclose(affine_of(path), PLACE, atol=1e-3)
    with pytest.raises(BadScan, match=r"not invertible \(sform\)") as raised:
        affine_of(written(tmp_path / "b.nii", np.zeros((4, 4)), None))
    assert raised.value.code == "no_geometry"


@pytest.mark.parametrize(
    ("sform", "says"),
    [(turned(90), "axes 90 degrees"), (np.diag([2.0, 2, 2, 1]) @ PLACE, "axes 0 degrees")],
    ids=["turned", "scaled"],
)
def test_two_that_disagree_are_refused_with_what_they_say(
    tmp_path: Path, sform: np.ndarray, says: str
) -> None:
    with pytest.raises(BadScan, match=r"sform \(code 2\) and qform \(code 1\)") as raised:
        affine_of(written(tmp_path / "a.nii", sform, PLACE, (2, 1)))
    assert raised.value.code == "geometry_conflict"
    assert says in str(raised.value)


def test_a_rounding_apart_is_no_conflict_and_the_sform_holds(tmp_path: Path) -> None:
    sform = turned(1)
    np.testing.assert_allclose(
        affine_of(written(tmp_path / "a.nii", sform, PLACE)), sform, atol=1e-3
    )
