"""Everything the report is made of, gathered once (by `stages/report/evidence.py`) and never changed.

Optional parts are empty frames or dicts when the study has none; chapters then leave themselves out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spineage.report.figures.anatomy import SagittalSlice
from spineage.study import Study

Key = tuple[str, str]


@dataclass(frozen=True)
class Tables:
    """The study's tables, joined as far as every chapter needs.

    scans, predictions and scores carry `status` and `cluster` of the cohort; predictions also `sex`, `site`
    and `exam_id`; all three carry `gap_years` and `oracle_years` of a phantom population (NaN without truth).
    faults holds one row per scan that has no score: its last fault. file_faults: how many files ended how.
    """

    file_faults: Mapping[str, int]
    series: pd.DataFrame
    scans: pd.DataFrame
    cohort: pd.DataFrame
    masks: pd.DataFrame
    prepared: pd.DataFrame
    history: pd.DataFrame
    predictions: pd.DataFrame
    calibration: Mapping[str, Any]
    scores: pd.DataFrame
    faults: pd.DataFrame
    associations: pd.DataFrame
    explanations: pd.DataFrame
    ablations: pd.DataFrame

    @property
    def is_phantom(self) -> bool:
        """Every scan was made by the phantom, none by a scanner."""
        return bool(len(self.scans) and self.scans["is_phantom"].all())

    @property
    def has_own_model(self) -> bool:
        """The study trained the model it scores with; otherwise a published one was used."""
        return bool(len(self.history) and len(self.predictions) and self.calibration)

    @property
    def num_phantoms(self) -> int:
        return int(self.scans["is_phantom"].sum())

    @property
    def has_truth(self) -> bool:
        """The planted truth is known for some scan."""
        return bool(self.scores["gap_years"].notna().any())


@dataclass(frozen=True)
class Pictures:
    """The slices that are drawn: prepared ones by scan, a few of the whole anatomy, Grad-CAM maps."""

    prepared: Mapping[Key, SagittalSlice] = field(default_factory=dict)
    anatomy: tuple[tuple[str, SagittalSlice], ...] = ()
    is_whole_anatomy: bool = False
    gradcam: tuple[tuple[str, SagittalSlice, NDArray[np.float64]], ...] = ()


@dataclass(frozen=True)
class Evidence:
    """What the report knows. segmenter: the manifest of the network that drew the masks."""

    study: Study
    tables: Tables
    pictures: Pictures
    audit: Mapping[str, Any]
    sample: Mapping[str, Any]
    not_tested: Sequence[Mapping[str, str]]
    best_epoch: int | None
    records: Mapping[str, Mapping[str, Any]]
    fingerprints: Mapping[str, str]
    segmenter: Mapping[str, Any]


def scans_not_drawn(tables: Tables, study: Study) -> set[str]:
    """Scans with a series whose header says that text is part of the picture, which may be a name."""
    if study.report.show_burned_in:
        return set()
    burned_in = tables.series[tables.series["burned_in"].astype(bool)]
    return set(burned_in["scan_id"].dropna())


def people_shown(tables: Tables, most: int) -> list[str]:
    """People with a section of their own: all, or the first by their hash, which is as good as a
    random draw.
    """
    return sorted(tables.scans["person_id"].unique())[:most]


def title_of(scan: Any) -> str:
    """`54 y, F` for a row with age_years and sex: enough to read a picture by, and names nobody."""
    age = "age unknown" if pd.isna(scan.age_years) else f"{scan.age_years:.0f} y"
    return f"{age}, {'sex unknown' if pd.isna(scan.sex) else scan.sex}"
