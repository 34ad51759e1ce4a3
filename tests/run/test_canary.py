"""Names, dates and times planted wherever they can stand, in tags that take any text and in coded ones.

None comes out: of no column of any table, the private and the compressed ones too (but where files lie), of
no message, log, fault or answer of `doctor` and `show`.
"""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import zipfile
from collections.abc import Hashable
from datetime import date
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import MediaStorageDirectoryStorage
from rich.console import Console

from spineage.errors import BadScan, BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import read_findings, read_participants
from spineage.io.scans.read import read_scan
from spineage.io.storage.arrays import pack_arrays
from spineage.io.storage.volumes import pack
from spineage.run.context import Context
from spineage.stages import conditions
from spineage.stages.ingest import stage as ingest
from spineage.study import Inputs, Study
from spineage.verbs import show
from spineage.verbs.doctor import examine
from tests.made.canaries import found_in, leaks_of, needle
from tests.made.dicom_makers import shaded, write_enhanced, write_sagittal

CANARY = "Kanarienvogel"
NUMBER = "8675309424242"
BORN, SCANNED, SCANNED_TOO = date(1947, 8, 11), date(2013, 5, 27), date(2014, 11, 3)
CLOCK = "142537.25"
SECONDS, EXACT_AGE = str(14 * 3600 + 25 * 60 + 37), "65.79"
LEAK = needle([CANARY, NUMBER, SECONDS, EXACT_AGE, CLOCK], [BORN, SCANNED, SCANNED_TOO])
TALL = shaded((7, 40, 60))
TEXTS = {
    64: ("PatientID", "OtherPatientIDs", "InstitutionName", "InstitutionAddress", "SeriesDescription",
         "ProtocolName", "StudyDescription", "Manufacturer", "ManufacturerModelName", "PatientName",
         "DeviceSerialNumber", "OperatorsName", "ReferringPhysicianName", "PerformingPhysicianName",
         "PatientComments", "AdditionalPatientHistory", "ImageComments", "PatientAddress", "SoftwareVersions",
         "PatientBirthName", "PerformedProcedureStepDescription", "InstitutionalDepartmentName"),
    16: ("StationName", "AccessionNumber", "StudyID", "SequenceName", "PatientSex", "BodyPartExamined",
         "ScanOptions", "PatientTelephoneNumbers"),
}  # fmt: skip
UIDS = (
    "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "DeviceUID",
    "SynchronizationFrameOfReferenceUID",
)  # fmt: skip


def plant(dataset: FileDataset, number: int) -> None:
    """Text tags, private ones, sequences of people, and UIDs that carry a number of theirs."""
    for length, keywords in TEXTS.items():
        for keyword in keywords:
            setattr(dataset, keyword, f"{CANARY} {keyword}"[:length])
    dataset.ImageType = ["ORIGINAL", "PRIMARY", CANARY.upper()]
    dataset.PatientBirthDate, dataset.PatientBirthTime = f"{BORN:%Y%m%d}", CLOCK
    dataset.PatientAge = ""  # so that the age is the dates'
    for name in DATED:
        setattr(dataset, f"{name}Date", f"{SCANNED:%Y%m%d}")
        setattr(dataset, f"{name}Time", CLOCK)
    dataset.AcquisitionDateTime = f"{SCANNED:%Y%m%d}{CLOCK}"
    dataset.private_block(0x0029, f"{CANARY} MAKER", create=True).add_new(0x01, "LO", CANARY)
    nested = Dataset()
    nested.PatientID, nested.PatientName = CANARY, CANARY
    nested.StudyInstanceUID = f"1.2.{NUMBER}.9"
    for keyword in (
        "OtherPatientIDsSequence",
        "RequestAttributesSequence",
        "ReferencedStudySequence",
    ):
        setattr(dataset, keyword, Sequence([nested]))
    for i, keyword in enumerate(UIDS):
        setattr(dataset, keyword, f"1.2.{NUMBER}.{i}")
    uid = f"1.2.{NUMBER}.7.{number}"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = uid


