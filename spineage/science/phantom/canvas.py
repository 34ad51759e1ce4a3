"""A grid to draw on: soft-edged shapes, painted one over the other, each in a small box of voxels.

Letters: R A S voxel axes (left->right, posterior->anterior, inferior->superior).
A shape is a signed distance in mm (negative inside); its edge is one voxel wide, as partial volume makes it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Frame:
    """Where one structure sits: centre in mm, tilt of its long axis forward, shift to the right."""

    a_mm: float
    s_mm: float
    tilt: float  # radians; 0 is upright, positive leans forward at the top
    r_mm: float = 0.0

    def at(self, forward_mm: float, up_mm: float) -> tuple[float, float]:
        """(A, S) of a point given along the frame's own axes."""
        c, s = np.cos(self.tilt), np.sin(self.tilt)
        return self.a_mm + forward_mm * c + up_mm * s, self.s_mm - forward_mm * s + up_mm * c

    def moved(self, forward_mm: float, up_mm: float, turn: float = 0.0) -> Frame:
        """A frame at a point of this one, leaning `turn` radians more."""
        a_mm, s_mm = self.at(forward_mm, up_mm)
        return Frame(a_mm, s_mm, self.tilt + turn, self.r_mm)


@dataclass(frozen=True)
class Box:
    """A window on the canvas in the coordinates of a frame.

    r: [R, 1, 1] to the right; u: [A, S] forward; v: [A, S] up; all mm from the frame's centre.
    """

    window: tuple[slice, slice, slice]
    r: Array
    u: Array
    v: Array


class Canvas:
    """Image and labels under construction; CSF has signal 1."""

    def __init__(self, r_mm: Array, a_mm: Array, s_mm: Array) -> None:
        self.r_mm, self.a_mm, self.s_mm = r_mm, a_mm, s_mm
        self.pixel_mm = float(a_mm[1] - a_mm[0])
        shape = (len(r_mm), len(a_mm), len(s_mm))
        self.image = np.zeros(shape, np.float32)
        self.semantic = np.zeros(shape, np.uint8)
        self.levels = np.zeros(shape, np.uint8)

    def box(self, frame: Frame, back: float, front: float, down: float, up: float) -> Box | None:
        """The smallest window around a rectangle given in the frame's axes (mm); None off the canvas."""
        corners = np.array([frame.at(u, v) for u in (-back, front) for v in (-down, up)])
        window = [slice(0, len(self.r_mm))]
        for axis, values in ((0, self.a_mm), (1, self.s_mm)):
            low, high = np.searchsorted(values, [corners[:, axis].min(), corners[:, axis].max()])
            if low == high:
                return None
            window.append(slice(int(low), int(high)))
        a = (self.a_mm[window[1]] - np.float32(frame.a_mm))[:, None]
        s = (self.s_mm[window[2]] - np.float32(frame.s_mm))[None, :]
        c, d = np.float32(np.cos(frame.tilt)), np.float32(np.sin(frame.tilt))
        r = (self.r_mm - np.float32(frame.r_mm))[:, None, None]
        return Box((window[0], window[1], window[2]), r, a * c - s * d, a * d + s * c)

    def cover(self, distance: Array) -> Array:
        """Share of each voxel that a shape fills, from its signed distance in mm."""
        share = np.float32(0.5) - distance * np.float32(1 / self.pixel_mm)
        return np.clip(share, 0, 1, out=share)

    def paint(self, box: Box, distance: Array, value: Array | float) -> None:
        """Blend a value into the image."""
        view = self.image[box.window]
        view += self.cover(distance) * (value - view)

    def label(self, box: Box, distance: Array, semantic: int, level: int) -> None:
        """Name the voxels whose centre lies inside."""
        inside = distance < 0
        self.semantic[box.window][inside] = semantic
        self.levels[box.window][inside] = level


def capsule(
    p: tuple[Array, Array, Array],
    start: tuple[float, float, float],
    end: tuple[float, float, float],
    radii: tuple[float, float],
    flat: float = 1.0,
) -> Array:
    """Signed distance (mm) to a tapering rod between two points in (r, u, v).

    flat > 1 thins the rod from side to side.
    """
    r, u, v = p
    axis = [b - a for a, b in zip(start, end, strict=True)]
    axis[0] *= flat
    length2 = max(sum(x * x for x in axis), 1e-6)
    dr, du, dv = (r - start[0]) * flat, u - start[1], v - start[2]
    t = (dr * axis[0] + (du * axis[1] + dv * axis[2])) * np.float32(1 / length2)
    np.clip(t, 0, 1, out=t)
    d = (dr - t * axis[0]) ** 2
    d = d + (du - t * axis[1]) ** 2
    d += (dv - t * axis[2]) ** 2
    np.sqrt(d, out=d)
    d -= radii[0] + t * (radii[1] - radii[0])
    rod: Array = d.astype(np.float32, copy=False)
    return rod


def ellipsoid(
    p: tuple[Array, Array, Array],
    centre: tuple[float, float, float],
    radii: tuple[float, float, float],
) -> Array:
    """Approximate signed distance (mm) to an ellipsoid in (r, u, v)."""
    r, u, v = p
    q = ((u - centre[1]) / radii[1]) ** 2 + ((v - centre[2]) / radii[2]) ** 2
    rho = np.sqrt(q + ((r - centre[0]) / radii[0]) ** 2)
    shape: Array = ((rho - 1) * min(radii)).astype(np.float32)
    return shape


@lru_cache(maxsize=4)
def grain(smooth_mm: float, pixel_mm: float) -> Array:
    """A periodic block [24, 160, 512] of smooth noise with SD 1: texture to cut pieces from."""
    rng = np.random.default_rng(77)
    block: Array = rng.standard_normal((24, 160, 512), dtype=np.float32)
    sigma = smooth_mm / pixel_mm
    block = ndimage.gaussian_filter(block, (0.5, sigma, sigma), mode="wrap")
    block /= block.std()
    block.flags.writeable = False
    return block


def texture(shape: tuple[int, ...], offset: int, smooth_mm: float, pixel_mm: float) -> Array:
    """A piece [R, A, S] of grain, by its offset; a larger piece than the block repeats it. Read-only."""
    piece = grain(smooth_mm, pixel_mm)
    for axis, (size, step) in enumerate(zip(shape, (1, 7, 13), strict=True)):
        spare = piece.shape[axis] - size
        if spare < 0:
            piece = piece.take(np.arange(size) + offset * step, axis=axis, mode="wrap")
        else:
            start = offset * step % (spare + 1)
            piece = piece[(slice(None),) * axis + (slice(start, start + size),)]
    return piece
