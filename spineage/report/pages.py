"""The whole report: chapters in order, people, and what stands on every page."""

from __future__ import annotations

import spineage
from spineage.report.chapters import (
    accuracy,
    cohort,
    gap,
    methods,
    opening,
    people,
    population,
    road,
    spine,
)
from spineage.report.evidence import Evidence, Tables
from spineage.report.page import Chapter, render
from spineage.report.words import COLOPHON, DISCLAIMER, counted
from spineage.report.words import phantom_words as words_of


def chapters(evidence: Evidence) -> list[Chapter]:
    """In the order they are read; a chapter the study has nothing for leaves itself out."""
    own = evidence.tables.has_own_model
    found = [
        opening.chapter(evidence),
        road.chapter(evidence),
        population.data(evidence.tables.cohort, evidence.tables.scans),
        cohort.chapter(evidence.tables.cohort, evidence.audit, evidence.study),
        spine.segmentation(evidence),
        accuracy.training(evidence) if own else None,
        accuracy.accuracy(evidence) if own else None,
        gap.sag(evidence),
        gap.associations(evidence),
        gap.ablations(evidence),
        spine.explain(evidence),
        road.refusals(evidence),
        methods.chapter(evidence),
    ]
    return [chapter for chapter in found if chapter is not None]


def html(evidence: Evidence) -> str:
    """The report as one self-contained file."""
    tables = evidence.tables
    shown = people.pages(evidence)
    return render(
        {
            "title": evidence.study.report.title,
            "lead": opening.lead(tables),
            "byline": _byline(evidence),
            "is_phantom": tables.num_phantoms > 0,
            "phantom_words": phantom_words(tables),
            "chapters": chapters(evidence),
            "people": shown,
            "people_words": _people_words(tables, len(shown)),
            "axis": people.axis(tables),
            "disclaimer": DISCLAIMER,
            "colophon": COLOPHON,
        }
    )


def _byline(evidence: Evidence) -> str:
    study = evidence.study
    return f"Study {study.name}, seed {study.seed}, spineage {spineage.__version__}."


def phantom_words(tables: Tables) -> str:
    """What the banner says; it stands on every chapter when any scan is a phantom."""
    return words_of(tables.num_phantoms, len(tables.scans))


def _people_words(tables: Tables, num_shown: int) -> tuple[str, ...]:
    total = int(tables.scans["person_id"].nunique())
    which = (
        f"All {counted(total, 'person', 'people')}."
        if num_shown == total
        else f"{num_shown:,} of {total:,} people, the first by their hash, which is as good as a random draw."
    )
    return (
        f"{which} Open a line to read it. The interval comes first: it says between which ages a "
        "person with such a spine may be. The raw prediction is its middle. Spine age and gap "
        "(SAG) use the person's age and come last.",
    )
