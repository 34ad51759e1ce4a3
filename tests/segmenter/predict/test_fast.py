"""`fast`: the spine is found first; what is left out does not matter, and where it does more is seen."""

import numpy as np
import pytest
import torch

from spineage.errors import DeviceFault
from spineage.io.storage.volumes import volume_to_cells
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.scan.geometry import Volume
from spineage.science.spine.dice import dice_of
from spineage.science.spine.labels import SEMANTIC
from spineage.segmenter.predict import coarse as nnunet_coarse
from spineage.segmenter.predict import tiles as nnunet_tiles
from spineage.segmenter.predict.predictor import load_segmenter
from spineage.stages.segment import VOXELS, SegmentStep
from tests.made.taught_nnunet import Taught, image

pytestmark = pytest.mark.slow

RECIPE = PhantomRecipe(num_people=2, seed=77)
FIELD_MM = 400.0  # of a whole-spine scan, back to front; phantoms are drawn in 205 mm


@pytest.fixture(scope="module")
def people():
    """Images and semantic truths in a field of view as wide as a scanner's."""
    found = []
    for exam in draw_population(RECIPE):
        person = render(exam, RECIPE)
        found.append((widened(person.image, "edge"), widened(person.semantic, "constant")))
    return found


@pytest.fixture(scope="module")
def segmenter():
    return load_segmenter("demo", threads=1)


def widened(volume: Volume, mode: str) -> Volume:
    num = round((FIELD_MM - volume.extent_mm[1]) / 2 / volume.spacing_mm[1])
    voxels = np.pad(volume.voxels_RAS, ((0, 0), (num, num), (0, 0)), mode=mode)
    return Volume(voxels, volume.affine_RAS)


@pytest.fixture(scope="module")
def found(people, segmenter):
    return [
        {mode: segmenter.segment_and_say(image, mode) for mode in ("exact", "fast")}
        for image, _ in people
    ]


def test_dice_against_truth_is_that_of_exact(people, found):
    tissues = [value for name, value in SEMANTIC.items() if name != "background"]
    dice = {
        mode: np.array(
            [
                [dice_of(one[mode].labels, truth, value) for value in tissues]
                for one, (_, truth) in zip(found, people, strict=True)
            ]
        )
        for mode in ("exact", "fast")
    }
    assert dice["exact"].mean() > 0.85
    assert (dice["fast"].mean(axis=0) >= dice["exact"].mean(axis=0) - 0.005).all()


def test_only_the_spines_box_was_looked_at(found, monkeypatch, segmenter, people):
    assert [one["fast"].how for one in found] == ["the spine's box"] * len(found)
    assert [one["exact"].how for one in found] == ["whole volume"] * len(found)
    counted = {mode: tiles_of(segmenter, people[0][0], mode, monkeypatch) for mode in found[0]}
    assert counted["fast"] < counted["exact"]


def tiles_of(segmenter, volume, mode, monkeypatch):
    """Tiles that the network saw for one scan."""
    seen = []
    plain = nnunet_tiles.Ensemble.__call__

    def count(self, tiles):
        seen.append(len(tiles))
        return plain(self, tiles)

    with monkeypatch.context() as patch:
        patch.setattr(nnunet_tiles.Ensemble, "__call__", count)
        segmenter.segment(volume, mode)
    return sum(seen)


def test_a_scan_of_one_tile_is_seen_whole(segmenter):
    person = render(draw_population(RECIPE)[0], RECIPE).image
    fast = segmenter.segment_and_say(person, "fast")
    assert fast.how == "whole volume: it is 1 tile"
    assert np.array_equal(fast.labels.voxels_RAS, segmenter.segment(person).voxels_RAS)


def test_where_the_coarse_pass_finds_no_spine_all_is_looked_at_and_it_is_said(
    segmenter, people, found, monkeypatch
):
    monkeypatch.setattr(nnunet_coarse, "MIN_LENGTH_MM", 10_000.0)
    whole = segmenter.segment_and_say(people[0][0], "fast")
    assert whole.how.startswith("whole volume: the coarse pass found")
    same = whole.labels.voxels_RAS == found[0]["exact"].labels.voxels_RAS
    assert same.mean() > 0.99


