"""Names planted wherever a name can stand; none comes out, but in the locations of the private tables."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import MediaStorageDirectoryStorage

from spineage.errors import BadScan, BadStudy
from spineage.io.assemble import read_scan
from spineage.io.findings import read_findings, read_participants
from spineage.io.identity import Keyed, load_key
from spineage.stages import ingest
from spineage.stages.context import Context
from spineage.study import Inputs, Study
from tests.stages.dicom_makers import shaded, write_enhanced, write_sagittal

CANARY = "Kanarienvogel"
NUMBER = "8675309424242"
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
    dataset.PatientAge, dataset.PatientBirthDate = CANARY[:4], CANARY
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
    }
    (home / f"sub-{CANARY}_ses-{NUMBER}_T2w.json").write_text(json.dumps(sidecar))


def has_name(text: str) -> bool:
    return CANARY.lower() in text.lower() or NUMBER in text


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the values planted here
def test_nothing_that_ingest_writes_or_says_names_anybody(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    people = tmp_path / "people.csv"
    people.write_text(f"person,sex,site\n{CANARY} PatientID,F,north\n{NUMBER},M,south\n")
    said: list[str] = []
    inputs = Inputs(scans=str(tmp_path / "input"), participants=str(people))
    context = Context(Study(workspace=str(tmp_path / "workspace"), inputs=inputs), say=said.append)
    caplog.clear()
    capfd.readouterr()
    counts = ingest.run(context)
    assert counts["scans"] >= 2, counts
    assert {"unused:directory", "unused:archive", "unused:sidecar", "unused:link"} <= set(counts)
    rows = context.read("sources").to_dict("records")
    shutil.rmtree(home)
    for row in rows:
        with pytest.raises(BadScan) as fault:
            read_scan(row)
        said.append(str(fault.value))
    tables = [context.read(name).to_csv() for name in ("series", "scans")]
    (kept,) = (tmp_path / "workspace").rglob("headers/*.parquet")
    private = [
        context.read("files").drop(columns="location"),
        context.read("sources").drop(columns="stations_json"),
        pd.read_parquet(kept).drop(columns="location"),
    ]
    said += [
        *capfd.readouterr(),
        caplog.text,
        json.dumps(counts),
        *tables,
        *(t.to_csv() for t in private),
    ]
    assert not [text for text in said if has_name(text)]
    for path in (tmp_path / "workspace").rglob("*"):
        if path.is_file() and not {"files", "sources", "headers"} & set(path.parts):
            assert CANARY.encode() not in path.read_bytes(), path.name
            assert NUMBER.encode() not in path.read_bytes(), path.name


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
