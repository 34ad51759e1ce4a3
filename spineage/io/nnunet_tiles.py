"""nnU-Net's sliding window without its threads: tiles in batches, row by row, memory of one row of tiles.

Tiles are weighted by nnU-Net's Gaussian and summed in single precision (nnU-Net's predictor sums in half).
Rows of logits that no later tile touches are final: they become labels at once and their memory is used
again, so a long spine needs no more than a short one.

Shapes: B tiles of a batch; C channels or classes; x y z nnU-Net's axes after its transposition. A 2D network
has tiles of one slice: x is 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from spineage.io.nnunet_labels import LabelWriter

TILE_STEP = 0.5
"""Distance of neighbouring tiles as a share of the patch: nnU-Net's default."""

Starts = tuple[list[int], list[int], list[int]]


@dataclass(frozen=True)
class Window:
    """What slides: the patch (3 sizes, or 2 for a network of single slices), and the most by which
    neighbouring tiles are apart, as a share of it."""

    patch: tuple[int, ...]
    step: float


@dataclass(frozen=True)
class Ensemble:
    """The networks of all folds as one function from tiles to mean logits.

    mirror_axes: spatial axes of the network's input; every combination of flips is averaged over too.
    """

    networks: tuple[torch.nn.Module, ...]
    num_heads: int
    device: torch.device
    is_flat: bool = False
    mirror_axes: tuple[int, ...] = ()

    def __call__(self, tiles_BCxyz: torch.Tensor) -> torch.Tensor:
        """Logits [B, C, x, y, z]; half precision on a GPU, as nnU-Net has it."""
        tiles = tiles_BCxyz.squeeze(2) if self.is_flat else tiles_BCxyz
        flips = [
            [axis + 2 for axis in axes]
            for n in range(len(self.mirror_axes) + 1)
            for axes in itertools.combinations(self.mirror_axes, n)
        ]
        with self._precision():
            logits: torch.Tensor | None = None
            for network, axes in itertools.product(self.networks, flips):
                one = network(tiles.flip(axes)).flip(axes) if axes else network(tiles)
                logits = one if logits is None else logits.add_(one)
        assert logits is not None
        if len(self.networks) * len(flips) > 1:
            logits /= len(self.networks) * len(flips)
        return logits.unsqueeze(2) if self.is_flat else logits

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()


@dataclass(frozen=True)
class Tiling:
    """Where tiles lie on one padded volume; `axis` is the one with most tiles, along which rows go."""

    patch_xyz: tuple[int, int, int]
    starts_xyz: Starts
    axis: int

    @property
    def num_tiles(self) -> int:
        x, y, z = self.starts_xyz
        return len(x) * len(y) * len(z)

    def rows(self, batch: int) -> Iterator[tuple[int, list[list[tuple[int, int, int]]]]]:
        """For each start along the axis: it, and the tiles that begin there, in batches."""
        for start in self.starts_xyz[self.axis]:
            axes = [[start] if a == self.axis else self.starts_xyz[a] for a in range(3)]
            corners = [(x, y, z) for x, y, z in itertools.product(*axes)]
            yield (
                start,
                [corners[first : first + batch] for first in range(0, len(corners), batch)],
            )


def tiling(shape_xyz: tuple[int, ...], window: Window) -> Tiling:
    """nnU-Net's tiles: as few as keep their distance at or below the window's step, evenly spread; a network
    of single slices sees every slice once.

    shape_xyz: at least the patch.
    """
    patch, step = window.patch, window.step
    if len(patch) == 2:
        y, z = compute_steps_for_sliding_window(shape_xyz[1:], patch, step)
        return Tiling((1, *patch), (list(range(shape_xyz[0])), y, z), axis=0)
    x, y, z = compute_steps_for_sliding_window(shape_xyz, patch, step)
    counts = [len(x), len(y), len(z)]
    size_x, size_y, size_z = patch
    return Tiling((size_x, size_y, size_z), (x, y, z), axis=counts.index(max(counts)))


