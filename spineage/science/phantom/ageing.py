"""How a spine ages: severities of degeneration as a function of biological age, level by level.

Every feature is a severity: 0 is a young spine, about 1 a very old one. Its mean is a hinge in biological
age (nothing before the onset, linear after), times a rate for each level, plus the shift of a disease
archetype; around it lies noise shared by all levels of a person and noise of each level. The oracle inverts
exactly this.
Letters: F features of all levels in one row, L levels of one feature.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Severities = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Ageing:
    """One feature. `rates` name the pattern over levels; `shared` and `own` are SDs of the noise."""

    name: str
    onset_years: float
    span_years: float
    pattern: str
    shared: float
    own: float


AGEING: tuple[Ageing, ...] = (
    Ageing("nucleus", 18, 66, "everywhere", 0.06, 0.09),  # loss of disc signal
    Ageing("height", 22, 62, "everywhere", 0.07, 0.10),  # loss of disc height
    Ageing("marrow", 18, 66, "vertebrae", 0.07, 0.04),  # yellow marrow
    Ageing("bulge", 32, 52, "mobile", 0.10, 0.14),
    Ageing("osteophyte", 38, 48, "mobile", 0.10, 0.14),
    Ageing("endplate", 34, 52, "mobile", 0.10, 0.14),
    Ageing("flavum", 30, 56, "mobile", 0.10, 0.12),
    Ageing("facet", 36, 50, "mobile", 0.10, 0.14),
    Ageing("kyphosis", 42, 44, "once", 0.20, 0.0),
)

CERVICAL_RATES = {
    "everywhere": (0.70, 0.85, 0.95, 1.05, 1.00, 0.75),
    "mobile": (0.25, 0.50, 0.75, 1.00, 0.90, 0.35),
}
THORACIC_RATES = {
    "everywhere": (0.70, 0.72, 0.75, 0.80, 0.85, 0.90, 0.90, 0.88, 0.85, 0.80, 0.80, 0.80),
     "mobile": (0.15, 0.15, 0.18, 0.20, 0.28, 0.35, 0.38, 0.38, 0.32, 0.30, 0.35, 0.35),
}  # fmt: skip
LUMBAR_RATES = {
    "everywhere": (0.85, 0.90, 0.95, 1.05, 1.05),
    "mobile": (0.50, 0.65, 0.80, 1.00, 0.95),
}


@dataclass(frozen=True)
class Archetype:
    """A way of being ill beyond one's age: severities added at some levels.

    region, from_end: the discs it strikes, counted from the caudal end of the region.
    """

    name: str
    region: str
    from_end: tuple[int, ...]
    shift: Mapping[str, float]


DEGENERATIVE = {
    "nucleus": 0.45,
    "height": 0.50,
    "bulge": 0.60,
    "osteophyte": 0.50,
    "endplate": 0.45,
    "flavum": 0.55,
    "facet": 0.60,
}
ARCHETYPES: tuple[Archetype, ...] = (
    Archetype("normal", "none", (), {}),
    Archetype("lumbar_degenerative", "lumbar", (0, 1, 2), DEGENERATIVE),
    Archetype("cervical_degenerative", "cervical", (1, 2, 3), DEGENERATIVE),
    Archetype("osteoporotic", "all", (), {"marrow": 0.25, "kyphosis": 0.4, "endplate": 0.35}),
)


def archetype_shares(pathological_share: float, age_years: float) -> NDArray[np.float64]:
    """Probability of each of ARCHETYPES; osteoporosis belongs to those over 50."""
    brittle = 0.35 if age_years >= 50 else 0.0
    ill = np.array([0.6 * (1 - brittle), 0.4 * (1 - brittle), brittle])
    return np.concatenate([[1 - pathological_share], pathological_share * ill])


def rates(pattern: str, num_lumbar: int) -> NDArray[np.float64]:
    """How fast each level ages, cranial to caudal: discs C2/3 down, or vertebrae C1 down, or one value.

    The caudal lumbar discs keep their pattern when there is a lumbar vertebra more or less.
    """
    if pattern == "once":
        return np.ones(1)
    if pattern == "vertebrae":
        return np.linspace(0.9, 1.05, 19 + num_lumbar)
    lumbar: tuple[float, ...] = LUMBAR_RATES[pattern]
    lumbar = (*lumbar[:1] * max(0, num_lumbar - 5), *lumbar[-min(num_lumbar, 5) :])
    return np.array([*CERVICAL_RATES[pattern], *THORACIC_RATES[pattern], *lumbar])


def struck(archetype: Archetype, pattern: str, num_lumbar: int) -> NDArray[np.float64]:
    """1 at the levels that an archetype strikes, 0 elsewhere."""
    levels = np.zeros(len(rates(pattern, num_lumbar)))
    if archetype.region == "all" or pattern == "once":
        return levels + 1
    end = {"cervical": 6, "lumbar": len(levels), "none": 0}[archetype.region]
    for step in archetype.from_end:
        levels[end - 1 - step] = 1
    return levels


def mean_severity(
    feature: Ageing, biological_years: NDArray[np.float64], archetype: Archetype, num_lumbar: int
) -> NDArray[np.float64]:
    """Expected severity [..., L] at each biological age [...]."""
    age = np.maximum(biological_years - feature.onset_years, 0.0) / feature.span_years
    mean: NDArray[np.float64] = age[..., None] * rates(feature.pattern, num_lumbar)
    shift = archetype.shift.get(feature.name, 0.0)
    return mean + shift * struck(archetype, feature.pattern, num_lumbar) if shift else mean


def draw_noise(
    rng: np.random.Generator, feature_noise: float, num_lumbar: int
) -> dict[str, NDArray[np.float64]]:
    """One person's lasting deviations from the mean: the same at every visit."""
    noise = {}
    for feature in AGEING:
        shared = feature.shared * rng.standard_normal()
        own = feature.own * rng.standard_normal(len(rates(feature.pattern, num_lumbar)))
        noise[feature.name] = feature_noise * (shared + own)
    return noise


def severities(
    biological_years: float,
    archetype: Archetype,
    num_lumbar: int,
    noise: dict[str, NDArray[np.float64]],
) -> Severities:
    """The planted features of one exam; may fall below 0 or above 1, drawing clips what it draws."""
    at = np.array(biological_years)
    return {f.name: mean_severity(f, at, archetype, num_lumbar) + noise[f.name] for f in AGEING}
