"""Phantoms on disk: valid DICOM, where the planted geometry says, and obviously synthetic."""

from __future__ import annotations

import io
import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from spineage.io.phantom.headers import study_uid
from spineage.io.phantom.write import slice_positions, stored_pixels, write_exam
from spineage.science.phantom import Exam, PhantomRecipe, draw_population, render
from spineage.science.phantom.stations import stations_of
from spineage.science.scan.geometry import Volume

RECIPE = PhantomRecipe(num_people=2, seed=31)
EXAM = draw_population(RECIPE)[0]


@pytest.fixture(scope="module")
def rendered():
    return render(EXAM, RECIPE)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, rendered) -> Path:
    folder = tmp_path_factory.mktemp("three")
    assert write_exam(rendered, EXAM, folder, RECIPE) == 3 * 13
    return folder


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory, rendered) -> Path:
    folder = tmp_path_factory.mktemp("composed")
    recipe = PhantomRecipe(num_people=2, seed=31, stations="composed")
    assert write_exam(rendered, EXAM, folder, recipe) == 13
    return folder


def read(folder: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(p) for p in sorted(folder.rglob("*.dcm"))]


def affine_ras(slices: list[pydicom.Dataset]) -> np.ndarray:
    """Index (slice, column, row) to RAS+ mm, written from PS3.3 C.7.6.2.1.1 without the project's code."""
    first, last = slices[0], slices[-1]
    row_direction, column_direction = np.array(first.ImageOrientationPatient, float).reshape(2, 3)
    start = np.array(first.ImagePositionPatient, float)
    step = (np.array(last.ImagePositionPatient, float) - start) / (len(slices) - 1)
    affine = np.eye(4)
    affine[:3, 0] = step
    affine[:3, 1] = row_direction * float(first.PixelSpacing[1])
    affine[:3, 2] = column_direction * float(first.PixelSpacing[0])
    affine[:3, 3] = start
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


@pytest.mark.parametrize("name", ["cervical", "thoracic", "lumbar"])
def test_every_voxel_lies_where_it_was_planted(name: str, three: Path, rendered) -> None:
    slices = read(three / name)
    station = next(s for s in stations_of(rendered.image, EXAM.scanner, "three") if s.name == name)
    affine = affine_ras(slices)
    num_r, num_a, num_s = station.image.voxels_RAS.shape
    for r, a, s in ((0, 0, 0), (3, 17, 40), (num_r - 1, num_a - 1, num_s - 1)):
        planted = station.image.to_mm(np.array([r, a, s], float))
        found = affine @ [r, num_a - 1 - a, num_s - 1 - s, 1]
        assert np.abs(found[:3] - planted).max() < 0.01
        value = slices[r].pixel_array[num_s - 1 - s, num_a - 1 - a]
        assert value == round(float(station.image.voxels_RAS[r, a, s]))


def test_a_mark_on_the_right_front_top_is_found_on_the_right_front_top() -> None:
    voxels = np.zeros((5, 6, 7), np.float32)
    voxels[4, 5, 6] = 1000  # rightmost, frontmost, topmost
    affine = np.array([[4, 0, 0, -8], [0, 1, 0, -20], [0, 0, 1, -30], [0, 0, 0, 1]], float)
    volume = Volume(voxels, affine)
    pixels, positions = stored_pixels(volume), slice_positions(volume)
    number, row, column = np.argwhere(pixels == 1000)[0]
    assert (row, column) == (0, 0)
    x, y, z = positions[number]
    assert (x, y, z) == (
        -8.0,
        15.0,
        -24.0,
    )  # LPS: right is negative x, this front is y = +15 behind 0


