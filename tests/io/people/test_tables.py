"""Words of tables about people: known ones mapped, rare ones counted and not shown, ages withheld."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from spineage import cli
from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed
from spineage.io.people.tables import read_lifestyle, read_participants
from spineage.io.people.words import describe_lifestyle, describe_participants
from spineage.io.storage.spreadsheet import csv_of
from spineage.run.context import Context
from spineage.science.people.sex import sex_of
from spineage.stages.ingest import stage as ingest
from spineage.study import Inputs, Study
from tests.made.dicom_makers import shaded, write_sagittal

KEYED = Keyed(b"k" * 32)
TALL = shaded((7, 40, 60))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")


def people(folder: Path, *rows: str, header: str = "person,sex,site,age_years") -> str:
    path = folder / "people.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return str(path)


@pytest.mark.parametrize(
    ("letter", "words"),
    [
        ("F", "F female Frau weiblich Mujer FEMENINO donna vrouw kvinna 女 여성 женский kobieta"),
        ("M", "m Male Mann männlich hombre masculin uomo man 男性 남 мужской erkek"),
        ("O", "o other divers X non-binary"),
        (None, "1 2 0 Kanarienvogel F2 FM mrs u n/a"),
    ],
)
def test_sex_is_read_in_many_languages_and_never_guessed(letter: str | None, words: str) -> None:
    assert {sex_of(word) for word in words.split()} == {letter}


def test_only_known_sexes_come_out_and_the_rest_is_counted(tmp_path: Path) -> None:
    path = people(
        tmp_path,
        "a,Kanarienvogel,x,",
        "b,weiblich,x,",
        "c,,x,",
        *(f"d{i},2,x,40" for i in range(6)),
    )
    table = read_participants(path, KEYED)
    assert table.sex.where(table.sex.notna(), None).to_list() == [None, "F", *[None] * 7]
    told = describe_participants(path)
    assert "Kanarien" not in told
    assert "2 6, 1 not shown, of 1 people" in told
    assert "F 1" in told


def test_a_site_comes_out_when_enough_people_share_it(tmp_path: Path) -> None:
    rows = [f"a{i},F,north,40" for i in range(5)] + [f"b{i},F,Kanarienvogel,40" for i in range(4)]
    rows += [f"c{i},F,=HYPERLINK(1),40" for i in range(9)] + ["d,F,,40"]
    table = read_participants(people(tmp_path, *rows), KEYED)
    sites = table.site.where(table.site.notna(), None)
    assert set(sites[:5]) == {"north"}
    hashes = set(sites[5:18])
    assert len(hashes) == 2, "sites are still told apart"
    assert all(str(site).startswith("site-") for site in hashes)
    assert sites[18] is None
    told = describe_participants(people(tmp_path, *rows))
    assert "north 5, 2 not shown, of 13 people" in told


def test_a_site_that_the_study_names_comes_out_whoever_was_scanned_there(tmp_path: Path) -> None:
    path = people(tmp_path, "a,F,far away,40", "b,F,elsewhere,40")
    named = read_participants(path, KEYED, named_sites=["far away"]).site
    assert named[0] == "far away"
    assert named[1].startswith("site-")


def test_a_person_of_many_exams_is_one_of_those_who_share_a_word(tmp_path: Path) -> None:
    rows = [f"a,e{i},F,Kanarienvogel,40" for i in range(9)]
    path = people(tmp_path, *rows, header="person,exam,sex,site,age_years")
    assert "Kanarien" not in str(set(read_participants(path, KEYED).site))


def test_a_column_of_too_many_values_is_no_site(tmp_path: Path) -> None:
    path = people(tmp_path, *(f"p{i},F,name {i},40" for i in range(201)))
    with pytest.raises(BadStudy, match="201 different values") as refusal:
        read_participants(path, KEYED)
    assert "name" not in str(refusal.value)


def test_many_columns_are_factors_only_when_they_are_named(tmp_path: Path) -> None:
    names = [f"f{i}" for i in range(21)]
    values = ",".join("1" for _ in names)
    path = people(tmp_path, f"a,{values}", header=",".join(["person", *names]))
    with pytest.raises(BadStudy, match="21 columns"):
        read_lifestyle(path, KEYED)
    assert list(read_lifestyle(path, KEYED, ["f7"]).columns) == ["f7"]


def test_a_lifestyle_table_is_told_without_rare_words(tmp_path: Path) -> None:
    rows = [f"a{i},office,yes" for i in range(6)] + [f"b{i},heavy,no" for i in range(6)]
    rows += [f"c{i},Kanarienvogel,no" for i in range(3)]
    told = describe_lifestyle(people(tmp_path, *rows, header="person,work,smoking"), None)
    assert "work: office (vs heavy)" in told
    assert "smoking" in told
    assert "kanarien" not in told.lower()


@pytest.mark.parametrize("heading", ["ANNA EXAMPLE", "anna_1950", "19500505", "x" * 41])
def test_a_heading_that_may_be_a_person_is_shown_only_when_the_study_names_it(
    tmp_path: Path, heading: str
) -> None:
    """As where a table lies on its side, with a column for each person."""
    path = people(tmp_path, "smoking,yes,no", "tea,no,yes", header=f"person,{heading},pack_years")
    told = describe_lifestyle(path, None)
    assert heading.lower() not in told.lower()
    assert "tested: factor 1, pack_years" in told
    assert "1 headings are not shown" in told
    assert "associate.lifestyle" in told
    if len(heading) <= 40:
        assert f"tested: {heading.lower()}" in describe_lifestyle(path, [heading.lower()])


@pytest.mark.parametrize("what", ["participants", "lifestyle", "findings"])
def test_doctor_says_which_table_may_be_cut_within_its_last_value(
    tmp_path: Path, what: str
) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "table.csv").write_text("person,exam,sex,site,finding,level\nP1,E1,F,x,fracture,L1")
    study = tmp_path / "study.yaml"
    study.write_text(
        yaml.safe_dump({"inputs": {"scans": "archive", what: "table.csv"}, "workspace": "w"})
    )
    told = CliRunner().invoke(cli.app, ["doctor", "--study", str(study)]).output
    assert "the last line has no line end" in " ".join(told.split())


def ingested(folder: Path, **inputs: Any) -> Context:
    scans = folder / "archive"
    study = Study(workspace=str(folder / "workspace"), inputs=Inputs(scans=str(scans), **inputs))
    context = Context(study, say=lambda text: None)
    ingest.run(context)
    return context


def test_ages_above_the_limit_are_withheld_from_every_table(tmp_path: Path) -> None:
    ages = {"P1": "089Y", "P2": "090Y", "P3": "050Y"}
    for person, age in ages.items():

        def change(dataset: Any, number: int, age: str = age) -> None:
            dataset.PatientAge, dataset.PatientBirthDate = age, ""

        write_sagittal(tmp_path / "archive" / person, TALL, person=person, change=change)
    table = people(tmp_path, "P3,F,x,97.5")
    for most, expected in ((None, {89.0, 90.0, 97.5}), (89, {89.0})):
        context = ingested(tmp_path, participants=table, max_age_shown=most)
        scans = context.read("scans")
        assert set(scans.age_years.dropna()) == expected
        withheld = scans.age_source == "withheld: above inputs.max_age_shown"
        assert int(withheld.sum()) == (0 if most is None else 2)
        assert scans.age_years[withheld].isna().all()
    parts = (tmp_path / "workspace").rglob("headers/*.parquet")
    kept = {frozenset(_header_ages(path)) for path in parts}
    assert kept == {frozenset({None, 89.0, 50.0}), frozenset({90.0, 89.0, 50.0})}


def _header_ages(path: Path) -> list[float | None]:
    rows = pd.read_parquet(path).header_json
    return [json.loads(row)["about"]["age_years"] for row in rows]


def test_doctor_says_what_the_tables_about_people_hold(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    table = people(tmp_path, *(f"a{i},männlich,north,{88 + i}" for i in range(5)), "b,Kanari,x,4")
    inputs = {"scans": "archive", "participants": table, "max_age_shown": 89}
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({"inputs": inputs, "workspace": "w"}))
    told = CliRunner().invoke(cli.app, ["doctor", "--study", str(study)]).output
    (line,) = [line for line in told.splitlines() if "people:" in line]
    assert line.startswith("ok")
    for words in ("6 people", "M 5", "north 5", "1 not shown", "3 ages above 89 are withheld"):
        assert words in line
    assert "kanari" not in told.lower()


def test_a_spreadsheet_computes_nothing_and_numbers_stay_numbers() -> None:
    texts = ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\tx", "\rx", " =1", "plain", "-3.5"]
    table = pd.DataFrame({"text": texts, "number": [-1.5, 2.0, -3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]})
    again = pd.read_csv(io.BytesIO(csv_of(table)), dtype={"text": str}, keep_default_na=False)
    assert again.number.to_list() == table.number.to_list()
    told = [f"'{text}" for text in texts]
    assert again.text.to_list() == [*told[:5], " x", told[6], "plain", "-3.5"]
    assert csv_of(pd.DataFrame({"=1+1": [1]})).startswith(b"'=1+1")
