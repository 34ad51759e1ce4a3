"""Drawing vertebrae: bodies with their endplates and marrow, arches with their processes, C1, the dens.

Coordinates of a box: r right, u forward, v up (mm) from the middle of the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spineage.science.phantom.anatomy import DENS_MM
from spineage.science.phantom.canvas import Array, Box, Canvas, capsule, ellipsoid, texture
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import Spine, Vertebra
from spineage.science.phantom.tissue import CORTEX, marrow
from spineage.science.spine.labels import LEVELS, SEMANTIC

RIM_MM = 1.1
FACET_MM = 1.3
"""Growth of an articular process at severity 1."""


@dataclass(frozen=True)
class Wear:
    """What ageing did at the two ends of a body (above, below): severities."""

    osteophyte: tuple[float, float]
    endplate: tuple[float, float]
    facet: tuple[float, float]
    marrow: float


def wear_of(exam: Exam, v: Vertebra) -> Wear:
    """Severities of the discs above and below a vertebra; C2 has no disc above."""

    def ends(name: str) -> tuple[float, float]:
        values = np.clip(exam.severities[name], 0, 1.4)
        return (float(values[v.index - 2]) if v.index > 1 else 0.0), float(values[v.index - 1])

    marrow_now = float(exam.severities["marrow"][v.index])
    return Wear(ends("osteophyte"), ends("endplate"), ends("facet"), marrow_now)


def draw_vertebra(canvas: Canvas, exam: Exam, spine: Spine, v: Vertebra) -> None:
    """Arch first, then the body over it."""
    wear = wear_of(exam, v)
    _draw_arch(canvas, spine, v, wear)
    _draw_body(canvas, exam, v, wear)


def body_distance(box: Box, v: Vertebra, wear: Wear, grain: Array) -> Array:
    """Signed distance to a body: waisted sides, concave endplates, wedge, osteophytes at the corners."""
    h, a, b = v.half_height, v.half_depth, v.half_width
    forward = np.clip(box.u / a, -1.2, 1.5)
    upper, lower = np.exp(-(((h - box.v) / 2.4) ** 2)), np.exp(-(((h + box.v) / 2.4) ** 2))
    lip_mm = 5.0 * (wear.osteophyte[0] * upper + wear.osteophyte[1] * lower)
    lip = lip_mm * np.where(forward > 0, 1.0, 0.35) / a
    waist = 1 - 0.075 * (1 - np.minimum((box.v / h) ** 2, 1.0))
    side = (waist + lip).astype(np.float32)
    q = np.abs(forward / side) ** 3 + np.abs(box.r / (b * side)) ** 3
    rho = np.cbrt(q)
    hollow = (0.25 + 0.035 * a) * (1 + 0.5 * max(wear.endplate))
    if v.fracture:
        hollow += 1.5
        drop = v.fracture.loss * np.clip((forward + 0.3) / 1.1, 0, 1) * 0.9
    else:
        drop = np.zeros(1, np.float32)
    tall = h * (1 + v.wedge * forward)
    tall = tall - hollow * np.clip(1 - rho * rho, 0, 1)
    rough = np.where(box.v > 0, wear.endplate[0], wear.endplate[1]) * 0.55
    top = tall - rough * np.abs(grain)
    above = box.v - top + np.where(box.v > 0, drop * h * 0.8, 0)
    below = -box.v - top
    side_distance = (rho - 1) * min(a, b)
    distance: Array = np.maximum(np.maximum(above, below), side_distance).astype(np.float32)
    return distance


def _draw_body(canvas: Canvas, exam: Exam, v: Vertebra, wear: Wear) -> None:
    reach = v.half_height * 1.35 + 3
    box = canvas.box(v.frame, v.half_depth + 4, v.half_depth + 7, reach, reach)
    if box is None:
        return
    shape = (len(box.r), *box.u.shape)
    grain = texture(shape, exam.person.number * 7 + 31 * v.index, 2.2, canvas.pixel_mm)
    distance = body_distance(box, v, wear, grain)
    signal = _marrow_signal(box, exam, v, wear, grain)
    rim = np.clip(1 + distance / RIM_MM, 0, 1)
    signal = signal + rim * (CORTEX - signal)
    canvas.paint(box, distance, signal)
    canvas.label(box, distance, SEMANTIC["vertebra"], LEVELS[v.name])


def _marrow_signal(box: Box, exam: Exam, v: Vertebra, wear: Wear, grain: Array) -> Array:
    """Marrow, its patches, the basivertebral vein, and what lesions made of it."""
    base = marrow(wear.marrow)
    patchy = 0.012 + 0.035 * float(np.clip(wear.marrow, 0, 1.2))
    signal = (base + patchy * grain).astype(np.float32)
    h, a = v.half_height, v.half_depth
    if v.name[0] != "C":
        vein = np.exp(-((box.v / 1.7) ** 2)) * np.clip((-box.u / a - 0.25) / 0.5, 0, 1)
        signal += 0.30 * vein * np.exp(-((box.r / 6.0) ** 2))
    for modic in exam.lesions.modics:
        if modic.disc in (v.index - 1, v.index - 2):
            end = 1.0 if modic.disc == v.index - 2 else -1.0
            band = np.clip((modic.reach_mm - (h - end * box.v)) / 2.0, 0, 1)
            signal += band * ({1: 0.30, 2: 0.20, 3: -0.8 * base}[modic.kind])
    if v.fracture:
        band = np.exp(-(((box.v - 0.45 * h) / 3.0) ** 2))
        signal += band * (0.28 if v.fracture.is_fresh else -0.08)
    for spot in exam.lesions.haemangiomas:
        if spot.vertebra == v.index:
            p = (box.r, box.u, box.v)
            d = ellipsoid(p, (spot.side_mm, spot.forward * a, 0.1 * h), (spot.radius_mm,) * 3)
            signal += np.clip(0.5 - d / 2, 0, 1) * (0.75 - signal)
    return signal


@dataclass(frozen=True)
class Arch:
    """Sizes of the posterior elements of one vertebra, mm; spinous process as (back, down) of its ends."""

    pedicle_side: float
    pedicle_radius: float
    pedicle_up: float
    lamina_drop: float
    spine_length: float
    spine_drop: float
    spine_start: float
    spine_end: float
    thickness: float


def arch_of(v: Vertebra, scale: float) -> Arch:
    """Posterior elements: short in the neck, long and steep in the chest, broad plates below."""
    region, number = v.name[0], int(v.name[1:])
    h = v.half_height
    if region == "C":
        length = {2: 18.0, 3: 14.0, 4: 14.0, 5: 16.0, 6: 21.0, 7: 29.0}[number]
        drop = {2: 3.0, 3: 4.0, 4: 4.5, 5: 5.5, 6: 8.0, 7: 10.0}[number]
        radius = 5.0 if number == 2 else 3.6
        arch = Arch(v.canal_half_width + 3.0, 3.2, 0.0, 2.5, length, drop, radius, 3.4, 2.9)
    elif region == "T":
        steep = float(np.clip(1 - abs(number - 6.5) / 5.5, 0, 1))
        arch = Arch(
            v.canal_half_width + 3.2, 3.4 + 0.09 * number, 0.42 * h, 4.0,
            27.0 - 5.0 * steep - (4.0 if number == 12 else 0.0), 12.0 + 19.0 * steep - 0.5 * number,
            5.0 + 0.12 * number, 3.4 + (1.8 if number > 10 else 0.0), 3.0,
        )  # fmt: skip
    else:
        arch = Arch(
            v.canal_half_width + 4.2, 6.0, 0.42 * h, 4.5,
            26.0 if v.half_width < 24 else 20.0, 6.0, 8.0, 8.6 if v.half_width < 24 else 6.5, 3.6,
        )  # fmt: skip
    return arch


def _draw_arch(canvas: Canvas, spine: Spine, v: Vertebra, wear: Wear) -> None:
    arch = arch_of(v, spine.scale)
    a, h, depth = v.half_depth, v.half_height, v.canal_depth
    roof = -(a + depth + 2.6)  # the front of the lamina, at the midline
    box = canvas.box(
        v.frame, a + depth + arch.spine_length + 14, 4 - a, h * 2 + arch.spine_drop + 14, h + 12
    )
    if box is None:
        return
    p = (np.abs(box.r), box.u, box.v)
    side, up = arch.pedicle_side, arch.pedicle_up
    pillar = -(a + 0.62 * depth)
    pedicle = capsule(p, (side, -a + 1, up), (side, pillar, up), (arch.pedicle_radius,) * 2)
    top_of_pillar, foot = h + 3.5, -h - (5.5 if v.name[0] != "C" else 3.0)
    thick = 4.6 if v.name[0] == "L" else 3.9
    facets = capsule(
        p,
        (side + 2.2, pillar + 0.5, top_of_pillar),
        (side + 1.2, pillar - 5.5, foot),
        (thick + FACET_MM * wear.facet[0], thick + FACET_MM * wear.facet[1]),
    )
    low = -arch.lamina_drop
    lamina = capsule(p, (side, pillar - 1.5, up * 0.5), (0.0, roof - 1.5, low), (3.0, 3.2))
    lower = capsule(p, (side, pillar - 3.5, low), (0.0, roof - 2.5, low - 0.35 * h), (2.8, 3.0))
    blade = capsule(
        (box.r, box.u, box.v),
        (0.0, roof - 3.0, low - 0.15 * h),
        (0.0, roof - arch.spine_length, low - arch.spine_drop),
        (arch.spine_start, arch.spine_end),
    )
    if v.name[0] == "L":
        blade = _plate(box, arch, roof, low - 0.15 * h)
    blade = np.maximum(blade, np.abs(box.r) - arch.thickness)
    distance = np.minimum.reduce([pedicle, facets, lamina, lower, blade]).astype(np.float32)
    _finish_bone(canvas, box, distance, marrow(wear.marrow) + 0.02, v.name, rim_mm=1.0)


def _plate(box: Box, arch: Arch, roof: float, start_v: float) -> Array:
    """A lumbar spinous process: a broad hatchet with round corners, higher at its free end."""
    length = arch.spine_length - 1.0
    drop = arch.spine_drop / length
    back = roof - 1.0 - box.u
    up = box.v - start_v + drop * back
    half = arch.spine_start - 1.5 + 0.06 * np.clip(back, 0, length)
    q_back = np.abs(back - length / 2) - (length / 2 - 3.0)
    q_up = np.abs(up) - (half - 3.0)
    outside = np.hypot(np.maximum(q_back, 0), np.maximum(q_up, 0))
    plate: Array = (outside + np.minimum(np.maximum(q_back, q_up), 0) - 3.0)[None].astype(
        np.float32
    )
    return plate


def _finish_bone(
    canvas: Canvas, box: Box, distance: Array, signal: float, name: str, *, rim_mm: float
) -> None:
    """Marrow inside a dark cortex, labelled."""
    rim = np.clip(1 + distance / rim_mm, 0, 1)
    canvas.paint(box, distance, signal + rim * (CORTEX - signal))
    level = LEVELS[name]
    semantic = SEMANTIC["sacrum" if name == "sacrum" else "vertebra"]
    canvas.label(box, distance, semantic, level)


def draw_atlas_and_dens(canvas: Canvas, exam: Exam, spine: Spine) -> None:
    """The dens on C2, and the ring of C1 around it: anterior arch, lateral masses, posterior arch."""
    size = spine.scale / 0.945
    signal = marrow(float(exam.severities["marrow"][0])) + 0.02
    tip = spine.dens
    box = canvas.box(tip, 46, 24, 40, 18)
    if box is None:
        return
    p = (box.r, box.u, box.v)
    ring_v = -7.5 * size
    centre_u, long_u, wide_r = -10.0, 18.5 * size, 20.0 * size
    angle = np.arctan2(
        (box.u - centre_u) / long_u, np.abs(box.r) / wide_r
    )  # +-90 deg at the midline
    rho = np.hypot((box.u - centre_u) / long_u, box.r / wide_r)
    lateral = np.cos(angle) ** 4
    tube = np.where(angle > 0, 4.3, 3.8) + 4.0 * lateral
    across = (rho - 1) * (0.5 * (long_u + wide_r))
    ring = np.hypot(across, (box.v - ring_v) * np.where(angle > 0, 0.72, 0.9)) - tube
    _finish_bone(canvas, box, ring.astype(np.float32), signal, "C1", rim_mm=1.0)
    dens = capsule(
        p, (0, -1.0, -DENS_MM * spine.scale - 6), (0, 0.0, -3.6), (5.6 * size, 4.6 * size)
    )
    _finish_bone(canvas, box, dens, signal, "C2", rim_mm=1.0)
