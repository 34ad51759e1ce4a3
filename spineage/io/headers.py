"""Any file of the input folder: told apart by its first bytes, read as what it is, or refused with a code."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from spineage.errors import BadScan
from spineage.io import dicom, nifti
from spineage.io.identity import Keyed
from spineage.io.listing import Seen, open_stream
from spineage.science.series import Header

SNIFF_BYTES = 4096


@dataclass(frozen=True)
class Read:
    """What came of one file: its header, or a fault code with a message."""

    seen: Seen
    file_id: str
    header: Header | None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Chunk:
    """Work for one task: files to read, and how their ids are hashed."""

    files: Sequence[Seen]
    keyed: Keyed
    exam_key: str


def read_chunk(chunk: Chunk) -> list[Read]:
    """The headers of a few files: what one parallel task does."""
    return [read for seen in chunk.files for read in read_file(seen, chunk.keyed, chunk.exam_key)]


def read_file(seen: Seen, keyed: Keyed, exam_key: str) -> list[Read]:
    """The header of one file, or why there is none."""
    file_id = keyed.file(seen.name)
    try:
        return [Read(seen, file_id, _header(seen, file_id, keyed, exam_key))]
    except BadScan as fault:
        return [Read(seen, file_id, None, fault.code, str(fault))]
    except OSError as error:
        why = error.strerror or type(error).__name__
        return [Read(seen, file_id, None, "unreadable", f"the file cannot be opened ({why})")]


def _header(seen: Seen, file_id: str, keyed: Keyed, exam_key: str) -> Header:
    if seen.is_link_to_folder:
        raise BadScan("not_imaging", "a link to a folder: links are not followed")
    with open_stream(seen.location) as stream:
        kind = kind_of(stream)
        if kind == "dicom":
            return dicom.read_header(stream, seen.bytes, file_id, keyed, exam_key)
    if kind == "nifti":
        return nifti.read_header(seen.location, seen.name, file_id, keyed)
    if kind == "archive":
        raise BadScan("not_unpacked", "an archive: unpack it beside the other files")
    if kind == "nifti pair":
        raise BadScan("unreadable", "NIfTI in two files (.hdr, .img): convert it to one .nii")
    raise BadScan("not_imaging", "neither DICOM nor NIfTI")


def kind_of(stream: BinaryIO) -> str:
    """dicom, nifti, nifti pair, archive or other; by content, since names lie. Rewinds the stream."""
    start = stream.read(SNIFF_BYTES)
    stream.seek(0)
    if start[128:132] == b"DICM" or _is_bare_dicom(start):
        return "dicom"
    if start[:2] == b"\x1f\x8b":
        start = _unpacked_start(start)
        if _nifti(start):
            return _nifti(start)
        return "archive" if start[257:262] == b"ustar" else "other"
    if start[:4] in (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!") or start[257:262] == b"ustar":
        return "archive"
    return _nifti(start) or "other"


def _is_bare_dicom(start: bytes) -> bool:
    """A dataset without preamble begins with a group 0008 element of at most a few hundred bytes."""
    if len(start) < 8 or start[:2] != b"\x08\x00" or start[3] != 0:
        return False
    has_vr = start[4:6].isalpha() and start[4:6].isupper()
    length = int.from_bytes(start[6:8] if has_vr else start[4:8], "little")
    return length <= 256


def _nifti(start: bytes) -> str:
    if start[344:348] in (b"n+1\x00", b"ni1\x00"):
        return "nifti" if start[344:347] == b"n+1" else "nifti pair"
    return "nifti" if start[4:8] == b"n+2\x00" else ""


def _unpacked_start(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start, SNIFF_BYTES)
    except zlib.error:
        return b""
