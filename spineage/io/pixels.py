"""The pixels of DICOM files, decoded, scaled and checked against their headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID, JPEGLSTransferSyntaxes, RLELossless

from spineage.errors import BadScan
from spineage.io.codestreams import check_codestreams
from spineage.io.dicom import TAGS
from spineage.io.dicom_frames import Groups, frames_of
from spineage.io.dicom_values import item_of, items_of, number_of, quietly, text_of
from spineage.io.listing import open_stream
from spineage.science.slices import Frame

PIXEL_TAGS: Final = [
    *TAGS,
    *(
        Tag(keyword)
        for keyword in (
            "BitsStored", "HighBit", "PixelRepresentation", "PlanarConfiguration", "RescaleSlope",
            "RescaleIntercept", "PixelData", "FloatPixelData", "DoubleFloatPixelData",
            "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
        )
    ),
]  # fmt: skip


def read_frames(location: str) -> Mapping[int, tuple[Frame, NDArray[np.float32]]]:
    """Every frame of one file: where it lies and its [rows, columns] after rescaling.

    Raises BadScan unreadable when the file is gone or no longer DICOM, and bad_pixels when its pixels
    cannot be decoded or disagree with the header.
    """
    with quietly():
        dataset = _parse(location)
        frames = frames_of(dataset)
        stored = _decode(dataset, frames)
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


def _parse(location: str) -> Dataset:
    try:
        with open_stream(location) as stream:
            return pydicom.dcmread(stream, specific_tags=PIXEL_TAGS, force=True)
    except OSError:
        raise BadScan("unreadable", "a file is gone since ingest: run ingest again") from None
    except Exception as error:  # pydicom raises a dozen types; their texts quote values
        raise BadScan("unreadable", f"not to be parsed as DICOM ({type(error).__name__})") from None


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

    pylibjpeg decodes every syntax that stores MR. RLE alone is pydicom's own: pylibjpeg's takes damaged runs
    for good, or panics past `except Exception`.
    """
    syntax = _syntax(dataset)
    if syntax == RLELossless:
        dataset.pixel_array_options(decoding_plugin="pydicom")
    elif syntax.is_transfer_syntax and syntax.is_compressed and not syntax.is_deflated:
        dataset.pixel_array_options(decoding_plugin="pylibjpeg")


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
