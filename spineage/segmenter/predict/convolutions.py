"""oneDNN's convolution for a single tile on a CPU.

torch hands a convolution to oneDNN when batch x channels x the first two axes pass 20,480, and takes its own,
slower one below: so the deep layers of a single tile, and the first one. Asked for by name, oneDNN computes
one tile as fast as each of two: 0.40 s against 0.50 s of CPU time for the benchmark's network (2026-11-24,
one thread), with half of the activations in memory.
"""

from __future__ import annotations

import copy

import torch
from torch import nn


class _OneDnnConv3d(nn.Conv3d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype != torch.float32 or isinstance(self.padding, str):
            return super().forward(input)
        convolved: torch.Tensor = torch.mkldnn_convolution(
            input, self.weight, self.bias, self.padding, self.stride, self.dilation, self.groups
        )
        return convolved


def by_onednn(network: nn.Module) -> nn.Module:
    """The network with oneDNN's 3D convolutions, sharing its parameters; itself where torch has no oneDNN.

    For inference on a CPU. Results differ in rounding.
    """
    if not torch.backends.mkldnn.is_available():
        return network
    shared: dict[int, object] = {
        id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())
    }
    copied: nn.Module = copy.deepcopy(network, memo=shared)
    for module in copied.modules():
        if type(module) is nn.Conv3d and module.padding_mode == "zeros":
            module.__class__ = _OneDnnConv3d
    return copied
