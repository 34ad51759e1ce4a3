"""What a radiologist reads off the anatomy of one exam: findings, levels, severities; with errors.

Words are those of structured spine reports (`codebook.yaml`). What is not found is not listed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from spineage.science.phantom.anatomy import chain
from spineage.science.phantom.population import Exam
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.room import FIRST_LUMBAR_DISC, narrowing
from spineage.science.spine.labels import disc_name

WORDS = ("mild", "moderate", "severe")
READER_SD = 0.045
"""Error of the reader on the 0-1 scale of severities."""
MISSED = 0.03
"""Share of findings that go unnoticed."""
READING = 7
"""Purpose of the random stream, see population.py."""

Grades = tuple[float, float, float]
"""Where mild, moderate and severe begin."""

THRESHOLDS: dict[str, tuple[str, Grades]] = {
    "disc_desiccation": ("nucleus", (0.45, 0.80, 1.15)),
    "disc_height_loss": ("height", (0.50, 0.85, 1.18)),
    "disc_bulge": ("bulge", (0.50, 0.85, 1.20)),
    "osteophytes": ("osteophyte", (0.50, 0.85, 1.20)),
    "endplate_irregularity": ("endplate", (0.60, 0.90, 1.20)),
    "ligamentum_flavum": ("flavum", (0.55, 0.90, 1.20)),
    "facet_arthropathy": ("facet", (0.55, 0.90, 1.20)),
}
"""finding: the severity it is read from, and its grades. Ageing alone seldom gets beyond moderate."""


@dataclass(frozen=True)
class Finding:
    """One line of a report."""

    finding: str
    level: str
    severity: str


def read_findings(exam: Exam, recipe: PhantomRecipe) -> list[Finding]:
    """The report on one exam; deterministic, as all of an exam is."""
    rng = recipe.generator(exam.person.number, READING, exam.visit)
    seen = []
    for finding, level, value, bounds in _visible(exam):
        error, is_missed = READER_SD * rng.standard_normal(), rng.random() < MISSED
        grade = int(np.searchsorted(bounds, value + error * bounds[2], side="right"))
        if grade and not is_missed:
            seen.append(Finding(finding, level, WORDS[grade - 1]))
    return seen


def disc_levels(num_lumbar: int) -> list[str]:
    """Usual names of the discs, C2/3 down."""
    names = [*chain(num_lumbar), "sacrum"]
    return [disc_name(upper, lower) for upper, lower in pairwise(names)]


def _visible(exam: Exam) -> Iterator[tuple[str, str, float, Grades]]:
    """(finding, level, size, where the three grades begin) of all that could be reported."""
    discs = disc_levels(exam.person.num_lumbar)
    vertebrae = ["C1", *chain(exam.person.num_lumbar)]
    for finding, (severity, bounds) in THRESHOLDS.items():
        for level, value in zip(discs, exam.severities[severity], strict=True):
            yield finding, level, float(value), bounds
    yield from _narrow(exam, discs)
    lesions = exam.lesions
    for protrusion in lesions.protrusions:
        name = "disc_extrusion" if protrusion.depth_mm > 5.2 else "disc_protrusion"
        yield name, discs[protrusion.disc], protrusion.depth_mm, (2.0, 4.0, 5.6)
    for node in lesions.schmorl_nodes:
        level = [*vertebrae, "S1"][node.disc + (1 if node.is_above else 2)]
        yield "schmorl_node", level, node.depth_mm, (1.5, 4.0, 5.6)
    for modic in lesions.modics:
        yield f"modic_{modic.kind}", discs[modic.disc], modic.reach_mm, (2.0, 5.5, 7.0)
    for fracture in lesions.fractures:  # grades of Genant 1993: 20-25, 25-40, over 40 % of height
        yield "fracture", vertebrae[fracture.vertebra], fracture.loss, (0.15, 0.25, 0.40)
        if fracture.is_fresh:
            yield "marrow_edema", vertebrae[fracture.vertebra], 1.0, (0.2, 0.8, 3.0)
    for slip in lesions.slips:
        yield "spondylolisthesis", discs[slip.disc], slip.slip_mm, (1.5, 5.0, 9.0)
    for spot in lesions.haemangiomas:
        yield "haemangioma", vertebrae[spot.vertebra], spot.radius_mm, (1.5, 9.0, 12.0)
    yield "kyphosis", "thoracic", float(exam.severities["kyphosis"][0]), (0.90, 1.25, 1.55)
    if exam.person.anatomy != "regular":
        yield "transitional_vertebra", vertebrae[-1], 1.0, (0.1, 2.0, 3.0)


def _narrow(exam: Exam, discs: list[str]) -> Iterator[tuple[str, str, float, Grades]]:
    """Where the canal and the foramina have lost their room, and what lies in them."""
    planted = exam.severities
    foramina = 0.5 * (planted["height"] + planted["facet"])
    for i, (level, share) in enumerate(zip(discs, narrowing(exam), strict=True)):
        yield "central_stenosis", level, float(share), (0.32, 0.46, 0.60)
        crowded = "cauda_equina_crowding" if i >= FIRST_LUMBAR_DISC else "cord_compression"
        yield crowded, level, float(share), (0.50, 0.62, 0.74)
        yield "foraminal_stenosis", level, float(foramina[i]), (0.80, 1.05, 1.30)
