"""A spine of boxes: enough anatomy to test geometry and wiring cheaply. Discs darken with age.

Letters: R left->right, A posterior->anterior, S inferior->superior.
"""

from __future__ import annotations

import numpy as np

from spineage.science.network.tensor import make_tensor
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS
from spineage.study import Prepare

CHAIN = (
    *(f"C{i}" for i in range(2, 8)),
    *(f"T{i}" for i in range(1, 13)),
    *(f"L{i}" for i in range(1, 6)),
)
BODY_MM = {"C": 13.0, "T": 19.0, "L": 26.0}
DISC_MM = {"C": 5.0, "T": 5.0, "L": 9.0}
SACRUM_MM = 60.0

SMALL = Prepare(shape=(8, 40, 160), spacing_mm=(8.0, 4.4, 4.4))
"""The default grid's millimetres in an eighth of its voxels."""


def toy_spine(
    age_years: float = 50.0,
    *,
    seed: int = 0,
    spacing_mm: tuple[float, float, float] = (4.0, 2.2, 2.2),
    origin_mm: tuple[float, float, float] = (-40.0, -70.0, -360.0),
    gain: float = 500.0,
    field: float = 0.0,
    left_mark: bool = False,
) -> tuple[Volume, Volume]:
    """A scan and its levels. field: log gain per metre along S. left_mark: left is twice as bright."""
    rng = np.random.default_rng(seed)
    shape = tuple(round(mm / edge) for mm, edge in zip((80, 140, 720), spacing_mm, strict=True))
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = origin_mm
    grid = np.indices(shape).astype(np.float32)
    r_mm, a_mm, s_mm = (grid[i] * spacing_mm[i] for i in range(3))
    curve_mm = 12 * np.sin(s_mm / 110)
    levels = np.zeros(shape, np.uint8)
    signal = np.full(shape, 1.2, np.float32)  # the body around it, brighter than the spine
    middle = np.abs(r_mm - 40) < 20
    body = middle & (np.abs(a_mm - 75 - curve_mm) < 16)
    canal = (np.abs(r_mm - 40) < 10) & (np.abs(a_mm - 50 - curve_mm) < 8) & (s_mm < 700)
    cord = canal & (np.abs(r_mm - 40) < 5) & (np.abs(a_mm - 50 - curve_mm) < 4)

    def draw(where: np.ndarray, label: str, value: float) -> None:
        levels[where] = LEVELS[label]
        signal[where] = value

    top_mm = 690.0
    dark = (age_years - 25) / 60
    for name in CHAIN:
        bottom_mm = top_mm - BODY_MM[name[0]]
        draw(body & (s_mm <= top_mm) & (s_mm > bottom_mm), name, 0.5)
        disc_top_mm, top_mm = bottom_mm, bottom_mm - DISC_MM[name[0]]
        within = body & (s_mm <= disc_top_mm) & (s_mm > top_mm)
        draw(within, f"disc_below_{name}", 0.9 - 0.6 * dark)
    draw(body & (s_mm <= top_mm) & (s_mm > top_mm - SACRUM_MM), "sacrum", 0.5)
    draw(canal & (s_mm > top_mm - SACRUM_MM / 2), "canal", 1.0)
    draw(cord & (s_mm > top_mm + 200), "cord", 0.6)
    if left_mark:
        signal[(r_mm < 40) & body] *= 2
    signal = signal * gain * np.exp(field * s_mm / 1000) * (1 + 0.05 * rng.standard_normal(shape))
    return Volume(signal.astype(np.float32), affine), Volume(levels, affine)


QUALITY = {
    "coverage": 1.0, "off_centre": 0.0, "loose_share": 0.0, "canal_gap_mm": 2.0, "cord_inside": 1.0,
    "discs_in_front": 1.0, "length_mm": 480.0, "height_ratio": 1.1, "volume_ratio": 1.1,
}  # fmt: skip
"""Columns of `masks` that tell of a good one."""


class ToyPeople:
    """Prepared toy spines of people of known age, as `learn.Examples`."""

    def __init__(self, ages_years: list[float], recipe: Prepare = SMALL) -> None:
        self.ages_years = ages_years
        spacing_mm = tuple(mm / 1.1 for mm in recipe.spacing_mm)
        spines = [toy_spine(age, seed=i, spacing_mm=spacing_mm) for i, age in enumerate(ages_years)]
        self._tensors = [make_tensor(*spine, recipe) for spine in spines]

    def __len__(self) -> int:
        return len(self.ages_years)

    def tensor(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        return self._tensors[i]

    def age_years(self, i: int) -> float:
        return self.ages_years[i]
