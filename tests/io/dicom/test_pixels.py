"""Stored bits become the values that the header says, whatever the coding."""

from __future__ import annotations

import copy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from packaging.requirements import Requirement
from pydicom.dataset import FileDataset
from pydicom.encaps import generate_frames
from pydicom.filebase import DicomIO
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from spineage.errors import BadScan
from spineage.io.dicom.codestreams import is_whole
from spineage.io.dicom.pixels import read_frames
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.scans.headers import read_file
from tests.made.dicom_makers import Change, classic_slice, shaded, write_enhanced
from tests.made.dicom_syntaxes import LOSSLESS, LOSSY, NATIVE, save_as, set_pixels

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


ENCODED = [*LOSSLESS, *LOSSY]
BY_JPEG = [
    JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless
]  # fmt: skip


def coded(path: Path, syntax: UID) -> tuple[Path, int, int]:
    """A file of this syntax, and where its stream begins and ends in it."""
    bits = 8 if syntax == JPEGBaseline8Bit else 12
    written(path, picture(0, 2**bits - 1), bits, syntax)
    (stream,) = generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1)
    start = path.read_bytes().index(stream)
    return path, start, start + len(stream)


@pytest.mark.parametrize("syntax", ENCODED, ids=lambda uid: uid.keyword)
def test_a_stream_whose_start_is_gone_is_a_fault_in_every_syntax(
    tmp_path: Path, syntax: UID
) -> None:
    path, start, _ = coded(tmp_path / "one.dcm", syntax)
    data = bytearray(path.read_bytes())
    data[start : start + 40] = bytes(40)
    path.write_bytes(bytes(data))
    with pytest.raises(BadScan) as fault:
        values_of(path)
    assert fault.value.code == "bad_pixels"


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
@pytest.mark.parametrize("syntax", BY_JPEG, ids=lambda uid: uid.keyword)
def test_a_stream_that_was_cut_short_is_a_fault_not_half_a_picture(
    tmp_path: Path, syntax: UID, share: float
) -> None:
    path, start, end = coded(tmp_path / "one.dcm", syntax)
    data = path.read_bytes()
    kept = start + int((end - start) * share)
    path.write_bytes(data[:kept] + bytes(end - kept) + data[end:])  # as long as the item says
    with pytest.raises(BadScan) as fault:
        values_of(path)
    assert fault.value.code == "bad_pixels"


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1], ids=lambda uid: uid.keyword)
@pytest.mark.parametrize(("low", "high", "bits"), [(0, 255, 8), (0, 4095, 12), (0, 65535, 16)])
def test_another_decoder_reads_the_same_of_lossless_jpeg(
    tmp_path: Path, syntax: UID, low: int, high: int, bits: int
) -> None:
    """gdcm's libraries are others than ours."""
    pytest.importorskip("gdcm")
    path = written(tmp_path / "one.dcm", picture(low, high), bits, syntax)
    dataset = pydicom.dcmread(path)
    dataset.pixel_array_options(decoding_plugin="gdcm")
    assert np.array_equal(values_of(path), dataset.pixel_array)


def test_another_decoder_reads_nearly_the_same_of_lossy_jpeg(tmp_path: Path) -> None:
    pytest.importorskip("gdcm")
    path = written(tmp_path / "one.dcm", picture(0, 255), 8, JPEGBaseline8Bit)
    dataset = pydicom.dcmread(path)
    dataset.pixel_array_options(decoding_plugin="gdcm")
    assert np.abs(values_of(path) - dataset.pixel_array).max() <= 1


@pytest.mark.parametrize("padding", [b"", b"\0", b"\xff", b"\0\0\0"])
def test_what_pads_a_stream_to_its_item_is_no_damage(padding: bytes) -> None:
    """Real files pad with zeros or fill bytes after the last mark."""
    stream = imagecodecs.jpeg8_encode(picture(0, 255).astype(np.uint8))
    assert is_whole(stream + padding)
    assert not is_whole(stream[:-2] + padding)
    assert not is_whole(stream[:-10] + padding)


WITHOUT_GPL = """
import sys
import tomllib
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("pylibjpeg", "libjpeg", "rle"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
from spineage.io.dicom.pixels import read_frames
for path in sys.argv[1:]:
    assert read_frames(path)[0][1].max() > 200, path
print(sorted(name for name in sys.modules if name.split(".")[0] in ("pylibjpeg", "libjpeg", "rle")))
"""


def test_every_syntax_is_read_without_pylibjpeg_whose_jpeg_decoder_is_gpl(tmp_path: Path) -> None:
    paths = [coded(tmp_path / f"{s.keyword}.dcm", s)[0] for s in BY_JPEG]
    for syntax in (s for s in ENCODED if s not in BY_JPEG):
        paths.append(written(tmp_path / f"{syntax.keyword}.dcm", picture(0, 4095), 12, syntax))
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_GPL, *map(str, paths)], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr


def test_no_requirement_of_ours_is_a_gpl_decoder() -> None:
    root = Path(__file__).parents[3]
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    locked = (root / "cluster/requirements.lock").read_text().splitlines()
    served = [Requirement(line) for line in [*project["dependencies"], *extras["cloud"]]]
    asked = [Requirement(line) for line in [*extras["test"], *locked] if line[0] != "#"]
    assert len(asked) > 50
    # pylibjpeg is MIT and only a host for decoders; the GPL one comes by name or by its extras
    assert "pylibjpeg-libjpeg" not in [r.name for r in [*served, *asked]]
    assert not [r for r in [*served, *asked] if r.name == "pylibjpeg" and r.extras]
    assert "pylibjpeg" not in [r.name for r in served], (
        "reading does without it; tests encode with it"
    )


def test_padding_becomes_background(tmp_path: Path) -> None:
    dataset = classic_slice(shaded((5, 40, 60)))
    pixels = dataset.pixel_array.astype(np.int16)
    pixels[:, :7] = -32768
    dataset.PixelRepresentation, dataset.PixelPaddingValue = 1, -32768
    dataset.PixelData = pixels.tobytes()
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    [(_, found)] = read_frames(str(tmp_path / "a.dcm")).values()
    kept = pixels[:, 7:].astype(np.float32)
    np.testing.assert_array_equal(found[:, 7:], kept)
    assert (found[:, :7] == kept.min()).all()


@pytest.mark.parametrize("has_meta", [True, False])
def test_an_object_without_a_transfer_syntax_is_read_as_it_was_parsed(
    tmp_path: Path, has_meta: bool
) -> None:
    dataset = classic_slice(shaded((5, 40, 60)))
    expected = dataset.pixel_array.astype(np.float32)
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    bare = pydicom.dcmread(tmp_path / "a.dcm")
    del bare.file_meta.TransferSyntaxUID
    with open(tmp_path / "b.dcm", "wb") as file:
        if has_meta:
            file.write(b"\0" * 128 + b"DICM")
            pydicom.filewriter.write_file_meta_info(file, bare.file_meta, enforce_standard=False)
        pydicom.filewriter.write_dataset(explicit_little(file), bare)
    [(_, found)] = read_frames(str(tmp_path / "b.dcm")).values()
    np.testing.assert_array_equal(found, expected)


def explicit_little(file: BinaryIO) -> DicomIO:
    """Explicit VR, little endian."""
    stream = DicomIO(file)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    return stream
