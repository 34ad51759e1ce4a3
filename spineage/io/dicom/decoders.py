"""Decoders of compressed DICOM pixels that an Apache-2.0 project may load: a plugin of pydicom's.

JPEG by libjpeg-turbo and JPEG-LS by CharLS (both BSD, through imagecodecs), JPEG 2000 and HTJ2K by OpenJPEG
(BSD, through pylibjpeg-openjpeg, MIT). imagecodecs' own HTJ2K takes damaged streams for good, so it is not
used. pydicom's usual plugin for JPEG, pylibjpeg-libjpeg, is GPL and must not be in the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import imagecodecs
import numpy as np
import openjpeg
from numpy.typing import NDArray
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

PLUGIN: Final = "spineage"
_Decode = Callable[[bytes], NDArray[Any]]
_GREY: Final[dict[UID, _Decode]] = {
    **dict.fromkeys(
        (JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1),
        imagecodecs.jpeg8_decode,
    ),
    **dict.fromkeys((JPEGLSLossless, JPEGLSNearLossless), imagecodecs.jpegls_decode),
}
_JPEG_2000: Final = (JPEG2000Lossless, JPEG2000, HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K)
DECODER_DEPENDENCIES: Final = dict.fromkeys(
    (*_GREY, *_JPEG_2000), ("imagecodecs", "pylibjpeg-openjpeg")
)
"""pydicom asks for it by this name, and for the next two functions."""


def is_available(uid: str) -> bool:
    """Whether the plugin decodes this transfer syntax."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(src: bytes, runner: DecodeRunner) -> bytes:
    """One frame's samples as bytes; tells pydicom how wide they are, whatever the header says."""
    syntax = runner.transfer_syntax
    if syntax in _JPEG_2000:
        frame = bytes(openjpeg.decode_pixel_data(src, version=2, **runner.options))
        precision = int(runner.get_option("j2k_precision", runner.bits_stored))
        runner.set_option("bits_allocated", 8 if precision <= 8 else 16 if precision <= 16 else 32)
        return frame
    samples = _GREY[syntax](src)
    if samples.ndim != 2:
        raise ValueError("colour is no MR image")
    runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * samples.itemsize)
    return np.ascontiguousarray(samples).tobytes()


def register() -> None:
    """Make the plugin known to pydicom, once a process."""
    for uid in DECODER_DEPENDENCIES:
        decoder = get_decoder(uid)
        if PLUGIN not in decoder.available_plugins:
            decoder.add_plugin(PLUGIN, (__name__, decode_frame.__name__))


register()
