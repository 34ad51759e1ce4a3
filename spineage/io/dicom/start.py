"""What stands before a DICOM dataset (PS3.10): a table of contents is told, a deflated dataset unpacked."""

from __future__ import annotations

import io
from typing import BinaryIO, Final

from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.tag import BaseTag

from spineage.errors import BadScan
from spineage.io.dicom.values import text_of
from spineage.io.files.bounded import inflate_at_most, read_at_most

DIRECTORY: Final = b"1.2.840.10008.1.3.10"  # Media Storage Directory Storage
DEFLATED: Final = b"1.2.840.10008.1.2.1.99"
EXPLICIT: Final = b"1.2.840.10008.1.2.1\0\0\0"  # what is left when a deflated dataset is unpacked
META_START: Final = 132  # after preamble and prefix
SNIFF_BYTES: Final = 4096
MAX_INFLATED_BYTES: Final = 1 << 29


def plain_stream(stream: BinaryIO, size: int) -> tuple[BinaryIO, int]:
    """The object as a stream at its start, and its bytes; a deflated one unpacked in memory.

    Raises BadScan: directory for a DICOMDIR, which is not followed; of a deflated one unreadable,
    truncated, too_large.
    """
    start = stream.read(SNIFF_BYTES)
    stream.seek(0)
    if DIRECTORY not in start and DEFLATED not in start:
        return stream, size
    meta, end = _meta(stream)
    if text_of(meta, "MediaStorageSOPClassUID").encode() == DIRECTORY:
        raise BadScan("directory", "a DICOMDIR: the files that it lists are found without it")
    stream.seek(0)
    if text_of(meta, "TransferSyntaxUID").encode() != DEFLATED:
        return stream, size
    head = stream.read(end).replace(DEFLATED, EXPLICIT)
    packed = read_at_most(stream, MAX_INFLATED_BYTES)
    plain = head + inflate_at_most(packed, MAX_INFLATED_BYTES, wbits=-15)
    return io.BytesIO(plain), len(plain)


def _meta(stream: BinaryIO) -> tuple[Dataset, int]:
    """The file meta elements (group 0002, always explicit little endian) and where they end."""
    stream.seek(META_START)
    try:
        meta = read_dataset(stream, False, True, stop_when=_is_past_meta)
    except Exception as error:  # pydicom raises a dozen types; their texts quote values
        raise BadScan("unreadable", f"not to be parsed as DICOM ({type(error).__name__})") from None
    return meta, stream.tell()


def _is_past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag.group != 2
