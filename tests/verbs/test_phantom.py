"""A population on disk: complete, made once, finished when interrupted, the same in parallel."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest

from spineage.errors import BadStudy
from spineage.science.phantom import PhantomRecipe, draw_population
from spineage.tables import TRUTH
from spineage.verbs import phantom

PLAN = {"num_people": 4, "seed": 13, "repeat_share": 0.5}


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "population"
    made = phantom.make(str(folder), **PLAN)
    assert (made["people"], made["exams"], made["files"]) == (4, 6, 6 * 39)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_tables_and_images_name_the_same_people_exams_and_values(population: Path) -> None:
    truth = pd.read_parquet(population / "truth.parquet").set_index("exam")
    assert list(TRUTH.schema.names) == ["person", "exam", *truth.columns.drop("person")]
    headers = [pydicom.dcmread(p, stop_before_pixels=True)
               for p in sorted(population.glob("dicom/*/*/*/001.dcm"))]  # fmt: skip
    assert len(headers) == 6 * 3
    for header in headers:
        row = truth.loc[str(header.StudyInstanceUID)]
        assert (header.PatientID, header.AccessionNumber) == (row.person, row.accession)
        assert (header.PatientSex, header.InstitutionName) == (row.sex, row.site)
        assert int(header.PatientAge[:3]) == int(row.age_years)
    findings = pd.read_csv(population / "findings.csv")
    assert list(findings.columns) == ["person", "exam", "finding", "level", "severity"]
    assert set(findings.exam) <= set(truth.index)
    assert set(findings.severity) <= {"mild", "moderate", "severe"}
    participants = pd.read_csv(population / "participants.csv")
    assert list(participants.columns) == ["person", "sex", "site"]
    assert set(participants.person) == set(truth.person)
    lifestyle = pd.read_csv(population / "lifestyle.csv")
    assert set(lifestyle.person) == set(truth.person)
    assert {"smoking", "heavy_work", "exercise", "bmi", "left_handed", "coffee"} <= set(
        lifestyle.columns
    )
    assert (population / "phantom.key").read_bytes().strip()


def test_the_truth_table_holds_what_was_planted(population: Path) -> None:
    truth = pd.read_parquet(population / "truth.parquet")
    exams = draw_population(PhantomRecipe(**PLAN))
    assert np.allclose(truth.gap_years, [e.person.gap_years for e in exams])
    assert np.allclose(truth.biological_years - truth.age_years, truth.gap_years)
    assert np.allclose(truth.num_discs, [len(e.severities["nucleus"]) for e in exams])
    assert truth.repeat_of.notna().sum() == 2
    assert set(truth.repeat_of.dropna()) <= set(truth.exam)
    assert [json.loads(f) for f in truth.factors] == [dict(e.person.factors) for e in exams]
    record = json.loads((population / "population.json").read_text())
    expected = (truth.oracle_years - truth.age_years).abs().mean()
    assert record["made"]["oracle_mae_years"] == pytest.approx(expected, abs=1e-3)
    assert record["synthetic"] is True


def test_made_again_nothing_is_touched(population: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in population.rglob("*")}
    made = phantom.make(str(population), **PLAN)
    assert made["files"] == 6 * 39
    assert {p: p.stat().st_mtime_ns for p in population.rglob("*")} == before


def test_an_interrupted_population_is_finished_and_equals_an_undisturbed_one(
    population: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "population"
    shutil.copytree(population, broken)
    record = json.loads((broken / "population.json").read_text())
    (broken / "population.json").write_text(json.dumps({**record, "finished": False, "made": None}))
    lost = sorted(broken.glob("dicom/*/*"))[2]
    shutil.rmtree(lost)
    (broken / ".partial" / lost.name / "cervical").mkdir(
        parents=True
    )  # as a killed worker leaves it
    (broken / "truth.parquet").unlink()
    kept = sorted(broken.glob("dicom/*/*"))[0]
    before = kept.stat().st_mtime_ns
    phantom.make(str(broken), **PLAN)
    assert contents(broken) == contents(population)
    assert kept.stat().st_mtime_ns == before


def test_in_parallel_on_ray_the_same_bytes_are_made(
    population: Path, tmp_path: Path, ray_session: None
) -> None:
    phantom.make(str(tmp_path / "p"), **PLAN, workers=2)
    assert contents(tmp_path / "p") == contents(population)


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(
    population: Path, tmp_path: Path
) -> None:
    before = contents(population)
    with pytest.raises(BadStudy, match="another recipe"):
        phantom.make(str(population), num_people=5, seed=13)
    assert contents(population) == before
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(BadStudy, match="not empty"):
        phantom.make(str(tmp_path), num_people=2)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_recipe_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    for wrong in (
        {"num_people": 0},
        {"num_people": 2, "stations": "five"},
        {"num_people": 2, "colour": 1},
    ):
        with pytest.raises(BadStudy):
            phantom.make(str(tmp_path / "p"), **wrong)
    assert not (tmp_path / "p").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(BadStudy, match="cannot be written"):
        phantom.make(str(tmp_path / "file"), num_people=2)
