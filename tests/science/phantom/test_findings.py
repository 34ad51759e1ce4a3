"""The reports: what is seen is in the anatomy, in words the codebook knows, and illness shows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spineage.io.people.tables import read_codebook
from spineage.science.cohort.coding import REMARKS, code
from spineage.science.phantom import PhantomRecipe, draw_population
from spineage.science.phantom.findings import Finding, disc_levels, read_findings
from tests.made.phantom_people import aged, one_exam, textbook_recipe

RECIPE = PhantomRecipe(num_people=500, seed=21)
WORTH = {"mild": 1, "moderate": 2, "severe": 3}


@pytest.fixture(scope="module")
def reports() -> list[tuple]:
    return [(exam, read_findings(exam, RECIPE)) for exam in draw_population(RECIPE)]


def burden(findings: list[Finding]) -> int:
    return sum(WORTH[f.severity] for f in findings)


def test_every_word_and_level_is_in_the_codebook(reports: list[tuple]) -> None:
    rows = [
        {"person_id": str(exam.person.number), "exam_id": str(exam.index), "finding": f.finding,
         "level": f.level, "severity": f.severity}
        for exam, report in reports
        for f in report
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    table["row"], table["side"] = np.arange(len(table)) + 2, ""
    coded, missed = code(table, read_codebook()[0])
    assert [entry for entry in missed if entry["column"] not in REMARKS] == []
    assert len(coded) == sum(bool(report) for _, report in reports)
    assert {f.finding for _, report in reports for f in report} >= {
        "disc_desiccation", "disc_height_loss", "disc_bulge", "disc_protrusion", "osteophytes",
        "central_stenosis", "ligamentum_flavum", "facet_arthropathy", "schmorl_node", "modic_1",
        "fracture", "spondylolisthesis", "transitional_vertebra",
    }  # fmt: skip


def test_a_young_healthy_spine_has_no_finding_and_so_no_row() -> None:
    recipe = textbook_recipe()
    assert read_findings(aged(one_exam(recipe), 25.0, recipe), recipe) == []


def test_some_young_people_have_none_and_hardly_any_old_ones(reports: list[tuple]) -> None:
    healthy = [(e, r) for e, r in reports if e.person.archetype.name == "normal"]
    young = [len(r) == 0 for e, r in healthy if e.age_years < 38]
    old = [len(r) == 0 for e, r in healthy if e.age_years > 65]
    assert np.mean(young) > 0.2
    assert np.mean(old) == 0


def test_the_ill_carry_findings_clearly_beyond_their_age(reports: list[tuple]) -> None:
    healthy = [(e, r) for e, r in reports if e.person.archetype.name == "normal"]
    ages = np.array([e.age_years for e, _ in healthy])
    line = np.polyfit(ages, [sum(f.severity == "severe" for f in r) for _, r in healthy], 2)
    for name, least in (("lumbar_degenerative", 3), ("cervical_degenerative", 3)):
        extra = [
            sum(f.severity == "severe" for f in r) - np.polyval(line, e.age_years)
            for e, r in reports
            if e.person.archetype.name == name
        ]
        assert np.mean(extra) > least
    broken = [any(f.finding == "fracture" for f in r) for e, r in reports
              if e.person.archetype.name == "osteoporotic"]  # fmt: skip
    whole = [any(f.finding == "fracture" for f in r) for _, r in healthy]
    assert np.mean(broken) > 0.9
    assert np.mean(whole) < 0.05


def test_an_illness_stays_in_its_region(reports: list[tuple]) -> None:
    def moderate_or_worse(region: str, name: str) -> float:
        return float(np.mean([
            sum(f.level[0] == region and WORTH[f.severity] > 1 for f in r)
            for e, r in reports if e.person.archetype.name == name and e.age_years < 60
        ]))  # fmt: skip

    lumbar, cervical = "lumbar_degenerative", "cervical_degenerative"
    assert moderate_or_worse("L", lumbar) > 3 * moderate_or_worse("L", cervical)
    assert moderate_or_worse("C", cervical) > 3 * moderate_or_worse("C", lumbar)


def test_two_readings_of_one_exam_agree_and_the_reader_is_not_perfect(reports: list[tuple]) -> None:
    exam, report = reports[3]
    assert read_findings(exam, RECIPE) == report
    same_day = [
        (reports[e.repeat_of][1], r)
        for e, r in reports
        if e.repeat_of is not None and e.age_years == reports[e.repeat_of][0].age_years
    ]
    assert any(first != second for first, second in same_day)
    shared = [len(set(a) & set(b)) / max(len(set(a) | set(b)), 1) for a, b in same_day if a or b]
    assert np.mean(shared) > 0.5


def test_discs_are_named_as_radiologists_name_them() -> None:
    assert disc_levels(5)[0] == "C2/3"
    assert disc_levels(5)[5:7] == ["C7/T1", "T1/2"]
    assert disc_levels(5)[-1] == "L5/S1"
    assert disc_levels(6)[-2:] == ["L5/6", "L6/S1"]
    assert disc_levels(4)[-1] == "L4/S1"
    assert [len(disc_levels(n)) for n in (4, 5, 6)] == [22, 23, 24]
