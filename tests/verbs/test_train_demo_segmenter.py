"""The demo segmenter can be made again by its own command: nnU-Net's planner and trainer, then the
import."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from spineage.errors import BadStudy
from spineage.science.spine.dice import dice_of
from spineage.science.spine.labels import LEVELS
from spineage.science.spine.levels import find_levels
from spineage.segmenter.folder import read_manifest
from spineage.segmenter.predict.predictor import load_segmenter
from spineage.verbs import train_demo_segmenter as train_segmenter
from spineage.verbs.train_demo_segmenter import GOALS, evaluate, levels_are_right, met
from tests.made.drawn_spine import Drawing, draw

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two people, two steps: everything happens, nothing is learned."""
    out = tmp_path_factory.mktemp("trained") / "segmenter"
    said = []
    before = dict(os.environ)
    manifest = train_segmenter.train(
        out,
        num_people=2,
        seed=3,
        iterations=2,
        features=(2, 4, 4, 4, 4),
        evaluate_people=1,
        say=said.append,
    )
    return out, manifest, said, before


def test_what_comes_out_is_a_segmenter_that_tells_how_it_was_made(trained):
    out, manifest, said, _ = trained
    assert read_manifest(str(out)) == manifest
    assert manifest["domain"] == "phantom"
    assert manifest["labels"] == {
        "0": "background", "1": "vertebra", "2": "disc", "3": "canal", "4": "cord", "5": "sacrum"
    }  # fmt: skip
    assert "--people 2 --seed 3 --iterations 2" in manifest["origin"]["command"]
    assert set(manifest["origin"]["expected"]["dice"]) == set(manifest["labels"].values()) - {
        "background"
    }
    assert any(text.startswith("epoch 1/1") for text in said)


def test_the_patch_holds_a_whole_spine_at_demo_resolution(trained):
    segmenter = load_segmenter(str(trained[0]))
    patch = segmenter.engine.configuration.patch_size
    assert all(n >= m for n, m in zip(patch, (13, 432, 128), strict=True))
    assert segmenter.engine.configuration.spacing == pytest.approx((4.4, 1.6, 1.6), abs=1e-3)


def test_training_leaves_the_environment_as_it_was(trained):
    before = {
        name: value for name, value in trained[3].items() if name.lower().startswith("nnunet")
    }
    after = {name: value for name, value in os.environ.items() if name.lower().startswith("nnunet")}
    assert after == before


def test_a_segmenter_is_not_overwritten(trained):
    with pytest.raises(BadStudy, match="another folder"):
        train_segmenter.train(trained[0], num_people=2, iterations=2)


def test_the_shipped_weights_still_fit_the_phantom():
    """Three people, so with some slack; the promise is measured by tests/benchmarks/segmenter_dice.py."""
    torch.set_num_threads(1)
    measured = evaluate("demo", 3, 77, say=lambda text: None)
    for name, goal in GOALS.items():
        assert measured["dice"][name] >= goal - 0.03, name
    assert measured["levels_right"] == 1.0


def test_the_shipped_weights_keep_their_promise_on_record():
    expected = read_manifest("demo")["origin"]["expected"]
    assert expected["num_people"] >= 30
    assert met(expected)


def test_dice_is_twice_the_overlap_over_the_sum():
    truth, _ = draw(Drawing())
    found = truth.with_voxels(np.zeros_like(truth.voxels_RAS))
    assert dice_of(truth, truth, 2) == 1.0
    assert dice_of(found, truth, 2) == 0.0
    half = truth.voxels_RAS.copy()
    discs = np.argwhere(half == 2)
    half[tuple(discs[: len(discs) // 2].T)] = 0
    assert dice_of(truth.with_voxels(half), truth, 2) == pytest.approx(2 / 3, abs=0.01)


def test_levels_that_are_shifted_by_one_are_not_right():
    semantic, truth = draw(Drawing())
    levels = find_levels(semantic)
    assert levels_are_right(levels, truth)
    table = np.arange(256, dtype=np.uint8)
    table[LEVELS["C3"] : LEVELS["L5"]] += 1
    assert not levels_are_right(levels, truth.with_voxels(table[truth.voxels_RAS]))
