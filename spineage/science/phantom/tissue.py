"""Signal of each tissue on T2, relative to CSF = 1."""

from __future__ import annotations

import numpy as np

CSF = 1.0
FAT = 0.70
EPIDURAL_FAT = 0.62
MUSCLE = 0.17
CORTEX = 0.05
LIGAMENT = 0.07
ANNULUS = 0.14
CORD = 0.40
ROOT = 0.42
BRAIN = 0.44
SKIN = 0.30
AIR = 0.0
FLOW_VOID = 0.03
ORGAN = 0.30
BLADDER = 0.95

YOUNG_MARROW, OLD_MARROW = 0.24, 0.54
YOUNG_NUCLEUS, OLD_NUCLEUS = 0.84, 0.11


def blend(young: float, old: float, severity: float, *, beyond: float = 1.1) -> float:
    """Between a young and an old signal; severities are clipped to -0.1 .. beyond."""
    return young + (old - young) * float(np.clip(severity, -0.1, beyond))


def marrow(severity: float) -> float:
    """Red marrow is dark, yellow (fatty) marrow bright."""
    return blend(YOUNG_MARROW, OLD_MARROW, severity)


def nucleus(severity: float) -> float:
    """A hydrated nucleus is nearly as bright as CSF, a dry one as dark as the annulus."""
    return blend(YOUNG_NUCLEUS, OLD_NUCLEUS, severity, beyond=1.0)
