"""Where the network looked: Grad-CAM, and what each region of the spine adds to the age.

Letters: B batch, C channel, R left->right, A posterior->anterior, S inferior->superior.
"""

from __future__ import annotations

import numpy as np
import torch
from monai.visualize.class_activation_maps import GradCAM
from numpy.typing import NDArray
from torch import Tensor, nn

from spineage.science.network.network import SpineAgeNet, network_input, predict
from spineage.science.network.tensor import blank_region
from spineage.science.spine.labels import REGIONS


class _OneScore(nn.Module):
    """The network as MONAI expects one: [B, 1] scores. The score is the age; there is no class."""

    def __init__(self, model: SpineAgeNet) -> None:
        super().__init__()
        self.model = model

    def forward(self, scan_BCRAS: Tensor) -> Tensor:
        years: Tensor = self.model(scan_BCRAS)
        return years[:, None]


def grad_cam(
    model: SpineAgeNet, voxels: NDArray[np.float16], levels: NDArray[np.uint8], region: str
) -> NDArray[np.float16]:
    """What makes this spine look older, [R, A, S] on the tensor's grid, 0 to 1; 0 where nothing was seen.

    Layer (unknown in the paper): the last convolution after its normalisation and before its pooling, the
    deepest features at the finest grid they have. Only what raises the age is shown: a map of zeros means
    that nothing does. Linear; divided by its maximum, so maps of two people do not compare in strength.
    Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74.
    """
    assert not model.training
    scan_CRAS = network_input(voxels, levels, region)
    layer = f"model.blocks.{len(model.blocks) - 1}.1"
    camera = GradCAM(_OneScore(model).eval(), target_layers=layer, postprocessing=lambda cam: cam)
    device = model.mean_years.device
    raw_RAS = camera(scan_CRAS[None].to(device), class_idx=0)[0, 0].detach().cpu().numpy()
    model.zero_grad()
    seen_RAS = np.where(scan_CRAS[0].numpy() != 0, raw_RAS, 0)
    highest = float(seen_RAS.max())
    return (seen_RAS / highest if highest > 0 else seen_RAS).astype(np.float16)


def occlusion_years(
    model: SpineAgeNet, voxels: NDArray[np.float16], levels: NDArray[np.uint8], region: str
) -> tuple[float, dict[str, float]]:
    """The prediction in years, and by region the prediction minus the one with that region blanked.

    Positive: the region makes the spine look older than the rest of it does. A network of one region sees
    that region alone and has no rest to compare with, so only whole-spine networks have regions here.
    """
    blanked = {name: blank_region(voxels, levels, name) for name in REGIONS if region == "whole"}
    inputs = [network_input(v, levels, region) for v in (voxels, *blanked.values())]
    years, _ = predict(model, torch.stack(inputs))
    return float(years[0]), {
        name: float(years[0] - y) for name, y in zip(blanked, years[1:], strict=True)
    }


def spread_out(values: NDArray[np.floating], num: int) -> list[int]:
    """Indices of up to `num` values spread evenly over their order, the lowest and the highest included."""
    order = np.argsort(values, kind="stable")
    places = np.linspace(0, len(order) - 1, min(num, len(order))).round().astype(int)
    return [int(order[i]) for i in places]
