"""One picture in every transfer syntax that stores MR.

Encoders and decoders share libraries here: how streams are read that others wrote is shown by tests/realdata,
and by gdcm, which test_pixels compares with.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmwrite
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

Pixels = NDArray[Any]
Encode = Callable[[Pixels], bytes]

NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
LOSSLESS: dict[UID, Encode] = {
    JPEGLossless: lambda p: imagecodecs.jpeg8_encode(
        p, lossless=True, predictor=4, bitspersample=8 * p.itemsize
    ),
    JPEGLosslessSV1: lambda p: imagecodecs.jpeg8_encode(
        p, lossless=True, predictor=1, bitspersample=8 * p.itemsize
    ),
    JPEGLSLossless: lambda p: imagecodecs.jpegls_encode(p, level=0),
    JPEG2000Lossless: lambda p: imagecodecs.jpeg2k_encode(
        p, level=0, reversible=True, codecformat="j2k"
    ),
    HTJ2KLossless: lambda p: imagecodecs.htj2k_encode(p, reversible=True),
    HTJ2KLosslessRPCL: lambda p: imagecodecs.htj2k_encode(p, reversible=True),
    RLELossless: lambda p: b"",  # pydicom writes it: nobody else does
}
LOSSY: dict[UID, Encode] = {
    JPEGBaseline8Bit: lambda p: imagecodecs.jpeg8_encode(p, level=100),
    JPEGExtended12Bit: lambda p: imagecodecs.jpeg8_encode(p, level=100, bitspersample=12),
    JPEGLSNearLossless: lambda p: imagecodecs.jpegls_encode(p, level=2),
    JPEG2000: lambda p: imagecodecs.jpeg2k_encode(p, level=0, reversible=False, codecformat="j2k"),
    HTJ2K: lambda p: imagecodecs.htj2k_encode(p, level=0.0001, reversible=False),
}


def set_pixels(dataset: FileDataset, pixels: Pixels, bits: int) -> None:
    """Store whole numbers [rows, columns] in `bits` of the smallest word that holds them."""
    signed = pixels.min() < 0
    dataset.BitsAllocated = 8 if bits <= 8 else 16
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(signed)
    dataset.Rows, dataset.Columns = pixels.shape
    word = f"<{'i' if signed else 'u'}{dataset.BitsAllocated // 8}"
    dataset.PixelData = pixels.astype(word).tobytes()
    dataset["PixelData"].VR = "OB" if bits <= 8 else "OW"


def save_as(dataset: FileDataset, path: Path, syntax: UID) -> None:
    """Write the dataset in a transfer syntax."""
    encode = LOSSLESS.get(syntax) or LOSSY.get(syntax)
    if syntax == RLELossless:
        dataset.compress(RLELossless)
    elif encode:
        dataset.PixelData = encapsulate([encode(stored_words(dataset, syntax))])
        dataset["PixelData"].VR = "OB"
    elif syntax == ExplicitVRBigEndian and dataset.BitsAllocated == 16:
        words = np.frombuffer(dataset.PixelData, "<u2")
        dataset.PixelData = words.astype(">u2").tobytes()
    dataset.file_meta.TransferSyntaxUID = syntax
    is_little, is_implicit = syntax != ExplicitVRBigEndian, syntax == ImplicitVRLittleEndian
    dcmwrite(path, dataset, implicit_vr=is_implicit, little_endian=is_little, force_encoding=True)


def stored_words(dataset: FileDataset, syntax: UID) -> Pixels:
    """[rows, columns]; only JPEG 2000 knows a sign, for the others it is the highest bit stored."""
    knows_sign = syntax in (JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)
    letter = "i" if dataset.PixelRepresentation and knows_sign else "u"
    words = np.frombuffer(dataset.PixelData, f"<{letter}{dataset.BitsAllocated // 8}")
    if letter == "u":
        words = words & ((1 << dataset.BitsStored) - 1)
    return np.ascontiguousarray(words.reshape(dataset.Rows, dataset.Columns))