DATED = (
    "Study",
    "Series",
    "Acquisition",
    "Content",
    "InstanceCreation",
    "PerformedProcedureStepStart",
)
CODED = ("Modality", "PatientSex", "ScanningSequence", "SequenceVariant", "PhotometricInterpretation",
         "BurnedInAnnotation", "EchoPulseSequence", "InversionRecovery", "PatientPosition")  # fmt: skip

NUMBERS = ("RepetitionTime", "EchoTime", "InversionTime", "MagneticFieldStrength", "AcquisitionNumber",
           "TemporalPositionIdentifier")  # fmt: skip


def coded(dataset: FileDataset, number: int) -> None:
    """What takes one of a few terms, or a date, holds a name instead."""
    plant(dataset, number)
    dataset.SeriesInstanceUID = f"1.2.{NUMBER}.30"
    dataset.SOPInstanceUID = f"1.2.{NUMBER}.31.{number}"
    for keyword in CODED:
        setattr(dataset, keyword, CANARY.upper())
    dataset.PatientAge, dataset.PatientBirthDate, dataset.StudyDate = CANARY[:4], CANARY, CANARY
    dataset.AcquisitionTime = CANARY
    for keyword in NUMBERS:
        setattr(dataset, keyword, f"{SCANNED:%Y%m%d}")


def later(dataset: FileDataset, number: int) -> None:
    """The same person again."""
    plant(dataset, number)
    dataset.StudyInstanceUID, dataset.StudyDate = f"1.2.{NUMBER}.40", f"{SCANNED_TOO:%Y%m%d}"
    dataset.SeriesInstanceUID = dataset.FrameOfReferenceUID = f"1.2.{NUMBER}.41"
    dataset.SOPInstanceUID = f"1.2.{NUMBER}.42.{number}"


