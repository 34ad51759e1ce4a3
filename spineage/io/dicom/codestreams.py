"""What compressed pixels say about their own size and end, read before a decoder takes them at their word.

Decoders allocate what the stream asks for, 5 GB for a few forged bytes, or end the process; and they paint
grey what a JPEG stream that was cut short does not say.
"""

from __future__ import annotations

from typing import Final

from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import UID, RLELossless

from spineage.errors import BadScan
from spineage.io.dicom.values import number_of, text_of

JPEG_START: Final = b"\xff\xd8"
JPEG_END: Final = b"\xff\xd9"
JPEG_2000_START: Final = (
    b"\xff\x4f\xff\x51"  # start of codestream, then its size (ISO 15444-1 A.5.1)
)
FRAME_STARTS: Final = frozenset(
    {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
)  # SOFn, JPEG-LS's 55
SCAN_START: Final = 0xDA
MAX_BOXES_BYTES: Final = 4096  # before the codestream, where it stands in a JP2 file

Size = tuple[int, int, int]  # rows, columns, components


def check_codestreams(dataset: Dataset, num_frames: int) -> None:
    """Every compressed frame is of the header's size. Raises BadScan bad_pixels."""
    syntax = UID(text_of(getattr(dataset, "file_meta", None), "TransferSyntaxUID"))
    if not syntax.is_transfer_syntax or not syntax.is_encapsulated or syntax == RLELossless:
        return  # of an unknown one decoding will tell
    numbers = [number_of(dataset, k) for k in ("Rows", "Columns", "SamplesPerPixel")]
    expected = tuple(int(number or 1) for number in numbers)
    sizes, are_whole = set(), True
    try:
        for frame in generate_frames(dataset.PixelData, number_of_frames=num_frames):
            sizes.add(size_of(frame))
            are_whole = are_whole and is_whole(frame)
    except Exception as error:  # pydicom raises many types
        raise BadScan("bad_pixels", f"no frames in the pixels ({type(error).__name__})") from None
    if sizes != {expected}:
        raise BadScan(
            "bad_pixels", "the compressed pixels are not of the size that the header says"
        )
    if not are_whole:
        raise BadScan("bad_pixels", "the compressed pixels end before their last mark: copy again")


def is_whole(frame: bytes) -> bool:
    """Whether a JPEG or JPEG-LS stream ends with its last mark (ISO 10918-1 B.2.1), padding apart; of JPEG
    2000 the decoder tells."""
    return not frame.startswith(JPEG_START) or frame.rstrip(b"\0\xff").endswith(JPEG_END)


def size_of(frame: bytes) -> Size | None:
    """Of a JPEG, JPEG-LS or JPEG 2000 stream; None when it says none."""
    start = frame.find(JPEG_2000_START, 0, MAX_BOXES_BYTES)
    if start >= 0:
        return _jpeg_2000_size(frame[start + 4 :])
    return _jpeg_size(frame) if frame.startswith(JPEG_START) else None


def _jpeg_2000_size(data: bytes) -> Size:
    """After the marker: length, profile, then width, height and their offsets, tiles, components."""
    width, height, left, top = (int.from_bytes(data[at : at + 4]) for at in range(4, 20, 4))
    return height - top, width - left, int.from_bytes(data[36:38])


def _jpeg_size(data: bytes) -> Size | None:
    """Walks the segments up to the first frame header (ISO 10918-1 B.2.2)."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # fill bytes may stand before a marker
            at += 1
            continue
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in FRAME_STARTS:
            rows, columns = (
                int.from_bytes(data[at + 5 : at + 7]),
                int.from_bytes(data[at + 7 : at + 9]),
            )
            return rows, columns, data[at + 9]
        if marker == SCAN_START or length < 2:
            return None
        at += 2 + length
    return None
