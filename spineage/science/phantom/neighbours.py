"""Drawing what lies next to the spine: brain and skull base above, rectum and bladder below, ribs.

Coordinates of a box: r right, u forward, v up (mm).
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from spineage.science.phantom.canvas import Canvas, Frame, capsule, ellipsoid
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import Spine
from spineage.science.phantom.tissue import BLADDER, BRAIN, CORTEX, CSF, FAT, MUSCLE, marrow


def _skull(spine: Spine) -> Frame:
    """The head follows the neck half of the way."""
    return Frame(spine.dens.a_mm, spine.dens.s_mm, 0.5 * spine.dens.tilt, spine.dens.r_mm)


def draw_brain(canvas: Canvas, spine: Spine) -> None:
    """Above the foramen magnum: cisterns, brainstem, cerebellum with its folia."""
    box = canvas.box(_skull(spine), 90, 42, 4, 70)
    if box is None:
        return
    p = (box.r, box.u, box.v)
    canvas.paint(box, ellipsoid(p, (0, -34, 54), (60, 52, 46)), CSF * 0.92)
    folia = BRAIN + 0.03 * np.sin(np.hypot(box.u + 14, box.v - 40) * 1.7) * np.clip(
        (-box.u - 22) / 12, 0, 1
    )
    cerebellum = ellipsoid(p, (0, -48, 47), (46, 33, 38))
    canvas.paint(box, cerebellum, folia.astype(np.float32)[None])
    hemisphere = np.maximum(ellipsoid(p, (0, -40, 48), (60, 44, 40)), 9.0 - np.abs(box.r))
    canvas.paint(box, hemisphere, folia.astype(np.float32)[None])
    canvas.paint(box, ellipsoid(p, (0, -17, 40), (4, 4.5, 11)), CSF * 0.95)  # fourth ventricle
    medulla = capsule(p, (0, -13, 10), (0, -8, 32), (6.0, 8.0), 0.8)
    pons = ellipsoid(p, (0, 1, 44), (18, 14.5, 16))
    canvas.paint(box, np.minimum(medulla, pons), BRAIN - 0.03)


def draw_skull_base(canvas: Canvas, spine: Spine) -> None:
    """Clivus in front of the foramen magnum, occipital bone behind it."""
    box = canvas.box(_skull(spine), 100, 60, 10, 70)
    if box is None:
        return
    p = (box.r, box.u, box.v)
    clivus = capsule(p, (0, 3, 8), (0, 27, 46), (2.8, 7.5))
    clivus = np.maximum(clivus, np.abs(box.r) - 16)
    turns = ((-38.0, 7.0), (-52.0, 8.0), (-68.0, 15.0), (-80.0, 28.0), (-88.0, 46.0))
    squama = np.minimum.reduce(
        [
            capsule(p, (0, *a), (0, *b), (2.4 + 0.4 * i, 2.8 + 0.4 * i), 0.08)
            for i, (a, b) in enumerate(pairwise(turns))
        ]
    )
    distance = np.minimum(clivus, squama)
    rim = np.clip(1 + distance / 1.2, 0, 1)
    signal = np.float32(0.62 * FAT)
    canvas.paint(box, distance, signal + rim * (CORTEX - signal))


def draw_pelvis(canvas: Canvas, spine: Spine) -> None:
    """Rectum and bladder in front of the sacrum."""
    frame = Frame(spine.sacrum[2].a_mm, spine.sacrum[2].s_mm, 0.0)
    box = canvas.box(frame, 5, 110, 80, 50)
    if box is None:
        return
    p = (box.r, box.u, box.v)
    rectum = np.minimum(
        capsule(p, (6, 34, 26), (0, 20, -14), (7, 10)),
        capsule(p, (0, 20, -14), (0, 26, -55), (10, 7)),
    )
    canvas.paint(box, rectum - 2.5, MUSCLE)
    canvas.paint(box, rectum, 0.10)
    bladder = ellipsoid(p, (0, 76, -24), (35, 21, 17))
    canvas.paint(box, bladder - 2.5, MUSCLE * 0.8)
    canvas.paint(box, bladder, BLADDER * 0.7)


def draw_ribs(canvas: Canvas, exam: Exam, spine: Spine) -> None:
    """Heads and necks of the ribs beside the thoracic discs and arches."""
    for v in spine.vertebrae:
        if v.name[0] != "T":
            continue
        box = canvas.box(v.frame, v.half_depth + 18, 10, 10, v.half_height + 12)
        if box is None:
            continue
        p = (np.abs(box.r), box.u, box.v)
        a, h = v.half_depth, v.half_height
        start = (v.half_width * 0.80 + 3, -0.55 * a, 0.85 * h)
        rib = capsule(p, start, (34.0, -a - 15.0, 0.35 * h), (4.6, 3.8))
        bone = marrow(float(exam.severities["marrow"][v.index]))
        rim = np.clip(1 + rib / 1.1, 0, 1)
        canvas.paint(box, rib, (bone + rim * (CORTEX - bone)).astype(np.float32))
