"""Drawing what lies between bones and sac: epidural fat, foramina with their roots, the dark ligament."""

from __future__ import annotations

import numpy as np

from spineage.science.phantom.canal import CanalMap
from spineage.science.phantom.canvas import Canvas
from spineage.science.phantom.room import Room
from spineage.science.phantom.skeleton import DrawnDisc, Spine
from spineage.science.phantom.tissue import EPIDURAL_FAT, LIGAMENT

FORAMEN_MM = 9.0
"""How far a foramen reaches to the side of the canal."""
PLAIN = 0.16
"""Signal of what fills a foramen besides fat."""
ROOT = 0.30


def draw_epidural(canvas: Canvas, spine: Spine, near: CanalMap, room: Room) -> None:
    """Under the bones: fat behind the sac and in the foramina, with the roots; the posterior ligament."""
    course = spine.course
    depth, wide = near.of(course.depth), near.of(course.half_width)
    r = np.abs(canvas.r_mm[:, None] - near.of(room.side))
    mm = np.arange(len(course.wall))
    pad, hole = np.zeros(len(mm)), np.zeros(len(mm))
    for disc in spine.discs:
        away = mm - course.along[f"disc_below_{disc.upper}"]
        pad = np.maximum(pad, np.exp(-((away / 7.5) ** 4)))
        hole = np.maximum(hole, np.exp(-(((away - 3.0) / (4.0 + 0.35 * disc.half_depth)) ** 4)))
    fatty = course.through({"T11": 1.0, "T4": 0.75, "C7": 0.1, "C3": 0.1, "C2": 0.2})
    pad[mm < course.along["S1"]] = 1.0
    behind = near.of(LIGAMENT + 0.05 + (EPIDURAL_FAT - LIGAMENT) * fatty * pad)
    skull = 3.0 * (near.along - course.along["foramen"])  # the canal opens into the skull
    inside = np.maximum(np.abs(near.depth - depth / 2) - depth / 2 - 3.5, r - wide - 1.0)
    near.blend(canvas, np.maximum(inside, skull), behind)
    beside = np.maximum(
        np.abs(near.depth - 0.45 * depth) - 0.45 * depth - 1.0, r - wide - FORAMEN_MM
    )
    beside = np.maximum(beside, wide * 0.7 - r)
    fat = near.of(PLAIN + (EPIDURAL_FAT - PLAIN) * hole * (0.45 + 0.55 * fatty))
    near.blend(canvas, beside, fat)
    for disc in spine.discs:
        _draw_root(canvas, spine, near, room, disc)
    ligament = np.maximum(np.maximum(np.abs(near.depth) - 0.9, skull), r - 9.0)
    near.blend(canvas, ligament, LIGAMENT)


def _draw_root(canvas: Canvas, spine: Spine, near: CanalMap, room: Room, disc: DrawnDisc) -> None:
    """The root that leaves through the upper part of the foramen at a disc, on both sides."""
    at = spine.course.along[f"disc_below_{disc.upper}"] + 4.0 + 0.1 * disc.half_depth
    close = near.some(np.flatnonzero(np.abs(near.along - at) < 5))
    wide = close.of(spine.course.half_width)
    r = np.abs(canvas.r_mm[:, None] - close.of(room.side))
    across = np.hypot(close.along - at, close.depth - 0.45 * close.of(spine.course.depth))
    root = np.maximum(across - 1.5 - 0.06 * disc.half_depth, wide * 0.8 - r)
    close.blend(canvas, np.maximum(root, r - wide - FORAMEN_MM), ROOT)
