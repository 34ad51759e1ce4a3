"""From logits on the plan's grid to labels on the image's grid, some rows at a time, one class at a time.

nnU-Net resamples all classes, then takes the highest. Here each class is resampled in turn and compared with
the best so far, which gives the same labels with the memory of one class. Interpolation is linear (or
nearest) per axis with half-pixel centres and clamped edges, as `skimage.transform.resize` and torch's
`interpolate` both have it.

Shapes: C classes; x y z nnU-Net's axes after its transposition. `rows` run along one of them, `axis`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis

from spineage.segmenter.plans import NONE, SKIMAGE, TORCH

CHUNK_VOXELS = 1_000_000
"""Target voxels computed at once: a class's share stays within a processor's cache."""


@dataclass(frozen=True)
class AxisMap:
    """Where each target index of one axis lies between two source indices: low, high and high's weight.

    is_identity: every target is the source of its own index; is_exact: every target is some source.
    """

    low: torch.Tensor
    high: torch.Tensor
    weight: torch.Tensor
    is_identity: bool
    is_exact: bool

    def part(self, start: int, stop: int, offset: int) -> AxisMap:
        """Targets [start, stop) with source indices counted from `offset`."""
        here = slice(start, stop)
        return replace(
            self,
            low=self.low[here] - offset,
            high=self.high[here] - offset,
            weight=self.weight[here],
        )


def axis_map(num_source: int, num_target: int, order: int, device: torch.device) -> AxisMap:
    """Half-pixel centres, clamped at the edges; order 1 linear, 0 nearest (halves go up)."""
    at = (np.arange(num_target) + 0.5) * (num_source / num_target) - 0.5
    at = np.clip(at, 0, num_source - 1)
    if order == 0:
        low = high = np.floor(at + 0.5)
    else:
        low = np.floor(at)
        high = np.ceil(at)
    weight = (at - low) * (high > low)
    return AxisMap(
        torch.from_numpy(low.astype(np.int64)).to(device),
        torch.from_numpy(high.astype(np.int64)).to(device),
        torch.from_numpy(weight.astype(np.float32)).to(device),
        is_identity=num_source == num_target,
        is_exact=not weight.any(),
    )


def is_understood(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether plans resample probabilities in a way that `axis_orders` can say."""
    if name == TORCH:
        modes = kwargs.get("mode", "linear"), kwargs.get("aniso_axis_mode", "nearest-exact")
        return modes == ("linear", "nearest-exact")
    return name == NONE or (
        name == SKIMAGE and kwargs.get("order", 3) in (0, 1) and kwargs.get("order_z", 0) in (0, 1)
    )


def axis_orders(
    name: str, kwargs: dict[str, Any], current_mm: list[float], new_mm: list[float]
) -> tuple[int, int, int]:
    """Interpolation order along x, y, z, as the plans' function chooses it: an axis of thick slices apart."""
    default = None if name == TORCH else False
    separate, axis = determine_do_sep_z_and_axis(
        kwargs.get("force_separate_z", default), current_mm, new_mm
    )
    order, order_apart = kwargs.get("order", 1), kwargs.get("order_z", 0)
    x, y, z = (order_apart if separate and axis == a else order for a in range(3))
    return x, y, z


@dataclass(frozen=True)
class Decision:
    """How logits become labels: the highest class, or, with `regions_order`, sigmoid > 0.5 drawn in turn.

    rounds: the plans' function rounds what it resamples to half precision.
    """

    regions_order: tuple[int, ...] | None = None
    rounds: bool = False


class LabelWriter:
    """Takes final rows of logits in order, keeps the labels (uint8) of the target grid on the device."""

    def __init__(
        self,
        source_xyz: tuple[int, ...],
        target_xyz: tuple[int, ...],
        orders: tuple[int, int, int],
        axis: int,
        decision: Decision,
        device: torch.device,
    ) -> None:
        self._maps = [
            axis_map(n, m, order, device)
            for n, m, order in zip(source_xyz, target_xyz, orders, strict=True)
        ]
        self._axis, self._decision = axis, decision
        self._others = [a for a in range(3) if a != axis and not self._maps[a].is_identity]
        self._high = self._maps[axis].high.cpu()
        self._low = self._maps[axis].low.cpu()
        self._next = 0
        area = int(np.prod(target_xyz)) // target_xyz[axis]
        self._chunk = max(1, CHUNK_VOXELS // area)
        self.labels = torch.zeros(target_xyz, dtype=torch.uint8, device=device)

    def needed_from(self, stop: int) -> int:
        """The first source row that targets not yet written still need, when rows before `stop` are final."""
        if self._next == len(self._low):
            return stop
        return min(stop, int(self._low[self._next]))

    def write(self, logits_Cxyz: torch.Tensor, first: int, stop: int) -> None:
        """Write every target row that rows before `stop` decide. logits_Cxyz: source rows from `first` on."""
        end = int(torch.searchsorted(self._high, stop))
        while self._next < end:
            chunk_end = min(end, self._next + self._chunk)
            here = self._maps[self._axis].part(self._next, chunk_end, first)
            self._write_chunk(logits_Cxyz, here, chunk_end)
            self._next = chunk_end

    def _write_chunk(self, logits_Cxyz: torch.Tensor, rows: AxisMap, end: int) -> None:
        labels = self.labels.narrow(self._axis, self._next, end - self._next)
        low, high = int(rows.low[0]), int(rows.high[-1]) + 1
        local = rows.part(0, len(rows.low), low)
        best: torch.Tensor | None = None
        for number in range(len(logits_Cxyz)):
            plane = logits_Cxyz[number].narrow(self._axis, low, high - low).float()
            for axis in self._others:
                plane = interpolate(plane, axis, self._maps[axis])
            plane = interpolate(plane, self._axis, local)
            if self._decision.rounds:
                plane = plane.half().float()
            if self._decision.regions_order is not None:
                value = self._decision.regions_order[number]
                labels.masked_fill_(torch.sigmoid(plane) > 0.5, value)
            elif best is None:
                best = plane.clone()
            else:
                labels.masked_fill_(plane > best, number)
                torch.maximum(best, plane, out=best)


def interpolate(values_xyz: torch.Tensor, axis: int, to: AxisMap) -> torch.Tensor:
    """Values at the targets of one axis."""
    if to.is_identity:
        return values_xyz
    low = values_xyz.index_select(axis, to.low)
    if to.is_exact:
        return low
    shape = [1, 1, 1]
    shape[axis] = -1
    return low.lerp_(values_xyz.index_select(axis, to.high), to.weight.view(shape))
