"""Any file of the input: told apart by its first bytes, read as what it is, or refused with a code."""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Final

from spineage.errors import TRANSIENT, BadScan, place_of
from spineage.io import nifti
from spineage.io.dicom import header as dicom
from spineage.io.files.archive import MARK, Member, members_of, open_archive, read_member
from spineage.io.files.bounded import inflate_start
from spineage.io.files.described import descriptions_in, folder_of
from spineage.io.files.listing import open_stream
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.storage.trouble import reason_of
from spineage.science.people.age import is_withheld
from spineage.science.scan.series import Header

SNIFF_BYTES: Final = 4096
ZIP_STARTS: Final = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")  # a file, an empty, a split one
OTHER_ARCHIVES: Final = (b"7z\xbc\xaf", b"Rar!", b"\xfd7zXZ\x00", b"BZh")
UNOPENED: Final = "the file or folder cannot be opened"
SIDECARS: Final = (".json", ".tsv", ".tsv.gz", ".bval", ".bvec")  # of NIfTI and BIDS
TROUBLES: Final = {
    "link": "a link to a folder or out of the input: links are not followed there",
    "hidden": "a hidden folder: what is in it is no input",
    "special_file": "a pipe, socket or device: it is not opened",
    "unreadable": UNOPENED,
}


@dataclass(frozen=True)
class Read:
    """What came of one file or archive member: its header, or a fault code with a message."""

    seen: Seen
    file_id: str
    header: Header | None
    code: str = ""
    message: str = ""


@dataclass(frozen=True)
class Chunk:
    """Work for one task: files to read, how their ids are hashed, and the highest age that is kept."""

    files: Sequence[Seen]
    keyed: Keyed
    exam_key: str
    max_age_shown: int | None = None


def read_chunk(chunk: Chunk) -> list[Read]:
    """The headers of a few files: what one parallel task does."""
    return [
        _without_high_age(read, chunk.max_age_shown)
        for seen in chunk.files
        for read in read_file(seen, chunk.keyed, chunk.exam_key)
    ]


def _without_high_age(read: Read, most: int | None) -> Read:
    about = read.header.about if read.header else None
    if about is None or not is_withheld(about.age_years, about.age_by_dates_years, most=most):
        return read
    kept = replace(about, age_years=None, age_by_dates_years=None, age_is_withheld=True)
    assert read.header
    return replace(read, header=replace(read.header, about=kept))


def read_file(seen: Seen, keyed: Keyed, exam_key: str) -> list[Read]:
    """The header of one file, or why there is none; of a zip archive one for itself and each member."""
    try:
        if seen.trouble:
            raise BadScan(seen.trouble, TROUBLES[seen.trouble])
        with open_stream(seen.location) as stream:
            if kind_of(stream) == "zip":
                return _read_archive(seen, stream, keyed, exam_key)
            return [_read(seen, stream, keyed, exam_key)]
    except Exception as error:
        return [_refused(seen, keyed, fault_from(error))]


def _read_archive(seen: Seen, stream: BinaryIO, keyed: Keyed, exam_key: str) -> list[Read]:
    """The archive's own row, then one for each member; one member is in memory at a time."""
    with open_archive(stream) as packed:
        members = []
        listed = [(member, _seen_inside(seen, member)) for member in members_of(packed)]
        described = descriptions_in([inside for _, inside in listed])
        for member, plain in listed:
            inside = replace(plain, above=described[folder_of(plain.name)].of(plain.name))
            try:
                if member.fault:
                    raise member.fault
                data = io.BytesIO(read_member(packed, member.info))
                members.append(_read(inside, data, keyed, exam_key))
            except Exception as error:
                members.append(_refused(inside, keyed, fault_from(error)))
    told = BadScan("archive", f"a zip archive of {len(members)} files, each with a row of its own")
    return [_refused(seen, keyed, told), *members]


def _seen_inside(seen: Seen, member: Member) -> Seen:
    return Seen(
        f"{seen.name}{MARK}{member.name}",
        f"{seen.location}{MARK}{member.name}",
        member.info.file_size,
        seen.stamp,
    )


def _read(seen: Seen, stream: BinaryIO, keyed: Keyed, exam_key: str) -> Read:
    """One file that is open, at its start."""
    file_id = keyed.file(seen.name)
    try:
        return Read(seen, file_id, _header(seen, stream, file_id, keyed, exam_key))
    except Exception as error:
        return _refused(seen, keyed, fault_from(error))


def _refused(seen: Seen, keyed: Keyed, fault: BadScan) -> Read:
    return Read(seen, keyed.file(seen.name), None, fault.code, str(fault))


def is_passing(read: Read) -> bool:
    """Whether the file could not be opened, or met a bug: the next run may find it otherwise."""
    return read.code in TRANSIENT or (
        read.code == "unreadable" and read.message.startswith(UNOPENED)
    )


def fault_from(error: Exception) -> BadScan:
    """One file's row, whatever was raised on it: the file's fault, the disk's, or a bug of ours."""
    if isinstance(error, BadScan):
        return error
    return _unopened(error) if isinstance(error, OSError) else BadScan("bug", place_of(error))


def _unopened(error: OSError) -> BadScan:
    return BadScan("unreadable", f"{UNOPENED} ({reason_of(error)})")


def _header(seen: Seen, stream: BinaryIO, file_id: str, keyed: Keyed, exam_key: str) -> Header:
    kind = kind_of(stream)
    if kind == "dicom":
        return dicom.read_header(stream, seen.bytes, seen.name, file_id, keyed, exam_key)
    if kind == "nifti":
        return nifti.read_header(stream, seen, file_id, keyed)
    if kind in ("zip", "archive") and MARK in seen.name:
        raise BadScan("nested_archive", "an archive within an archive: unpack the outer one")
    if kind == "archive":
        raise BadScan("not_unpacked", "an archive: unpack it beside the other files")
    if kind == "nifti pair":
        raise BadScan("unreadable", "NIfTI in two files (.hdr, .img): convert it to one .nii")
    if seen.name.lower().endswith(SIDECARS):
        raise BadScan("sidecar", "a table or description that lies beside images")
    raise BadScan("not_imaging", "neither DICOM nor NIfTI")


def kind_of(stream: BinaryIO) -> str:
    """dicom, nifti, nifti pair, zip, archive or other; by content, since names lie. Rewinds the stream."""
    start = stream.read(SNIFF_BYTES)
    stream.seek(0)
    if start[128:132] == b"DICM" or _is_bare_dicom(start):
        return "dicom"
    if start[:2] == b"\x1f\x8b":
        start = _unpacked_start(start)
        if _nifti(start):
            return _nifti(start)
        is_worth_unpacking = start[257:262] == b"ustar" or start[128:132] == b"DICM"
        return "archive" if is_worth_unpacking else "other"
    if start[:4] in ZIP_STARTS:
        return "zip"
    if start.startswith(OTHER_ARCHIVES) or start[257:262] == b"ustar":
        return "archive"
    return _nifti(start) or "other"


def _is_bare_dicom(start: bytes) -> bool:
    """Without preamble a file begins with a short element of group 0008, or of the meta group 0002."""
    if len(start) < 8 or start[:2] not in (b"\x08\x00", b"\x02\x00") or start[3] != 0:
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
        return inflate_start(start, SNIFF_BYTES)
    except zlib.error:
        return b""
