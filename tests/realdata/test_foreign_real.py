"""Masks that SPINEPS' own authors ship, through the adapters: three real vertebrae of one person."""

from __future__ import annotations

import json

import nibabel as nib
import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.science.scan.geometry import Volume, reorient
from spineage.science.spine.foreign import adapt
from spineage.science.spine.labels import LEVELS, SEMANTIC
from spineage.segmenter.training.raw import cases_from_folders, write_raw
from tests.realdata.folder import ROOT, needs_realdata

pytestmark = needs_realdata
FOLDER = ROOT / "Hendrik-code__TPTBox"


def real_mask(kind: str) -> Volume:
    image = nib.load(FOLDER / f"sub-mri_seg-{kind}_label-6_msk.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("P", "I", "R")
    return reorient(np.asarray(image.dataobj), image.affine)


def test_real_tissues_are_what_spineps_says_they_are():
    mask = real_mask("subreg")
    found = adapt(mask, "spineps")
    counts = {name: int((found.voxels_RAS == value).sum()) for name, value in SEMANTIC.items()}
    raw = dict(zip(*np.unique(mask.voxels_RAS, return_counts=True), strict=True))
    assert counts["disc"] == raw[100]
    assert counts["canal"] == raw[61]
    assert counts["cord"] == raw[60]
    assert counts["vertebra"] == sum(raw[v] for v in (*range(41, 50), 62))


def test_real_names_go_down_the_neck_and_every_endplate_lies_at_its_own_vertebra():
    names, tissues = real_mask("vert"), real_mask("subreg")
    found = adapt(names, "spineps-veridah", tissues)
    place = {
        name: np.argwhere(found.voxels_RAS == LEVELS[name])[:, 2].mean()
        for name in ("C5", "disc_below_C5", "C6", "disc_below_C6", "C7")
    }
    assert list(place.values()) == sorted(place.values(), reverse=True)
    assert set(np.unique(found.voxels_RAS)) == {0, LEVELS["canal"], LEVELS["cord"]} | {
        LEVELS[name] for name in place
    }
    between = found.voxels_RAS[names.voxels_RAS == 205]  # above and below the disc C5/6
    assert set(np.unique(between)) == {LEVELS["C5"], LEVELS["C6"]}
    assert 0.4 < (between == LEVELS["C5"]).mean() < 0.6


def test_real_masks_are_not_taken_for_those_of_another_tool():
    names, tissues = real_mask("vert"), real_mask("subreg")
    for volume, tool in ((tissues, "totalspineseg"), (names, "totalspineseg"), (names, "spineps")):
        with pytest.raises(BadScan, match="not one of the labels"):
            adapt(volume, tool)
    with pytest.raises(BadScan, match="not of one scan"):
        adapt(names, "spineps-veridah", tissues.with_voxels(np.roll(tissues.voxels_RAS, 8, 2)))


def test_real_masks_of_spineps_can_be_trained_on(tmp_path):
    """Two people made of one: pairing, grids, names and turning to RAS+ on files as SPINEPS writes them."""
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for person in ("sub-1", "sub-2"):
        files = {
            f"images/{person}_T2w.nii.gz": "sub-mri_label-6_T2w.nii.gz",
            f"labels/{person}_seg-vert_msk.nii.gz": "sub-mri_seg-vert_label-6_msk.nii.gz",
            f"labels/{person}_seg-spine_msk.nii.gz": "sub-mri_seg-subreg_label-6_msk.nii.gz",
        }
        for name, real in files.items():
            (tmp_path / name).symlink_to(FOLDER / real)
    cases = cases_from_folders(tmp_path / "images", tmp_path / "labels", "spineps-veridah")
    write_raw(cases, "levels", ["T2"], tmp_path / "raw", threads=1)
    about = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert list(about["labels"]) == [
        "background", "C5", "C6", "C7", "disc_below_C5", "disc_below_C6", "canal", "cord"
    ]  # fmt: skip
    image = nib.load(tmp_path / "raw" / "imagesTr" / "sub-1_0000.nii.gz")
    assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
