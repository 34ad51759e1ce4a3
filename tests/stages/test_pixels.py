"""Stored bits become the values that the header says, whatever the coding."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGLosslessSV1

from spineage.errors import BadScan
from spineage.io.headers import read_file
from spineage.io.identity import Keyed
from spineage.io.listing import Seen
from spineage.io.pixels import read_frames
from tests.stages.dicom_makers import Change, classic_slice, shaded, write_enhanced
from tests.stages.dicom_syntaxes import LOSSLESS, LOSSY, NATIVE, save_as, set_pixels

KEYED = Keyed(b"a key for tests, 16 bytes or more")


def picture(low: int, high: int) -> NDArray[np.int64]:
    """[30, 44] whole numbers from low to high, no two directions alike."""
    row, column = np.indices((30, 44))
    wave = np.sin(row / 4.0) + np.cos(column / 7.0 + row / 11.0) + column / 30.0
    wave = (wave - wave.min()) / (wave.max() - wave.min())
    return np.round(low + wave * (high - low)).astype(np.int64)


def written(path: Path, pixels: NDArray[np.int64], bits: int, syntax: UID) -> Path:
    dataset = classic_slice(shaded())
    set_pixels(dataset, pixels, bits)
    save_as(dataset, path, syntax)
    return path


def values_of(path: Path) -> NDArray[np.float32]:
    return read_frames(str(path))[0][1]


@pytest.mark.parametrize("syntax", [*NATIVE, *LOSSLESS], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(
    ("low", "high", "bits"),
    [(0, 255, 8), (0, 4095, 12), (-2000, 1900, 12), (0, 65535, 16), (-30000, 32000, 16)],
)
def test_every_lossless_syntax_gives_back_what_was_stored(
    tmp_path: Path, syntax: UID, low: int, high: int, bits: int
) -> None:
    pixels = picture(low, high)
    path = written(tmp_path / "one.dcm", pixels, bits, syntax)
    assert np.array_equal(values_of(path), pixels)
    seen = Seen("one.dcm", str(path), path.stat().st_size, "")
    (read,) = read_file(seen, KEYED, "StudyInstanceUID")
    assert (read.code, read.message) == ("", "")


@pytest.mark.parametrize("syntax", LOSSY, ids=lambda uid: uid.keyword)
def test_every_lossy_syntax_gives_back_nearly_what_was_stored(tmp_path: Path, syntax: UID) -> None:
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    pixels = picture(0, 2**bits - 1)
    found = values_of(written(tmp_path / "one.dcm", pixels, bits, syntax))
    assert np.abs(found - pixels).max() <= max(0.005 * 2**bits, 2)


def changed(tmp_path: Path, change: Change, pixels: NDArray[np.int64], bits: int = 12) -> Path:
    dataset = classic_slice(shaded())
    set_pixels(dataset, pixels, bits)
    change(dataset, 0)
    path = tmp_path / "one.dcm"
    save_as(dataset, path, ExplicitVRLittleEndian)
    return path


def words_changed(dataset: FileDataset, both: int, either: int) -> None:
    words = np.frombuffer(dataset.PixelData, "<u2")
    dataset.PixelData = ((words & both) | either).astype("<u2").tobytes()


def test_what_stands_above_the_stored_bits_is_cut_off(tmp_path: Path) -> None:
    """An overlay in the unused bits, and a sign that was not carried up into them: PS3.5 8.1.1, 8.1.2."""
    pixels = picture(0, 4095)
    path = changed(tmp_path, lambda d, _: words_changed(d, 0xFFFF, 0xA000), pixels)
    assert np.array_equal(values_of(path), pixels)
    pixels = picture(-2000, 1900)
    path = changed(tmp_path, lambda d, _: words_changed(d, 0x0FFF, 0), pixels)
    assert np.array_equal(values_of(path), pixels)


def test_stored_bits_that_are_not_the_lowest_are_refused_not_misread(tmp_path: Path) -> None:
    path = changed(tmp_path, lambda d, _: setattr(d, "HighBit", 15), picture(0, 4095))
    with pytest.raises(BadScan, match="highest bit is 15 but must be 11") as fault:
        values_of(path)
    assert fault.value.code == "bad_pixels"


def rescaled(dataset: FileDataset, slope: str, intercept: str) -> None:
    dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept


@pytest.mark.parametrize(("low", "high"), [(0, 4095), (-2000, 1900)])
def test_slope_and_intercept_are_applied_to_stored_values(
    tmp_path: Path, low: int, high: int
) -> None:
    pixels = picture(low, high)
    path = changed(tmp_path, lambda d, _: rescaled(d, "2.5", "-1024"), pixels)
    np.testing.assert_allclose(values_of(path), 2.5 * pixels - 1024)


@pytest.mark.parametrize(("low", "high", "sum_of_both"), [(0, 4095, 4095), (-2000, 1900, -1)])
def test_pictures_in_which_low_is_bright_are_turned_over(
    tmp_path: Path, low: int, high: int, sum_of_both: int
) -> None:
    pixels = picture(low, high)
    path = changed(
        tmp_path, lambda d, _: setattr(d, "PhotometricInterpretation", "MONOCHROME1"), pixels
    )
    assert np.array_equal(values_of(path) + pixels, np.full(pixels.shape, sum_of_both))


def test_every_frame_has_its_own_scale(tmp_path: Path) -> None:
    volume = shaded((3, 10, 12))

    def scale(dataset: FileDataset, _: int) -> None:
        shared = dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence
        for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            if number:
                copied = copy.deepcopy(shared)
                rescaled(copied[0], str(number + 2), str(-number))
                own.PixelValueTransformationSequence = copied

    path = tmp_path / "many.dcm"
    write_enhanced(path, volume, change=scale)
    stored = volume.voxels_RAS[::-1, ::-1, ::-1].transpose(0, 2, 1)  # frames are written backwards
    for number, (slope, intercept) in enumerate([(2, 5), (3, -1), (4, -2)]):
        np.testing.assert_allclose(
            read_frames(str(path))[number][1], slope * stored[number] + intercept
        )


def test_a_damaged_stream_is_a_fault_in_every_syntax(tmp_path: Path) -> None:
    path = written(tmp_path / "one.dcm", picture(0, 4095), 12, JPEGLosslessSV1)
    data = bytearray(path.read_bytes())
    start = data.rindex(b"\xff\xd8")  # the stream's first mark
    data[start : start + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises(BadScan) as fault:
        values_of(path)
    assert fault.value.code == "bad_pixels"