def slide(
    ensemble: Ensemble,
    data_Cxyz: torch.Tensor,
    inner: tuple[slice, slice, slice],
    tiles: Tiling,
    writer: LabelWriter,
    batch: int,
) -> None:
    """Predict every tile and have the labels written.

    data_Cxyz: padded to the patch at least, on the device; inner: what of it is not padding.
    """
    if tiles.num_tiles == 1:
        logits = ensemble(data_Cxyz[None])[0].float()[(slice(None), *inner)]
        writer.write(logits, 0, logits.shape[tiles.axis + 1])
        return
    rows = _Rows(ensemble.num_heads, data_Cxyz, tiles)
    weight = _gaussian(tiles.patch_xyz, data_Cxyz.device)
    starts = [*tiles.starts_xyz[tiles.axis], data_Cxyz.shape[tiles.axis + 1]]
    for number, (start, batches) in enumerate(tiles.rows(batch)):
        for corners in batches:
            logits = ensemble(_cut(data_Cxyz, corners, tiles.patch_xyz))
            for corner, tile in zip(corners, logits, strict=True):
                rows.add(tile, weight, corner)
        rows.finish(starts[number + 1], start + tiles.patch_xyz[tiles.axis], inner, writer)


def _cut(
    data_Cxyz: torch.Tensor, corners: list[tuple[int, int, int]], patch: tuple[int, int, int]
) -> torch.Tensor:
    x, y, z = patch
    return torch.stack(
        [data_Cxyz[:, i : i + x, j : j + y, k : k + z] for i, j, k in corners]
    ).contiguous()


def _gaussian(patch_xyz: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """nnU-Net's weight of a tile's voxels, rounded as it rounds it."""
    size = patch_xyz[1:] if patch_xyz[0] == 1 else patch_xyz
    weight: torch.Tensor = compute_gaussian(
        size, sigma_scale=1 / 8, value_scaling_factor=10, device=device
    )
    return weight.float().view(patch_xyz)


class _Rows:
    """Weighted sums of the logits of those rows that are not final, and one row before them."""

    def __init__(self, num_heads: int, data_Cxyz: torch.Tensor, tiles: Tiling) -> None:
        self._axis, self._patch = tiles.axis, tiles.patch_xyz
        shape = list(data_Cxyz.shape[1:])
        shape[self._axis] = min(shape[self._axis], self._patch[self._axis] + 1)
        self._sum = torch.zeros((num_heads, *shape), device=data_Cxyz.device)
        self._weight = torch.zeros(shape, device=data_Cxyz.device)
        self._first = self._final = 0

    def add(
        self, logits_Cxyz: torch.Tensor, weight: torch.Tensor, corner: tuple[int, int, int]
    ) -> None:
        """A tile's logits, where it lies."""
        low = [c - self._first if a == self._axis else c for a, c in enumerate(corner)]
        here = tuple(slice(i, i + n) for i, n in zip(low, self._patch, strict=True))
        self._sum[(slice(None), *here)].addcmul_(logits_Cxyz.float(), weight)
        self._weight[here] += weight

    def finish(self, final: int, end: int, inner: tuple[slice, ...], writer: LabelWriter) -> None:
        """Rows before `final` get no more tiles: write them, and move what is open to the front.

        end: where the rows that have something in them end.
        """
        axis, number = self._axis, final - self._final
        done = self._weight.narrow(axis, self._final - self._first, number)
        self._sum.narrow(axis + 1, self._final - self._first, number).div_(done)
        low, high = inner[axis].start, min(final, inner[axis].stop)
        first = max(self._first, low)
        across = tuple(
            slice(first - self._first, high - self._first) if a == axis else inner[a]
            for a in range(3)
        )
        writer.write(self._sum[(slice(None), *across)], first - low, high - low)
        keep = writer.needed_from(high - low) + low
        for one in (*self._sum, self._weight):
            open_rows = one.narrow(axis, keep - self._first, end - keep).clone()
            one.narrow(axis, 0, end - keep).copy_(open_rows)
            one.narrow(axis, end - keep, one.shape[axis] - (end - keep)).zero_()
        self._first, self._final = keep, final
