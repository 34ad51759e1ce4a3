"""What a tensor may and may not know of the scan it was made from. R, A, S: right, anterior, superior."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineage.errors import BadScan
from spineage.science.network.tensor import (
    blank_region,
    csf_reference,
    in_region,
    keep_region,
    make_tensor,
    place_window,
)
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS
from spineage.study import Prepare
from tests.made.toy_spine import toy_spine

RECIPE = Prepare()
SCAN, MASK = toy_spine()
VOXELS, LEVELS_RAS = make_tensor(SCAN, MASK, RECIPE)


def differ(a, b):
    return np.abs(a.astype(np.float32) - b.astype(np.float32)).max()


def test_a_tensor_has_the_recipes_grid():
    assert VOXELS.shape == LEVELS_RAS.shape == RECIPE.shape
    assert VOXELS.dtype == np.float16
    assert LEVELS_RAS.dtype == np.uint8


def test_every_level_of_the_scan_is_in_the_tensor():
    assert set(np.unique(LEVELS_RAS)) == set(np.unique(MASK.voxels_RAS))


def test_nothing_outside_the_spine_is_not_zero():
    assert (VOXELS[LEVELS_RAS == 0] == 0).all()
    assert (VOXELS[LEVELS_RAS > 0] > 0).mean() > 0.99


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**31))
def test_the_body_around_the_spine_cannot_reach_the_tensor(seed):
    noise = np.random.default_rng(seed).uniform(0, 1e4, SCAN.voxels_RAS.shape).astype(np.float32)
    other = np.where(MASK.voxels_RAS > 0, SCAN.voxels_RAS, noise)
    voxels, _ = make_tensor(SCAN.with_voxels(other), MASK, RECIPE)
    assert np.array_equal(voxels, VOXELS)


@settings(max_examples=5, deadline=None)
@given(st.floats(1e-3, 1e3))
@pytest.mark.parametrize("how", ["csf", "robust"])
def test_the_scanners_gain_drops_out(how, gain):
    recipe = Prepare(normalise=how)
    expected, _ = make_tensor(SCAN, MASK, recipe)
    voxels, _ = make_tensor(SCAN.with_voxels(SCAN.voxels_RAS * np.float32(gain)), MASK, recipe)
    assert differ(voxels, expected) < 2e-3


@settings(max_examples=5, deadline=None)
@given(st.tuples(*[st.floats(-200, 200)] * 3))
def test_where_the_patient_lay_drops_out(shift_mm):
    moved_affine = MASK.affine_RAS.copy()
    moved_affine[:3, 3] += shift_mm
    scan, mask = (Volume(v.voxels_RAS, moved_affine) for v in (SCAN, MASK))
    voxels, levels = make_tensor(scan, mask, RECIPE)
    assert np.array_equal(levels, LEVELS_RAS)
    assert differ(voxels, VOXELS) < 2e-3


def test_where_the_spine_lies_in_the_field_of_view_drops_out():
    rolled = [v.with_voxels(np.roll(v.voxels_RAS, (2, -3, 4), (0, 1, 2))) for v in (SCAN, MASK)]
    voxels, levels = make_tensor(*rolled, RECIPE)
    assert np.array_equal(levels, LEVELS_RAS)
    assert differ(voxels, VOXELS) < 2e-3


def test_left_stays_left_and_up_stays_up():
    scan, mask = toy_spine(left_mark=True)
    voxels, levels = make_tensor(scan, mask, RECIPE)
    body = np.isin(levels, [LEVELS["T5"], LEVELS["L3"]])
    left, right = (voxels[half][body[half]].mean() for half in (slice(0, 8), slice(8, 16)))
    assert left > 1.8 * right
    height = [np.argwhere(levels == LEVELS[name])[:, 2].mean() for name in ("L5", "T5", "C3")]
    assert height == sorted(height)
    front = [np.argwhere(levels == LEVELS[name])[:, 1].mean() for name in ("canal", "L3")]
    assert front == sorted(front)


def test_sizes_in_millimetres_survive_another_scanner_resolution():
    fine = make_tensor(*toy_spine(spacing_mm=(3.0, 1.1, 1.1)), RECIPE)[1]
    for name in ("C4", "T6", "L2", "disc_below_L2"):
        volume_mm3 = [(levels == LEVELS[name]).sum() for levels in (fine, LEVELS_RAS)]
        assert volume_mm3[0] == pytest.approx(volume_mm3[1], rel=0.25)


def test_a_signal_that_fades_along_the_body_is_evened_out():
    fading = toy_spine(field=1.5)  # a factor of 2.9 from sacrum to head
    voxels, _ = make_tensor(*fading, RECIPE)
    bodies = [
        np.median(voxels[LEVELS[name] == LEVELS_RAS].astype(float))
        for name in ("C4", "T2", "T9", "L4")
    ]
    assert np.ptp(bodies) < 0.15 * np.mean(bodies)


def test_a_single_narrow_canal_stays_visible():
    heights_mm = np.repeat(np.arange(0, 600, 2.0), 10)
    csf = np.where(np.abs(heights_mm - 300) < 10, 0.3, 1.0)
    reference = csf_reference(heights_mm, csf, np.array([300.0]))
    assert reference[0] > 0.8


def test_discs_keep_their_signal_relative_to_csf():
    young, old = (
        np.median(make_tensor(*toy_spine(age), RECIPE)[0][LEVELS["disc_below_L3"] == LEVELS_RAS])
        for age in (25, 85)
    )
    assert young == pytest.approx(0.9, abs=0.05)
    assert old == pytest.approx(0.3, abs=0.05)


def test_c1_seen_or_unseen_does_not_move_the_window():
    with_c1 = MASK.voxels_RAS.copy()
    top = np.argwhere(MASK.voxels_RAS == LEVELS["C2"])[:, 2].max()
    with_c1[8:12, 30:36, top + 1 : top + 5] = LEVELS["C1"]
    seen = place_window(MASK.with_voxels(with_c1), RECIPE)
    assert np.allclose(seen, place_window(MASK, RECIPE), atol=0.5)


@pytest.mark.parametrize("lost", [("C2",), ("sacrum",), ("canal", "cord")])
def test_a_spine_that_is_not_whole_is_refused(lost):
    gone = np.isin(MASK.voxels_RAS, [LEVELS[name] for name in lost])
    levels = np.where(gone, 0, MASK.voxels_RAS)
    with pytest.raises(BadScan) as caught:
        make_tensor(SCAN, MASK.with_voxels(levels), RECIPE)
    assert caught.value.code == "incomplete_spine"


def test_a_spine_larger_than_the_grid_is_refused_with_both_sizes():
    with pytest.raises(BadScan, match=r"fall out of the grid of 176 x 440 mm") as caught:
        make_tensor(SCAN, MASK, Prepare(shape=(16, 80, 200)))
    assert caught.value.code == "implausible_mask"


def test_a_black_canal_is_refused():
    black = np.where(MASK.voxels_RAS == LEVELS["canal"], 0, SCAN.voxels_RAS)
    with pytest.raises(BadScan) as caught:
        make_tensor(SCAN.with_voxels(black), MASK, RECIPE)
    assert caught.value.code == "implausible_mask"


def test_signal_that_is_no_number_is_refused():
    broken = SCAN.voxels_RAS.copy()
    broken[MASK.voxels_RAS == LEVELS["T5"]] = np.nan
    with pytest.raises(BadScan) as caught:
        make_tensor(SCAN.with_voxels(broken), MASK, RECIPE)
    assert caught.value.code == "bad_values"


def test_the_regions_share_the_spine_out():
    parts = [in_region(LEVELS_RAS, region) for region in ("cervical", "thoracic", "lumbar")]
    counts = sum(part.astype(int) for part in parts)
    assert (counts[LEVELS_RAS == 0] == 0).all()
    assert (counts[LEVELS_RAS > 0] >= 1).all()
    assert (counts > 1).mean() < 1e-2  # canal rows as near to one region as to the next


def test_a_region_kept_holds_its_levels_alone():
    kept = keep_region(VOXELS, LEVELS_RAS, "lumbar") != 0
    assert not kept[np.isin(LEVELS_RAS, [LEVELS["T12"], LEVELS["C4"]])].any()
    assert (kept[LEVELS["sacrum"] == LEVELS_RAS]).mean() > 0.99
    assert np.array_equal(keep_region(VOXELS, LEVELS_RAS, "whole"), VOXELS)


def test_a_region_blanked_is_what_was_not_kept():
    kept, blanked = (f(VOXELS, LEVELS_RAS, "thoracic") for f in (keep_region, blank_region))
    assert np.array_equal(kept.astype(float) + blanked, VOXELS.astype(float))
