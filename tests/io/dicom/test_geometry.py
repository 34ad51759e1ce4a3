"""However the patient lay and the slices ran, what was planted is found where it was: left stays left."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedMRImageStorage
from scipy.spatial.transform import Rotation

from spineage.errors import BadScan
from spineage.io.dicom.pixels import read_frames
from spineage.io.scans.read import read_station
from spineage.science.scan.slices import arrange
from tests.made.dicom_world import (
    AXIAL,
    CORONAL,
    SAGITTAL,
    BALLS_RAS_mm,
    Planes,
    classic,
    find_balls,
    write_classic,
)

TO_LEFT, TO_BACK, TO_HEAD = np.eye(3)
SCANNER_TO_LPS = {
    # PS3.3 C.7.3.1.1.2: which directions of the patient the scanner's x (the left of a supine patient who
    # enters head first), y (down) and z (out of the bore, to that patient's head) are
    "HFS": (TO_LEFT, TO_BACK, TO_HEAD),
    "HFP": (-TO_LEFT, -TO_BACK, TO_HEAD),
    "HFDR": (TO_BACK, -TO_LEFT, TO_HEAD),
    "HFDL": (-TO_BACK, TO_LEFT, TO_HEAD),
    "FFS": (-TO_LEFT, TO_BACK, -TO_HEAD),
    "FFP": (TO_LEFT, -TO_BACK, -TO_HEAD),
    "FFDR": (-TO_BACK, -TO_LEFT, -TO_HEAD),
    "FFDL": (TO_BACK, TO_LEFT, -TO_HEAD),
}
PLANES = {"sagittal": SAGITTAL, "axial": AXIAL, "coronal": CORONAL}


def check_balls(sources: list[dict[str, Any]], within_mm: float = 0.25) -> None:
    volume = read_station(sources)
    assert (np.diag(volume.affine_RAS)[:3] > 0).all()
    for name, found in find_balls(volume).items():
        np.testing.assert_allclose(found, BALLS_RAS_mm[name], atol=within_mm, err_msg=name)


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("position", SCANNER_TO_LPS)
def test_in_every_patient_position_every_plane_comes_back_right(
    tmp_path: Path, position: str, plane: str
) -> None:
    """The scanner cuts along its own axes: the patient's directions follow from how the patient lies."""
    to_patient = np.column_stack(SCANNER_TO_LPS[position])
    assert np.linalg.det(to_patient) == pytest.approx(1), "nobody is reflected by lying down"
    planes = replace(PLANES[plane].turned(to_patient), position=position)
    if position.endswith(
        ("DR", "DL")
    ):  # a patient on the side is seen whole only with square slices
        planes = replace(planes, columns=100, rows=100, slices=60)
    check_balls(write_classic(tmp_path, planes))


@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_mirrored_stacks_come_back_unmirrored(tmp_path: Path, signs: tuple[int, int, int]) -> None:
    """Rows, columns and the order of slices turned round, in all ways; half of them mirror the array."""
    across, down, along = signs
    planes = replace(
        SAGITTAL, across=across * SAGITTAL.across, down=down * SAGITTAL.down,
        along=along * SAGITTAL.along,
    )  # fmt: skip
    check_balls(write_classic(tmp_path, planes))


def test_rows_may_run_along_the_body(tmp_path: Path) -> None:
    turned = replace(SAGITTAL, across=SAGITTAL.down, down=SAGITTAL.across, columns=120, rows=70)
    check_balls(write_classic(tmp_path, turned))


@pytest.mark.parametrize("degrees", [(0, 0, 12), (20, 0, 0), (-8, 15, 10)])
def test_oblique_stacks_keep_every_place(tmp_path: Path, degrees: tuple[int, int, int]) -> None:
    rotation = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    check_balls(write_classic(tmp_path, replace(SAGITTAL.turned(rotation), slices=25)))


def test_rounded_direction_cosines_do_not_change_the_size_of_pixels(tmp_path: Path) -> None:
    """Cosines of length 0.997, as writers of two digits leave them."""
    rotation = Rotation.from_euler("z", 8, degrees=True).as_matrix()
    sources = write_classic(tmp_path, SAGITTAL.turned(rotation))
    for source in sources:
        edit(source, ImageOrientationPatient=["-0.139", "0.987", "0", "0", "0", "-0.997"])
    volume = read_station(sources)
    assert volume.spacing_mm == pytest.approx((3.0, 1.5, 2.0), abs=1e-3)


