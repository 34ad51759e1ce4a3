"""Coding of radiology findings: terms, levels, severities, and what cannot be read."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.io.people.tables import read_codebook
from spineage.science.cohort.coding import code
from spineage.science.cohort.conditions import (
    aligned,
    canonical,
    codebook_from,
    regions_of,
    severity_of,
)

BOOK = read_codebook()[0]
NAMES = [feature.name for feature in BOOK.features]


def table(*rows: tuple[str, str, str, str]) -> pd.DataFrame:
    """(exam, finding, level, severity): the person of exam e1 is p1, ..."""
    frame = pd.DataFrame(rows, columns=["exam_id", "finding", "level", "severity"])
    return frame.assign(
        side="", person_id=frame.exam_id.str.replace("e", "p"), row=np.arange(len(frame)) + 2
    )


def vector(*rows: tuple[str, str, str, str]) -> dict[str, float]:
    coded, missed = code(table(*rows), BOOK)
    assert missed == []
    return {n: v for n, v in zip(NAMES, coded.features[0], strict=True) if v}


def test_the_codebook_has_the_papers_215_features() -> None:
    assert len(NAMES) == len(set(NAMES)) == 215


def test_the_codebook_knows_every_finding_of_the_phantom() -> None:
    words = """disc_desiccation disc_height_loss disc_bulge disc_protrusion osteophytes central_stenosis
        ligamentum_flavum facet_arthropathy schmorl_node modic fracture spondylolisthesis"""
    assert {BOOK.words.get(canonical(word)) for word in words.split()} == set(words.split())


@pytest.mark.parametrize(
    ("level", "kind", "regions"),
    [
        ("L4/5", "disc", ("lumbar",)),
        ("l4-L5", "disc", ("lumbar",)),
        ("L5/S1", "disc", ("lumbar",)),
        ("S1", "vertebra", ("lumbar",)),
        ("C7/T1", "disc", ("cervical",)),
        ("T12/L1", "disc", ("thoracic",)),
        ("T12/L1", "vertebra", ("thoracic", "lumbar")),
        ("T11 - L2", "disc", ("thoracic", "lumbar")),
        ("L2-T11", "vertebra", ("thoracic", "lumbar")),
        ("D12", "vertebra", ("thoracic",)),
        ("C5 to C7", "disc", ("cervical",)),
        ("T13/L1", "disc", ("thoracic",)),
        ("L4/S1", "disc", ("lumbar",)),
        ("Lumbar spine", "disc", ("lumbar",)),
        ("C-spine", "vertebra", ("cervical",)),
        ("thoracolumbar", "vertebra", ("thoracic", "lumbar")),
        ("C9", "vertebra", ()),
        ("L7/S1", "disc", ()),
        ("somewhere", "disc", ()),
        ("", "disc", ()),
    ],
)
def test_a_level_belongs_to_its_regions(level: str, kind: str, regions: tuple[str, ...]) -> None:
    assert regions_of(level, kind) == regions


@pytest.mark.parametrize(
    ("text", "severity"),
    [("mild", 1), ("Moderate", 2), ("SEVERE", 3), ("mild-to-moderate", 1.5), ("2", 2), ("grade 3", 3),
     ("2.5", 2.5), ("", 1), ("none", 0), ("0", 0), ("4", None), ("-1", None), ("nan", None), ("awful", None)],
)  # fmt: skip
def test_a_severity_is_a_word_or_a_number_from_0_to_3(text: str, severity: float | None) -> None:
    assert severity_of(text, BOOK) == severity


def test_other_words_for_a_finding_give_the_same_vector() -> None:
    expected = {"disc_bulge, lumbar": 2.0}
    assert vector(("e1", "disc_bulge", "L4/5", "moderate")) == expected
    assert vector(("e1", "Disk Bulges", "L4-L5", "2")) == expected
    assert vector(("e1", "bulging disc", "lumbar", "MODERATE")) == expected


def test_the_worst_severity_of_a_region_is_kept_whatever_the_order() -> None:
    rows = [("e1", "disc_bulge", level, s) for level, s in
            (("L3/4", "mild"), ("L4/5", "severe"), ("C5/6", "mild"), ("L5/S1", "moderate"))]  # fmt: skip
    expected = {"disc_bulge, lumbar": 3.0, "disc_bulge, cervical": 1.0}
    assert vector(*rows) == vector(*reversed(rows)) == expected


def test_counts_and_burden_are_over_features() -> None:
    coded, _ = code(table(("e1", "disc_bulge", "L4/5", "severe"), ("e1", "disc_bulge", "L3/4", "mild"),
                          ("e1", "fracture", "T12", "moderate"),
                          ("e2", "no findings", "", "")), BOOK)  # fmt: skip
    assert coded.num_findings.tolist() == [2, 0]
    assert coded.burden.tolist() == [5.0, 0.0]
    assert coded.worst_severity.tolist() == [3.0, 0.0]


def test_a_finding_reported_as_absent_is_no_finding() -> None:
    assert vector(("e1", "disc_bulge", "L4/5", "none")) == {}


def test_a_finding_of_one_region_needs_no_level() -> None:
    assert vector(("e1", "low_conus", "", "")) == {"low_conus, lumbar": 1.0}


def test_an_unknown_term_is_counted_and_the_nearest_known_one_named() -> None:
    rows = [(f"e{i}", "disc buldge", "L4/5", "mild") for i in range(4)]
    coded, missed = code(table(*rows, ("e4", "fracture", "T12", "mild")), BOOK)
    (entry,) = missed
    assert (entry["term"], entry["nearest"]) == ("disc buldge", "disc_bulge")
    assert (entry["num_rows"], entry["num_people"], entry["first_row"]) == (4, 4, 2)
    assert coded.num_not_understood.tolist() == [1, 1, 1, 1, 0]


def test_free_text_that_may_name_somebody_is_not_quoted() -> None:
    rows = [
        ("e1", "Maria Xavier", "L4/5", "mild"),
        ("e2", "seen by Dr Quill 2017-03-04", "L4/5", "mild"),
    ]
    _, missed = code(table(*rows), BOOK)
    assert len(missed) == 2
    assert not any(name in str(missed) for name in ("Maria", "Xavier", "Quill", "2017"))
    assert sorted(entry["first_row"] for entry in missed) == [2, 3]


@pytest.mark.parametrize("term", ["ligamentum flavum Anna", "Annas fracture", "annie bulge"])
def test_a_name_beside_a_known_word_is_not_quoted(term: str) -> None:
    _, missed = code(table(*[(f"e{i}", term, "L4", "mild") for i in range(4)]), BOOK)
    assert "ann" not in str(missed).lower(), "four people of one name"


def test_a_finding_where_it_cannot_be_is_listed() -> None:
    coded, missed = code(table(("e1", "cord_compression", "L4/5", "mild")), BOOK)
    assert [(m["column"], m["term"]) for m in missed] == [("region", "cord_compression in lumbar")]
    assert coded.burden.tolist() == [0.0]


def test_an_unreadable_severity_counts_as_present_and_is_listed() -> None:
    coded, missed = code(table(*[(f"e{i}", "fracture", "T12", "awful") for i in range(5)]), BOOK)
    assert coded.burden.tolist() == [1.0] * 5
    assert [(m["column"], m["term"], m["num_rows"]) for m in missed] == [("severity", "awful", 5)]


def test_a_scanned_exam_without_rows_was_read_without_findings() -> None:
    coded, _ = code(table(("e1", "fracture", "T12", "severe")), BOOK)
    scans = pd.DataFrame({"person_id": ["p2", "p1"], "exam_id": ["e2", "e1"]}, index=[7, 9])
    matrix, about = aligned(scans, coded, 215)
    assert matrix.sum(axis=1).tolist() == about.burden.tolist() == [0.0, 3.0]
    assert about.is_coded.tolist() == [True, True]
    assert about.index.tolist() == [7, 9]


def test_an_exam_of_which_nothing_was_understood_does_not_pass_for_healthy() -> None:
    coded, _ = code(table(("e1", "gibberish", "T12", ""), ("e2", "gibberish", "T12", ""),
                          ("e2", "fracture", "T12", "mild")), BOOK)  # fmt: skip
    _, about = aligned(coded[["person_id", "exam_id"]], coded, 215)
    assert about.is_coded.tolist() == [False, True]


def test_a_codebook_word_with_two_meanings_is_refused() -> None:
    raw = {"severities": {}, "nothing": [], "ungraded": 1,
           "findings": {"a": {"kind": "disc", "also": ["same"]},
                        "b": {"kind": "disc", "also": ["Same"]}}}  # fmt: skip
    with pytest.raises(BadStudy, match="means both a and b"):
        codebook_from(raw)


def test_a_codebook_region_that_does_not_exist_is_refused() -> None:
    raw = {"severities": {}, "nothing": [], "ungraded": 1,
           "findings": {"a": {"kind": "disc", "regions": ["lumber"]}}}  # fmt: skip
    with pytest.raises(BadStudy, match="lumber"):
        codebook_from(raw)


def listed(missed: list[dict[str, object]]) -> dict[str, tuple[object, object]]:
    return {str(m["column"]): (m["term"], m["num_rows"]) for m in missed}


def test_a_side_goes_to_the_sided_feature_and_other_findings_take_the_worse_side() -> None:
    rows = table(
        ("e1", "foraminal_stenosis", "L4/5", "mild"),
        ("e1", "foraminal narrowing", "L5/S1", "severe"),
        ("e1", "facet_arthropathy", "L4/5", "mild"),
        ("e1", "facet_arthropathy", "L4/5", "moderate"),
        ("e2", "foraminal_stenosis", "C5/6", "mild"),
    ).assign(side=["Left", "R", "left", "right", "bilateral"])
    coded, missed = code(rows, BOOK)
    assert missed == []
    first, second = (
        {n: v for n, v in zip(NAMES, vector, strict=True) if v} for vector in coded.features
    )
    assert first == {
        "foraminal_stenosis_left, lumbar": 1.0,
        "foraminal_stenosis_right, lumbar": 3.0,
        "facet_arthropathy, lumbar": 2.0,
    }
    assert second == {
        "foraminal_stenosis_left, cervical": 1.0,
        "foraminal_stenosis_right, cervical": 1.0,
    }


def test_a_report_table_with_every_fault_gives_the_right_features_and_the_list() -> None:
    rows = table(
        ("e1", "disc buldge", "L4/5", "mild"),  # a typo
        ("e1", "disc_bulge", "L9/10", "mild"),  # no such level
        ("e1", "disc_bulge", "L4/5", "mild"),
        ("e1", "disc bulge", "L4-L5", "severe"),  # contradicts the row before
        ("e1", "disc_bulge", "L4/5", "mild"),  # repeats an earlier row
        ("e1", "fracture", "T12", "2"),
        ("e1", "facet_arthropathy", "L5/S1", "mild"),  # a side nobody knows
        ("e2", "no findings", "", ""),
    ).assign(side=["", "", "", "", "", "", "lefft", ""])
    coded, missed = code(rows, BOOK)
    assert coded.num_not_understood.tolist() == [2, 0]
    found = {n: v for n, v in zip(NAMES, coded.features[0], strict=True) if v}
    assert found == {
        "disc_bulge, lumbar": 3.0,
        "fracture, thoracic": 2.0,
        "facet_arthropathy, lumbar": 1.0,
    }
    assert coded.burden.tolist() == [6.0, 0.0]
    said = listed(missed)
    assert said == {
        "finding": ("disc buldge", 1),
        "level": ("(not shown: it may be free text; see first_row)", 1),
        "side": ("lefft", 1),
        "duplicate": ("a row that repeats another", 1),
        "contradiction": ("disc_bulge: 1 and 3 at one place", 1),
    }
    nearest = {m["column"]: (m["nearest"], m["first_row"]) for m in missed}
    assert nearest["finding"] == ("disc_bulge", 2)
    assert nearest["side"] == ("left", 8)
    assert nearest["contradiction"] == (None, 5)


def test_the_same_severity_at_other_levels_or_on_other_sides_is_no_contradiction() -> None:
    rows = table(
        ("e1", "disc_bulge", "L4/5", "mild"),
        ("e1", "disc_bulge", "L5/S1", "severe"),
        ("e2", "disc_bulge", "L4/5", "severe"),
        ("e1", "facet_arthropathy", "L4/5", "mild"),
        ("e1", "facet_arthropathy", "L4/5", "severe"),
    ).assign(side=["", "", "", "left", "right"])
    assert code(rows, BOOK)[1] == []


def test_what_a_word_of_absence_contradicts_is_listed_and_the_finding_counts() -> None:
    coded, missed = code(
        table(("e1", "modic", "L4/5", "none"), ("e1", "modic", "L4/5", "severe")), BOOK
    )
    assert coded.burden.tolist() == [3.0]
    assert listed(missed) == {"contradiction": ("modic: 0 and 3 at one place", 1)}


def test_the_codes_that_the_codebook_has_are_well_formed_snomed_ids() -> None:
    """SNOMED CT ids end in a check digit of Verhoeff's scheme: a digit typed wrong is seen."""
    assert set(BOOK.snomed) <= set(BOOK.kinds)
    assert len(BOOK.snomed) >= 5
    assert all(verhoeff(code) == 0 for code in BOOK.snomed.values())
    assert verhoeff("76107002") != 0


def verhoeff(number: str) -> int:
    """0 for a number with a right check digit: a walk through the dihedral group of the pentagon."""
    permutation = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(permutation) < 8:
        permutation.append([permutation[1][i] for i in permutation[-1]])

    def product(a: int, b: int) -> int:
        turned = (a + b) % 5 if a < 5 else (a - b) % 5
        return turned if (a < 5) == (b < 5) else turned + 5

    total = 0
    for place, digit in enumerate(reversed(number)):
        total = product(total, permutation[place % 8][int(digit)])
    return total


def test_a_codebook_side_must_be_a_finding_of_the_codebook() -> None:
    raw = {"severities": {}, "nothing": [], "ungraded": 1,
           "findings": {"a": {"kind": "disc", "sides": {"left": "b", "right": "c"}}}}  # fmt: skip
    with pytest.raises(BadStudy, match="sides of a must name"):
        codebook_from(raw)