def test_three_stations_overlap_by_a_fifth_in_one_frame_and_are_three_series(three: Path) -> None:
    spans, series, frames = [], set(), set()
    for name in ("cervical", "thoracic", "lumbar"):
        slices = read(three / name)
        assert len(slices) == 13
        top = float(slices[0].ImagePositionPatient[2])
        spans.append((top, top - float(slices[0].PixelSpacing[0]) * slices[0].Rows))
        series |= {s.SeriesInstanceUID for s in slices}
        frames |= {s.FrameOfReferenceUID for s in slices}
    assert len(series) == 3
    assert len(frames) == 1
    for upper, lower in itertools.pairwise(spans):
        overlap = (lower[0] - upper[1]) / (upper[0] - upper[1])
        assert 0.17 < overlap < 0.23


def test_a_composed_exam_is_one_series_of_the_whole_spine(composed: Path) -> None:
    slices = read(composed)
    assert {s.SeriesDescription for s in slices} == {"T2 TSE SAG COMPOSED"}
    assert len({s.SeriesInstanceUID for s in slices}) == 1
    assert slices[0].Rows * float(slices[0].PixelSpacing[0]) == pytest.approx(691.2)


def test_every_header_says_that_nobody_was_scanned(three: Path) -> None:
    for header in read(three):
        assert header.Manufacturer == "spineage-phantom"
        assert list(header.ImageType[:2]) == ["DERIVED", "SECONDARY"]
        assert header.ManufacturerModelName.startswith("phantom ")
        assert header.QualityControlImage == "YES"
        assert str(header.PatientName).startswith("PHANTOM^")


def test_header_and_plan_agree_on_who_when_and_where(three: Path) -> None:
    header = read(three)[0]
    assert header.PatientID == EXAM.person.code
    assert header.StudyInstanceUID == study_uid(RECIPE, EXAM.index)
    assert header.PatientAge == f"{int(EXAM.age_years):03d}Y"
    assert header.StudyDate == f"{EXAM.study_date:%Y%m%d}"
    assert header.PatientBirthDate == f"{EXAM.birth_date:%Y%m%d}"
    assert header.InstitutionName == EXAM.person.site
    assert 3000 <= header.RepetitionTime <= 4500
    assert 90 <= header.EchoTime <= 110
    assert header.ImageOrientationPatient == [0, 1, 0, 0, 0, -1]


def test_no_two_objects_share_a_uid_and_they_are_the_same_each_time(
    three: Path, tmp_path: Path, rendered
) -> None:
    headers = read(three)
    uids = [h.SOPInstanceUID for h in headers]
    assert len(set(uids)) == len(uids) == 39
    assert all(u.startswith("2.25.") and len(u) <= 64 for u in uids)
    write_exam(rendered, EXAM, tmp_path, RECIPE)
    again = sorted(tmp_path.rglob("*.dcm"))
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in sorted(three.rglob("*.dcm"))]


def test_the_files_are_byte_for_byte_what_pydicom_writes(three: Path) -> None:
    for path in sorted(three.rglob("*.dcm"))[::13]:
        buffer = io.BytesIO()
        pydicom.dcmread(path).save_as(buffer, enforce_file_format=True)
        assert buffer.getvalue() == path.read_bytes()


@pytest.mark.skipif(
    shutil.which("dciodvfy") is None,
    reason="dciodvfy is not installed: apt-get install dicom3tools",
)
@pytest.mark.parametrize("kind", ["three", "composed"])
def test_dciodvfy_finds_no_error(kind: str, request: pytest.FixtureRequest) -> None:
    files = sorted(request.getfixturevalue(kind).rglob("*.dcm"))
    for path in (files[0], files[-1], files[len(files) // 2]):
        result = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
        told = (result.stdout + result.stderr).splitlines()
        assert "MRImage" in told
        assert [line for line in told if line.startswith("Error")] == []


def test_a_repeat_on_the_same_day_is_another_study_of_the_same_person() -> None:
    recipe = PhantomRecipe(num_people=4, seed=31, repeat_share=1.0)
    exams = draw_population(recipe)
    pairs: list[tuple[Exam, Exam]] = [
        (exams[e.repeat_of], e) for e in exams if e.repeat_of is not None
    ]
    assert len(pairs) == 4
    for first, second in pairs:
        assert study_uid(recipe, first.index) != study_uid(recipe, second.index)
        assert first.person.code == second.person.code
