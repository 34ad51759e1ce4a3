"""oneDNN's convolutions compute what torch's do, and leave the network they are made from alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from spineage.segmenter.predict.convolutions import by_onednn


def network(**kwargs: object) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, **kwargs),  # type: ignore[arg-type]
        nn.InstanceNorm3d(4, affine=True),
        nn.LeakyReLU(),
        nn.Conv3d(4, 6, (1, 3, 3), stride=(1, 2, 2), bias=False),
    ).eval()


@pytest.mark.parametrize(
    "kwargs",
    [
        {"padding": 1},
        {"padding": "same"},
        {"padding": 1, "padding_mode": "reflect"},
        {"dilation": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("tiles", [1, 2])
def test_they_agree_with_torchs_own(kwargs: dict[str, object], tiles: int) -> None:
    plain = network(**kwargs)
    image = torch.randn((tiles, 1, 6, 12, 10))
    with torch.inference_mode():
        assert torch.allclose(by_onednn(plain)(image), plain(image), atol=1e-5)


def test_parameters_are_shared_and_the_network_is_left_as_it_was() -> None:
    plain = network()
    kinds = [type(module) for module in plain.modules()]
    fast = by_onednn(plain)
    assert [type(module) for module in plain.modules()] == kinds
    for own, other in zip(plain.parameters(), fast.parameters(), strict=True):
        assert own is other
    assert list(fast.state_dict()) == list(plain.state_dict())


def test_a_single_tile_goes_to_onednn_and_other_numbers_do_not() -> None:
    """In a profile: torch's own convolution of a small input is another kernel."""
    fast, image = by_onednn(network()), torch.randn((1, 1, 6, 12, 10))
    with torch.inference_mode():
        assert _kernels(fast, image) >= {"aten::mkldnn_convolution"}
        assert "aten::slow_conv3d_forward" not in _kernels(fast, image)
        assert "aten::slow_conv3d_forward" in _kernels(network(), image)
        doubled = copy.deepcopy(fast).double()
        assert doubled(image.double()).dtype == torch.float64


def _kernels(of: nn.Module, image: torch.Tensor) -> set[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        of(image)
    return {event.key for event in profile.key_averages()}
