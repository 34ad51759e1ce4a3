"""conditions and cohort as stages: files in, tables and audit out, and every way the inputs can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import read_findings, read_lifestyle, read_participants, read_truth
from spineage.science.cohort.decide import decide
from spineage.science.cohort.rules import RULES
from spineage.stages import conditions
from spineage.stages.cohort import stage as cohort
from spineage.tables import TABLES, TRUTH
from tests.made.cohort_world import KEYED, Planted, exams, findings_of, made, workspace
from tests.made.pinned import pinned


@pytest.fixture(scope="module")
def done(ray_session: None) -> Planted:
    """One real clustering, on Ray workers."""
    return made()


def test_every_scan_has_one_row_and_every_person_one_split_and_status(done: Planted) -> None:
    table = done.read("cohort")
    assert len(table) == table.scan_id.nunique() == 100
    by_person = table.groupby("person_id")[["split", "status", "cluster"]].nunique()
    assert len(by_person) == 90
    assert (by_person == 1).all().all()
    assert set(table.split) == {"train", "validate", "calibrate", "test"}


def test_planted_groups_get_the_status_they_deserve(done: Planted) -> None:
    table = done.read("cohort").merge(
        exams().assign(exam_id=lambda e: e.exam.map(Keyed(load_key(done.study)).exam))[
            ["exam_id", "group"]
        ],
        on="exam_id",
    )
    assert set(table.status[table.group == "none"]) == {"normal"}
    assert (table.status[table.group == "worn"] == "normal").mean() > 0.9
    assert (table.status[table.group == "ill"] == "not_normal").mean() > 0.9
    assert table.groupby("group").num_findings.median().to_dict() == {
        "none": 0,
        "worn": 6,
        "ill": 8,
    }


def test_another_process_gives_the_same_bits(done: Planted) -> None:
    """The stage clusters on a Ray worker; here the same rows are clustered in another process."""
    scans = done.read("scans")
    features = cohort.read_codebook()[0].features
    people, matrix = cohort._people(scans, done.read("conditions"), features)
    stored = done.read("cohort").drop_duplicates("person_id").set_index("person_id")
    people["split"] = people.person_id.map(stored.split)
    again = pinned(
        decide, people, matrix, features, cohort.rule_of(done.study.cohort), done.study.seed
    ).people
    again = again.assign(fit_status=again.status).set_index("person_id").loc[stored.index]
    for column in ("cluster", "fit_status", "umap_x", "umap_y"):
        assert np.array_equal(again[column], stored[column]), column


def test_the_audit_accounts_for_everybody(done: Planted) -> None:
    audit = json.loads(done.asset("cohort", "audit.json"))
    assert audit["outcome"] == "clustered"
    assert sum(g["num_people"] for g in audit["groups"]) == audit["population"]["num_people"] == 90
    assert sum(audit["status"].values()) == sum(audit["splits_people"].values()) == 90
    assert audit["exams_without_findings_rows"] == int((exams().group == "none").sum())


def test_the_status_by_every_rule_is_there_for_later_stages(done: Planted) -> None:
    own = done.read("cohort").drop_duplicates("person_id").set_index("person_id")
    told = json.loads(done.asset("cohort", "audit.json"))["alternatives"]
    assert [one["rule"] for one in told] == list(RULES)
    for one in told:
        status = cohort.status_by(done, one["rule"])
        assert set(status.index) == set(own.index)
        assert (status == "normal").sum() == one["num_normal"]
    assert (cohort.status_by(done, "clusters").loc[own.index] == own.fit_status).all()
    assert (cohort.status_by(done, "everyone") != cohort.status_by(done, "burden")).any()


def test_a_second_run_recomputes_nothing_and_says_the_same(done: Planted) -> None:
    before = {name: done.store.read(name) for name in done.store.list("cohort")}
    assert cohort.run(done) == cohort.run(done)
    assert {name: done.store.read(name) for name in done.store.list("cohort")} == before


def test_no_raw_id_is_in_what_was_published(done: Planted) -> None:
    for name in (*done.store.list("cohort"), *done.store.list("conditions")):
        assert b"PAT0" not in done.store.read(name)
        assert b"1.2.3.1" not in done.store.read(name)


def test_other_findings_have_another_address(tmp_path: Path, done: Planted) -> None:
    table = exams()
    changed = findings_of(table)
    changed.loc[0, "severity"] = "severe"
    other = workspace(tmp_path, table, changed)
    assert other.fingerprint("cohort") != done.fingerprint("cohort")
    assert other.fingerprint("ingest") == done.fingerprint("ingest")


@pytest.mark.usefixtures("lasting_crew")
def test_everyone_needs_no_findings(tmp_path: Path) -> None:
    table = exams(20)
    table.loc[3, "age_years"] = np.nan
    context = workspace(tmp_path, table, None, rule="everyone")
    assert conditions.run(context).done["exams"] == 0
    counts = cohort.run(context)
    assert (counts.done["people_normal"], counts.done["people_unknown"]) == (19, 1)
    read = context.read("cohort")
    assert read.burden.isna().all()
    assert read.num_findings.isna().all()
    assert read.split.notna().all()


def test_without_findings_the_paper_rule_cannot_start(tmp_path: Path) -> None:
    context = workspace(tmp_path, exams(5), None)
    with pytest.raises(BadStudy, match=r"inputs\.findings is not set"):
        conditions.run(context)
    assert context.store.list("conditions") == []


def test_findings_of_other_exams_are_refused_rather_than_read_as_healthy(tmp_path: Path) -> None:
    table = exams(20)
    context = workspace(tmp_path, table, findings_of(table).assign(exam=lambda f: "ACC" + f.exam))
    conditions.run(context)
    with pytest.raises(BadStudy, match="none of the 18 exams of the findings table"):
        cohort.run(context)


def test_terms_not_understood_are_said_counted_and_published(tmp_path: Path) -> None:
    table = exams(20)
    findings = findings_of(table).replace({"finding": {"disc bulge": "disc buldge"}})
    context = workspace(tmp_path, table, findings)
    said: list[str] = []
    context.say = said.append
    counts = conditions.run(context)
    num = int((findings.finding == "disc buldge").sum())
    assert counts.done["rows_not_understood"] == num
    assert said == [
        f"  finding not understood in {num} rows: disc buldge; nearest known: disc_bulge"
    ]
    assert json.loads(context.asset("conditions", "not_understood.json"))[0]["num_rows"] == num
    assert len(json.loads(context.asset("conditions", "features.json"))) == 215


# the tables that come with the images


def csv(folder: Path, text: str, name: str = "table.csv") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_ids_are_replaced_by_the_hashes_the_images_get(tmp_path: Path) -> None:
    path = csv(tmp_path, "person,exam,finding,level,severity\n PAT1 ,1.2.3,fracture,T12,\n")
    row = read_findings(path, KEYED).iloc[0]
    assert (row.person_id, row.exam_id) == (KEYED.person("PAT1"), KEYED.exam("1.2.3"))
    assert (row.severity, row.row) == ("", 2)


@pytest.mark.parametrize("kind", ["csv", "semicolons", "parquet", "byte order mark"])
def test_findings_are_read_whatever_the_file_kind(tmp_path: Path, kind: str) -> None:
    frame = pd.DataFrame(
        {
            "Person": ["007"],
            "exam": ["1"],
            "finding": ["fracture"],
            "level": ["T12"],
            "severity": [2],
        }
    )
    path = str(tmp_path / f"findings.{'parquet' if kind == 'parquet' else 'csv'}")
    if kind == "parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep=";" if kind == "semicolons" else ",",
                     encoding="utf-8-sig" if kind == "byte order mark" else "utf-8")  # fmt: skip
    row = read_findings(path, KEYED).iloc[0]
    assert (row.person_id, row.severity) == (KEYED.person("007"), "2")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the file is empty"),
        ("person,exam,finding,level\n", "no rows"),
        ("person,exam,findings,level\na,b,c,d\n", "is it column 3"),
        ("person,exam,finding,level\n,b,c,d\na,b,c,d\n", r"1 rows have no person \(first: row 2\)"),
        ("person,exam,finding,level\na,b,c,d,e,f\nx\n", "row 2 has 6 fields, the header has 4"),
        ("person,exam,finding,level,Level\na,b,c,d,e\n", "columns 4 and 5 have one name"),
    ],
)
def test_a_bad_findings_table_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(BadStudy, match=sentence) as caught:
        read_findings(csv(tmp_path, text), KEYED)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_an_unreadable_or_missing_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match=r"findings: the file cannot be read.*inputs\.findings"):
        read_findings(str(tmp_path / "nothing.csv"), KEYED)
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(BadStudy, match="cannot be read as CSV"):
        read_findings(str(tmp_path / "bad.parquet"), KEYED)
    (tmp_path / "bad.csv").write_bytes(b"person,exam,finding,level\n\xff\xfe\x00,b,c,d\n")
    with pytest.raises(BadStudy, match="cannot be read as CSV"):
        read_findings(str(tmp_path / "bad.csv"), KEYED)


def test_lifestyle_of_one_person_twice_is_refused_and_named_factors_must_exist(
    tmp_path: Path,
) -> None:
    path = csv(tmp_path, "person,smoking,bmi\na,1,22\nb,0,\na,0,23\n")
    with pytest.raises(BadStudy, match=r"1 people are listed more than once \(first in row 4\)"):
        read_lifestyle(path, KEYED)
    path = csv(tmp_path, "person,smoking,bmi\na,1,22\nb,0,\n")
    assert read_lifestyle(path, KEYED, ["bmi"]).bmi.tolist() == ["22", ""]
    with pytest.raises(BadStudy, match="is it column 1"):
        read_lifestyle(path, KEYED, ["smokin"])


@pytest.mark.parametrize("age", ["-1", "121", "old", "inf"])
def test_a_participants_age_outside_0_to_120_is_refused_by_row(tmp_path: Path, age: str) -> None:
    with pytest.raises(BadStudy, match="age_years in row 3") as caught:
        read_participants(
            csv(tmp_path, f"person,sex,site,age_years\na,F,hill,30\nb,M,hill,{age}\n"), KEYED
        )
    assert "old" not in str(caught.value)


def test_participants_may_leave_age_and_exam_out(tmp_path: Path) -> None:
    table = read_participants(csv(tmp_path, "person,sex,site\na,F,\nb,,hill\n"), KEYED)
    assert table.person_id.tolist() == [KEYED.person("a"), KEYED.person("b")]
    assert table.sex[0] == "F"
    assert table.sex.isna().tolist() == [False, True]
    assert table[["age_years", "exam_id"]].isna().all().all()


def test_truth_comes_without_raw_ids(tmp_path: Path) -> None:
    row = dict.fromkeys(TRUTH.schema.names, "x")
    frame = pd.DataFrame([row | {"person": "P1", "exam": "1.2", "accession": "A1", "repeat_of": "1.1"},
                          row | {"person": "P1", "exam": "1.1", "accession": "A0",
                                 "repeat_of": None}])  # fmt: skip
    frame.to_parquet(tmp_path / "truth.parquet")
    truth = read_truth(str(tmp_path / "truth.parquet"), KEYED)
    assert truth.exam_id[1] == truth.repeat_of[0] == KEYED.exam("1.1")
    assert pd.isna(truth.repeat_of[1])
    assert "accession" not in truth
    assert set(TABLES["truth"].schema.names) - set(truth.columns) == {"person", "exam", "accession"}
