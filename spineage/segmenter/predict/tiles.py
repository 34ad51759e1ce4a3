"""nnU-Net's sliding window without its threads: tiles in batches, memory of the rows that are open.

Tiles are weighted, summed and divided as nnU-Net's predictor does it, in half precision and, of each voxel,
in its order: rounding decides near-ties, and so decides them alike. Rows of logits that no later tile touches
are final: they become labels at once and their memory is used again, so a long spine needs little more than a
short one.

Shapes: K networks; B tiles of a batch; C channels or classes; x y z nnU-Net's axes after its transposition. A
2D network has tiles of one slice: x is 1.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from nnunetv2.inference.sliding_window_prediction import (
    compute_gaussian,
    compute_steps_for_sliding_window,
)

from spineage.errors import BadScan
from spineage.segmenter.predict.labels import LabelWriter

TILE_STEP = 0.5
"""Distance of neighbouring tiles as a share of the patch: nnU-Net's default."""

Starts = tuple[list[int], list[int], list[int]]
Corner = tuple[int, int, int]


@dataclass(frozen=True)
class Window:
    """What slides: the patch (3 sizes, or 2 for a network of single slices), and the most by which
    neighbouring tiles are apart, as a share of it."""

    patch: tuple[int, ...]
    step: float


@dataclass(frozen=True)
class Ensemble:
    """The networks of all folds.

    mirror_axes: spatial axes of the network's input; every combination of flips is averaged over too.
    """

    networks: tuple[torch.nn.Module, ...]
    num_heads: int
    device: torch.device
    is_flat: bool = False
    mirror_axes: tuple[int, ...] = ()

    def __call__(self, tiles_BCxyz: torch.Tensor) -> Iterator[torch.Tensor]:
        """Logits [B, C, x, y, z] of each network in turn; half precision on a GPU, as nnU-Net has it."""
        tiles = tiles_BCxyz.squeeze(2) if self.is_flat else tiles_BCxyz
        flips = [
            [axis + 2 for axis in axes]
            for n in range(1, len(self.mirror_axes) + 1)
            for axes in itertools.combinations(self.mirror_axes, n)
        ]
        for network in self.networks:
            with self._precision():
                logits: torch.Tensor = network(tiles)
                for axes in flips:
                    logits += network(tiles.flip(axes)).flip(axes)
            if flips:
                logits /= len(flips) + 1
            yield logits.unsqueeze(2) if self.is_flat else logits

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()


@dataclass(frozen=True)
class Turn:
    """Tiles that are predicted together, by where they begin. `final`: rows before it get no more tiles."""

    corners: list[Corner]
    final: int


@dataclass(frozen=True)
class Tiling:
    """Where tiles lie on one padded volume, and along which axis its rows are counted."""

    shape_xyz: tuple[int, ...]
    patch_xyz: tuple[int, int, int]
    starts_xyz: Starts
    axis: int

    @cached_property
    def turns(self) -> list[Turn]:
        """All tiles, row by row, but none before those that nnU-Net would have added to a voxel of it."""
        turn_of: dict[tuple[int, ...], int] = {}
        corners_of: dict[int, list[Corner]] = {}
        touching = [self._touching(axis) for axis in range(3)]
        for x, y, z in itertools.product(*self.starts_xyz):  # nnU-Net's order
            others = itertools.product(touching[0][x], touching[1][y], touching[2][z])
            own = (x, y, z)[self.axis]
            turn = max(own, *(turn_of.get(other, 0) for other in others))
            turn_of[x, y, z] = turn
            corners_of.setdefault(turn, []).append((x, y, z))
        found, final = [], self.shape_xyz[self.axis]
        for turn in sorted(corners_of, reverse=True):
            found.append(Turn(corners_of[turn], final))
            final = min(final, *(corner[self.axis] for corner in corners_of[turn]))
        return found[::-1]

    def _touching(self, axis: int) -> dict[int, list[int]]:
        """Of each start along the axis, the starts of tiles that share voxels with its tile."""
        size, starts = self.patch_xyz[axis], self.starts_xyz[axis]
        return {at: [start for start in starts if abs(start - at) < size] for at in starts}

    def num_open_rows(self) -> int:
        """Most rows that have something in them and are not final, and one before them."""
        most, final = 0, 0
        for turn in self.turns:
            end = max(corner[self.axis] for corner in turn.corners) + self.patch_xyz[self.axis]
            most = max(most, end - max(0, final - 1))
            final = turn.final
        return most

    def num_open_voxels(self) -> int:
        area = math.prod(self.shape_xyz) // self.shape_xyz[self.axis]
        return self.num_open_rows() * area


def num_tiles(shape_xyz: tuple[int, ...], window: Window) -> int:
    """How many tiles `tiling` makes of a volume once it is padded to the patch."""
    padded = [max(n, p) for n, p in zip(shape_xyz, (1, *window.patch)[-3:], strict=True)]
    return math.prod(map(len, _starts(tuple(padded), window)))


def tiling(shape_xyz: tuple[int, ...], window: Window) -> Tiling:
    """nnU-Net's tiles: as few as keep their distance at or below the window's step, evenly spread; a network
    of single slices sees every slice once. Rows along the axis that needs the least memory.

    shape_xyz: at least the patch.
    """
    x, y, z = (1, *window.patch)[-3:]
    starts = _starts(shape_xyz, window)
    ways = [Tiling(shape_xyz, (x, y, z), starts, axis) for axis in range(3)]
    return min(ways, key=Tiling.num_open_voxels)