def planted_in_frames(dataset: FileDataset, number: int) -> None:
    plant(dataset, number)
    dataset.SeriesInstanceUID = f"1.2.{NUMBER}.20"
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        content = Dataset()
        content.FrameComments = CANARY
        groups.FrameContentSequence = Sequence([content])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Good and spoilt files of every kind in folders with names, in an input without."""
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    home = tmp_path / "input" / f"{CANARY} Anna" / NUMBER
    good = write_sagittal(home, TALL, change=plant, series=CANARY)
    write_enhanced(home / f"{CANARY}.mf", TALL, series="S2", change=planted_in_frames)
    write_sagittal(home / "coded", TALL, change=coded)
    write_sagittal(home / "later", TALL, change=later)
    with zipfile.ZipFile(home / f"{CANARY}.zip", "w") as packed:
        for name in (CANARY, f"../{CANARY}", f"{CANARY}/{NUMBER}.dcm"):
            packed.write(good[0], name)
    data = good[0].read_bytes()
    spoilt = {"cut": data[:700], "cut2": data[:-90], "noise": data[:140] + data[500:] * 2,
              "cut.zip": b"PK\x03\x04" + CANARY.encode(), "txt": CANARY.encode()}  # fmt: skip
    for name, content in spoilt.items():
        (home / f"{CANARY}.{name}").write_bytes(content)
    (home / f"{CANARY}-link").symlink_to(tmp_path)
    directory = data.replace(
        b"1.2.840.10008.5.1.4.1.1.4\0", MediaStorageDirectoryStorage.encode().ljust(26, b"\0")
    )
    (home / "DICOMDIR").write_bytes(directory)
    _write_nifti(home)
    return home


def _write_nifti(home: Path) -> None:
    image = nibabel.Nifti1Image(TALL.voxels_RAS.astype(np.int16), TALL.affine_RAS)
    image.header["descrip"] = image.header["intent_name"] = CANARY.encode()
    image.header["aux_file"] = image.header["db_name"] = CANARY.encode()
    image.to_filename(home / f"sub-{CANARY}_ses-{NUMBER}_T2w.nii.gz")
    fields = ("SeriesDescription", "PatientName", "InstitutionName", "ProtocolName", "ScanOptions",
              "ScanningSequence", "BodyPartExamined", "MagneticFieldStrength")  # fmt: skip
    sidecar = {
        **dict.fromkeys(fields, CANARY),
        "Modality": "MR",
        "StudyInstanceUID": f"1.2.{NUMBER}.1",
        "AcquisitionDateTime": f"{SCANNED:%Y-%m-%d}T14:25:37",
    }
    (home / f"sub-{CANARY}_ses-{NUMBER}_T2w.json").write_text(json.dumps(sidecar))
    dated = home / f"sub-x_ses-{SCANNED:%Y%m%d}_T2w"
    image.to_filename(f"{dated}.nii")
    Path(f"{dated}.json").write_text(json.dumps({**sidecar, "Modality": CANARY}))


def has_name(text: str) -> bool:
    return bool(found_in(LEAK, text))


def tables_about_people(folder: Path) -> dict[str, str]:
    """Names where a sex, a site, a factor, its value, a finding or a level should stand."""
    texts = {
        "participants": f"person,sex,site\n{CANARY} PatientID,F,{CANARY}\n{NUMBER},{CANARY},{NUMBER}\n",
        "lifestyle": f"person,home,{CANARY} {'x' * 40}\n{CANARY} PatientID,{CANARY},yes\n{NUMBER},town,no\n",
        "findings": f"person,exam,finding,level,severity\n{CANARY} PatientID,1.2.{NUMBER}.0,bulge,L4,mild\n"
        f"{NUMBER},1.2.{NUMBER}.0,{CANARY},{CANARY},{CANARY}\n{NUMBER},2,bulge of {CANARY},L4,{NUMBER}\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.csv").write_text(text)
    return {name: str(folder / f"{name}.csv") for name in texts}


def context_of(folder: Path, said: list[str]) -> Context:
    inputs = Inputs(scans=str(folder / "input"), **tables_about_people(folder))
    return Context(Study(workspace=str(folder / "workspace"), inputs=inputs), say=said.append)


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the values planted here
def test_nothing_that_ingest_and_conditions_write_or_say_names_anybody(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []
    context = context_of(tmp_path, said)
    caplog.clear()
    capfd.readouterr()
    counts = ingest.run(context)
    conditions.run(context)
    assert counts.done["scans"] >= 3, counts
    assert {"directory", "archive", "sidecar", "link"} <= set(counts.unused)
    said += [check.found for check in examine(context.study)]
    rows = context.read("sources").to_dict("records")
    for row in rows:
        location = json.loads(row["stations_json"])[0][0]["location"].split("!/")[0]
        shutil.copyfile(home / f"{CANARY}.txt", location)
        said.append(fault_of(row))
    shutil.rmtree(home)
    said += [fault_of(row) for row in rows]
    said += [*capfd.readouterr(), caplog.text, json.dumps(counts.flat())]
    for name in ("series", "scans", "conditions"):
        printed = io.StringIO()
        for grid in show.grids(name, context.read(name)):
            Console(file=printed, width=500).print(grid)
        said.append(printed.getvalue())
    assert not found_in(LEAK, *said)
    assert not leaks_of(tmp_path / "workspace", LEAK)
    written = {path.parent.name for path in (tmp_path / "workspace").rglob("*.parquet")}
    assert written == {"headers", "files", "series", "scans", "sources", "conditions"}


def fault_of(row: dict[Hashable, Any]) -> str:
    with pytest.raises(BadScan) as fault:
        read_scan({str(key): value for key, value in row.items()})
    return str(fault.value)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_kept_of_dates_is_what_ingest_needs(home: Path, tmp_path: Path) -> None:
    """The ages and the days between exams; and none of the dates can be told from what is kept."""
    context = context_of(tmp_path, [])
    ingest.run(context)
    scans = context.read("scans")
    assert set(scans.age_years.dropna()) == {65.8, 67.2}
    assert (SCANNED_TOO - SCANNED).days in set(scans.days_since_first.dropna())
    parts = (tmp_path / "workspace").rglob("headers/*.parquet")
    kept = pd.concat([pd.read_parquet(part) for part in parts]).header_json.dropna()
    headers = [json.loads(text) for text in kept]
    abouts = [header["about"] for header in headers]
    days = {about["study_day"] for about in abouts if about["study_day"] is not None}
    assert max(days) - min(days) >= (SCANNED_TOO - SCANNED).days
    assert not days & set(range(date(1900, 1, 1).toordinal(), date(2100, 1, 1).toordinal()))
    for about in abouts:
        for name in ("age_years", "age_by_dates_years"):
            assert about[name] is None or about[name] == round(about[name], 1)
    assert {header["physics"]["modality"] for header in headers} == {"MR", "other"}
    assert {about["sex"] for about in abouts} == {None}


def test_the_search_itself_sees_what_is_there(tmp_path: Path) -> None:
    """In every form and place that the tests above look for."""
    texts = [
        CANARY.upper(),
        f"x{NUMBER}",
        f"{SCANNED}",
        f"day {BORN.toordinal()}.",
        f"a{BORN:%d.%m.%Y}",
    ]
    for text in texts:
        assert found_in(LEAK, text), text
    columns = {
        "plain": [CANARY],
        "packed": [pack(np.frombuffer(NUMBER.encode(), np.uint8))],
        "arrays": [pack_arrays({CANARY: np.zeros(3)})],
        "lists": [[f"{SCANNED:%Y%m%d}"]],
        "numbers": [SCANNED.toordinal()],
        "stations_json": [json.dumps([[{"location": "x", "seal": CANARY}]])],
    }
    for name, values in columns.items():
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(pa.table({name: values}), folder / "part.parquet", compression="zstd")
        assert len(leaks_of(folder, LEAK)) == 1, name
    harmless = {"location": [CANARY], "stations_json": [json.dumps([[{"location": CANARY}]])]}
    (tmp_path / "none").mkdir()
    pq.write_table(pa.table(harmless), tmp_path / "none" / "part.parquet")
    assert not leaks_of(tmp_path / "none", LEAK)
    with sqlite3.connect(tmp_path / "none" / "log.db") as database:
        database.execute("CREATE TABLE runs (name TEXT)")
        database.execute("INSERT INTO runs VALUES (?)", (CANARY,))
    assert leaks_of(tmp_path / "none", LEAK)


@pytest.mark.parametrize(
    ("reader", "header", "rows"),
    [
        (read_participants, "person,sex,site,age_years", "{0},F,x,50\n{0},F,x,50"),
        (read_participants, "person,sex,site,age_years", "{0},F,x,{0}"),
        (read_participants, "participant_id,sex,age", "sub-{0},F,{0}"),
        (read_findings, "person,exam,finding,level", "{0},{0},bulge,L4\n{0},,bulge,L4"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_without_naming_anybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader, header: str, rows: str
) -> None:
    table = tmp_path / "table.tsv"
    table.write_text(f"{header}\n{rows.format(CANARY)}\n".replace(",", "\t"))
    with pytest.raises(BadStudy) as refusal:
        reader(str(table), Keyed(b"k" * 32))
    assert not has_name(str(refusal.value))


def test_people_of_the_tables_are_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    keyed = Keyed(load_key(Study(workspace=str(tmp_path))))
    table = tmp_path / "findings.csv"
    table.write_text(f"person,exam,finding,level\n{CANARY},{NUMBER},bulge,L4\n")
    assert not has_name(read_findings(str(table), keyed).to_csv())
    table.write_text(f"person,exam,sex,site\n{CANARY},{NUMBER},F,north\n")
    assert not has_name(read_participants(str(table), keyed).to_csv())
