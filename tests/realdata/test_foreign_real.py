"""Masks that SPINEPS' own authors ship, through the adapters: three real vertebrae of one person."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.science.foreign import adapt
from spineage.science.geometry import Volume, reorient
from spineage.science.labels import LEVELS, SEMANTIC
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
