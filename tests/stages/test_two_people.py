"""One id with two sexes or two birth dates is never one person in silence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import FileDataset

from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed
from spineage.run.context import Context
from spineage.science.scan.geometry import Volume
from spineage.stages.ingest import stage as ingest
from spineage.study import Ingest, Inputs, Study
from tests.made.dicom_makers import shaded, write_sagittal

TALL = shaded((7, 40, 60))


def moved(number: int) -> Volume:
    """Another scan: it lies elsewhere."""
    affine = TALL.affine_RAS.copy()
    affine[:3, 3] += 7.0 * number
    return Volume(TALL.voxels_RAS, affine)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    return tmp_path / "archive"


def says(**values: str) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, number: int) -> None:
        for name, value in values.items():
            setattr(dataset, name, value)

    return change


def ingested(
    archive: Path, said: list[str] | None = None, section: Ingest = Ingest(), **inputs: Any
) -> Context:
    study = Study(
        workspace=str(archive.parent / "workspace"),
        inputs=Inputs(scans=str(archive), **inputs),
        ingest=section,
    )
    context = Context(study, say=(said if said is not None else []).append)
    ingest.run(context)
    return context


def two_exams(archive: Path, first: dict[str, str], second: dict[str, str]) -> None:
    """Of one id, an hour apart."""
    write_sagittal(archive / "a", TALL, exam="E1", change=says(**first))
    later = says(AcquisitionTime="111500", **second)
    write_sagittal(archive / "b", TALL, exam="E2", change=later)


@pytest.mark.parametrize(
    ("first", "second", "what"),
    [
        ({"PatientSex": "F"}, {"PatientSex": "M"}, "two sexes"),
        ({"PatientBirthDate": "19500317"}, {"PatientBirthDate": "19500318"}, "two birth dates"),
        ({"PatientBirthDate": "19500101"}, {"PatientBirthDate": "19510101"}, "two birth dates"),
        (
            {"PatientSex": "F", "PatientBirthDate": "19500317"},
            {"PatientSex": "M", "PatientBirthDate": "19710202"},
            "two sexes and two birth dates",
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "041Y", "StudyDate": "20150301"},
            {"PatientBirthDate": "", "PatientAge": "041Y", "StudyDate": "20200301"},
            "ages that no one person has",
        ),
        (
            {"PatientBirthDate": "19500505", "PatientAge": "", "StudyDate": "20200101"},
            {"PatientBirthDate": "", "PatientAge": "020Y", "StudyDate": "20200301"},
            "ages that no one person has",
        ),
        (
            {"PatientBirthDate": "19500505", "PatientAge": "069Y", "StudyDate": "20200101"},
            {"PatientBirthDate": "", "PatientAge": "075Y", "StudyDate": "20200301"},
            "ages that no one person has",
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "095Y", "StudyDate": "20200101"},
            {"PatientBirthDate": "", "PatientAge": "020Y", "StudyDate": "20200301"},
            "ages that no one person has",
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "070Y", "StudyDate": ""},
            {"PatientBirthDate": "", "PatientAge": "020Y", "StudyDate": ""},
            "ages that no one person has",
        ),
        (
            {"PatientBirthDate": "19500505", "PatientAge": "", "StudyDate": "20200101"},
            {"PatientBirthDate": "", "PatientAge": "020Y", "StudyDate": ""},
            "ages that no one person has",
        ),
    ],
)
def test_an_id_of_two_people_is_refused_with_the_reason(
    archive: Path, first: dict[str, str], second: dict[str, str], what: str
) -> None:
    two_exams(archive, first, second)
    write_sagittal(archive / "c", TALL, person="P2")
    context = ingested(archive)
    series = context.read("series")
    assert series.code.value_counts().to_dict() == {"two_people": 2, "": 1}
    assert all(f"give {what}:" in m for m in series.message[series.code == "two_people"])
    assert len(context.read("scans")) == 1, "the other person is not concerned"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"PatientSex": "F"}, {"PatientSex": ""}),
        ({"PatientSex": "F"}, {"PatientSex": "O"}),
        ({"PatientBirthDate": "19500317"}, {"PatientBirthDate": ""}),
        ({"PatientBirthDate": "19500317"}, {"PatientBirthDate": "19500101"}),
        ({"PatientBirthDate": "19500317"}, {"PatientBirthDate": "19000101"}),
        ({"PatientBirthDate": "19500317"}, {"PatientBirthDate": "1950.03.17"}),
        (
            {"PatientBirthDate": "", "PatientAge": "041Y", "StudyDate": "20150301"},
            {"PatientBirthDate": "", "PatientAge": "047Y", "StudyDate": "20200301"},
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "090Y", "StudyDate": "20150301"},
            {"PatientBirthDate": "", "PatientAge": "090Y", "StudyDate": "20200301"},
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "088Y", "StudyDate": "20150301"},
            {"PatientBirthDate": "", "PatientAge": "090Y", "StudyDate": "20200301"},
        ),
        (
            {"PatientBirthDate": "19500101", "PatientAge": "", "StudyDate": "20200301"},
            {"PatientBirthDate": "", "PatientAge": "068Y", "StudyDate": "20191228"},
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "045Y", "StudyDate": ""},
            {"PatientBirthDate": "", "PatientAge": "070Y", "StudyDate": ""},
        ),
        (
            {"PatientBirthDate": "", "PatientAge": "020Y", "StudyDate": "19900301"},
            {"PatientBirthDate": "", "PatientAge": "050Y", "StudyDate": "20200301"},
        ),
    ],
)
def test_what_is_unknown_or_coarse_contradicts_nothing(
    archive: Path, first: dict[str, str], second: dict[str, str]
) -> None:
    two_exams(archive, first, second)
    assert set(ingested(archive).read("series").code) == {""}


def test_a_person_may_be_said_to_be_one_by_hand(archive: Path) -> None:
    two_exams(archive, {"PatientSex": "F"}, {"PatientSex": "M"})
    ids = ingested(archive).read("series").series_id
    table = archive.parent / "overrides.csv"
    rows = "".join(f"{i},accept,the desk mistyped the sex\n" for i in ids)
    table.write_text("series_id,decision,reason\n" + rows)
    scans = ingested(archive, overrides=str(table)).read("scans")
    assert len(scans) == 2
    assert scans.person_id.nunique() == 1


def test_a_table_that_gives_one_person_two_sexes_stops_before_work(archive: Path) -> None:
    write_sagittal(archive, TALL)
    table = archive.parent / "people.csv"
    table.write_text("person,exam,sex,site\nP1,E1,F,x\nP2,E1,F,x\nP1,E2,male,x\n")
    with pytest.raises(BadStudy, match="row 4 gives another sex to a person listed before"):
        ingested(archive, participants=str(table))


def test_a_table_that_contradicts_the_headers_is_told_by_count_and_scan(archive: Path) -> None:
    """As when its rows slipped by one against the ids."""
    write_sagittal(archive / "a", TALL, person="P1", change=says(PatientSex="F"))
    write_sagittal(archive / "b", TALL, person="P2", change=says(PatientSex="M"))
    table = archive.parent / "people.csv"
    table.write_text("person,sex,site\nP1,weiblich,x\nP2,F,x\n")
    said: list[str] = []
    context = ingested(archive, said, participants=str(table))
    assert any("another sex than the header in 1 of 2 scans" in line for line in said), said
    messages = context.read("series").message
    assert sorted("another sex" in message for message in messages) == [False, True]
    assert context.read("scans").sex.to_list() == ["F", "F"], "the table is the study's own word"


def test_rows_that_slipped_among_people_of_one_sex_are_told_by_their_ages(archive: Path) -> None:
    for person, born in (("P1", "19500505"), ("P2", "19900101"), ("P3", "19700301")):
        change = says(PatientBirthDate=born, PatientAge="", StudyDate="20200101")
        write_sagittal(archive / person, TALL, person=person, change=change)
    table = archive.parent / "people.csv"
    table.write_text("person,sex,site,age_years\nP1,F,x,30\nP2,F,x,49.8\nP3,F,x,49.8\n")
    said: list[str] = []
    context = ingested(archive, said, participants=str(table))
    assert any("over a year from the header's in 2 of 3 scans" in line for line in said), said
    messages = context.read("series").message
    assert sorted("over a year" in message for message in messages) == [False, True, True]


def test_ages_that_differ_within_a_header_alone_are_not_the_tables_fault(archive: Path) -> None:
    write_sagittal(archive, TALL, change=says(PatientBirthDate="19500505", PatientAge="050Y"))
    table = archive.parent / "people.csv"
    table.write_text("person,sex,site,age_years\nP1,F,x,\n")
    said: list[str] = []
    ingested(archive, said, participants=str(table))
    assert not any("over a year" in line for line in said), said


def two_data_sets(archive: Path, first: str, second: str) -> None:
    """One label, two pictures."""
    for number, folder in enumerate((first, second)):
        (archive / folder).mkdir(parents=True, exist_ok=True)
        image = nibabel.Nifti1Image(
            np.roll(TALL.voxels_RAS, number, axis=2).astype(np.int16), moved(number).affine_RAS
        )
        image.to_filename(archive / folder / "sub-01_T2w.nii.gz")


APART = [
    ("north/sub-01/anat", "south/sub-01/anat"),
    ("north", "south"),
    ("sub-01/anat", "other/sub-01/anat"),
    ("a/north/rawdata/sub-01/anat", "a/south/rawdata/sub-01/anat"),
    ("rawdata/north/sub-01/anat", "rawdata/south/sub-01/anat"),
    ("derivatives/x/north/sub-01", "derivatives/x/south/sub-01"),
    ("sub-north/sub-01", "sub-south/sub-01"),
    ("sub-01/north/sub-01", "sub-01/south/sub-01"),
]
TOGETHER = [
    ("sub-01/ses-1/anat", "sub-01/ses-2/anat"),
    ("north/sub-01/anat", "north/derivatives/denoised/sub-01/anat"),
    ("north/rawdata/sub-01/anat", "north/derivatives/sub-01/anat"),
    ("rawdata/sub-01/anat", "derivatives/x/sub-01"),
    ("sub-01", "rawdata/derivatives/x/sub-01"),
    ("north/sub-01/ses-1", "north/sub-01/derivatives/x"),
    ("north", "north/derivatives/denoised"),
]


@pytest.mark.parametrize(("first", "second"), APART)
def test_a_label_of_two_data_sets_is_refused_unless_the_study_says_it_is_one_person(
    archive: Path, first: str, second: str
) -> None:
    two_data_sets(archive, first, second)
    series = ingested(archive).read("series")
    assert series.code.to_list() == ["two_people"] * 2
    assert all("give two data sets:" in message for message in series.message)
    series = ingested(archive, section=Ingest(labels_hold_everywhere=True)).read("series")
    assert series.code.to_list() == [""] * 2
    assert series.person_id.nunique() == 1


@pytest.mark.parametrize(("first", "second"), TOGETHER)
def test_a_label_of_one_data_set_is_one_person_wherever_its_files_lie(
    archive: Path, first: str, second: str
) -> None:
    two_data_sets(archive, first, second)
    assert ingested(archive).read("series").code.to_list() == [""] * 2


@pytest.mark.parametrize(
    ("folder", "is_one_person"),
    [
        ("north/sub-01/scans", True),
        ("north/sourcedata/sub-01", True),
        ("south/sub-01", False),
        ("hospital/a", False),
        ("north", False),
    ],
)
def test_a_dicom_id_that_is_a_label_is_of_the_data_set_that_it_lies_in(
    archive: Path, folder: str, is_one_person: bool
) -> None:
    two_data_sets(archive, "north/sub-01/anat", "north/sub-01/anat")
    write_sagittal(archive / folder, moved(2), person="sub-01")
    series = ingested(archive).read("series")
    assert series.person_id.nunique() == 1
    assert set(series.code) == ({""} if is_one_person else {"two_people"})


def test_dicom_files_in_no_folder_of_their_label_are_one_archive(archive: Path) -> None:
    for number, (exam, folder) in enumerate((("E1", "a/1"), ("E2", "b"))):
        write_sagittal(archive / folder, moved(number), person="sub-01", exam=exam)
    assert ingested(archive).read("series").code.to_list() == ["", ""]


def test_a_slice_that_is_known_by_the_one_before_still_has_its_own_folder(archive: Path) -> None:
    paths = write_sagittal(archive / "north" / "sub-01", TALL, person="sub-01")
    south = archive / "south" / "sub-01"
    south.mkdir(parents=True)
    for path in paths[4:]:
        path.rename(south / path.name)
    assert set(ingested(archive).read("series").code) == {"two_people"}


@pytest.mark.parametrize(
    ("keyword", "column"),
    [("PatientID", "person_id"), ("AccessionNumber", "exam_id"), ("InstitutionName", "site")],
)
def test_ids_that_their_character_set_cannot_hold_stay_apart(
    archive: Path, keyword: str, column: str
) -> None:
    """Latin-1 bytes in files that say UTF-8, as exports write them: an umlaut may be all that differs."""
    for number, (name, letter) in enumerate((("a", b"\xdc"), ("b", b"\xd6"))):
        says_utf8 = says(SpecificCharacterSet="ISO_IR 192", **{keyword: "MxxLLER"})
        for path in write_sagittal(archive / name, moved(number), exam=name, change=says_utf8):
            path.write_bytes(path.read_bytes().replace(b"MxxLLER", b"M" + letter + b"LLER "))
    scans = ingested(archive, exam_key="AccessionNumber").read("scans")
    assert scans[column].nunique() == 2


def test_bytes_of_an_id_are_those_of_the_letters_in_the_table(archive: Path) -> None:
    says_utf8 = says(SpecificCharacterSet="ISO_IR 192", PatientID="MxLLER")
    for path in write_sagittal(archive, TALL, change=says_utf8):
        path.write_bytes(path.read_bytes().replace(b"MxLLER", b"M\xdcLLER"))
    table = archive.parent / "people.csv"
    table.write_text("person,sex,site\nMÜLLER,M,x\n", encoding="utf-8")
    assert ingested(archive, participants=str(table)).read("scans").sex.to_list() == ["M"]


def test_a_label_is_all_of_itself() -> None:
    """sub-north-0001 and sub-north-0002 are two people, as are labels with a dot or an umlaut."""
    from spineage.io.nifti import _about as about_file

    keyed = Keyed(b"k" * 32)
    stems = ["sub-north-0001_T2w", "sub-north-0002_T2w", "sub-a.1_T2w", "sub-a.2_T2w", "sub-aü_T2w"]
    assert len({about_file(stem, "c", keyed, {}).person_id for stem in stems}) == len(stems)
    visits = ["sub-1_ses-a-1_T2w", "sub-1_ses-a-2_T2w"]
    assert len({about_file(stem, "c", keyed, {}).exam_id for stem in visits}) == 2


@pytest.mark.parametrize(
    "patient", ["", "ANON", "Anonymous", "0000", "000-00", "N/A", "unknown", "XXXX"]
)
def test_what_anonymisers_write_into_every_id_is_nobodys(patient: str) -> None:
    from spineage.io.dicom.header import is_no_id

    assert is_no_id(patient)


@pytest.mark.parametrize("patient", ["P1", "10", "ANON1", "x7", "Nana"])
def test_other_ids_are_somebodys(patient: str) -> None:
    from spineage.io.dicom.header import is_no_id

    assert not is_no_id(patient)
