"""Drawing everything around the spine: muscle, fat, skin, vessels, airway, lung, and a dark band in front.

Rows of the image are horizontal; `x` is mm in front of the posterior wall of the row.
Letters: R A S voxel axes (left->right, posterior->anterior, inferior->superior).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from spineage.science.phantom.canvas import Array, Canvas, texture
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import Spine
from spineage.science.phantom.tissue import AIR, FAT, FLOW_VOID, LIGAMENT, MUSCLE, ORGAN, SKIN


@dataclass(frozen=True)
class Rows:
    """The spine as rows see it. wall_a: [S] A of the posterior wall; heights: S mm of named levels."""

    wall_a: Array
    heights: Mapping[str, float]
    s_mm: Array

    def along(self, values: Mapping[str, float]) -> Array:
        """A line [S] through values given at named levels."""
        points = sorted((self.heights[k], v) for k, v in values.items())
        line = np.interp(self.s_mm, [p[0] for p in points], [p[1] for p in points])
        return _smoothed(line, 10.0 / float(self.s_mm[1] - self.s_mm[0]))


def rows_of(canvas: Canvas, spine: Spine) -> Rows:
    """Look along every row of the canvas."""
    heights = {v.name: v.frame.s_mm for v in spine.vertebrae}
    heights |= {"C1": spine.dens.s_mm - 6.0, "skull": spine.dens.s_mm + 25.0}
    heights |= {f"S{i}": frame.s_mm for i, frame in enumerate(spine.sacrum, 1)}
    order = np.argsort(spine.course.wall[:, 1])
    wall_a = np.interp(canvas.s_mm, spine.course.wall[order, 1], spine.course.wall[order, 0])
    return Rows(wall_a.astype(np.float32), heights, canvas.s_mm)


def draw_body(canvas: Canvas, exam: Exam, spine: Spine) -> Array:
    """Soft tissue into an empty canvas; returns [A] the distance of each column from the coil (mm)."""
    rows = rows_of(canvas, spine)
    x = canvas.a_mm[:, None] - rows.wall_a[None, :]
    number = exam.person.number
    fine = texture(canvas.image.shape, number * 7 + 12, 2.2, canvas.pixel_mm)
    slow = texture(canvas.image.shape, number * 7 + 11, 4.0, canvas.pixel_mm)
    _draw_muscle(canvas, exam, fine, slow)
    _draw_front(canvas, rows, x, slow)
    return _draw_skin(canvas, exam, rows, fine)


def _draw_muscle(canvas: Canvas, exam: Exam, fine: Array, slow: Array) -> None:
    """Paraspinal muscle with its fat, more in the old; ligaments and fat between the spinous processes."""
    infiltration = float(np.clip(np.mean(exam.severities["marrow"]), 0, 1))
    # fascicles run along the body: stretch the grain by averaging shifted copies
    streaks = (
        sum(np.roll(slow, shift, 2) for shift in (-8, -4, 4, 8)) * np.float32(0.4) + 0.4 * slow
    )
    streak = np.clip(0.5 * streaks - np.float32(0.55 - 0.65 * infiltration), 0, 0.8)
    canvas.image[:] = MUSCLE + 0.012 * fine + streak * (0.7 * FAT - MUSCLE)
    r = np.abs(canvas.r_mm)[:, None, None]
    between = np.clip((5.5 - r) / 2.5, 0, 1)
    canvas.image += between * (0.34 + 0.05 * streaks + 0.02 * fine - canvas.image)


def _draw_skin(canvas: Canvas, exam: Exam, rows: Rows, fine: Array) -> Array:
    """Fascia, subcutaneous fat, skin and the air behind it."""
    fascia = rows.along({"S5": 16, "S3": 26, "S1": 44, "L4": 60, "L1": 56, "T9": 50, "T5": 48, "C7": 58,
                         "C4": 50, "C1": 52})  # fmt: skip
    thick = rows.along(
        {"S5": 2.4, "S1": 1.5, "L3": 1.0, "T10": 0.6, "T4": 0.7, "C7": 0.9, "C3": 0.5}
    )
    inner = np.minimum(
        _smoothed(rows.wall_a - fascia, 22.0 / canvas.pixel_mm), rows.wall_a - fascia + 6
    )
    coarse = _smoothed(rows.wall_a, 45.0 / canvas.pixel_mm) - fascia
    layer = exam.person.build.fat_mm * thick
    skin = _smoothed(np.minimum(coarse, inner) - layer, 18.0 / canvas.pixel_mm)
    image = canvas.image
    under = canvas.a_mm[:, None] - inner[None, :]
    edge = canvas.a_mm[:, None] - skin[None, :]
    stop = int(np.searchsorted(canvas.a_mm, float(max(inner.max(), skin.max())) + 6.0))
    view = image[:, :stop]
    view += canvas.cover(under[:stop]) * (FAT + 0.025 * fine[:, :stop] - view)
    view += canvas.cover(np.abs(under[:stop]) - 0.8) * (LIGAMENT - view)
    view += canvas.cover(edge[:stop] - 2.0) * (SKIN - view)
    view += canvas.cover(edge[:stop]) * (AIR - view)
    depth: Array = np.clip(canvas.a_mm - float(np.median(skin)), 0, None).astype(np.float32)
    return depth


def _smoothed(line: Array, sigma: float) -> Array:
    reach = int(3 * sigma)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    out: Array = np.convolve(np.pad(line, reach, mode="edge"), kernel, mode="valid").astype(
        np.float32
    )
    return out


FRONT_MM = {"S5": 9.0, "S3": 14.0, "S1": 30.0, "L4": 35.0, "L1": 33.0, "T8": 28.0, "T2": 19.0, "C3": 17.0,
            "C1": 20.0}  # fmt: skip
"""From the posterior wall to the front of the bodies, row by row."""
BAND_MM = {
    "S5": 78.0,
    "S1": 84.0,
    "L2": 76.0,
    "T8": 64.0,
    "T2": 50.0,
    "C5": 52.0,
    "C1": 66.0,
    "skull": 90.0,
}
"""Where the anterior saturation band begins, set on spine protocols against breathing and swallowing."""


def _draw_front(canvas: Canvas, rows: Rows, x: Array, slow: Array) -> None:
    """In front of the bodies: prevertebral tissue, organs, vessels, airway, lung, under a saturation band."""
    image = canvas.image
    front = x - rows.along(FRONT_MM)[None, :]
    start = max(0, int(np.searchsorted(canvas.a_mm, float(rows.wall_a.min()) - 8.0)))
    view, ahead, part = image[:, start:], front[start:], slow[:, start:]
    view += np.clip(ahead / 3.0, 0, 1) * (ORGAN + 0.05 * part - view)
    fat = (
        rows.along(
            {"S5": -2, "S3": 6, "S2": 10, "S1": 12, "L1": 6, "T10": 4, "T3": 3, "C7": 1, "C1": 1}
        )[None, :]
        / 2
    )
    view += canvas.cover(np.abs(ahead - fat) - fat) * (0.8 * FAT - view)
    longus = rows.along({"T3": 0, "C7": 5, "C2": 4, "C1": 3})[None, :] / 2
    view += canvas.cover(np.abs(ahead - longus) - longus) * (MUSCLE - view)
    _draw_lung(canvas, rows, x)
    _draw_vessels(canvas, rows, front)
    band = rows.along(BAND_MM)
    image *= np.float32(0.2) + np.float32(0.8) * np.clip((band[None, :] - x) / 22.0, 0, 1)
    _draw_airway(canvas, rows, front)
    throat = rows.along({"T3": 130, "T1": 78, "C6": 62, "C4": 60, "C3": 84, "C1": 130})
    away = throat[None, :] - x
    first = int(np.flatnonzero((away < 3.0).any(axis=0))[0])
    view = image[:, :, first:]
    view += canvas.cover(away[:, first:] - 2.0) * (0.4 * SKIN - view)
    view += canvas.cover(away[:, first:]) * (AIR - view)


def _draw_lung(canvas: Canvas, rows: Rows, x: Array) -> None:
    """Lung beside the thoracic bodies: nearly no signal."""
    r = np.abs(canvas.r_mm)[:, None, None]
    reach = rows.along({"L1": 40, "T12": 24, "T10": 19.5, "T3": 18, "T1": 22, "C7": 40})
    beside = np.flatnonzero(np.abs(canvas.r_mm) > float(reach.min()))
    for slice_ in beside:
        lung = np.clip((r[slice_] - reach) / 3, 0, 1) * np.clip((x - 2) / 5, 0, 1)
        canvas.image[slice_] += lung * (0.04 - canvas.image[slice_])


def _draw_vessels(canvas: Canvas, rows: Rows, front: Array) -> None:
    """Flow voids: the aorta left of the thoracic spine and before the lumbar, the vena cava on its right."""
    aorta = rows.along({"L4": -4, "L1": -6, "T10": -9, "T6": -17, "T4": -24, "T3": -40})
    radius = rows.along({"S1": 0, "L4": 7, "L1": 9, "T5": 11, "T3": 11, "T2": 0})
    ahead = rows.along({"L4": 10, "L1": 13, "T10": 12, "T6": 3, "T4": 6})
    _draw_vessel(canvas, front, aorta, ahead, radius)
    cava = rows.along({"S1": 24, "L4": 14, "L1": 17, "T11": 24, "T9": 40})
    radius = rows.along({"S1": 7, "L4": 8, "L1": 9, "T11": 10, "T9": 10, "T8": 0})
    ahead = rows.along({"L4": 8, "L2": 10, "L1": 14, "T10": 30})
    _draw_vessel(canvas, front, cava, ahead, radius)


def _draw_vessel(canvas: Canvas, front: Array, side: Array, ahead: Array, radius: Array) -> None:
    """A tube given row by row: its place beside and before the spine, and its radius (mm)."""
    rows = np.flatnonzero(radius >= 2.0)
    at = slice(int(rows[0]), int(rows[-1]) + 1)
    near = np.abs(front[:, at] - ahead[at]).min(axis=1) < float(radius.max()) + 4.0
    columns = np.flatnonzero(near)
    window = (slice(None), slice(int(columns[0]), int(columns[-1]) + 1), at)
    across = np.hypot(front[window[1:]] - ahead[at], canvas.r_mm[:, None, None] - side[at])
    wall = across - radius[at]
    view = canvas.image[window]
    view += canvas.cover(wall - 1.3) * (0.16 - view)
    view += canvas.cover(wall) * (FLOW_VOID - view)


def _draw_airway(canvas: Canvas, rows: Rows, front: Array) -> None:
    """Pharynx, larynx and trachea down to where it forks."""
    middle = rows.along({"T5": 24, "T2": 17, "C6": 13, "C4": 12, "C2": 9, "C1": 11, "skull": 16})
    half = rows.along(
        {"T5": 0, "T4": 7, "T1": 8, "C6": 7, "C5": 4, "C4": 6, "C2": 5, "C1": 4, "skull": 8}
    )
    open_rows = np.flatnonzero(half >= 1.0)
    at = slice(int(open_rows[0]), int(open_rows[-1]) + 1)
    near = np.flatnonzero((np.abs(front[:, at] - middle[at]) < half[at] + 3.0).any(axis=1))
    window = (slice(None), slice(int(near[0]), int(near[-1]) + 1), at)
    across = np.hypot(
        (front[window[1:]] - middle[at]) / half[at], canvas.r_mm[:, None, None] / (1.3 * half[at])
    )
    view = canvas.image[window]
    view += canvas.cover((across - 1) * half[at]) * (AIR - view)
