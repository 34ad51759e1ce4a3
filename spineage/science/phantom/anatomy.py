"""The skeleton of one exam: where every vertebra, disc and sacral segment sits, before anything is drawn.

Built from the sacrum up: body, disc, body ... each leaning by its own wedge. Sizes in mm of an average man,
angles of a person lying down: textbook values, rounded by us, plausible rather than fitted to a cohort.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spineage.science.phantom.canvas import Frame
from spineage.science.phantom.course import lay_canal
from spineage.science.phantom.population import Exam
from spineage.science.phantom.skeleton import DrawnDisc, Spine, Vertebra

# name: height, depth (front to back), width, canal depth, canal half-width, wedge of body, of the disc below
# (degrees; positive is lordotic), height of the young disc below
SIZES: dict[str, tuple[float, float, float, float, float, float, float, float]] = {
    "C2": (19.0, 16.0, 19.0, 16.5, 11.5, 0.0, 2.5, 5.4),
    "C3": (14.5, 16.0, 20.0, 14.5, 11.5, -0.5, 3.5, 5.6),
    "C4": (14.0, 16.2, 20.5, 14.0, 12.0, -0.5, 3.5, 5.8),
    "C5": (13.5, 16.5, 21.5, 14.0, 12.2, -0.5, 3.5, 6.0),
    "C6": (13.5, 17.0, 23.0, 14.0, 12.2, -0.5, 3.0, 6.2),
    "C7": (15.0, 17.2, 25.0, 14.5, 12.0, -0.3, 1.5, 5.8),
    "T1": (16.8, 17.0, 26.0, 15.0, 10.5, -1.5, 0.0, 5.0),
    "T2": (17.8, 17.8, 26.0, 15.0, 9.5, -2.0, -0.3, 4.7),
    "T3": (18.4, 18.8, 26.0, 15.0, 9.0, -2.5, -0.4, 4.7),
    "T4": (18.8, 20.5, 26.0, 15.0, 8.7, -2.9, -0.5, 4.7),
    "T5": (19.3, 22.0, 26.5, 15.0, 8.7, -3.1, -0.6, 4.9),
    "T6": (19.8, 23.8, 27.0, 15.0, 8.7, -3.4, -0.6, 5.1),
    "T7": (20.3, 25.5, 28.0, 15.0, 8.7, -3.5, -0.6, 5.4),
    "T8": (20.8, 26.8, 29.5, 15.0, 8.8, -3.4, -0.5, 5.7),
    "T9": (21.3, 27.8, 31.0, 15.2, 8.9, -3.0, -0.4, 6.0),
    "T10": (22.2, 28.5, 33.0, 15.4, 9.0, -2.8, -0.3, 6.5),
    "T11": (22.8, 29.2, 35.5, 16.0, 9.8, -2.8, 0.0, 7.1),
    "T12": (24.2, 29.8, 38.0, 17.2, 10.8, -2.4, 1.2, 8.2),
    "L1": (25.6, 31.0, 40.0, 17.6, 11.3, -1.8, 4.0, 9.4),
    "L2": (26.4, 32.0, 41.5, 17.2, 11.5, -0.8, 6.0, 10.4),
    "L3": (26.8, 33.0, 43.5, 17.0, 11.8, 1.0, 8.0, 11.4),
    "L4": (26.8, 33.8, 46.0, 17.2, 12.2, 3.2, 10.5, 12.2),
    "L5": (26.4, 34.2, 49.0, 17.4, 13.0, 8.0, 13.5, 11.4),
}
SACRUM: tuple[tuple[float, float, float], ...] = (
    (29.0, 31.0, 5.0), (24.5, 22.0, 13.0), (20.5, 16.0, 9.0), (17.0, 12.0, -14.0), (14.0, 9.0, -40.0)
)  # fmt: skip
"""Height, depth at the top, and lean of S1..S5 beyond the slope of the S1 endplate (degrees)."""

DENS_MM = 17.0
SCOLIOSIS_MM = 95.0  # the sideways curve is a sine of 60 cm
SLOPE_DEGREES = 37.0
LONGEST_MM = 640.0  # from the dens to S5: what the field of view holds with a margin
MIN_DISC_MM = 3.3  # two pixels at demo resolution: thinner discs are not resolved


def chain(num_lumbar: int) -> list[str]:
    """Vertebrae below C1, cranial to caudal."""
    lumbar = [f"L{i}" for i in range(1, num_lumbar + 1)]
    return [*(f"C{i}" for i in range(2, 8)), *(f"T{i}" for i in range(1, 13)), *lumbar]


def _template(name: str, num_lumbar: int) -> str:
    """Whose sizes a vertebra takes: the last lumbar one is shaped like an L5, whatever its number."""
    if name[0] != "L":
        return name
    from_end = num_lumbar - int(name[1])
    return f"L{max(1, 5 - from_end)}"


def build_spine(exam: Exam) -> Spine:
    """The skeleton of an exam, from sacrum to dens centred on S 0 mm, the bodies on average at A 0 mm."""
    scale = exam.person.build.size
    spine = _assembled(exam, scale)
    length_mm = spine.dens.s_mm - spine.sacrum[-1].s_mm
    return spine if length_mm <= LONGEST_MM else _assembled(exam, scale * LONGEST_MM / length_mm)


def _assembled(exam: Exam, scale: float) -> Spine:
    """The skeleton with its heights scaled."""
    person, build = exam.person, exam.person.build
    names = chain(person.num_lumbar)
    young = np.array([SIZES[_template(n, person.num_lumbar)] for n in names])
    height, depth, width = young[:, 0] * scale, young[:, 1] * build.depth, young[:, 2] * build.depth
    loss = np.clip(exam.severities["height"], 0, 1.15)
    disc_mm = np.maximum(young[:, 7] * scale * build.disc * (1 - 0.5 * loss), MIN_DISC_MM)
    broken = {f.vertebra: f for f in exam.lesions.fractures}
    body_turn, disc_turn = _wedges(exam, names, young, disc_mm, depth)

    slope = np.radians(SLOPE_DEGREES + 20 * (build.lordosis - 1))
    slips = {slip.disc: slip.slip_mm for slip in exam.lesions.slips}
    frame = Frame(0.0, 0.0, slope)  # the middle of the S1 endplate
    vertebrae: list[Vertebra] = []
    for i in reversed(range(len(names))):
        fracture = broken.get(i + 1)
        half = height[i] / 2 * (1 - 0.35 * fracture.loss if fracture else 1.0)
        frame = frame.moved(slips.get(i, 0.0), 0.0, -disc_turn[i] / 2)
        frame = frame.moved(0.0, disc_mm[i], -disc_turn[i] / 2)
        centre = frame.moved(0.0, half, -body_turn[i] / 2)
        frame = centre.moved(0.0, half, -body_turn[i] / 2)
        wedge = np.tan(body_turn[i] / 2) * depth[i] / (2 * half)
        vertebrae.append(
            Vertebra(
                index=i + 1,
                name=names[i],
                frame=centre,
                half_height=float(half),
                half_depth=float(depth[i] / 2),
                half_width=float(width[i] / 2),
                canal_depth=float(young[i, 3] * build.canal),
                canal_half_width=float(young[i, 4] * build.canal),
                wedge=float(wedge),
                fracture=fracture,
            )
        )
    vertebrae.reverse()
    sacrum = _sacrum(slope, scale)
    return _placed(exam, vertebrae, sacrum, scale, disc_mm)


def _wedges(
    exam: Exam,
    names: list[str],
    young: NDArray[np.float64],
    disc_mm: NDArray[np.float64],
    depth: NDArray[np.float64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Turn of each body and each disc in radians, lordotic positive; a thin disc cannot wedge much."""
    build = exam.person.build
    region = np.array([n[0] for n in names])
    old = float(np.clip(exam.severities["kyphosis"][0], 0, 1.6))
    kyphosis = min(build.kyphosis * (1 + 0.3 * old), 1.5)
    neck = build.neck + 1.5 * (kyphosis - 1.0)  # the neck makes up for the chest, to look ahead
    factor = np.select([region == "C", region == "T"], [neck, kyphosis], build.lordosis)
    lordotic = young[:, 5] > 0
    body = np.radians(young[:, 5] * np.where((region == "L") & ~lordotic, 1.0, factor))
    disc = np.radians(young[:, 6] * factor)
    for fracture in exam.lesions.fractures:
        i = fracture.vertebra - 1
        body[i] -= fracture.loss * young[i, 0] / depth[i] * 0.5
    limit = np.arctan((disc_mm - 0.55 * MIN_DISC_MM) / (depth / 2))
    return body, np.clip(disc, -limit, limit)


