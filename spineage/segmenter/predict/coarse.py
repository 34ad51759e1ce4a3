"""Where the spine is: the same network over the volume squeezed into a patch or few.

A tile looks at hundreds of thousands of voxels, most of which are not spine. Squeezed by up to 2.5 along each
axis, a whole scan is one tile; what the network calls spine there is good enough for a box, and for nothing
else. A box that cannot be a spine is not used: the caller takes the whole volume, and says so.

Shapes: C channels; P pieces, A axes; x y z nnU-Net's axes after its transposition.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from spineage.segmenter.predict.prepare import Box
from spineage.segmenter.predict.tiles import Window

SQUEEZE = 2.5
"""Most by which an axis is squeezed: beyond it a network trained at full resolution sees little."""
MARGIN_MM = 20.0
"""Around the coarse spine: half of a vertebra that the squeezed pass may have missed at either end."""
MIN_LENGTH_MM, MIN_VOLUME_MM3 = 80.0, 15_000.0
"""Less is not a spine: three vertebrae are longer, and one has more than this volume."""
MIN_PART = 0.05
"""Of the largest piece: smaller ones are taken for errors."""
MAX_SHARE = 0.8
"""A box with more than this share of the volume saves nothing."""
STRETCH = 1.25
"""Most by which a tile is longer than the patch along an axis: much longer ones lower a network's quality."""
TOUCHING_MM2 = 60.0
"""Of spine on a side of the box: the spine goes on outside it."""


def squeezed_shape(grid_xyz: tuple[int, ...], patch_xyz: tuple[int, ...]) -> tuple[int, int, int]:
    """The coarse grid: the patch, or more where that would squeeze by more than SQUEEZE."""
    x, y, z = (
        max(p, math.ceil(n / SQUEEZE)) if n > p else n
        for n, p in zip(grid_xyz, patch_xyz, strict=True)
    )
    return x, y, z


def stretched(window: Window, grid_xyz: tuple[int, ...], multiples: tuple[int, ...]) -> Window:
    """The window with longer tiles along each axis where that makes them fewer.

    multiples: of which the network's input must be, one an axis of the patch.
    """
    patch = []
    sizes = grid_xyz[-len(window.patch) :]
    for size, own, multiple in zip(sizes, window.patch, multiples, strict=True):
        tiles = 1 + max(0, math.ceil((size - own) / (window.step * own)))
        longer = own
        if tiles > 1:  # one tile fewer must still reach from end to end
            least = size / (1 + (tiles - 2) * window.step)
            longer = math.ceil(least / multiple) * multiple
        patch.append(longer if own < longer <= STRETCH * own else own)
    return replace(window, patch=tuple(patch))


def squeeze(data_Cxyz: torch.Tensor, shape_xyz: tuple[int, int, int]) -> torch.Tensor:
    """Means over blocks where an axis gets shorter, linear where it gets longer."""
    means = [min(n, m) for n, m in zip(data_Cxyz.shape[1:], shape_xyz, strict=True)]
    small = functional.interpolate(data_Cxyz[None], means, mode="area")
    if tuple(means) != tuple(shape_xyz):
        small = functional.interpolate(small, shape_xyz, mode="trilinear")
    return small[0]


def box_around(
    spine_xyz: NDArray[np.bool_], shape_xyz: tuple[int, int, int], spacing_mm: list[float]
) -> tuple[Box | None, str]:
    """The box, with margin, in voxels of the volume whose shape and spacing are given; or none, and why.

    spine_xyz: what the coarse pass took for spine, on its own grid over the same field of view.
    """
    scale = np.array(shape_xyz) / np.array(spine_xyz.shape)
    voxel_mm = scale * np.array(spacing_mm)
    pieces, number = ndimage.label(spine_xyz, structure=np.ones((3, 3, 3)))
    if not number:
        return None, "the coarse pass found nothing"
    sizes = np.bincount(pieces.ravel())[1:]
    bounds = [[(s.start, s.stop) for s in one] for one in ndimage.find_objects(pieces)]
    lows_PA, highs_PA = np.array(bounds)[..., 0], np.array(bounds)[..., 1]
    kept = _in_line(lows_PA, highs_PA, sizes, voxel_mm) & (sizes >= MIN_PART * sizes.max())
    low, high = lows_PA[kept].min(axis=0), highs_PA[kept].max(axis=0)
    volume_mm3 = float(sizes[kept].sum() * voxel_mm.prod())
    length_mm = float(((high - low) * voxel_mm).max())
    if length_mm < MIN_LENGTH_MM or volume_mm3 < MIN_VOLUME_MM3:
        return None, (
            f"the coarse pass found {volume_mm3 / 1000:.0f} ml over {length_mm:.0f} mm, which is not a spine"
        )
    margin = MARGIN_MM / np.array(spacing_mm)
    first = np.maximum(np.floor(low * scale - margin), 0).astype(int)
    last = np.minimum(np.ceil(high * scale + margin), shape_xyz).astype(int)
    return _box(first, last), ""


def _in_line(
    lows_PA: NDArray[np.int_],
    highs_PA: NDArray[np.int_],
    sizes_P: NDArray[np.int_],
    voxel_mm: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Which pieces are the largest, or lie beyond an end of it and not beside it: a spine in parts, and not
    what was taken for one elsewhere. (What this misses, the box that is cut short will show.)"""
    largest = int(sizes_P.argmax())
    along = int(((highs_PA - lows_PA)[largest] * voxel_mm).argmax())
    meets = (lows_PA < highs_PA[largest]) & (highs_PA > lows_PA[largest])
    in_line: NDArray[np.bool_] = np.delete(meets, along, axis=1).all(axis=1)
    return in_line


def at_least(box: Box, wanted_xyz: list[int], shape_xyz: tuple[int, int, int]) -> Box:
    """The box grown evenly to `wanted` voxels where it is smaller, within the volume: tiles full of image."""
    low, high = [], []
    for side, wanted, size in zip(box, wanted_xyz, shape_xyz, strict=True):
        missing = max(0, min(wanted, size) - (side.stop - side.start))
        start = min(max(0, side.start - missing // 2), size - (side.stop - side.start) - missing)
        start = max(0, start)
        low.append(start)
        high.append(start + (side.stop - side.start) + missing)
    return _box(low, high)


def saves_enough(box: Box, shape_xyz: tuple[int, int, int]) -> bool:
    """Whether the box is so much smaller than the volume that it is worth being used."""
    voxels = math.prod(side.stop - side.start for side in box)
    return voxels <= MAX_SHARE * math.prod(shape_xyz)


def grown_where_touched(
    spine_xyz: NDArray[np.bool_], box: Box, shape_xyz: tuple[int, int, int], spacing_mm: list[float]
) -> Box:
    """The box, carried to the volume's edge on each side on which the spine found in it touches the side.

    spine_xyz: what was found inside the box. The box itself when no side is touched.
    """
    low, high = [side.start for side in box], [side.stop for side in box]
    for axis in range(3):
        area = math.prod(mm for other, mm in enumerate(spacing_mm) if other != axis)
        enough = max(1.0, TOUCHING_MM2 / area)
        if low[axis] > 0 and spine_xyz.take(0, axis).sum() >= enough:
            low[axis] = 0
        if high[axis] < shape_xyz[axis] and spine_xyz.take(-1, axis).sum() >= enough:
            high[axis] = shape_xyz[axis]
    return _box(low, high)


def _box(low: NDArray[np.int_] | list[int], high: NDArray[np.int_] | list[int]) -> Box:
    x, y, z = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return x, y, z