def test_a_box_that_cuts_the_spine_is_grown(segmenter, people, found, monkeypatch):
    """The coarse pass is made to see the upper half only, and its box not to be filled up to a tile."""
    plain, at_least = nnunet_coarse.box_around, nnunet_coarse.at_least

    def upper_half(spine_xyz, shape_xyz, spacing_mm):
        spine_xyz = spine_xyz.copy()
        spine_xyz[:, : spine_xyz.shape[1] // 2] = False
        return plain(spine_xyz, shape_xyz, spacing_mm)

    monkeypatch.setattr(nnunet_coarse, "box_around", upper_half)
    monkeypatch.setattr(
        nnunet_coarse, "at_least", lambda box, w, shape: at_least(box, [w[0], 0, w[2]], shape)
    )
    grown = segmenter.segment_and_say(people[0][0], "fast")
    assert grown.how == "the spine's box, grown as the spine left it"
    lower_half = (slice(None), slice(None), slice(0, 216))
    truth = people[0][1].voxels_RAS[lower_half] > 0
    for one in (grown, found[0]["fast"]):
        assert np.mean(one.labels.voxels_RAS[lower_half][truth] > 0) > 0.9


def test_boxes():
    """Nothing, a speck, a column, and how a small box grows within the volume."""
    mm = [4.0, 1.0, 1.0]
    spine = np.zeros((10, 200, 100), bool)
    shape = (20, 400, 200)
    assert nnunet_coarse.box_around(spine, shape, mm) == (None, "the coarse pass found nothing")
    spine[4, 10:12, 10:12] = True
    box, why = nnunet_coarse.box_around(spine, shape, mm)
    assert box is None
    assert "not a spine" in why
    spine[3:7, 60:160, 40:60] = True  # the speck is far smaller and is left out
    spine[2:8, 80:110, 80:95] = True  # beside it: no part of it
    box, why = nnunet_coarse.box_around(spine, shape, mm)
    assert (box, why) == ((slice(1, 19), slice(100, 340), slice(60, 140)), "")
    wide = nnunet_coarse.at_least(box, [20, 100, 190], shape)
    assert wide == (slice(0, 20), slice(100, 340), slice(5, 195))
    assert nnunet_coarse.at_least(box, [50, 999, 120], shape) == (
        slice(0, 20), slice(0, 400), slice(40, 160),
    )  # fmt: skip
    inside = np.zeros((18, 240, 80), bool)
    assert nnunet_coarse.grown_where_touched(inside, box, shape, mm) == box
    inside[4:12, 0, 30:50] = True
    grown = nnunet_coarse.grown_where_touched(inside, box, shape, mm)
    assert grown == (slice(1, 19), slice(0, 340), slice(60, 140))


@pytest.fixture(scope="module")
def taught():
    return Taught()


class Bands(torch.nn.Module):
    """A network that calls every voxel by its own brightness: nothing but the way to it can go wrong."""

    def forward(self, x):
        return torch.cat([-((x - centre) ** 2) for centre in (-1.0, 0.4, 0.8, 1.2, 1.6)], 1)


@pytest.mark.parametrize(
    ("plans", "folds"), [({"patch": (64, 32)}, 1), ({}, 2)], ids=["2d", "two folds"]
)
def test_models_of_other_kinds_find_the_box_too(plans, folds):
    (volume,) = image((7, 200, 320), (4.0, 1.6, 1.6))
    voxels = np.full_like(volume.voxels_RAS, volume.voxels_RAS.min())
    voxels[:, 50:150] = (
        volume.voxels_RAS[:, 50:150] + 300
    )  # a strip from end to end, dark beside it
    segmenter = Taught(networks=[Bands()] * folds, **plans).segmenter()
    fast, exact = (
        segmenter.segment_and_say(volume.with_voxels(voxels), mode) for mode in ("fast", "exact")
    )
    assert fast.how == "the spine's box"
    assert set(np.unique(exact.labels.voxels_RAS[:, 50:150])) == {1, 2, 3, 4}
    assert (fast.labels.voxels_RAS == exact.labels.voxels_RAS).mean() >= 0.999


class Full:
    """A device whose memory holds `fits` tiles."""

    def __init__(self, ensemble, fits):
        self._ensemble, self._fits, self.seen = ensemble, fits, []

    def __getattr__(self, name):
        return getattr(self._ensemble, name)

    def __call__(self, tiles):
        self.seen.append(len(tiles))
        if len(tiles) > self._fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self._ensemble(tiles)


def test_out_of_memory_is_answered_by_one_tile_at_a_time_and_remembered(taught):
    volumes = image((9, 60, 140), (4.0, 1.6, 1.6))
    segmenter, plain = taught.segmenter(), taught.segmenter().segment(volumes)
    segmenter.engine.ensemble = Full(segmenter.engine.ensemble, fits=1)
    segmenter.engine.tiles_at_once = 4  # as on a GPU
    for failures in (1, 0):
        segmenter.engine.ensemble.seen.clear()
        labels = segmenter.segment(volumes)
        assert (labels.voxels_RAS == plain.voxels_RAS).mean() >= 0.9999
        assert sum(number > 1 for number in segmenter.engine.ensemble.seen) == failures


def test_a_scan_that_does_not_fit_even_so_is_a_fault_of_the_device():
    step = SegmentStep("demo")
    step._segmenter.engine.ensemble = Full(step._segmenter.engine.ensemble, fits=0)
    step._segmenter.engine.tiles_at_once = 4
    person = render(draw_population(RECIPE)[0], RECIPE).image
    with pytest.raises(DeviceFault) as fault:
        step({"scan_id": "a", **volume_to_cells(person, VOXELS)})
    assert fault.value.code == "out_of_memory"
    assert step._segmenter.engine.ensemble.seen == [1, 1]  # tried again once