def _starts(shape_xyz: tuple[int, ...], window: Window) -> Starts:
    if len(window.patch) == 2:
        y, z = compute_steps_for_sliding_window(shape_xyz[1:], window.patch, window.step)
        return list(range(shape_xyz[0])), y, z
    x, y, z = compute_steps_for_sliding_window(shape_xyz, window.patch, window.step)
    return x, y, z


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
    Raises BadScan `bad_logits` when the networks' answer is infinite or NaN.
    """
    rows = _Rows(ensemble, tiles)
    for turn in tiles.turns:
        for first in range(0, len(turn.corners), batch):
            corners = turn.corners[first : first + batch]
            cut = _cut(data_Cxyz, corners, tiles.patch_xyz)
            for number, logits in enumerate(ensemble(cut)):
                for corner, tile in zip(corners, logits, strict=True):
                    rows.add(number, tile, corner)
        rows.finish(turn.final, inner, writer)


def _cut(
    data_Cxyz: torch.Tensor, corners: Sequence[Corner], patch: tuple[int, int, int]
) -> torch.Tensor:
    x, y, z = patch
    return torch.stack(
        [data_Cxyz[:, i : i + x, j : j + y, k : k + z] for i, j, k in corners]
    ).contiguous()


def _gaussian(patch_xyz: tuple[int, int, int], device: torch.device) -> torch.Tensor:
    """nnU-Net's weight of a tile's voxels, in half precision."""
    size = patch_xyz[1:] if patch_xyz[0] == 1 else patch_xyz
    weight: torch.Tensor = compute_gaussian(
        size, sigma_scale=1 / 8, value_scaling_factor=10, device=device
    )
    return weight.view(patch_xyz)


class _Rows:
    """Weighted sums of the logits of those rows that are not final, and one row before them; of each network,
    for nnU-Net rounds them before it averages."""

    def __init__(self, ensemble: Ensemble, tiles: Tiling) -> None:
        self._axis, self._patch = tiles.axis, tiles.patch_xyz
        shape = list(tiles.shape_xyz)
        shape[self._axis] = tiles.num_open_rows()
        num_networks, num_heads = len(ensemble.networks), ensemble.num_heads
        device = ensemble.device
        self._sums_KCxyz = torch.zeros(
            (num_networks, num_heads, *shape), dtype=torch.half, device=device
        )
        self._weights_xyz = torch.zeros(shape, dtype=torch.half, device=device)
        self._weight_of_tile = _gaussian(self._patch, device)
        self._first = self._final = self._end = 0

    def add(self, network: int, logits_Cxyz: torch.Tensor, corner: Corner) -> None:
        """A tile's logits by one network, where it lies; class by class, for sums of unlike precision copy
        what they add."""
        low = [c - self._first if a == self._axis else c for a, c in enumerate(corner)]
        here = tuple(slice(i, i + n) for i, n in zip(low, self._patch, strict=True))
        weight = self._weight_of_tile.to(logits_Cxyz.dtype)
        for total, logits in zip(self._sums_KCxyz[network], logits_Cxyz, strict=True):
            total[here] += logits * weight
        if network == 0:
            self._weights_xyz[here] += self._weight_of_tile
        self._end = max(self._end, corner[self._axis] + self._patch[self._axis])

    def finish(self, final: int, inner: tuple[slice, ...], writer: LabelWriter) -> None:
        """Rows before `final` get no more tiles: write them, and move what is open to the front."""
        axis, number = self._axis, final - self._final
        if number == 0:
            return
        weights = self._weights_xyz.narrow(axis, self._final - self._first, number)
        for total in self._sums_KCxyz.flatten(0, 1):
            logits = total.narrow(axis, self._final - self._first, number).div_(weights)
            # of the sum, for torch takes ten times as long to look at each half
            if not torch.isfinite(logits.float().sum()):
                raise BadScan("bad_logits", "the network's answer is infinite or NaN")
        logits_Cxyz = self._sums_KCxyz[0]
        if len(self._sums_KCxyz) > 1:
            self._average(self._final - self._first, number)
        low, high = inner[axis].start, min(final, inner[axis].stop)
        first = max(self._first, low)
        across = tuple(
            slice(first - self._first, high - self._first) if a == axis else inner[a]
            for a in range(3)
        )
        writer.write(logits_Cxyz[(slice(None), *across)], first - low, high - low)
        keep = writer.needed_from(high - low) + low
        for one in (*self._sums_KCxyz.flatten(0, 1), self._weights_xyz):
            open_rows = one.narrow(axis, keep - self._first, self._end - keep).clone()
            one.narrow(axis, 0, self._end - keep).copy_(open_rows)
            one.narrow(axis, self._end - keep, one.shape[axis] - (self._end - keep)).zero_()
        self._first, self._final = keep, final

    def _average(self, start: int, number: int) -> None:
        """The mean over networks, in the place of the first one's."""
        done = self._sums_KCxyz.narrow(self._axis + 2, start, number)
        for other in done[1:]:
            done[0] += other
        done[0] /= len(done)
