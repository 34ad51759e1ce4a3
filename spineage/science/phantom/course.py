"""Laying the canal along the skeleton: behind every body and disc, down the sacrum, up into the skull."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from spineage.science.phantom.canvas import Frame
from spineage.science.phantom.skeleton import Course, DrawnDisc, Vertebra

SACRAL_CANAL_MM = ((15.5, 13.5), (12.0, 11.0), (8.0, 8.0), (5.0, 6.0), (3.5, 5.0))
"""Depth and half-width behind S1..S5."""
SKULL_CANAL_MM = (("brainstem", 26.0, 15.0), ("foramen", 22.0, 14.0), ("C1", 18.0, 13.0))
SMOOTH_MM = 7
"""Half-width of the window that rounds the corners of the polyline."""

Knot = tuple[str, float, float, float, float]
"""name, A and S of the wall, depth and half-width of the canal; mm."""


def lay_canal(
    bodies: Sequence[Vertebra],
    discs: Sequence[DrawnDisc],
    sacrum: Sequence[Frame],
    sacral_depths: Sequence[float],
    dens: Frame,
) -> Course:
    """The course of the canal through knots behind everything that has a name."""
    behind_dens = [
        dens.moved(0, 0, 0.05).at(-8.0, 42.0),
        dens.moved(0, 0, -0.05).at(-8.0, 16.0),
        dens.at(-7.5, 0.0),
    ]
    knots: list[Knot] = [
        (name, *point, depth, half_width)
        for (name, depth, half_width), point in zip(SKULL_CANAL_MM, behind_dens, strict=True)
    ]
    for v, disc in zip(bodies, discs, strict=True):
        size = (v.canal_depth, v.canal_half_width)
        knots.append((v.name, *v.frame.at(-v.half_depth, 0.0), *size))
        knots.append((f"disc_below_{v.name}", *disc.frame.at(-disc.half_depth, 0.0), *size))
    for i, (frame, depth) in enumerate(zip(sacrum, sacral_depths, strict=True)):
        knots.append((f"S{i + 1}", *frame.at(-0.46 * depth, 0.0), *SACRAL_CANAL_MM[i]))
    return _course(knots[::-1])


def _course(knots: list[Knot]) -> Course:
    """A smooth curve through knots given from the tail up."""
    values = np.array([knot[1:] for knot in knots])
    steps = np.linalg.norm(np.diff(values[:, :2], axis=0), axis=1)
    at = np.array(list(accumulate(steps, initial=0.0)))
    fine = np.arange(0.0, at[-1], 1.0)
    a, s, depth, half_width = (_rounded(np.interp(fine, at, column)) for column in values.T)
    wall = np.stack([a, s], axis=1)
    tangent = np.gradient(wall, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    back = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    along = dict(zip([knot[0] for knot in knots], at.tolist(), strict=True))
    return Course(wall, back, depth, half_width, along)


def _rounded(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """The line with its corners rounded and its ends kept, by a moving window over it and its extension."""
    kernel = np.hanning(2 * SMOOTH_MM + 1)[1:-1]
    pad = np.arange(1, SMOOTH_MM)
    before = line[0] - (line[1] - line[0]) * pad[::-1]
    after = line[-1] + (line[-1] - line[-2]) * pad
    return np.convolve(np.concatenate([before, line, after]), kernel / kernel.sum(), mode="valid")
