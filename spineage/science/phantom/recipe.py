"""The recipe of a phantom population: everything that decides what is made."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from spineage.errors import BadStudy

SCHEMA = 1
"""Raised when the same recipe would make other voxels or other tables."""


@dataclass(frozen=True)
class PhantomRecipe:
    """A population that may be shipped, because nobody is in it.

    Equal recipes give equal bytes. `feature_noise` scales every deviation of the anatomy from what the
    biological age alone would give: 0 is a textbook, 1 the default difficulty, 2 a hard population.
    """

    num_people: int = 80
    seed: int = 2511
    in_plane_mm: float = 1.6  # demo resolution: half of what a scanner gives, an eighth of the work
    slice_mm: float = 4.4  # 4 mm slices with a 10 % gap
    num_slices: int = 13  # 57 mm: both rows of neural foramina
    stations: Literal["three", "composed"] = "three"
    repeat_share: float = 0.1  # of people scanned twice: half the same day, half years later
    gap_sd_years: float = 5.0
    age_low_years: float = 25.0
    age_high_years: float = 84.0
    feature_noise: float = 1.0
    pathological_share: float = 0.25
    transitional_share: float = 0.04  # L4 last or L6 present
    artefact_share: float = 0.15

    def __post_init__(self) -> None:
        if self.num_people < 1:
            raise BadStudy(
                f"a phantom population of {self.num_people} people: at least 1 is needed"
            )
        if not 0.5 <= self.in_plane_mm <= 2.0 or not 2.0 <= self.slice_mm <= 6.0:
            raise BadStudy(
                f"phantom voxels of {self.in_plane_mm:g} x {self.slice_mm:g} mm: in plane 0.5-2 mm and "
                "slices 2-6 mm apart can be made"
            )
        if self.stations not in ("three", "composed"):
            raise BadStudy(f"stations {self.stations!r}: 'three' or 'composed' can be made")
        if not 7 <= self.num_slices <= 31:
            raise BadStudy(f"{self.num_slices} phantom slices: 7-31 can be made")
        if not 18 <= self.age_low_years < self.age_high_years <= 95:
            raise BadStudy(
                f"phantom ages {self.age_low_years:g}-{self.age_high_years:g}: an increasing range in 18-95"
            )
        if self.gap_sd_years < 3.0:
            raise BadStudy(
                f"gap_sd_years {self.gap_sd_years:g}: the planted factors alone make 2.9, so at least 3"
            )
        for name in ("repeat_share", "pathological_share", "transitional_share", "artefact_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadStudy(f"{name} {getattr(self, name):g}: a share lies in 0-1")

    @property
    def digest(self) -> str:
        """16 hex digits that name what this recipe makes."""
        text = json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def generator(self, *path: int) -> np.random.Generator:
        """The random stream of one person or exam and one purpose, independent of all others."""
        return np.random.default_rng([self.seed, *path])
