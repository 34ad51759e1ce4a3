"""Explanations that must find what a toy network is known to look at."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from spineage.science.network.explain import grad_cam, occlusion_years, spread_out
from spineage.science.network.network import build_network
from spineage.science.network.tensor import in_region, make_tensor
from spineage.science.spine.labels import LEVELS
from spineage.study import Train
from tests.made.toy_spine import SMALL, toy_spine

VOXELS, LEVELS_RAS = make_tensor(*toy_spine(60), SMALL)


def network():
    train = Train(channels=(4, 6, 8))
    return build_network(train, SMALL, age_mean_years=50, age_sd_years=12, seed=0).eval()


@pytest.fixture(scope="module")
def lumbar_watcher():
    """A network whose one feature is how bright the lumbar spine is: made by hand, trained on nothing."""
    model = build_network(
        Train(channels=(1,)), SMALL, age_mean_years=50, age_sd_years=12, seed=0
    ).eval()
    with torch.no_grad():
        model.blocks[0][0].weight.zero_()
        model.blocks[0][0].weight[0, 0, 1, 1, 1] = 1.0
        model.linear.weight.fill_(3.0)
        model.linear.bias.zero_()
    return model


def test_a_map_lies_on_the_tensors_grid_between_0_and_1():
    cam = grad_cam(network(), VOXELS, LEVELS_RAS, "whole")
    assert cam.shape == VOXELS.shape
    assert cam.dtype == np.float16
    assert cam.min() >= 0
    assert cam.max() in (0, 1)


def test_a_map_is_zero_where_the_network_saw_nothing():
    cam = grad_cam(network(), VOXELS, LEVELS_RAS, "cervical")
    assert (cam[~in_region(LEVELS_RAS, "cervical")] == 0).all()


def test_the_map_of_a_network_that_likes_bright_voxels_is_highest_where_it_is_bright(
    lumbar_watcher,
):
    bright = VOXELS.copy()
    bright[LEVELS["L3"] == LEVELS_RAS] = 3.0
    cam = grad_cam(lumbar_watcher, bright, LEVELS_RAS, "whole").astype(float)
    means = {name: cam[LEVELS[name] == LEVELS_RAS].mean() for name in ("C4", "T6", "L1", "L3")}
    assert max(means, key=means.get) == "L3"


def test_the_map_shows_what_raises_the_age_and_not_what_lowers_it(lumbar_watcher):
    younger = copy.deepcopy(lumbar_watcher)
    younger.linear.weight.data.mul_(-1)
    assert grad_cam(younger, VOXELS, LEVELS_RAS, "whole").max() == 0


def test_explaining_leaves_the_network_as_it_was():
    model = network()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    grad_cam(model, VOXELS, LEVELS_RAS, "whole")
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not model.training


def test_occlusion_blames_the_region_that_was_brightened(lumbar_watcher):
    bright = np.where(in_region(LEVELS_RAS, "lumbar"), VOXELS * 2, VOXELS).astype(np.float16)
    _, effect = occlusion_years(lumbar_watcher, bright, LEVELS_RAS, "whole")
    assert max(effect, key=effect.get) == "lumbar"
    assert effect["lumbar"] > 0 > effect["cervical"]


def test_occlusion_is_the_prediction_minus_the_one_without_the_region():
    model = network()
    whole, effect = occlusion_years(model, VOXELS, LEVELS_RAS, "whole")
    without = np.where(in_region(LEVELS_RAS, "thoracic"), 0, VOXELS)
    alone, _ = occlusion_years(model, without, LEVELS_RAS, "whole")
    assert effect["thoracic"] == pytest.approx(whole - alone, abs=1e-3)


def test_a_network_of_one_region_has_no_other_region_to_blank():
    assert occlusion_years(network(), VOXELS, LEVELS_RAS, "lumbar")[1] == {}


@pytest.mark.parametrize(
    ("num", "expected"), [(1, [1]), (2, [1, 3]), (3, [1, 2, 3]), (9, [1, 0, 2, 4, 3])]
)
def test_chosen_values_span_the_range(num, expected):
    values = np.array([20.0, 10.0, 30.0, 50.0, 40.0])
    assert spread_out(values, num) == expected
