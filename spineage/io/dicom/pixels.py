"""The pixels of DICOM files, decoded, scaled and checked against their headers."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSTransferSyntaxes,
    RLELossless,
)

from spineage.errors import BadScan
from spineage.io.dicom.codestreams import check_codestreams
from spineage.io.dicom.decoders import PLUGIN
from spineage.io.dicom.frames import Groups, frames_of
from spineage.io.dicom.header import TAGS, is_known_syntax, seal_of_object
from spineage.io.dicom.values import item_of, items_of, number_of, quietly, text_of
from spineage.io.files.listing import lost_since_ingest, open_bytes
from spineage.io.files.seals import check_seal
from spineage.science.scan.slices import Frame

PIXEL_TAGS: Final = [
    *TAGS,
    *(
        Tag(keyword)
        for keyword in (
            "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "RescaleSlope",
            "RescaleIntercept", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
            "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelPaddingValue",
            "PixelPaddingRangeLimit",
        )
    ),
]  # fmt: skip


def read_frames(
    location: str, seal: str = "", key: bytes = b""
) -> Mapping[int, tuple[Frame, NDArray[np.float32]]]:
    """Every frame of one file: where it lies and its [rows, columns] after rescaling.

    seal, key: what `dicom.read_header` gave as digest, and the key of it; without one nothing is compared, as
    for files that no ingest has seen. Raises BadScan changed_since_ingest when the file is gone or another,
    unavailable when its disk does not give it, unreadable when it is no longer DICOM, and bad_pixels when its
    pixels cannot be decoded or disagree with the header.
    """
    with quietly():
        data = _bytes_of(location)
        if seal:
            check_seal(_seal_of_bytes(data, key), seal)
        dataset = _parse(data)
        frames = frames_of(dataset)
        stored = _without_padding(_decode(dataset, frames), dataset)
        own = items_of(dataset, "PerFrameFunctionalGroupsSequence")
        shared = item_of(dataset, "SharedFunctionalGroupsSequence")
        return {
            frame.number: (
                frame,
                _scaled(
                    stored[frame.number],
                    Groups(dataset, own[frame.number] if own else None, shared),
                ),
            )
            for frame in frames
        }


def _bytes_of(location: str) -> bytes:
    try:
        return open_bytes(location)
    except OSError as error:
        raise lost_since_ingest(error) from None


def _seal_of_bytes(data: bytes, key: bytes) -> str:
    """What cannot be parsed any more has no seal, and is another file for that reason."""
    try:
        return seal_of_object(io.BytesIO(data), len(data), key)
    except BadScan:
        return ""


def _parse(data: bytes) -> Dataset:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), specific_tags=PIXEL_TAGS, force=True)
    except Exception as error:  # pydicom raises a dozen types; their texts quote values
        raise BadScan("unreadable", f"not to be parsed as DICOM ({type(error).__name__})") from None
    if not is_known_syntax(str(_syntax(dataset))):
        _say_syntax(dataset)
    return dataset


def _say_syntax(dataset: Dataset) -> None:
    """Of an object without file meta, or of a private syntax: the uncompressed one that it was parsed by.
    Compressed pixels of such a syntax never get here: their header is refused."""
    is_implicit, is_little = dataset.original_encoding
    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    explicit = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else explicit


def _decode(dataset: Dataset, frames: tuple[Frame, ...]) -> NDArray[np.generic]:
    """Stored values [frame, rows, columns]; signed or not as the header says.

    Bits above the stored ones are cut off, whatever they hold (PS3.5 8.1.1): old overlays, or no sign.
    """
    _check_bits(dataset)
    check_codestreams(dataset, len(frames))
    try:
        _choose_decoder(dataset)
        stored = _with_sign(dataset.pixel_array, dataset)
    except Exception as error:  # every decoder raises its own
        raise BadScan("bad_pixels", f"pixels cannot be decoded ({type(error).__name__})") from None
    expected = (len(frames), frames[0].rows, frames[0].columns)
    if stored.size != int(np.prod(expected)):
        raise BadScan("bad_pixels", "the pixels are not of the size that the header says")
    if text_of(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1":
        bits = int(number_of(dataset, "BitsStored") or 16)
        signed = bool(number_of(dataset, "PixelRepresentation"))
        stored = (-1 if signed else 2**bits - 1) - stored.astype(
            np.int64
        )  # dark is high: turn it over
    return stored.reshape(expected)


def _without_padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Padding (PS3.3 C.7.5.1.1.2) is no signal, though it may be a value far from any: it becomes background,
    the lowest of the others. Zero is background already."""
    value, limit = (
        number_of(dataset, name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")
    )
    if not value and not limit:
        return stored
    low, high = sorted((value or 0.0, (value or 0.0) if limit is None else limit))
    is_padding = (stored >= low) & (stored <= high)
    if not is_padding.any() or is_padding.all():
        return stored
    return np.where(is_padding, stored[~is_padding].min(), stored)


def _check_bits(dataset: Dataset) -> None:
    """Raises BadScan bad_pixels when the stored bits are not the lowest ones, as PS3.5 8.1.1 has them."""
    stored, high = number_of(dataset, "BitsStored"), number_of(dataset, "HighBit")
    if stored is not None and high is not None and high != stored - 1:
        raise BadScan(
            "bad_pixels",
            f"the highest bit is {high:g} but must be {stored - 1:g}, one below the bits stored",
        )


def _choose_decoder(dataset: Dataset) -> None:
    """One decoder for each transfer syntax, so that voxels do not depend on what else is installed.

    `decoders` has one for every syntax that stores MR but RLE, which is pydicom's own.
    """
    syntax = _syntax(dataset)
    if syntax == RLELossless:
        dataset.pixel_array_options(decoding_plugin="pydicom")
    elif syntax.is_transfer_syntax and syntax.is_compressed and not syntax.is_deflated:
        dataset.pixel_array_options(decoding_plugin=PLUGIN)


def _syntax(dataset: Dataset) -> UID:
    return UID(text_of(getattr(dataset, "file_meta", None), "TransferSyntaxUID"))


def _with_sign(stored: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """JPEG-LS knows no sign: where the stream is wider than the stored bits, their highest is the sign."""
    bits = int(number_of(dataset, "BitsStored") or 16)
    is_signed = np.issubdtype(stored.dtype, np.signedinteger)
    if not is_signed or _syntax(dataset) not in JPEGLSTransferSyntaxes:
        return stored
    return np.where(stored >= 2 ** (bits - 1), stored - np.int64(2**bits), stored)


def _scaled(stored: NDArray[np.generic], groups: Groups) -> NDArray[np.float32]:
    """The modality's values (PS3.3 C.11.1); a slope of 0, which no scale can have, scales nothing."""
    slope = groups.number("PixelValueTransformationSequence", "RescaleSlope")
    intercept = groups.number("PixelValueTransformationSequence", "RescaleIntercept")
    values = stored.astype(np.float32)
    if slope not in (None, 0.0, 1.0):
        values *= np.float32(slope)
    if intercept:
        values += np.float32(intercept)
    return values
