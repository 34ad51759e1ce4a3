"""What one person is compared with: held-out people with a normal spine, and normal disc heights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineage.report.chapters.accuracy import scored_test
from spineage.report.evidence import Tables
from spineage.science.frames import column_of, rows_of
from spineage.science.gap.bias import one_scan_a_person
from spineage.science.gap.sample import never_used
from spineage.tables import KEY

FEWEST_FOR_BAND = 8


@dataclass(frozen=True)
class Peers:
    """What one person is compared with: held-out normal gaps, held-out coverage, and normal disc
    heights.
    """

    gaps_years: NDArray[np.float64]
    num_inside: int
    num_tested: int
    disc_bands_mm: Mapping[str, tuple[float, float]]

    @staticmethod
    def of(tables: Tables) -> Peers:
        test = one_scan_a_person(scored_test(tables))
        age = test["age_years"]
        inside = int(
            ((age >= test["interval_low_years"]) & (age <= test["interval_high_years"])).sum()
        )
        unused = one_scan_a_person(never_used(tables.scores))
        gaps = column_of(unused[unused["status"] == "normal"], "sag_years")
        return Peers(gaps, inside, len(test), _disc_bands(tables))


def _disc_bands(tables: Tables) -> dict[str, tuple[float, float]]:
    normal = tables.scans.loc[tables.scans["status"] == "normal", KEY]
    heights: dict[str, list[float]] = {}
    for row in rows_of(tables.masks.merge(normal, on=KEY)):
        for name, height in zip(row.disc_names, row.disc_height_mm, strict=True):
            heights.setdefault(name, []).append(height)
    bands = {}
    for name, values in heights.items():
        known = np.array(values)[np.isfinite(values)]
        if len(known) >= FEWEST_FOR_BAND:
            low, high = np.quantile(known, [0.1, 0.9])
            bands[name] = (float(low), float(high))
    return bands
