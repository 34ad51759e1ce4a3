"""Zip archives: members are judged by the table of contents before they are unpacked, never to disk.

A member is addressed as `<archive>!/<member>`. Limits are generous for an export of exams and stop an
archive made to fill a machine.
"""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PureWindowsPath
from typing import IO, BinaryIO, Final, cast

from spineage.errors import BadScan
from spineage.io.files.bounded import Bounded, read_at_most

MARK: Final = "!/"
MAX_MEMBERS: Final = 100_000  # a whole-spine exam has some hundred files
MAX_TABLE_BYTES: Final = 1 << 24  # the table of contents: 160 bytes for each of so many members
MAX_MEMBER_BYTES: Final = (
    1 << 29
)  # unpacked in memory, one at a time; a large multi-frame is 200 MB
MAX_UNPACKED_BYTES: Final = 1 << 36  # all members of one archive together: 64 GiB
MAX_RATIO: Final = (
    200  # of all members to the archive: MR packs 2 to 3 times, deflate's limit is 1032
)
RATIO_FROM_BYTES: Final = 1 << 26  # less, whatever its ratio, harms nobody
METHODS: Final = (
    zipfile.ZIP_STORED,
    zipfile.ZIP_DEFLATED,
)  # of the others memory cannot be bounded
ENCRYPTED: Final = 0x1  # bit of the general purpose flags, APPNOTE 4.4.4


@dataclass(frozen=True)
class Member:
    """One file of an archive; name: a number is added to a doubled one; fault: why it is not read."""

    name: str
    info: zipfile.ZipInfo
    fault: BadScan | None


def open_archive(stream: BinaryIO) -> zipfile.ZipFile:
    """The archive by its table of contents. Raises BadScan bad_archive, too_large."""
    size = stream.seek(0, os.SEEK_END)
    bounded = Bounded(stream, size, MAX_TABLE_BYTES, may_read_rest=True)
    try:
        packed = zipfile.ZipFile(cast(IO[bytes], bounded))
    except BadScan:
        raise
    except Exception as error:  # zipfile raises many types; their texts quote names
        why = type(error).__name__
        raise BadScan(
            "bad_archive", f"damaged or cut short: no table of contents ({why})"
        ) from None
    _check_size(packed, size)
    return packed


def _check_size(packed: zipfile.ZipFile, size: int) -> None:
    """By what the table of contents says; no member is read further than it says."""
    infos = packed.infolist()
    unpacked = sum(info.file_size for info in infos)
    if len(infos) > MAX_MEMBERS:
        raise BadScan("too_large", f"{len(infos)} members, at most {MAX_MEMBERS}")
    if unpacked > MAX_UNPACKED_BYTES:
        raise BadScan("too_large", f"it unpacks to more than {MAX_UNPACKED_BYTES} bytes")
    if unpacked > max(RATIO_FROM_BYTES, MAX_RATIO * size):
        raise BadScan("too_large", f"it unpacks to more than {MAX_RATIO} times its size")
    if sum(info.compress_size for info in infos) > size:
        raise BadScan("bad_archive", "members overlap, or the archive is cut short")


def members_of(packed: zipfile.ZipFile) -> Iterator[Member]:
    """Every file in the order of the table; folders are none. Doubled names are refused, each of them."""
    infos = [info for info in packed.infolist() if not _is_folder(info)]
    times = Counter(info.filename for info in infos)
    met: Counter[str] = Counter()
    for info in infos:
        name = info.filename
        met[name] += 1
        number = f"!{met[name]}" if met[name] > 1 else ""
        fault = _fault_of(info)
        if times[name] > 1:
            fault = BadScan("bad_archive", "the archive lists this member more than once")
        yield Member(name + number, info, fault)


def _is_folder(info: zipfile.ZipInfo) -> bool:
    """ZipInfo.is_dir fails on an empty name, which is what one that begins with NUL becomes."""
    return info.filename.endswith("/") and info.file_size == 0


def _fault_of(info: zipfile.ZipInfo) -> BadScan | None:
    path = PureWindowsPath(info.orig_filename)  # knows both slashes and drive letters
    if path.anchor or ".." in path.parts or "\0" in info.orig_filename or not path.parts:
        return BadScan("bad_archive", "the member's path leads out of the archive")
    if info.flag_bits & ENCRYPTED:
        return BadScan("bad_archive", "the member is encrypted: unpack it with its password")
    if info.compress_type not in METHODS:
        return BadScan("bad_archive", "packed by a method that is not read: pack it as deflate")
    if info.file_size > MAX_MEMBER_BYTES:
        return BadScan("too_large", f"the member unpacks to more than {MAX_MEMBER_BYTES} bytes")
    return None


def read_member(packed: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The member, unpacked and checked against its checksum. Raises BadScan bad_archive, too_large."""
    if fault := _fault_of(info):
        raise fault
    try:
        with packed.open(info) as member:
            data = read_at_most(cast(BinaryIO, member), MAX_MEMBER_BYTES)
    except BadScan:
        raise
    except Exception as error:  # zipfile and zlib raise many types; their texts quote names
        why = type(error).__name__
        raise BadScan("bad_archive", f"the member cannot be unpacked ({why})") from None
    if len(data) != info.file_size:
        raise BadScan("bad_archive", "the member ends before its data do")
    return data


def read_named(stream: BinaryIO, name: str) -> bytes:
    """One member by its name. Raises FileNotFoundError, and BadScan as the other readers."""
    with open_archive(stream) as packed:
        try:
            info = packed.getinfo(name)
        except KeyError:
            raise FileNotFoundError("the archive has no such member") from None
        return read_member(packed, info)
