"""The audit of the cohort as a page of its own: what a reviewer of the cohort alone is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

import spineage
from spineage.report.chapters import cohort, population
from spineage.report.figures.cohort import one_row_a_person
from spineage.report.page import render
from spineage.report.words import COLOPHON, DISCLAIMER, counted, percent, phantom_words
from spineage.study import Study


def page(study: Study, table: pd.DataFrame, scans: pd.DataFrame, audit: Mapping[str, Any]) -> str:
    """One self-contained file; the chapters are those of the report."""
    people = one_row_a_person(table)
    num_phantoms = int(scans["is_phantom"].sum())
    normal = (people["status"] == "normal").mean()
    return render(
        {
            "title": f"{study.report.title}: the cohort",
            "lead": f"{counted(len(people), 'person', 'people')}, of whom {percent(normal)} count as normal "
            f"under the rule “{study.cohort.rule}”.",
            "byline": f"Study {study.name}, seed {study.seed}, spineage {spineage.__version__}.",
            "is_phantom": num_phantoms > 0,
            "phantom_words": phantom_words(num_phantoms, len(scans)),
            "chapters": [
                population.data(table, scans),
                cohort.chapter(table, audit, study),
            ],
            "people": (),
            "people_words": (),
            "axis": None,
            "disclaimer": DISCLAIMER,
            "colophon": COLOPHON,
        }
    )
