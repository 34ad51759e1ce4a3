"""What a skeleton is made of: values with a place, in mm. Built in anatomy.py, drawn by the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineage.science.phantom.canvas import Frame
from spineage.science.phantom.lesions import Fracture


@dataclass(frozen=True)
class Vertebra:
    """One vertebra below C1; half sizes in mm. `wedge` is the share by which the front is higher."""

    index: int  # 0 is C1
    name: str
    frame: Frame
    half_height: float
    half_depth: float
    half_width: float
    canal_depth: float
    canal_half_width: float
    wedge: float
    fracture: Fracture | None = None


@dataclass(frozen=True)
class DrawnDisc:
    """One disc, between the endplates of its neighbours. `index` 0 is C2/3."""

    index: int
    upper: str
    lower: str
    frame: Frame
    height: float
    half_depth: float
    half_width: float


@dataclass(frozen=True)
class Course:
    """The way of the canal: one point a millimetre along the back of the bodies, from the tail to the skull.

    wall: [N, 2] A and S in mm; back: [N, 2] unit vectors pointing behind it; depth, half_width: [N] mm of the
    bony canal; along: where each named vertebra, disc and sacral segment has its middle, in mm from the tail.
    """

    wall: NDArray[np.float64]
    back: NDArray[np.float64]
    depth: NDArray[np.float64]
    half_width: NDArray[np.float64]
    along: Mapping[str, float]

    def through(self, values: Mapping[str, float]) -> NDArray[np.float64]:
        """A line [N] through values given at named places."""
        points = sorted((self.along[name], value) for name, value in values.items())
        return np.interp(np.arange(len(self.wall)), [p[0] for p in points], [p[1] for p in points])


@dataclass(frozen=True)
class Spine:
    """Everything that is drawn has its place here. `dens` is at the tip of the dens."""

    vertebrae: tuple[Vertebra, ...]
    discs: tuple[DrawnDisc, ...]
    sacrum: tuple[Frame, ...]
    dens: Frame
    scale: float
    course: Course
