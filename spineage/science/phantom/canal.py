"""Drawing the dural sac: CSF, the cord, and the roots below it.

Everything follows the course of the canal. For the pixels near it (index n): `depth` is mm behind the wall
of the bodies, `along` mm from the tail. Letters: R slices, n pixels near the canal, N millimetres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spineage.science.phantom.canvas import Array, Canvas, texture
from spineage.science.phantom.population import Exam
from spineage.science.phantom.room import Room
from spineage.science.phantom.skeleton import Course, Spine
from spineage.science.phantom.tissue import CORD, CSF, LIGAMENT, ROOT
from spineage.science.spine.labels import LEVELS, SEMANTIC

NEAR_MM = 25.0
NAMED_ABOVE_C1_MM = 12.0
"""Canal and cord are labelled up to here; above lie cistern and medulla."""


@dataclass(frozen=True)
class CanalMap:
    """The pixels near the canal in its own coordinates.

    pixels: flat index into [A * S]; depth, along: [n] mm.
    """

    pixels: NDArray[np.intp]
    depth: Array
    along: Array

    def some(self, which: NDArray[np.intp]) -> CanalMap:
        """Only these pixels."""
        return CanalMap(self.pixels[which], self.depth[which], self.along[which])

    def of(self, line: NDArray[np.float64]) -> Array:
        """The values [n] at the pixels of a line [N] along the course."""
        values: Array = line.astype(np.float32)[self.along.astype(np.intp)]
        return values

    def blend(self, canvas: Canvas, distance: Array, value: Array | float) -> None:
        """Paint a shape given by its signed distance [R, n] or [n] in mm."""
        image = canvas.image.reshape(len(canvas.r_mm), -1)
        view = image[:, self.pixels]
        view += canvas.cover(distance.astype(np.float32, copy=False)) * (value - view)
        image[:, self.pixels] = view

    def label(self, canvas: Canvas, inside: NDArray[np.bool_], name: str) -> None:
        """Name the voxels [R, n] that are inside."""
        for labels, value in ((canvas.semantic, SEMANTIC[name]), (canvas.levels, LEVELS[name])):
            flat = labels.reshape(len(canvas.r_mm), -1)
            view = flat[:, self.pixels]
            view[inside] = value
            flat[:, self.pixels] = view


def map_canal(canvas: Canvas, course: Course) -> CanalMap:
    """Find the pixels within reach of the canal and where on its course they lie."""
    points = course.wall + course.back * 8.0
    a_index = np.clip(np.searchsorted(canvas.a_mm, points[:, 0]), 0, len(canvas.a_mm) - 1)
    s_index = np.clip(np.searchsorted(canvas.s_mm, points[:, 1]), 0, len(canvas.s_mm) - 1)
    reach = int(NEAR_MM / canvas.pixel_mm)
    near = np.zeros((len(canvas.a_mm), len(canvas.s_mm)), bool)
    for shift in range(-reach, reach + 1):
        near[np.clip(a_index + shift, 0, len(canvas.a_mm) - 1), s_index] = True
    near |= np.roll(near, 1, axis=1) | np.roll(near, -1, axis=1)
    pixels = np.flatnonzero(near)
    a, s = np.unravel_index(pixels, near.shape)
    where = np.stack([canvas.a_mm[a], canvas.s_mm[s]], axis=1).astype(np.float64)
    _, at = cKDTree(points).query(where)
    away, back = where - course.wall[at], course.back[at]
    depth = (away * back).sum(1)
    beyond = (
        away[:, 0] * back[:, 1] - away[:, 1] * back[:, 0]
    )  # along the course, from the nearest point
    along = np.clip(at + beyond, 0, len(course.wall) - 1)
    return CanalMap(pixels, depth.astype(np.float32), along.astype(np.float32))


def draw_sac(canvas: Canvas, exam: Exam, spine: Spine, near: CanalMap, room: Room) -> None:
    """Dura, CSF, roots, cord; labels canal and cord up to the top of C1."""
    r = canvas.r_mm[:, None] - near.of(room.side)
    skull = 3.0 * (near.along - spine.course.along["foramen"])
    front, rear = near.of(room.front), near.of(room.rear)
    middle, half = (front + rear) / 2, (rear - front) / 2
    sac = np.maximum(_oval(near.depth - middle, r, half, near.of(room.half_width)), skull)
    near.blend(canvas, sac - 0.8, LIGAMENT)
    near.blend(
        canvas,
        sac,
        _csf(canvas, exam, spine, near, r, (near.depth - middle) / np.maximum(half, 0.1)),
    )
    cord_half = near.of(room.cord_half_depth)
    cord = _oval(
        near.depth - near.of(room.cord_middle), r, cord_half, near.of(room.cord_half_width)
    )
    near.blend(canvas, cord, CORD + 0.05 * (cord < -1.5))  # grey matter is a little brighter
    is_named = near.along < spine.course.along["C1"] + NAMED_ABOVE_C1_MM
    near.label(canvas, (sac < 0) & is_named, "canal")
    near.label(canvas, (cord < 0) & is_named, "cord")


def _oval(deep: Array, across: Array, half_depth: Array, half_width: Array) -> Array:
    """Signed distance (mm) to a tube of oval section; where the tube has ended nothing is inside."""
    is_open = (half_depth > 0.4) & (half_width > 0.4)
    deep = deep / np.where(is_open, half_depth, 1)
    q = np.hypot(deep, across / np.where(is_open, half_width, 1))
    oval: Array = np.where(is_open, (q - 1) * np.minimum(half_depth, half_width), 9.0)
    return oval


def _csf(canvas: Canvas, exam: Exam, spine: Spine, near: CanalMap, r: Array, rear: Array) -> Array:
    """CSF with flow in the chest, and the roots of the cauda equina, which sink backwards lying down.

    rear: [n] -1 at the front of the sac, 1 at its back.
    """
    number = exam.person.number
    grain = texture(canvas.image.shape, number * 7 + 3, 4.0, canvas.pixel_mm)
    flow = near.of(spine.course.through({"T12": 0.02, "T8": 0.08, "C7": 0.02}))
    csf = CSF - flow * np.abs(grain.reshape(len(canvas.r_mm), -1)[:, near.pixels])
    below = near.of(spine.course.through({"S1": 0.35, "L4": 0.8, "disc_below_L1": 1.0, "T12": 0.0}))
    strands = 0.5 + 0.5 * np.cos(near.depth * 2.1 + r * 1.3 + 0.02 * near.along + number)
    veil = below * np.clip((rear + 0.35) / 0.5, 0, 1) * (0.35 + 0.65 * strands)
    out: Array = csf + veil * 0.75 * (ROOT - csf)
    return out
