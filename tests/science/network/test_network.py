"""The network's parts, its grid-aware pooling, its weights on the way to a file and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from spineage.errors import BadStudy
from spineage.science.network.network import (
    build_network,
    describe,
    load_network,
    network_input,
    pools_for,
    predict,
    save_weights,
)
from spineage.science.network.tensor import make_tensor
from spineage.study import Prepare, Train
from tests.made.toy_spine import SMALL, toy_spine

TRAIN = Train(channels=(4, 6, 8))


def network(seed=0, **changes):
    train = TRAIN.model_copy(update=changes)
    return build_network(train, SMALL, age_mean_years=50, age_sd_years=12, seed=seed)


def scans(num=3):
    return torch.rand(num, 1, *SMALL.shape, generator=torch.Generator().manual_seed(0))


def test_the_blocks_are_the_papers_convolution_batch_norm_pooling_and_one_linear_layer():
    layers = list(network().modules())
    for kind in (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d):
        assert sum(isinstance(layer, kind) for layer in layers) == 3
    assert sum(isinstance(layer, nn.Linear) for layer in layers) == 1


def test_thick_slices_are_pooled_later_than_fine_rows():
    assert pools_for(3, (16, 80, 320), (4.0, 2.2, 2.2)) == ((1, 2, 2), (2, 2, 2), (2, 2, 2))


def test_an_axis_of_few_voxels_is_pooled_no_further():
    pools = pools_for(5, (16, 80, 320), (4.0, 2.2, 2.2))
    left = np.array((16, 80, 320)) // np.prod(pools, axis=0)
    assert left.min() >= 4
    assert pools_for(1, (4, 4, 4), (1.0, 1.0, 1.0)) == ((1, 1, 1),)


def test_predictions_are_in_years():
    model = network().eval()
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.fill_(0.5)
    assert predict(model, scans())[0] == pytest.approx([56.0] * 3)


def test_one_seed_gives_one_network_whatever_was_drawn_before():
    first = save_weights(network(3))
    torch.rand(7)
    assert save_weights(network(3)) == first
    assert save_weights(network(4)) != first


def test_building_a_network_draws_nothing_from_others():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    network()
    assert torch.equal(torch.rand(3), expected)


def test_a_network_survives_its_file():
    model = network().eval()
    told = json.dumps(describe(TRAIN, SMALL)).encode()
    again = load_network(save_weights(model), told)
    for mine, its in zip(predict(model, scans()), predict(again, scans()), strict=True):
        assert np.array_equal(mine, its)


def test_the_description_holds_what_the_input_was_made_by():
    assert Prepare.model_validate(describe(TRAIN, SMALL)["prepare"]) == SMALL


def test_weights_of_another_architecture_are_not_taken():
    told = describe(TRAIN.model_copy(update={"channels": (4, 6)}), SMALL)
    with pytest.raises(BadStudy, match="another architecture"):
        load_network(save_weights(network()), told)


def test_an_architecture_that_would_fill_the_memory_is_refused_before_it_is_built():
    told = describe(TRAIN.model_copy(update={"channels": (2_000_000, 2_000_000)}), SMALL)
    with pytest.raises(BadStudy, match="another architecture"):
        load_network(save_weights(network()), told)


@pytest.mark.parametrize(
    ("mean", "sd"), [(float("nan"), 10.0), (50.0, 0.0), (50.0, -3.0), (900.0, 1.0)]
)
def test_ages_that_no_human_has_are_refused(mean, sd):
    model = network()
    model.mean_years.fill_(mean)
    model.sd_years.fill_(sd)
    with pytest.raises(BadStudy, match="no human ages"):
        load_network(save_weights(model), describe(TRAIN, SMALL))


def test_weights_that_are_no_safetensors_are_refused():
    with pytest.raises(BadStudy, match="not safetensors"):
        load_network(b"\xff" * 40, describe(TRAIN, SMALL))


def test_prediction_and_forward_pass_agree_in_evaluation():
    model = network().eval()
    assert predict(model, scans())[0] == pytest.approx(model(scans()).detach().numpy(), rel=1e-6)


def test_a_scan_is_predicted_alike_alone_and_in_a_batch():
    model = network().eval()
    together = predict(model, scans())[0]
    alone = [predict(model, scans()[i : i + 1])[0][0] for i in range(3)]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_model_of_one_region_sees_only_that_region():
    voxels, levels = make_tensor(*toy_spine(), SMALL)
    seen = network_input(voxels, levels, "cervical")[0]
    assert (seen != 0).any()
    assert seen[..., : SMALL.shape[2] // 2].abs().max() == 0  # the lower half of the body
    assert torch.equal(network_input(voxels, levels, "whole")[0], torch.from_numpy(voxels).float())