def edit(source: dict[str, Any], **changes: Any) -> None:
    import pydicom

    dataset = pydicom.dcmread(source["location"])
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(source["location"])


def code_of(sources: list[dict[str, Any]]) -> str:
    """What the series is refused with when its slices are set in order."""
    frames = [read_frames(source["location"])[0][0] for source in sources]
    with pytest.raises(BadScan) as fault:
        arrange(frames, max_gap_error_mm=0.1)
    return fault.value.code


def test_a_missing_a_doubled_and_a_differing_slice_are_refused(tmp_path: Path) -> None:
    sources = write_classic(tmp_path, replace(SAGITTAL, columns=20, rows=20))
    assert code_of([*sources[:4], *sources[5:]]) == "slice_gap"
    assert code_of([*sources, sources[3]]) == "slice_gap"
    edit(sources[2], PixelSpacing=["2.0", "1.6"])
    assert code_of(sources) == "mixed_spacing"


def test_pixel_spacing_that_differs_by_rounding_is_one_spacing(tmp_path: Path) -> None:
    sources = write_classic(tmp_path, SAGITTAL)
    edit(sources[2], PixelSpacing=["2.0001", "1.49995"])
    check_balls(sources)


def test_a_tilted_gantry_is_refused_and_its_rounding_kept(tmp_path: Path) -> None:
    for degrees, is_refused in ((6.0, True), (0.1, False)):
        turn = np.radians(degrees)
        along = np.array([np.cos(turn), 0.0, np.sin(turn)])
        sources = write_classic(tmp_path, replace(SAGITTAL, along=along))
        if is_refused:
            assert code_of(sources) == "sheared"
        else:
            check_balls(sources)


def item(**values: Any) -> Dataset:
    dataset = Dataset()
    for name, value in values.items():
        setattr(dataset, name, Sequence([value]) if isinstance(value, Dataset) else value)
    return dataset


def write_frames(path: Path, planes: Planes, numbers: list[int], grouped: str) -> FileDataset:
    """One enhanced object of some slices; grouped: where orientation and spacing stand."""
    slices = [classic(planes, number) for number in numbers]
    dataset = slices[0]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(slices)
    dataset.PixelData = b"".join(one.PixelData for one in slices)
    same = {
        "PlaneOrientationSequence": item(ImageOrientationPatient=slices[0].ImageOrientationPatient),
        "PixelMeasuresSequence": item(PixelSpacing=slices[0].PixelSpacing),
    }
    dataset.PerFrameFunctionalGroupsSequence = Sequence(
        item(
            PlanePositionSequence=item(ImagePositionPatient=one.ImagePositionPatient),
            **(same if grouped == "per frame" else {}),
        )
        for one in slices
    )
    if grouped == "shared":
        dataset.SharedFunctionalGroupsSequence = Sequence([item(**same)])
    names = ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
    for name in names if grouped != "at the top" else names[:1]:
        delattr(dataset, name)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


@pytest.mark.parametrize("grouped", ["shared", "per frame", "at the top"])
def test_one_volume_over_several_multi_frame_objects(tmp_path: Path, grouped: str) -> None:
    """Objects of uneven length whose frames interleave and run backwards."""
    sources = []
    for start in range(3):
        path = tmp_path / f"{start}.dcm"
        numbers = list(range(start, SAGITTAL.slices, 3))[::-1]
        write_frames(path, SAGITTAL, numbers, grouped)
        sources += [
            {"location": str(path), "kind": "dicom", "frame": n} for n in range(len(numbers))
        ]
    check_balls(sources)


def test_several_frames_with_one_position_have_no_geometry(tmp_path: Path) -> None:
    path = tmp_path / "one.dcm"
    dataset = write_frames(path, SAGITTAL, [0, 1, 2], "shared")
    place = item(ImagePositionPatient=["0", "0", "0"])
    for own in dataset.PerFrameFunctionalGroupsSequence:
        del own.PlanePositionSequence
    dataset.SharedFunctionalGroupsSequence[0].PlanePositionSequence = Sequence([place])
    dataset.ImagePositionPatient = ["0", "0", "0"]
    dataset.save_as(path, enforce_file_format=True)
    assert not any(frame.has_geometry for frame, _ in read_frames(str(path)).values())
