"""What real archives bring: names that say nothing, one volume several times, sidecars further up."""

from __future__ import annotations

import gzip
import json
import os
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence

from spineage.io.files import listing
from spineage.io.files.listing import list_input
from spineage.io.people.identity import Keyed
from spineage.io.scans.headers import read_file
from spineage.io.scans.read import read_scan
from spineage.run.context import Context
from spineage.science.scan.geometry import Volume
from spineage.stages.ingest import stage as ingest
from spineage.stages.ingest.tables import tables_of
from spineage.study import Ingest, Inputs, Study
from tests.made.dicom_makers import shaded, uid, write_enhanced, write_sagittal

KEY = "a key for tests, 16 bytes or more"
TALL = shaded((7, 40, 60))  # 160 x 240 mm
Change = Callable[[FileDataset, int], None]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPINEAGE_KEY", KEY)
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def ingested(archive: Path) -> Context:
    study = Study(workspace=str(archive.parent / "workspace"), inputs=Inputs(scans=str(archive)))
    context = Context(study, say=lambda text: None)
    ingest.run(context)
    return context


def nifti(path: Path, volume: Volume = TALL, axes: str = "RAS") -> Path:
    image = nibabel.Nifti1Image(volume.voxels_RAS.astype(np.int16), volume.affine_RAS)
    wanted = nibabel.orientations.axcodes2ornt(axes)
    start = nibabel.orientations.io_orientation(volume.affine_RAS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.as_reoriented(nibabel.orientations.ornt_transform(start, wanted)).to_filename(path)
    return path


def changed(**values: Any) -> Change:
    def change(dataset: FileDataset, number: int) -> None:
        for name, value in values.items():
            setattr(dataset, name, value(number) if callable(value) else value)

    return change


# --- names say nothing ----------------------------------------------------------------------------

MIXED: dict[str, list[Change]] = {
    "one slice calls itself STIR": [
        changed(SeriesDescription=lambda n: "STIR SAG" if n == 3 else "T2 SAG")
    ],
    "one slice has a T1's time": [changed(RepetitionTime=lambda n: 500 if n == 5 else 3500)],
    "some slices have no time": [changed(RepetitionTime=lambda n: 500 if n < 3 else None)],
    "a T1 and a T2 at the same places": [
        changed(SOPInstanceUID=lambda n: uid("t2", n)),
        changed(
            SOPInstanceUID=lambda n: uid("t1", n), RepetitionTime=550, EchoTime=10,
            SeriesDescription="T1 SAG",
        ),
    ],
    "one slice is a phase image": [
        changed(ImageType=lambda n: ["ORIGINAL", "PRIMARY", "P" if n == 2 else "M"])
    ],
    "one slice calls itself a localizer": [
        changed(SeriesDescription=lambda n: "localizer" if n == 1 else "T2 SAG")
    ],
    "pixels differ": [changed(PixelSpacing=lambda n: [4, 4] if n else [3, 3])],
    "a copy that differs": [
        changed(),
        changed(EchoTime=20, PixelData=lambda n: np.full((60, 40), n, "<i2").tobytes()),
    ],
    "all is well": [changed()],
}  # fmt: skip


def judged(archive: Path, rename: Callable[[str], str]) -> dict[str, list[dict[str, Any]]]:
    keyed = Keyed(KEY.encode())
    reads = [
        read
        for seen in list_input(str(archive))
        for read in read_file(replace(seen, name=rename(seen.name)), keyed, "StudyInstanceUID")
    ]
    return tables_of(reads, Ingest(), keyed, None, {})


@pytest.mark.parametrize("what", MIXED)
def test_renaming_and_reordering_files_never_changes_a_verdict(archive: Path, what: str) -> None:
    for number, change in enumerate(MIXED[what]):
        write_sagittal(archive / str(number), TALL, change=change)
    answers = []
    for seed in range(12):
        drawn = random.Random(seed)
        tables = judged(archive, lambda name, d=drawn: f"{d.random()}/{d.random()}.dcm")
        answers.append([tables["series"], tables["scans"]])
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize(
    ("what", "code", "says"),
    [
        ("one slice calls itself STIR", "mixed_contrast", "STIR"),
        ("one slice has a T1's time", "slice_gap", "slice gaps"),
        ("some slices have no time", "mixed_contrast", "TR is 500 ms"),
        ("one slice calls itself a localizer", "localizer", "localizer"),
        ("all is well", "", "a sagittal T2"),
    ],
)
def test_all_slices_that_were_chosen_are_judged(
    archive: Path, what: str, code: str, says: str
) -> None:
    write_sagittal(archive, TALL, change=MIXED[what][0])
    rows = judged(archive, str)["series"]
    longest = max(rows, key=lambda row: row["num_slices"])
    assert longest["code"] == code
    assert says in longest["message"]


# --- one volume several times ---------------------------------------------------------------------


def codes_below(archive: Path) -> dict[str, set[tuple[str, str]]]:
    """Codes and messages of the series below each folder of the archive."""
    context = ingested(archive)
    series = context.read("series").set_index("series_id")
    found: dict[str, set[tuple[str, str]]] = {}
    for file in context.read("files").itertuples():
        if file.series_id in series.index:
            top = Path(file.location).relative_to(archive).parts[0]
            row = series.loc[file.series_id]
            found.setdefault(top, set()).add((row.code, row.message))
    return found


def test_an_exam_as_dicom_converted_and_denoised_is_one_scan(archive: Path) -> None:
    write_sagittal(archive / "sourcedata" / "sub-1", TALL, person="sub-1")
    nifti(archive / "sub-1" / "anat" / "sub-1_T2w.nii.gz", axes="PIR")
    denoised = TALL.with_voxels(np.asarray(TALL.voxels_RAS) * 0.9)
    nifti(archive / "derivatives" / "x" / "sub-1" / "sub-1_desc-denoised_T2w.nii.gz", denoised)
    found = codes_below(archive)
    assert found["sourcedata"] == {("", "a sagittal T2 of the spine")}
    for form in ("sub-1", "derivatives"):
        [(code, message)] = found[form]
        assert code == "not_chosen"
        assert "converted from DICOM" in message


def test_without_dicom_the_raw_image_is_kept_and_the_derived_one_says_so(archive: Path) -> None:
    nifti(archive / "rawdata" / "sub-1" / "sub-1_T2w.nii.gz")
    denoised = TALL.with_voxels(np.asarray(TALL.voxels_RAS) * 0.9)
    nifti(archive / "derivatives" / "x" / "sub-1" / "sub-1_desc-denoised_T2w.nii.gz", denoised)
    found = codes_below(archive)
    assert {code for code, _ in found["rawdata"]} == {""}
    [(code, message)] = found["derivatives"]
    assert (code, "derived from" in message) == ("not_chosen", True)


def test_equal_voxels_of_one_person_are_one_scan_however_they_are_stored(archive: Path) -> None:
    nifti(archive / "a" / "sub-1" / "sub-1_acq-1_T2w.nii.gz")
    nifti(archive / "a" / "sub-1" / "sub-1_acq-2_T2w.nii", axes="LPS")
    context = ingested(archive)
    assert len(context.read("scans")) == 1
    assert sorted(context.read("series").code) == ["", "not_chosen"]
    assert context.read("series").message.str.contains("same voxels").sum() == 1


def test_equal_voxels_of_two_sizes_are_nobodys_scan(archive: Path) -> None:
    nifti(archive / "sub-1" / "sub-1_acq-1_T2w.nii.gz")
    shorter = TALL.affine_RAS.copy()
    shorter[2, 2] *= 0.9
    nifti(archive / "sub-1" / "sub-1_acq-2_T2w.nii.gz", Volume(TALL.voxels_RAS, shorter))
    assert set(ingested(archive).read("series").code) == {"geometry_conflict"}


def test_two_sessions_that_a_pipeline_brought_to_one_grid_are_two_scans(archive: Path) -> None:
    folder = archive / "derivatives" / "x" / "sub-1"
    again = TALL.with_voxels(np.asarray(TALL.voxels_RAS) + 3)
    nifti(folder / "sub-1_ses-1_desc-reg_T2w.nii.gz")
    nifti(folder / "sub-1_ses-2_desc-reg_T2w.nii.gz", again)
    assert len(ingested(archive).read("scans")) == 2


def test_what_was_moved_into_a_templates_space_says_so(archive: Path) -> None:
    nifti(archive / "sub-1" / "sub-1_space-PAM50_T2w.nii.gz")
    nifti(archive / "sub-2" / "sub-2_space-orig_T2w.nii.gz", shaded((7, 40, 60), seed=3))
    series = ingested(archive).read("series")
    assert sorted(series.code) == ["", "not_an_image"]
    assert series.message.str.contains("into another space").sum() == 1


def test_packed_or_not_a_file_without_a_label_is_one_persons(archive: Path) -> None:
    packed = nifti(archive / "t2_sag.nii.gz")
    (archive / "t2_sag.nii").write_bytes(gzip.decompress(packed.read_bytes()))
    context = ingested(archive)
    assert len(context.read("scans")) == 1
    assert sorted(context.read("files").code) == ["", "duplicate_file"]


def test_a_copy_is_used_where_the_original_is_refused_by_hand(archive: Path) -> None:
    write_sagittal(archive / "sourcedata" / "sub-1", TALL, person="sub-1")
    nifti(archive / "sub-1" / "sub-1_T2w.nii.gz")
    series = ingested(archive).read("series").set_index("kind")
    table = archive.parent / "overrides.csv"
    table.write_text(f"series_id,decision,reason\n{series.series_id['dicom']},refuse,moved\n")
    inputs = Inputs(scans=str(archive), overrides=str(table))
    study = Study(workspace=str(archive.parent / "workspace"), inputs=inputs)
    context = Context(study, say=lambda text: None)
    ingest.run(context)
    codes = context.read("series").set_index("kind").code
    assert (codes["dicom"], codes["nifti"]) == ("refused_by_hand", "")


@pytest.mark.parametrize("joins", [False, True])
def test_an_exam_in_two_studies_of_a_day_is_told_and_joined_by_an_option(
    archive: Path, joins: bool
) -> None:
    above = TALL.affine_RAS.copy()
    above[2, 3] += 220
    write_sagittal(archive / "a", TALL)
    frame = changed(FrameOfReferenceUID=uid("P1", "E1", "frame"), AcquisitionTime="102200")
    write_sagittal(archive / "b", Volume(TALL.voxels_RAS, above), exam="E2", change=frame)
    study = Study(
        workspace=str(archive.parent / "workspace"), inputs=Inputs(scans=str(archive)),
        ingest=Ingest(joins_studies_of_a_day=joins),
    )  # fmt: skip
    context = Context(study, say=lambda text: None)
    ingest.run(context)
    assert list(context.read("scans").num_stations) == ([2] if joins else [1, 1])
    told = context.read("series").message.str.contains("another study of the day").sum()
    assert told == (0 if joins else 2)


def test_a_repeat_at_the_same_place_is_a_scan_of_its_own(archive: Path) -> None:
    again = TALL.with_voxels(np.asarray(TALL.voxels_RAS) + 3)
    nifti(archive / "sub-1" / "sub-1_run-1_T2w.nii.gz")
    nifti(archive / "sub-1" / "sub-1_run-2_T2w.nii.gz", again)
    assert len(ingested(archive).read("scans")) == 2


@pytest.mark.parametrize(("time", "num"), [("101500", 1), ("143000", 2), ("", 2)])
def test_one_series_under_two_exams_is_told_by_its_moment(
    archive: Path, time: str, num: int
) -> None:
    write_sagittal(archive / "a", TALL)
    write_sagittal(archive / "b", TALL, exam="E2", change=changed(AcquisitionTime=time))
    context = ingested(archive)
    assert len(context.read("scans")) == num
    if num == 1:
        assert context.read("series").message.str.contains("under another exam").sum() == 1


# --- the inheritance principle of BIDS ------------------------------------------------------------

T1, T2 = {"EchoTime": 0.012, "RepetitionTime": 0.5}, {"EchoTime": 0.1, "RepetitionTime": 3.5}


def said(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("sidecars", "code"),
    [
        ({"T2w.json": T1}, "not_t2"),
        ({"T2w.json": T1, "sub-1/sub-1_T2w.json": T2}, ""),
        ({"T2w.json": T2, "sub-1/ses-1/sub-1_ses-1_T2w.json": T1}, "not_t2"),
        ({"acq-x_T2w.json": T1, "T2w.json": T2}, "not_t2"),
        ({"acq-y_T2w.json": T1}, ""),
        ({"T1w.json": T1}, ""),
        ({"sub-1/anat.json": T1}, ""),
        ({"T2w.json": {"InversionTime": 0.15}}, "not_t2"),
        ({"T2w.json": T1, "sub-1/dataset_description.json": {}}, ""),
        ({"T2w.json": "not an object", "sub-1/sub-1_T2w.json": T1}, "not_t2"),
    ],
)
def test_what_describes_an_image_further_up_is_believed(
    archive: Path, sidecars: dict[str, dict[str, Any]], code: str
) -> None:
    nifti(archive / "sub-1" / "ses-1" / "anat" / "sub-1_ses-1_acq-x_T2w.nii.gz")
    for name, values in sidecars.items():
        said(archive / name, values)
    assert list(ingested(archive).read("series").code) == [code]


def test_one_that_its_disk_does_not_give_leaves_the_image_for_the_next_run(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nifti(archive / "sub-1" / "sub-1_T2w.nii.gz")
    said(archive / "T2w.json", T1)
    true_open = listing.open_bytes

    def failing(location: str, *limit: int) -> bytes:
        if location.endswith("T2w.json"):
            raise TimeoutError(110, "slow down")
        return true_open(location, *limit)

    with monkeypatch.context() as patch:
        patch.setattr(listing, "open_bytes", failing)
        files = ingested(archive).read("files")
        assert "unreadable" in set(files.code)
        assert len(ingested(archive).read("scans")) == 0
    assert list(ingested(archive).read("series").code) == ["not_t2"]


def test_one_in_a_zip_archive_is_too(archive: Path) -> None:
    image = nifti(archive.parent / "x.nii.gz").read_bytes()
    with zipfile.ZipFile(archive / "study.zip", "w") as packed:
        packed.writestr("bids/sub-1/anat/sub-1_T2w.nii.gz", image)
        packed.writestr("bids/T2w.json", json.dumps(T1))
    assert list(ingested(archive).read("series").code) == ["not_t2"]


def test_a_change_further_up_is_read_and_nothing_else_is(archive: Path) -> None:
    for person in ("sub-1", "sub-2"):
        nifti(archive / person / f"{person}_T2w.nii.gz", shaded((7, 40, 60), seed=ord(person[-1])))
    said(archive / "sub-1" / "T2w.json", T2)
    assert set(ingested(archive).read("series").code) == {""}
    said(archive / "sub-1" / "T2w.json", {**T1, "Note": "other"})
    assert sorted(ingested(archive).read("series").code) == ["", "not_t2"]


# --- values, sizes, packing -----------------------------------------------------------------------


def test_what_is_packed_in_several_members_is_read_whole(archive: Path) -> None:
    plain = gzip.decompress(nifti(archive / "sub-1_T2w.nii.gz").read_bytes())
    pieces = [plain[:200], plain[200:9000], plain[9000:]]
    path = archive / "sub-1_T2w.nii.gz"
    path.write_bytes(b"".join(map(gzip.compress, pieces)))
    assert list(ingested(archive).read("series").code) == [""]
    path.write_bytes(b"".join(map(gzip.compress, pieces[:-1])))
    assert set(ingested(archive).read("files").code) == {"truncated"}


@pytest.mark.parametrize("form", ["dicom", "nifti"])
@pytest.mark.parametrize(
    ("shape", "spacing_mm", "says"),
    [((7, 20, 30), (4.0, 8.0, 8.0), "pixels of 8.0 mm"), ((7, 40, 60), (15.0, 4.0, 4.0), "15.0 mm apart")],
)  # fmt: skip
def test_voxels_too_coarse_for_a_vertebra_are_refused(
    archive: Path, form: str, shape: tuple[int, int, int], spacing_mm: Any, says: str
) -> None:
    volume = shaded(shape, spacing_mm)
    if form == "dicom":
        write_sagittal(archive, volume)
    else:
        nifti(archive / "sub-1_T2w.nii.gz", volume)
    [series] = ingested(archive).read("series").itertuples()
    assert series.code == "too_coarse"
    assert says in series.message


@pytest.mark.parametrize(("code", "says"), [(1, False), (4, True)])
def test_a_file_that_claims_a_templates_space_says_so(archive: Path, code: int, says: bool) -> None:
    image = nibabel.Nifti1Image(TALL.voxels_RAS.astype(np.int16), TALL.affine_RAS)
    image.set_sform(TALL.affine_RAS, code)
    image.to_filename(archive / "sub-1_T2w.nii.gz")
    [series] = ingested(archive).read("series").itertuples()
    assert series.code == ""
    assert ("a template's space" in series.message) == says


# --- several series in one object -------------------------------------------------------------------


def frame_groups(dataset: FileDataset, **of: Callable[[int], Any]) -> None:
    """Each frame's own type or acquisition."""
    for number, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        if "type" in of:
            kind = Dataset()
            kind.FrameType = ["ORIGINAL", "PRIMARY", "DIXON", of["type"](number)]
            own.MRImageFrameTypeSequence = Sequence([kind])


def stacked(volumes: list[Volume]) -> Volume:
    """Their slices one after the other, at the place of the first."""
    return Volume(np.concatenate([v.voxels_RAS for v in volumes]), volumes[0].affine_RAS)


def test_the_images_of_a_dixon_acquisition_in_one_enhanced_object_are_told_apart(
    archive: Path,
) -> None:
    parts = ["IN_PHASE", "OUT_PHASE", "WATER", "FAT"]
    volumes = [shaded((7, 40, 60), seed=s) for s in range(4)]

    def mixed(dataset: FileDataset, number: int) -> None:
        frame_groups(dataset, type=lambda n: parts[3 - n // 7])  # frames are in reversed order
        for n, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            here = dataset.PerFrameFunctionalGroupsSequence[n % 7 + 21]
            own.PlanePositionSequence = here.PlanePositionSequence

    write_enhanced(archive / "all.dcm", stacked(volumes), change=mixed)
    context = ingested(archive)
    codes = sorted(context.read("series").code)
    assert codes == ["", "fat_only", "opposed_phase", "water_only"]
    [source] = context.read("sources").to_dict("records")
    rescaled = 2 * np.asarray(volumes[0].voxels_RAS) + 5
    assert np.array_equal(read_scan(source).voxels_RAS, rescaled)


def test_stations_in_one_enhanced_object_are_one_scan_of_several(archive: Path) -> None:
    low, high = shaded((7, 40, 60), seed=1), shaded((7, 40, 60), seed=2)

    def apart(dataset: FileDataset, number: int) -> None:
        for n, own in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            place = own.PlanePositionSequence[0]
            x, y, z = (float(v) for v in place.ImagePositionPatient)
            if n < 7:  # the second volume
                x, z = x - 28.0, z + 220.0
            place.ImagePositionPatient = [x, y, z]

    write_enhanced(archive / "all.dcm", stacked([low, high]), change=apart)
    context = ingested(archive)
    assert list(context.read("scans").num_stations) == [2]
    assert list(context.read("series").code) == ["", ""]
    found = read_scan(context.read("sources").iloc[0].to_dict())
    assert found.extent_mm[2] == pytest.approx(460, abs=5)


def test_one_stack_in_one_object_stays_one_series(archive: Path) -> None:
    write_enhanced(archive / "all.dcm", TALL)
    assert list(ingested(archive).read("series").code) == [""]


# --- earlier states of the input --------------------------------------------------------------------


def test_states_of_the_input_that_nothing_names_are_removed_after_a_week(archive: Path) -> None:
    write_sagittal(archive / "a", TALL)
    store = ingested(archive).store
    write_sagittal(archive / "b", TALL, person="P2")
    second = ingested(archive)
    folder = second.folder("ingest")
    made = [path for path in store.list(folder, "done.json") if path.count("/") == 3]
    assert len(made) == 2
    for path in made:
        week_ago = store.local(path).stat().st_mtime - 8 * 86_400
        os.utime(store.local(path), (week_ago, week_ago))
    current = second.tables_folder("ingest")
    context = ingested(archive)
    left = [path for path in store.list(folder, "done.json") if path.count("/") == 3]
    assert left == [f"{current}/done.json"]
    assert {path.split("/")[2] for path in store.list(folder) if path.count("/") > 2} == {
        current.split("/")[2]
    }
    assert len(context.read("scans")) == 2


@pytest.mark.parametrize("syntax", ["1.2.840.113619.5.2", "1.2.3.4"])
def test_a_private_transfer_syntax_with_plain_pixels_is_read(archive: Path, syntax: str) -> None:
    """GE's own, and anybody's: the length says that nothing is compressed."""
    for path in write_sagittal(archive, TALL):
        data = path.read_bytes()
        plain = b"1.2.840.10008.1.2.1\0"
        at = data.index(plain)
        named = syntax.encode() + b"\0" * (len(syntax) % 2)
        length = len(named).to_bytes(2, "little")
        group_at = data.index(b"\x02\x00\x00\x00UL\x04\x00") + 8
        group = int.from_bytes(data[group_at : group_at + 4], "little") + len(named) - len(plain)
        path.write_bytes(
            data[:group_at] + group.to_bytes(4, "little") + data[group_at + 4 : at - 2]
            + length + named + data[at + len(plain) :]
        )  # fmt: skip
    context = ingested(archive)
    assert list(context.read("series").code) == [""]
    [source] = context.read("sources").to_dict("records")
    assert np.array_equal(read_scan(source).voxels_RAS, TALL.voxels_RAS)
