"""The networks of nnU-Net and what they are made of, by the names that plans.json may give them.

A table instead of nnU-Net's `pydoc.locate`, which imports and returns whatever a name says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from dynamic_network_architectures.architectures.unet import (
    PlainConvUNet,
    ResidualEncoderUNet,
    ResidualUNet,
)
from torch import nn

_UNETS: Final = "dynamic_network_architectures.architectures.unet."
NETWORKS: Final[dict[str, type[nn.Module]]] = {
    _UNETS + "PlainConvUNet": PlainConvUNet,
    _UNETS + "ResidualEncoderUNet": ResidualEncoderUNet,
    _UNETS + "ResidualUNet": ResidualUNet,
    # where nnU-Net's reader of old plans says it is
    "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet": ResidualEncoderUNet,
}


def _both_names(*classes: type[nn.Module]) -> dict[str, type[nn.Module]]:
    """By the module that defines it, as nnU-Net's planners write it, and as torch.nn exports it."""
    return {f"{place}.{c.__name__}": c for c in classes for place in ("torch.nn", c.__module__)}


PARTS: Final[dict[str, dict[str, type[nn.Module]]]] = {
    "conv_op": _both_names(nn.Conv2d, nn.Conv3d),
    "norm_op": _both_names(
        nn.InstanceNorm2d, nn.InstanceNorm3d, nn.BatchNorm2d, nn.BatchNorm3d
    ),
    "dropout_op": _both_names(nn.Dropout2d, nn.Dropout3d),
    "nonlin": _both_names(nn.LeakyReLU, nn.ReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
}  # fmt: skip
"""What `_kw_requires_import` may ask for."""


def network_of(architecture: Mapping[str, Any]) -> tuple[type[nn.Module], dict[str, Any]]:
    """The class that a checked architecture names, and its arguments, parts as classes."""
    kwargs = dict(architecture["arch_kwargs"])
    for part, known in PARTS.items():
        if isinstance(kwargs.get(part), str):
            kwargs[part] = known[kwargs[part]]
    return NETWORKS[architecture["network_class_name"]], kwargs
