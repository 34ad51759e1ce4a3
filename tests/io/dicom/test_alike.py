"""A header known by the slices before it is the header that pydicom reads, whatever is in the file."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from spineage.errors import BadScan
from spineage.io.dicom import header as dicom
from spineage.io.people.identity import Keyed
from spineage.science.scan.series import Header
from tests.made.dicom_makers import classic_slice, shaded, uid
from tests.realdata.folder import ROOT, needs_realdata

KEYED = Keyed(b"k" * 32)
VOLUME = shaded(shape=(7, 8, 8))


def slice_bytes(number: int, syntax: str = ExplicitVRLittleEndian) -> bytes:
    """A slice with what real ones have: a private block, sequences of stated and of no stated length."""
    dataset = classic_slice(VOLUME, number)
    dataset.add_new(0x00290010, "LO", "VENDOR")
    dataset.add_new(0x00291010, "OB", b"\x07" * 40)
    for keyword, is_open in (("ReferencedStudySequence", True), ("ProcedureCodeSequence", False)):
        item = Dataset()
        item.ReferencedSOPInstanceUID = uid("study")
        setattr(dataset, keyword, Sequence([item]))
        dataset[keyword].is_undefined_length = is_open
    dataset.InstanceNumber = 10**number  # of another length in each file
    dataset.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        dataset["PixelData"].VR = "OW"
    file = io.BytesIO()
    is_little, is_implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    dataset.preamble = b"\0" * 128
    dcmwrite(file, dataset, implicit_vr=is_implicit, little_endian=is_little, force_encoding=True)
    return file.getvalue()


def read(data: bytes, *, knowing: bytes | None = None) -> Header | tuple[str, str]:
    """The header, or code and message of the fault; after having read another file, or none."""
    dicom._LATELY.clear()
    if knowing is not None:
        dicom.read_header(io.BytesIO(knowing), len(knowing), "", "other", KEYED, "StudyInstanceUID")
        assert dicom._LATELY
    try:
        return dicom.read_header(io.BytesIO(data), len(data), "", "id", KEYED, "StudyInstanceUID")
    except BadScan as fault:
        return fault.code, str(fault)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_the_next_slice_is_not_parsed_and_reads_the_same(
    syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = slice_bytes(0, syntax), slice_bytes(5, syntax)
    parsed = read(second)
    assert isinstance(parsed, Header)
    read(first, knowing=first)
    monkeypatch.setattr(dicom, "_elements", _must_not_be_called)
    known = dicom.read_header(io.BytesIO(second), len(second), "", "id", KEYED, "StudyInstanceUID")
    assert known == parsed
    assert known.frames[0].position_mm != read_position(first)


def read_position(data: bytes) -> object:
    """The position of the slice that is remembered."""
    (_, _, found) = dicom._LATELY[0]
    return found.header.frames[0].position_mm


def _must_not_be_called(stream: object) -> Dataset:
    raise AssertionError("parsed again")


@pytest.mark.parametrize("syntax", [ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
def test_other_syntaxes_read_the_same_beside_a_slice_of_a_common_one(syntax: str) -> None:
    other = slice_bytes(3, syntax)
    assert isinstance(read(other), Header)
    assert read(other, knowing=slice_bytes(0)) == read(other)


def test_no_damage_is_hidden_by_what_was_read_before() -> None:
    """Bytes of the header changed, removed, inserted or copied: 1500 files, each as if read alone."""
    good = slice_bytes(2)
    end = good.index(b"\xe0\x7f\x10\x00") + 12
    draw = random.Random(7)
    outcomes = set()
    for _ in range(1500):
        data = bytearray(good)
        at, count = draw.randrange(end), draw.choice((1, 1, 1, 2, 4, 8))
        kind = draw.choice(["flip", "flip", "cut", "insert", "move", "end"])
        if kind == "flip":
            data[at] ^= 1 << draw.randrange(8)
        elif kind == "cut":
            del data[at : at + count]
        elif kind == "insert":
            data[at:at] = draw.randbytes(count)
        elif kind == "move":
            data[at : at + count] = good[draw.randrange(end) :][:count]
        else:
            del data[at:]
        alone = read(bytes(data))
        assert read(bytes(data), knowing=good) == alone, (kind, at, count)
        outcomes.add(alone[0] if isinstance(alone, tuple) else "")
    assert {"", "truncated", "unreadable"} <= outcomes


def test_another_person_exam_or_protocol_is_read_anew() -> None:
    first = slice_bytes(0)
    for keyword, value in (("PatientID", "P2"), ("EchoTime", 99.5), ("StudyInstanceUID", "1.2.3")):
        dataset: FileDataset = classic_slice(VOLUME, 1)
        setattr(dataset, keyword, value)
        file = io.BytesIO()
        dataset.save_as(file, enforce_file_format=True)
        changed = file.getvalue()
        assert read(changed, knowing=first) == read(changed)


@needs_realdata
def test_real_files_read_alike_alone_and_one_after_another() -> None:
    paths = sorted(
        path for path in Path(ROOT).rglob("*") if path.suffix.lower() in (".dcm", ".ima")
    )
    dicom._LATELY.clear()
    together, num_known = [], 0
    for path in paths:
        before = list(dicom._LATELY)
        together.append(_outcome(path))
        num_known += list(dicom._LATELY) == before and isinstance(together[-1], Header)
    alone = []
    for path in paths:
        dicom._LATELY.clear()
        alone.append(_outcome(path))
    assert together == alone
    assert num_known > len(paths) / 3


def _outcome(path: Path) -> Header | tuple[str, str]:
    try:
        with path.open("rb") as stream:
            return dicom.read_header(
                stream, path.stat().st_size, "", path.name, KEYED, "StudyInstanceUID"
            )
    except BadScan as fault:
        return fault.code, str(fault)