def _sacrum(slope: float, scale: float) -> tuple[Frame, ...]:
    """Frames in the middle of S1..S5."""
    frame = Frame(0.0, 0.0, slope)
    frames = []
    for height, _, lean in SACRUM:
        tilt = slope + np.radians(lean)
        top = Frame(frame.a_mm, frame.s_mm, tilt)
        frames.append(top.moved(0.0, -height * scale / 2))
        frame = top.moved(0.0, -height * scale)
    return tuple(frames)


def _placed(
    exam: Exam,
    vertebrae: list[Vertebra],
    sacrum: tuple[Frame, ...],
    scale: float,
    disc_mm: NDArray[np.float64],
) -> Spine:
    """Turn the spine upright, move it to the middle, add the sideways curve, lay the canal along it."""
    c2 = vertebrae[0]
    top = c2.frame.moved(0.0, c2.half_height + DENS_MM * scale)
    lean = np.arctan2(top.a_mm - 2.0, top.s_mm)  # C2 over the promontory
    c, s = np.cos(lean), np.sin(lean)
    middle_a = np.mean([v.frame.a_mm * c - v.frame.s_mm * s for v in vertebrae])
    ends = (top, sacrum[-1])
    middle_s = np.mean([f.a_mm * s + f.s_mm * c for f in ends])

    def place(f: Frame) -> Frame:
        a_mm = float(f.a_mm * c - f.s_mm * s - middle_a)
        s_mm = float(f.a_mm * s + f.s_mm * c - middle_s)
        side_mm = exam.person.build.scoliosis_mm * np.sin(s_mm / SCOLIOSIS_MM)
        return Frame(a_mm, s_mm, f.tilt - lean, float(side_mm))

    bodies = tuple(replace(v, frame=place(v.frame)) for v in vertebrae)
    segments = tuple(place(f) for f in sacrum)
    dens = place(top)
    discs = _discs(bodies, segments[0].moved(0.0, SACRUM[0][0] * scale / 2), disc_mm)
    course = lay_canal(bodies, discs, segments, [depth for _, depth, _ in SACRUM], dens)
    return Spine(bodies, discs, segments, dens, scale, course)


def _discs(
    bodies: tuple[Vertebra, ...], s1: Frame, disc_mm: NDArray[np.float64]
) -> tuple[DrawnDisc, ...]:
    """A disc midway between every two endplates; s1 is the middle of the sacral one."""
    discs = []
    for i, v in enumerate(bodies):
        below = bodies[i + 1] if i + 1 < len(bodies) else v
        end = s1 if below is v else below.frame.moved(0.0, below.half_height)
        start = v.frame.moved(0.0, -v.half_height)
        discs.append(
            DrawnDisc(
                index=i,
                upper=v.name,
                lower="sacrum" if below is v else below.name,
                frame=_between(start, end),
                height=float(disc_mm[i]),
                half_depth=(v.half_depth + below.half_depth) / 2,
                half_width=(v.half_width + below.half_width) / 2,
            )
        )
    return tuple(discs)


def _between(upper: Frame, lower: Frame) -> Frame:
    return Frame(
        (upper.a_mm + lower.a_mm) / 2,
        (upper.s_mm + lower.s_mm) / 2,
        (upper.tilt + lower.tilt) / 2,
        (upper.r_mm + lower.r_mm) / 2,
    )
