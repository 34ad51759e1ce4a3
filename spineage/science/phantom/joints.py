"""Drawing discs, their bulges and nodes, and the ligaments that hold the column together.

Coordinates of a box: r right, u forward, v up (mm) from the middle of the disc.
"""

from __future__ import annotations

import numpy as np

from spineage.science.phantom.canvas import Array, Box, Canvas, capsule, ellipsoid, texture
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import DrawnDisc, Spine
from spineage.science.phantom.tissue import ANNULUS, CORTEX, LIGAMENT, blend, nucleus
from spineage.science.spine.labels import LEVELS, SEMANTIC

BULGE_MM = 3.4
"""Reach of a bulge of severity 1 behind the endplates."""


def bulge_mm(exam: Exam, disc: int) -> float:
    """How far a disc reaches behind the line of the endplates."""
    scale = 0.75 if disc < 6 else 1.0  # cervical discs are smaller
    return scale * BULGE_MM * float(np.clip(exam.severities["bulge"][disc], 0, 1.5))


def draw_disc(canvas: Canvas, exam: Exam, disc: DrawnDisc) -> None:
    """A disc, larger than its space: the bodies drawn over it cut it to shape."""
    a = disc.half_depth
    tall = disc.height / 2 + 3.2
    box = canvas.box(disc.frame, a + 12, a + 6, tall + 4, tall + 4)
    if box is None:
        return
    behind = bulge_mm(exam, disc.index)
    p = (box.r, box.u, box.v)
    distance = _outline(box, disc, behind, tall)
    for protrusion in exam.lesions.protrusions:
        if protrusion.disc == disc.index:
            reach = protrusion.depth_mm + behind * 0.5
            tip = ellipsoid(
                p, (protrusion.side_mm, -a, -0.8), (5.5, reach, max(3.0, 0.5 * disc.height))
            )
            distance = np.minimum(distance, tip)
    canvas.paint(box, distance, _signal(box, exam, disc, canvas.pixel_mm))
    canvas.label(box, distance, SEMANTIC["disc"], LEVELS[f"disc_below_{disc.upper}"])


def _outline(box: Box, disc: DrawnDisc, behind: float, tall: float) -> Array:
    a, b = disc.half_depth, disc.half_width
    edge = np.clip(1 - (np.abs(box.v) / (0.75 * disc.height + 1.2)) ** 2, 0, 1)
    reach = a + np.where(box.u < 0, behind, 0.35 * behind + 0.4) * edge
    side = b + 0.4 * behind * edge
    rho = np.cbrt(np.abs(box.u / reach) ** 3 + np.abs(box.r / side) ** 3)
    out: Array = np.maximum((rho - 1) * min(a, b), np.abs(box.v) - tall).astype(np.float32)
    return out


def _signal(box: Box, exam: Exam, disc: DrawnDisc, pixel_mm: float) -> Array:
    """Bright nucleus with its cleft, dark annulus; both fade into one another as the disc dries."""
    dry = float(exam.severities["nucleus"][disc.index])
    a, b = disc.half_depth, disc.half_width
    core = nucleus(dry)
    centre = -0.10 * a
    q = ((box.u - centre) / (0.66 * a)) ** 4 + (box.r / (0.72 * b)) ** 4
    q = q + (box.v / (0.62 * disc.height + 0.8)) ** 4
    inside = np.clip((1.5 - q) / 1.1, 0, 1)
    cleft = blend(0.0, 0.5, dry * 2.5, beyond=1.0)
    band = np.exp(-((box.v / (0.9 + 0.06 * disc.height)) ** 2)) * cleft * (disc.height > 6)
    grain = texture(
        (len(box.r), *box.u.shape), exam.person.number * 7 + 900 + 17 * disc.index, 2.2, pixel_mm
    )
    ring = ANNULUS * (1.0 - 0.35 * min(max(dry, 0.0), 1.0))
    signal = ring + inside * (core * (1 - 0.45 * band) - ring) + 0.02 * grain
    out: Array = np.maximum(signal, 0.03).astype(np.float32)
    return out


def draw_schmorl_nodes(canvas: Canvas, exam: Exam, spine: Spine) -> None:
    """Over the bodies: disc tissue with a dark wall inside the endplate."""
    for node in exam.lesions.schmorl_nodes:
        disc = spine.discs[node.disc]
        way = 1.0 if node.is_above else -1.0
        box = canvas.box(disc.frame, disc.half_depth, disc.half_depth, 16, 16)
        if box is None:
            continue
        p = (box.r, box.u, box.v)
        centre = (node.side_mm, node.forward * disc.half_depth, way * (disc.height / 2 + 0.4))
        hole = ellipsoid(p, centre, (5.0, 4.6, node.depth_mm + 1.2))
        hole = np.maximum(hole, -way * box.v)
        canvas.paint(box, hole - 1.0, CORTEX)
        canvas.paint(box, hole, nucleus(float(exam.severities["nucleus"][node.disc])) * 0.9)
        canvas.label(box, hole, SEMANTIC["disc"], LEVELS[f"disc_below_{disc.upper}"])


def draw_flavum(canvas: Canvas, exam: Exam, spine: Spine, disc: DrawnDisc) -> None:
    """Ligamentum flavum: dark, from lamina to lamina behind the sac, thicker with wear."""
    i = round(spine.course.along[f"disc_below_{disc.upper}"])
    depth, wide = float(spine.course.depth[i]), float(spine.course.half_width[i])
    thick = flavum_mm(exam, disc.index)
    a = disc.half_depth
    box = canvas.box(disc.frame, a + depth + 6, 4 - a, 14, 14)
    if box is None:
        return
    p = (np.abs(box.r), box.u, box.v)
    roof = -(a + depth + 1.0)
    band = capsule(
        p,
        (0.35 * wide, roof + 0.5, -6.0),
        (wide * 0.95, roof + 0.42 * depth, 3.0),
        (thick / 2, thick / 2),
    )
    canvas.paint(box, band, LIGAMENT)


def flavum_mm(exam: Exam, disc: int) -> float:
    """Thickness of the ligamentum flavum at a disc."""
    return 2.4 + 3.2 * float(np.clip(exam.severities["flavum"][disc], 0, 1.4))


def flavum_squeeze_mm(exam: Exam, disc: int) -> float:
    """How far the thick ligament pushes the back of the sac forward."""
    return (flavum_mm(exam, disc) - 2.4) * (0.5 if disc < 6 else 0.8)
