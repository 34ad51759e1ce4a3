"""How much room there is in the canal: bulges in front and ligaments behind take it from the sac.

All lines are [N], one value for each millimetre of the canal's course, in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineage.science.phantom.joints import bulge_mm, flavum_squeeze_mm
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import Course, Spine

MIDLINE_MM = 3.5
"""Protrusions closer to the midline than this narrow the sac, others the recess."""
FIRST_LUMBAR_DISC = 18
FREE_MM = (11.5, 13.0)
"""Depth of a young sac above the lumbar spine and in it."""

CORD_MM = {"T10": (3.4, 4.2), "T6": (3.1, 4.0), "T2": (3.3, 4.6), "C5": (3.7, 6.6), "C2": (4.0, 5.8),
           "brainstem": (6.5, 8.0)}  # fmt: skip
"""Half-depth and half-width of the cord above its lumbar enlargement."""

Line = NDArray[np.float64]


@dataclass(frozen=True)
class Room:
    """Sizes along the course: depths of the sac's front and rear behind the wall, half-width, the cord in it.

    side: how far the spine lies to the right.
    """

    front: Line
    rear: Line
    half_width: Line
    cord_middle: Line
    cord_half_depth: Line
    cord_half_width: Line
    side: Line


def measure_room(exam: Exam, spine: Spine) -> Room:
    """How wide everything is at every level."""
    course = spine.course
    mm = np.arange(len(course.wall), dtype=np.float64)
    front, squeeze = _intruders(exam, spine, mm)
    epidural = course.through({"T12": 1.2, "L2": 2.8})
    closing = np.sqrt(
        np.clip((mm - course.along["S2"] + 4.0) / 16.0, 0.0, 1.0)
    )  # the sac ends at S2
    rear = front + np.maximum(course.depth - epidural - squeeze - front, 3.2) * closing
    half_width = np.maximum(course.half_width - 0.8 - 0.5 * squeeze, 4.0) * closing
    thick, broad = _cord(exam, course, mm)
    thick = np.minimum(thick, (rear - front) / 2 - 0.7)
    # the cord leans on the front wall where the spine curves forward, and lies in the middle of the neck
    place = course.through({"L1": 0.5, "T7": 0.40, "T1": 0.48, "C3": 0.5})
    middle = front + place * (rear - front)
    middle = np.maximum(np.minimum(middle, rear - thick - 0.5), front + thick + 0.5)
    side = course.through({"S1": 0.0} | {v.name: v.frame.r_mm for v in spine.vertebrae})
    return Room(front, rear, half_width, middle, thick, np.minimum(broad, half_width - 1.5), side)


def _intruders(exam: Exam, spine: Spine, mm: Line) -> tuple[Line, Line]:
    """What reaches in from the front (discs), and what the ligaments take at the back."""
    front, squeeze = np.full(len(mm), 1.1), np.zeros(len(mm))
    reach = [bulge_mm(exam, disc.index) for disc in spine.discs]
    for protrusion in exam.lesions.protrusions:
        if abs(protrusion.side_mm) < MIDLINE_MM:
            reach[protrusion.disc] += protrusion.depth_mm
    for disc in spine.discs:
        away = mm - spine.course.along[f"disc_below_{disc.upper}"]
        front += np.exp(-((away / 3.6) ** 2)) * reach[disc.index]
        squeeze += np.exp(-((away / 7.0) ** 2)) * flavum_squeeze_mm(exam, disc.index)
    return front, squeeze


def narrowing(exam: Exam) -> Line:
    """Share of the sac's depth that is lost at each disc, C2/3 down."""
    discs = range(len(exam.severities["bulge"]))
    free = np.array([FREE_MM[i >= FIRST_LUMBAR_DISC] for i in discs]) * exam.person.build.canal
    taken = np.array([bulge_mm(exam, i) + flavum_squeeze_mm(exam, i) for i in discs])
    for protrusion in exam.lesions.protrusions:
        if abs(protrusion.side_mm) < MIDLINE_MM:
            taken[protrusion.disc] += protrusion.depth_mm
    return taken / free


def _cord(exam: Exam, course: Course, mm: Line) -> tuple[Line, Line]:
    """Half-depth and half-width: two enlargements, and the conus where the person's own lies."""
    along, conus = course.along, exam.person.build.conus
    tip = along["disc_below_T12"] + conus * (along["disc_below_L1"] - along["disc_below_T12"])
    sizes = {tip: (0.0, 0.0), tip + 9: (2.0, 2.2), tip + 22: (3.6, 4.4)}
    sizes |= {along[name]: size for name, size in CORD_MM.items()}
    at = sorted(sizes)
    half_depth, half_width = (np.interp(mm, at, [sizes[x][i] for x in at]) for i in (0, 1))
    return half_depth, half_width
