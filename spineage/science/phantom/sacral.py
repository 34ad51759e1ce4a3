"""Drawing the sacrum: five fused segments, remnant discs, foramina, the roof of its canal."""

from __future__ import annotations

import numpy as np

from spineage.science.phantom.anatomy import SACRUM
from spineage.science.phantom.canvas import Canvas, Frame, capsule, ellipsoid, texture
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import Spine
from spineage.science.phantom.tissue import CORTEX, EPIDURAL_FAT, marrow
from spineage.science.spine.labels import LEVELS, SEMANTIC

HALF_WIDTHS = (52.0, 44.0, 36.0, 28.0, 20.0)
CANAL_MM = (14.0, 10.5, 7.0, 4.5, 3.0)
ROOF_MM = (6.0, 5.5, 5.0, 4.0, 3.0)


def draw_sacrum(canvas: Canvas, exam: Exam, spine: Spine) -> None:
    """S1 to S5 and the first coccygeal segment, from the tail up."""
    signal = marrow(float(exam.severities["marrow"][-1])) + 0.02
    _draw_coccyx(canvas, spine, signal)
    for i in reversed(range(len(SACRUM))):
        _draw_segment(canvas, exam, spine, i, signal)
    for i in range(len(SACRUM) - 1):
        _draw_remnant(canvas, spine, i)
        _draw_foramina(canvas, spine, i)


def _draw_segment(canvas: Canvas, exam: Exam, spine: Spine, i: int, signal: float) -> None:
    frame, (height, depth, _) = spine.sacrum[i], SACRUM[i]
    next_depth = SACRUM[i + 1][1] if i + 1 < len(SACRUM) else 6.0
    half = height * spine.scale / 2
    behind = CANAL_MM[i] + ROOF_MM[i] + 10
    box = canvas.box(frame, depth / 2 + behind, depth / 2 + 5, half + 4, half + 4)
    if box is None:
        return
    along = np.clip((box.v + half) / (2 * half), 0, 1)
    half_depth = (next_depth + (depth - next_depth) * along) / 2
    upright = np.abs(box.v) - half - (0.0 if i == 0 else 1.2)
    if i == 0:
        upright = np.maximum(box.v - half + 0.6, -box.v - half - 1.2)
    wing = np.clip(1 - (np.abs(box.r) / HALF_WIDTHS[i]) ** 2, 0.05, 1)
    body = np.abs(box.u) - half_depth * np.sqrt(wing)
    inner = -half_depth - CANAL_MM[i]
    centre = inner - ROOF_MM[i] / 2
    crest = (
        3.5 * np.exp(-((box.r / 4.0) ** 2)) * np.clip(np.cos(np.pi * box.v / (2.2 * half)), 0, 1)
    )
    roof = np.abs(box.u - centre + crest / 2) - (ROOF_MM[i] / 2 + crest / 2)
    wall = np.maximum(
        np.abs(box.u - inner / 2 - 2) - np.abs(inner / 2) - 2, 13.5 - 1.2 * i - np.abs(box.r)
    )
    if i == 4:
        roof = roof + 50  # the sacral hiatus: S5 has no roof
    distance = np.maximum(np.minimum(np.minimum(body, roof), wall), upright).astype(np.float32)
    shape = (len(box.r), *box.u.shape)
    grain = texture(shape, exam.person.number * 7 + 500 + 31 * i, 2.2, canvas.pixel_mm)
    rim = np.clip(1 + np.maximum(np.minimum(np.minimum(body, roof), wall), -9.0) / 1.1, 0, 1)
    if i == 0:
        rim = np.maximum(rim, np.clip(1 + (box.v - half + 0.6) / 1.1, 0, 1))
    value = signal + 0.03 * grain
    canvas.paint(box, distance, (value + rim * (CORTEX - value)).astype(np.float32))
    canvas.label(box, distance, SEMANTIC["sacrum"], LEVELS["sacrum"])


def _draw_remnant(canvas: Canvas, spine: Spine, i: int) -> None:
    """The disc that never grew: a thin dark line, bright in the middle at S1/2."""
    frame = spine.sacrum[i].moved(0.0, -SACRUM[i][0] * spine.scale / 2)
    depth = SACRUM[i + 1][1] / 2
    box = canvas.box(frame, depth, depth, 4, 4)
    if box is None:
        return
    p = (box.r, box.u, box.v)
    canvas.paint(
        box, ellipsoid(p, (0, 0, 0), (22.0, depth * 0.95, 1.6 if i == 0 else 0.9)), CORTEX + 0.05
    )
    if i == 0:
        canvas.paint(box, ellipsoid(p, (0, 0, 0), (12.0, depth * 0.55, 0.8)), 0.35)


def _draw_foramina(canvas: Canvas, spine: Spine, i: int) -> None:
    """Sacral foramina, filled with fat around a root."""
    frame: Frame = spine.sacrum[i].moved(0.0, -SACRUM[i][0] * spine.scale / 2)
    depth, side = SACRUM[i + 1][1] / 2, 19.0 - 1.5 * i
    box = canvas.box(frame, depth + 8, depth + 6, 9, 9)
    if box is None:
        return
    p = (np.abs(box.r), box.u, box.v)
    hole = capsule(
        p, (side, -depth - 2, 3), (side + 2, depth + 3, -3), (4.2 - 0.5 * i, 4.8 - 0.5 * i)
    )
    canvas.paint(box, hole, EPIDURAL_FAT)
    canvas.label(box, hole, SEMANTIC["background"], LEVELS["background"])
    root = capsule(p, (side, -depth - 2, 3), (side + 2, depth + 3, -3), (1.5, 1.2))
    canvas.paint(box, root, 0.42)


def _draw_coccyx(canvas: Canvas, spine: Spine, signal: float) -> None:
    last = spine.sacrum[-1]
    frame = last.moved(0.0, -SACRUM[-1][0] * spine.scale / 2 - 1.5, -0.35)
    box = canvas.box(frame, 12, 12, 30, 4)
    if box is None:
        return
    p = (box.r, box.u, box.v)
    pieces = (
        capsule(p, (0, 0, -4), (0, 0.5, -8), (3.6, 3.0)),
        capsule(p, (0, 2.0, -15.5), (0, 4.0, -19), (2.6, 1.8)),
    )
    for piece in pieces:
        rim = np.clip(1 + piece / 1.0, 0, 1)
        canvas.paint(box, piece, (signal + rim * (CORTEX - signal)).astype(np.float32))
