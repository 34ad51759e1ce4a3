"""From folders of files to tables and volumes; what goes wrong with a file, and that nobody is named."""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import json
import lzma
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from rich.console import Console

from spineage.errors import FAULTS, TRANSIENT, BadScan, BadStudy
from spineage.io.dicom import header as dicom
from spineage.io.dicom.pixels import read_frames
from spineage.io.files.listing import list_input
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed, load_key
from spineage.io.scans import headers
from spineage.io.scans.header_rows import read_of, row_of
from spineage.io.scans.headers import Chunk, Read, read_chunk, read_file
from spineage.io.scans.read import read_scan
from spineage.run.context import Context
from spineage.science.scan.accept import judge_series
from spineage.science.scan.geometry import Volume
from spineage.science.scan.series import Header
from spineage.stages.ingest import groups as ingest_groups
from spineage.stages.ingest import scan as ingest_scan
from spineage.stages.ingest import stage as ingest
from spineage.stages.ingest.tables import limits_of
from spineage.study import Ingest, Inputs, Study, study_from
from spineage.verbs import show
from tests.made.dicom_makers import shaded, uid, write_enhanced, write_sagittal

KEY = "a key for tests, 16 bytes or more"
TALL = shaded((7, 40, 60))  # 160 x 240 mm


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEAGE_KEY", KEY)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def context_of(archive: Path, said: list[str] | None = None, **inputs: Any) -> Context:
    study = Study(
        workspace=str(archive.parent / "workspace"), inputs=Inputs(scans=str(archive), **inputs)
    )
    return Context(study, say=(said if said is not None else []).append)


def ingested(archive: Path, **inputs: Any) -> Context:
    context = context_of(archive, **inputs)
    ingest.run(context)
    return context


def volume_of(context: Context, row: int = 0) -> Volume:
    return read_scan(context.read("sources").iloc[row].to_dict())


def code_of_file(archive: Path, name: str) -> str:
    files = ingested(archive).read("files")
    return str(files[files.location.str.endswith(name)].code.iloc[0])


def rows_of(volume: Volume, low: int, high: int) -> Volume:
    affine = volume.affine_RAS.copy()
    affine[:3, 3] = volume.to_mm(np.array([0.0, 0.0, low]))
    return Volume(volume.voxels_RAS[:, :, low:high], affine)


def test_a_classic_series_comes_back_voxel_for_voxel(archive: Path) -> None:
    write_sagittal(archive / "any" / "where", TALL)
    volume = volume_of(ingested(archive))
    np.testing.assert_allclose(volume.affine_RAS, TALL.affine_RAS, atol=1e-4)
    assert np.array_equal(volume.voxels_RAS, TALL.voxels_RAS)


def test_file_names_and_folders_say_nothing(archive: Path) -> None:
    """Slices scattered over folders under names without extension, in no order, are one series."""
    paths = write_sagittal(archive, TALL)
    for i, path in enumerate(paths):
        place = archive / f"dir{i % 3}" / f"{(i * 5) % 7}"
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    context = ingested(archive)
    assert list(context.read("series").num_files) == [7]
    assert np.array_equal(volume_of(context).voxels_RAS, TALL.voxels_RAS)


def test_an_enhanced_object_equals_the_classic_files_after_its_rescaling(archive: Path) -> None:
    write_enhanced(archive / "all.dcm", TALL)
    context = ingested(archive)
    series = context.read("series").iloc[0]
    assert (series.code, series.num_files, series.num_slices, series.echo_ms) == ("", 1, 7, 100.0)
    volume = volume_of(context)
    np.testing.assert_allclose(volume.affine_RAS, TALL.affine_RAS, atol=1e-4)
    np.testing.assert_allclose(volume.voxels_RAS, 2 * TALL.voxels_RAS + 5)


def test_compressed_pixels_and_derived_images_are_accepted(archive: Path) -> None:
    def derived(dataset: FileDataset, number: int) -> None:
        dataset.ImageType = ["DERIVED", "SECONDARY", "OTHER"]

    write_sagittal(archive, TALL, change=derived, compress=True)
    assert np.array_equal(volume_of(ingested(archive)).voxels_RAS, TALL.voxels_RAS)


def test_feet_first_and_turned_patients_end_up_the_same_way(archive: Path) -> None:
    """Patient coordinates already say where left and up are; PatientPosition must change nothing."""

    def prone(dataset: FileDataset, number: int) -> None:
        dataset.PatientPosition = "FFP"
        pixels = dataset.pixel_array[::-1, ::-1]  # stored from the feet up and back to front
        across, down = np.split(np.array(dataset.ImageOrientationPatient, float), 2)
        rows, columns = pixels.shape
        row_mm, column_mm = map(float, dataset.PixelSpacing)
        corner = np.array(dataset.ImagePositionPatient, float)
        corner += across * column_mm * (columns - 1) + down * row_mm * (rows - 1)
        dataset.ImagePositionPatient = [f"{x:.6f}" for x in corner]
        dataset.ImageOrientationPatient = [f"{-x:.9f}" for x in (*across, *down)]
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()

    write_sagittal(archive, TALL, change=prone)
    volume = volume_of(ingested(archive))
    np.testing.assert_allclose(volume.affine_RAS, TALL.affine_RAS, atol=1e-4)
    assert np.array_equal(volume.voxels_RAS, TALL.voxels_RAS)


def test_stations_of_one_exam_become_one_scan_and_gains_are_matched(archive: Path) -> None:
    whole = shaded((7, 40, 140))
    for name, low, high, gain in (
        ("neck", 85, 140, 1.5),
        ("chest", 40, 95, 1.0),
        ("loin", 0, 50, 0.8),
    ):
        part = rows_of(whole, low, high)
        write_sagittal(archive / name, part.with_voxels(part.voxels_RAS * gain), series=name)
    context = ingested(archive)
    scan = context.read("scans").iloc[0]
    assert (scan.num_stations, scan.extent_mm) == (3, pytest.approx(560.0))
    covered = json.loads(scan.coverage_json)
    assert len({piece["series_id"] for piece in covered}) == 3
    spans = [(piece["low_mm"], piece["high_mm"]) for piece in covered]
    assert spans == sorted(spans, reverse=True), "head first"
    for piece, (low, high) in zip(covered, spans, strict=True):
        others = [span for span in spans if span != (low, high)]
        shared = sum(max(0, min(high, top) - max(low, bottom)) for bottom, top in others)
        assert piece["shared_mm"] == pytest.approx(shared, abs=0.2)
    volume = volume_of(context)
    assert volume.voxels_RAS.shape == whole.voxels_RAS.shape
    np.testing.assert_allclose(volume.voxels_RAS, whole.voxels_RAS, rtol=0.02)
    assert len(set(context.read("series").scan_id)) == 1


def test_a_missing_station_is_a_fault_of_the_scan(archive: Path) -> None:
    whole = shaded((7, 40, 140))
    write_sagittal(archive, rows_of(whole, 0, 50), series="loin")
    write_sagittal(archive, rows_of(whole, 90, 140), series="neck")
    with pytest.raises(BadScan, match="gap of 160 mm") as fault:
        volume_of(ingested(archive))
    assert fault.value.code == "stations_apart"


def test_ingest_on_ray_gives_the_same_tables(
    archive: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in ("P1", "P2", "P3"):
        write_sagittal(archive / person, TALL, person=person)
    (archive / "note.txt").write_text("no scan")
    one = ingested(archive)
    expected = {name: one.read(name) for name in ("files", "series", "scans", "sources")}
    shutil.rmtree(archive.parent / "workspace")
    monkeypatch.setattr(ingest_scan, "FEW_FILES", 0)
    monkeypatch.setattr(ingest_scan, "MAX_CHUNK", 5)
    monkeypatch.setattr(ingest_groups, "FILES_PER_GROUP", 6)
    other = ingested(archive)
    assert len(other.store.list(f"{other.tables_folder('ingest')}/files", ".parquet")) > 1
    for name, table in expected.items():
        by = list(table.columns[:2])
        again = other.read(name).sort_values(by, ignore_index=True)
        assert again.equals(table.sort_values(by, ignore_index=True)), name


def test_the_second_run_reads_nothing_and_a_new_file_makes_a_new_generation(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sagittal(archive / "P1", TALL)
    context = context_of(archive)
    counts = ingest.run(context)
    first = context.tables_folder("ingest")
    with monkeypatch.context() as patch:
        patch.setattr(ingest_scan, "read_chunk", _must_not_be_called)
        assert ingest.run(context) == counts
    keys = set(context.read("scans").scan_id)
    write_sagittal(archive / "P2", TALL, person="P2")
    assert ingest.run(context).done["scans"] == 2
    assert context.tables_folder("ingest") != first
    assert keys < set(context.read("scans").scan_id), "the old scan keeps its id"


def _must_not_be_called(chunk: object) -> list[object]:
    raise AssertionError("a header was read again")


def test_a_new_or_changed_file_makes_only_its_neighbours_read_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for person in range(30):
        write_sagittal(archive / f"P{person:02d}", TALL, person=f"P{person:02d}")
    monkeypatch.setattr(ingest_scan, "CUT", 16)
    context = context_of(archive)
    ingest.run(context)
    was_read: list[str] = []

    def noted(chunk: Chunk) -> list[Read]:
        was_read.extend(seen.name for seen in chunk.files)
        return read_chunk(chunk)

    monkeypatch.setattr(ingest_scan, "read_chunk", noted)
    changed = sorted(archive.glob("P07/*"))[3]
    dataset = pydicom.dcmread(changed)
    dataset.EchoTime = "99"
    dataset.save_as(changed)
    write_sagittal(archive / "P20b", TALL, person="P20b")
    assert ingest.run(context).done["scans"] == 31
    assert f"P07/{changed.name}" in was_read
    assert {name.split("/")[0] for name in was_read} >= {"P07", "P20b"}
    assert len(was_read) < 120, "of 217 files"


def test_a_change_of_the_rules_reads_no_header_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sagittal(archive, TALL)
    assert ingest.run(context_of(archive)).done["scans"] == 1
    monkeypatch.setattr(ingest_scan, "read_chunk", _must_not_be_called)
    context = context_of(archive)
    context.study = context.study.model_copy(update={"ingest": Ingest(min_slices=99)})
    assert ingest.run(context).refused["too_few_slices"] == 1


def test_slices_of_two_people_under_one_series_uid_are_never_mixed(archive: Path) -> None:
    paths = write_sagittal(archive, TALL)
    for path in paths[::2]:
        dataset = pydicom.dcmread(path)
        dataset.PatientID = "another person"
        dataset.save_as(path)
    context = ingested(archive)
    series = context.read("series")
    assert series.person_id.nunique() == series.series_id.nunique() == 2
    assert list(series.num_slices) in ([3, 4], [4, 3])
    assert set(series.code) == {"too_few_slices"}


def test_a_header_does_not_depend_on_the_headers_read_before(archive: Path) -> None:
    def other_echo(dataset: FileDataset, number: int) -> None:
        dataset.EchoTime = "100" if number % 2 else "101"

    write_sagittal(archive / "one", TALL)
    write_sagittal(archive / "two", TALL, person="P2", series="S2", change=other_echo)
    write_enhanced(archive / "three.dcm", TALL, person="P3")
    files = list_input(str(archive))
    together = read_chunk(Chunk(files, Keyed(b"k" * 32), "StudyInstanceUID"))
    for seen, read in zip(files, together, strict=True):
        dicom._LATELY.clear()
        assert read_file(seen, Keyed(b"k" * 32), "StudyInstanceUID") == [read]
    (other_key,) = read_file(files[0], Keyed(b"l" * 32), "StudyInstanceUID")
    assert other_key.header.about.person_id != together[0].header.about.person_id


def test_headers_come_back_from_storage_as_they_were(archive: Path) -> None:
    write_sagittal(archive / "classic", TALL)
    write_enhanced(archive / "enhanced.dcm", TALL)
    write_nifti(archive / "sub-01_T2w.nii.gz", TALL)
    (archive / "note.txt").write_text("no scan")
    reads = read_chunk(Chunk(list_input(str(archive)), Keyed(b"k" * 32), "StudyInstanceUID"))
    kinds = set()
    for read in reads:
        again = read_of(row_of(read))
        assert (again.file_id, again.code, again.message) == (
            read.file_id, read.code, read.message
        )  # fmt: skip
        assert without_grid(again.header) == without_grid(read.header)
        if read.header and read.header.grid:
            assert np.array_equal(again.header.grid.affine_RAS, read.header.grid.affine_RAS)
            assert again.header.grid.shape == read.header.grid.shape
        kinds.add(read.header.kind if read.header else "")
    assert kinds == {"dicom", "nifti", ""}


def without_grid(header: Header | None) -> Header | None:
    """Headers can be compared, arrays in them cannot."""
    return replace(header, grid=None) if header else None


def overridden(archive: Path, *rows: str) -> Context:
    """Ingest with these rows of overrides.csv."""
    table = archive.parent / "overrides.csv"
    table.write_text("\n".join(["series_id,decision,reason", *rows]) + "\n")
    said: list[str] = []
    context = context_of(archive, said, overrides=str(table))
    ingest.run(context)
    context.said = said  # type: ignore[attr-defined]
    return context


def test_a_person_may_decide_otherwise_with_a_reason(archive: Path) -> None:
    def as_t1(dataset: FileDataset, number: int) -> None:
        dataset.EchoTime = "12"

    write_sagittal(archive / "good", TALL, person="P1")
    write_sagittal(archive / "odd", TALL, person="P2", change=as_t1)
    before = ingested(archive).read("series").set_index("code").series_id
    context = overridden(
        archive,
        f"{before['']},refuse,moved during the scan",
        f"{before['not_t2']},accept,TE is a typing error of the console",
    )
    series = context.read("series").set_index("series_id")
    assert series.code[before[""]] == "refused_by_hand"
    assert "moved during the scan" in series.message[before[""]]
    assert series.code[before["not_t2"]] == ""
    assert "typing error" in series.message[before["not_t2"]]
    assert list(context.read("scans").num_stations) == [1]


def test_nobody_can_accept_what_makes_no_volume(archive: Path) -> None:
    write_sagittal(archive, TALL)
    sorted(archive.iterdir())[3].unlink()
    series = ingested(archive).read("series").iloc[0]
    assert series.code == "slice_gap"
    again = overridden(archive, f"{series.series_id},accept,looks fine").read("series").iloc[0]
    assert again.code == "slice_gap"
    assert "make no volume" in again.message


def test_an_override_that_names_no_series_is_told(archive: Path) -> None:
    write_sagittal(archive, TALL)
    context = overridden(archive, "0123456789abcdef,refuse,blurred")
    assert any("1 of 1 overrides name no series" in line for line in context.said)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("a,maybe,why", "must be accept or refuse"),
        ("a,accept,", "needs a reason"),
        ("a,accept," + "why " * 60, "at most 200 letters"),
        ("a,accept,why\na,refuse,why", "decided twice"),
    ],
)
def test_overrides_that_do_not_fit_are_one_sentence(archive: Path, row: str, sentence: str) -> None:
    write_sagittal(archive, TALL)
    with pytest.raises(BadStudy, match=sentence):
        overridden(archive, row)


def test_changed_headers_and_changed_pixels_make_a_new_source_digest(archive: Path) -> None:
    def longer_echo(dataset: FileDataset, number: int) -> None:
        dataset.EchoTime = "101"

    def other_pixels(dataset: FileDataset, number: int) -> None:
        dataset.PixelData = bytes(reversed(dataset.PixelData))

    scans = []
    for change in (None, longer_echo, other_pixels, None):
        write_sagittal(archive, TALL, change=change)
        scans.append(ingested(archive).read("scans").iloc[0])
    assert len({scan.scan_id for scan in scans}) == 1
    digests = [scan.source_digest for scan in scans]
    assert len(set(digests)) == 3
    assert digests[0] == digests[3], "the same content again, whatever its time"


def test_copies_of_an_object_are_used_once(archive: Path) -> None:
    write_sagittal(archive / "one", TALL)
    shutil.copytree(archive / "one", archive / "two")
    context = ingested(archive)
    files = context.read("files")
    assert sorted(files.code.value_counts().to_dict().items()) == [("", 7), ("duplicate_file", 7)]
    assert files[files.code == "duplicate_file"].series_id.isna().all()
    assert context.read("series").iloc[0].code == ""


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def cut_in_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def cut_in_preamble(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def cut_before_pixels(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"\xe0\x7f\x10\x00")])


def scramble(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[140:] = os.urandom(len(data) - 140)
    path.write_bytes(data)


def edited(change: Callable[[Dataset], None]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        dataset = pydicom.dcmread(path)
        change(dataset)
        dataset.save_as(path)

    return edit


def made_a_report(dataset: Dataset) -> None:
    del dataset.Rows, dataset.PixelData
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.BasicTextSRStorage


def with_absurd_size(dataset: Dataset) -> None:
    dataset.Rows = 60000


def with_absurd_frames(dataset: Dataset) -> None:
    dataset.NumberOfFrames = "2000000000"


def with_more_rows_than_pixels(dataset: Dataset) -> None:
    dataset.Rows = dataset.Rows + 20


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (cut_short, "truncated"),
        (cut_in_header, "truncated"),
        (cut_before_pixels, "truncated"),
        (cut_in_preamble, "unreadable"),
        (scramble, "unreadable"),
        (lambda path: path.write_bytes(b""), "not_imaging"),
        (lambda path: path.write_bytes(b"x" * 9000), "not_imaging"),
        (edited(made_a_report), "no_pixels"),
        (edited(with_absurd_size), "bad_pixels"),
        (edited(with_absurd_frames), "bad_pixels"),
        (edited(with_more_rows_than_pixels), "bad_pixels"),
    ],
)
def test_a_damaged_file_has_its_code_and_its_series_notices(
    archive: Path, damage: Callable[[Path], None], code: str
) -> None:
    paths = write_sagittal(archive, TALL)
    damage(paths[3])
    context = ingested(archive)
    files = context.read("files").set_index("location")
    assert files.code[str(paths[3])] == code
    assert context.read("series").code.to_list() == ["slice_gap"]
    assert len(context.read("scans")) == 0


def test_archives_links_and_other_files_end_with_a_code(archive: Path) -> None:
    write_sagittal(archive / "series", TALL)
    with zipfile.ZipFile(archive / "exam.zip", "w") as packed:
        packed.write(archive / "series" / "S1-0.dcm")
    with gzip.open(archive / "text.gz", "wb") as packed_text:
        packed_text.write(b"no scan " * 100)
    (archive / "elsewhere").symlink_to(archive.parent, target_is_directory=True)
    (archive / "broken.dcm").symlink_to(archive / "gone.dcm")
    codes = ingested(archive).read("files").set_index("location").code
    found = {Path(location).name: code for location, code in codes.items() if code}
    assert found.pop("S1-0.dcm") == "duplicate_file", "of the folder or of the archive"
    assert found == {
        "exam.zip": "archive", "text.gz": "not_imaging", "elsewhere": "link",
        "broken.dcm": "unreadable",
    }  # fmt: skip


def test_a_file_that_vanishes_after_ingest_is_a_fault_not_a_crash(archive: Path) -> None:
    paths = write_sagittal(archive, TALL)
    context = ingested(archive)
    paths[2].unlink()
    with pytest.raises(BadScan) as fault:
        volume_of(context)
    assert fault.value.code == "changed_since_ingest"
    assert str(archive) not in str(fault.value)


def test_a_file_that_a_disk_does_not_give_is_tried_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sagittal(archive, TALL)
    context = ingested(archive)

    def fail(location: str) -> None:
        raise OSError(errno.EIO, "Input/output error", location)

    monkeypatch.setattr("spineage.io.dicom.pixels.open_bytes", fail)
    with pytest.raises(BadScan, match=r"^a file cannot be read \(Input/output error\)$") as fault:
        volume_of(context)
    assert fault.value.code == "unavailable"
    assert fault.value.code in TRANSIENT


def test_blank_and_undecodable_pixels_are_faults_of_the_scan(archive: Path) -> None:
    write_sagittal(archive, TALL.with_voxels(np.zeros_like(TALL.voxels_RAS)))
    with pytest.raises(BadScan) as fault:
        volume_of(ingested(archive))
    assert fault.value.code == "bad_values"

    def spoil(dataset: FileDataset, number: int) -> None:
        dataset.compress(pydicom.uid.RLELossless)
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless  # it is not

    write_sagittal(archive, TALL, change=spoil)
    with pytest.raises(BadScan) as fault:
        volume_of(ingested(archive))
    assert fault.value.code == "bad_pixels"


def write_nifti(path: Path, volume: Volume, axes: str = "RAS") -> None:
    image = nibabel.Nifti1Image(volume.voxels_RAS.astype(np.int16), volume.affine_RAS)
    wanted = nibabel.orientations.axcodes2ornt(axes)
    start = nibabel.orientations.io_orientation(volume.affine_RAS)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.as_reoriented(nibabel.orientations.ornt_transform(start, wanted)).to_filename(path)


@pytest.mark.parametrize("axes", ["RAS", "PIR", "LPS", "AIL"])
def test_nifti_of_any_orientation_comes_back_in_ras(archive: Path, axes: str) -> None:
    write_nifti(archive / "sub-01_ses-2_T2w.nii.gz", TALL, axes)
    context = ingested(archive)
    volume = volume_of(context)
    np.testing.assert_allclose(volume.affine_RAS, TALL.affine_RAS, atol=1e-4)
    assert np.array_equal(volume.voxels_RAS, TALL.voxels_RAS)
    keyed = Keyed(load_key(context.study))
    scan = context.read("scans").iloc[0]
    assert scan.person_id == keyed.person("sub-01")
    assert scan.exam_id == keyed.exam("sub-01_ses-2")


def test_a_nifti_is_judged_by_its_sidecar_before_its_name(archive: Path) -> None:
    write_nifti(archive / "sub-01_T2w.nii.gz", TALL)
    (archive / "sub-01_T2w.json").write_text(json.dumps({"EchoTime": 0.012, "RepetitionTime": 0.5}))
    series = ingested(archive).read("series").iloc[0]
    assert (series.code, series.echo_ms, series.repetition_ms) == ("not_t2", 12.0, 500.0)


def test_a_nifti_cut_short_or_swollen_is_a_fault(archive: Path) -> None:
    path = archive / "t2_sag.nii.gz"
    write_nifti(path, TALL)
    whole = path.read_bytes()
    path.write_bytes(whole[:-2000])
    assert code_of_file(archive, "t2_sag.nii.gz") == "truncated"
    raw = bytearray(gzip.decompress(whole))
    raw[42:48] = np.array([30000] * 3, "<i2").tobytes()
    path.write_bytes(gzip.compress(bytes(raw)))
    assert code_of_file(archive, "t2_sag.nii.gz") == "bad_pixels"


PEOPLE = "person,sex,site,age_years\nP1,M,north,61.5\n" + "".join(
    f"N{i},F,north,\n" for i in range(4)
)


def test_the_participants_table_comes_before_the_header(archive: Path) -> None:
    write_sagittal(archive / "P1", TALL)
    write_sagittal(archive / "P2", TALL, person="P2")
    table = archive.parent / "people.csv"
    table.write_text(PEOPLE)
    context = ingested(archive, participants=str(table))
    keyed = Keyed(load_key(context.study))
    scans = context.read("scans").set_index("person_id")
    listed, other = scans.loc[keyed.person("P1")], scans.loc[keyed.person("P2")]
    assert (listed.age_years, listed.sex, listed.site) == (61.5, "M", "north")
    assert listed.age_source == "participants, disputed", "the header says 50"
    assert (other.age_years, other.sex, other.age_source) == (50.0, "F", "PatientAge")
    assert context.read("scans").vendor.to_list() == ["Siemens", "Siemens"]


def test_days_are_counted_from_the_first_exam_of_each_person(archive: Path) -> None:
    def on(day: str) -> Callable[[FileDataset, int], None]:
        def change(dataset: FileDataset, number: int) -> None:
            dataset.StudyDate = day

        return change

    write_sagittal(archive / "a", TALL, exam="E1", change=on("20200101"))
    write_sagittal(archive / "b", TALL, exam="E2", change=on("20210101"))
    write_sagittal(archive / "c", TALL, person="P2", change=on("20200601"))
    days = ingested(archive).read("scans").days_since_first
    assert sorted(days) == [0, 0, 366]


def test_the_exam_key_may_be_the_accession_number(archive: Path) -> None:
    def accession(dataset: FileDataset, number: int) -> None:
        dataset.AccessionNumber = "A000017"

    write_sagittal(archive, TALL, change=accession)
    context = ingested(archive, exam_key="AccessionNumber")
    exam_id = Keyed(load_key(context.study)).exam("A000017")
    assert context.read("scans").exam_id.to_list() == [exam_id]


@pytest.mark.parametrize(
    ("people", "sentence"),
    [
        ("name,sex,site\nP1,M,x\n", "'person'"),
        ("person,sex\nP1,M\n", "'site'"),
        ("person,sex,site,age_years\nP1,M,x,150\n", "0 to 120"),
        ("person,sex,site,age_years\nP1,M,x,-3\n", "0 to 120"),
    ],
)
def test_a_participants_table_that_does_not_fit_stops_before_work(
    archive: Path, people: str, sentence: str
) -> None:
    write_sagittal(archive, TALL)
    table = archive.parent / "people.csv"
    table.write_text(people)
    with pytest.raises(BadStudy, match=sentence):
        ingested(archive, participants=str(table))
    assert not (archive.parent / "workspace").exists(), "nothing is written"


def test_a_missing_or_empty_input_stops_before_work(archive: Path) -> None:
    with pytest.raises(BadStudy, match="empty"):
        ingested(archive)
    with pytest.raises(BadStudy, match="is not there"):
        ingested(archive / "nowhere")
    assert not (archive.parent / "workspace").exists(), "nothing is written"


def test_without_a_key_nothing_starts(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sagittal(archive, TALL)
    monkeypatch.delenv("SPINEAGE_KEY")
    with pytest.raises(BadStudy, match="SPINEAGE_KEY"):
        ingested(archive)
    monkeypatch.setenv("SPINEAGE_KEY", "short")
    with pytest.raises(BadStudy, match="at least 16"):
        ingested(archive)
    monkeypatch.delenv("SPINEAGE_KEY")
    with pytest.raises(BadStudy, match="cannot be read"):
        ingested(archive, key_file=str(archive / "no.key"))


def test_another_key_gives_other_ids_and_another_address(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sagittal(archive, TALL)
    one = ingested(archive)
    ids = set(one.read("scans").iloc[0][["scan_id", "person_id", "exam_id"]])
    monkeypatch.setenv("SPINEAGE_KEY", "another key, also long enough")
    other = ingested(archive)
    assert ids.isdisjoint(other.read("scans").iloc[0][["scan_id", "person_id", "exam_id"]])
    assert one.folder("ingest") != other.folder("ingest")


CANARY = "Kanarienvogel"
NUMBER = "8675309424242"


def plant(dataset: FileDataset, number: int) -> None:
    """A name in every text element a writer could put one in, and in private and nested ones."""
    texts = {
        "LO": ["InstitutionName", "SeriesDescription", "ProtocolName", "StudyDescription", "PatientID",
               "ManufacturerModelName", "Manufacturer", "OtherPatientIDs", "DeviceSerialNumber"],
        "PN": ["PatientName", "OperatorsName", "ReferringPhysicianName", "PerformingPhysicianName"],
        "SH": ["StationName", "AccessionNumber", "StudyID", "SequenceName"],
        "LT": ["PatientComments", "AdditionalPatientHistory", "ImageComments"],
        "CS": ["PatientSex", "BodyPartExamined", "ScanOptions"],
    }  # fmt: skip
    for names in texts.values():
        for name in names:
            setattr(
                dataset,
                name,
                f"{CANARY} {name}"[:16]
                if name in texts["SH"] + texts["CS"]
                else f"{CANARY} {name}",
            )
    dataset.ImageType = ["ORIGINAL", "PRIMARY", CANARY.upper()]
    dataset.PatientAge = CANARY[:4]
    dataset.PatientBirthDate = CANARY
    dataset.MagneticFieldStrength = "1.5"
    block = dataset.private_block(0x0029, "CANARY MAKER", create=True)
    block.add_new(0x01, "LO", CANARY)
    nested = Dataset()
    nested.PatientID = CANARY
    dataset.OtherPatientIDsSequence = Sequence([nested])
    dataset.StudyInstanceUID = f"1.2.{NUMBER}.1"
    dataset.SeriesInstanceUID = f"1.2.{NUMBER}.2"
    dataset.FrameOfReferenceUID = f"1.2.{NUMBER}.3"
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = (
        f"1.2.{NUMBER}.4.{number}"
    )


@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of the values planted here
def test_planted_names_are_in_no_table_message_or_log(
    archive: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    home = archive / f"{CANARY} Anna" / NUMBER
    good = write_sagittal(home, TALL, change=plant, series=CANARY)
    broken = home / f"{CANARY}.dcm"
    shutil.copy(good[0], broken)
    cut_in_header(broken)
    damaged = home / f"{CANARY}-damaged.dcm"
    shutil.copy(good[0], damaged)
    scramble(damaged)
    (home / f"{CANARY}.zip").write_bytes(b"PK\x03\x04" + CANARY.encode())
    write_nifti(home / f"sub-{CANARY}_T2w.nii.gz", TALL)
    (home / f"sub-{CANARY}_T2w.json").write_text(json.dumps({"SeriesDescription": CANARY}))
    caplog.clear()
    capfd.readouterr()
    said: list[str] = []
    context = context_of(archive, said)
    counts = ingest.run(context)
    assert counts.done["scans"] == 2, counts
    shutil.rmtree(home)
    faults = []
    for row in context.read("sources").to_dict("records"):
        with pytest.raises(BadScan) as fault:
            read_scan(row)
        faults.append(str(fault.value))
    files = context.read("files")
    shown = [context.read(table).to_csv() for table in ("series", "scans")]
    shown += [files.drop(columns="location").to_csv(), *said, *faults, json.dumps(counts.flat())]
    out, err = capfd.readouterr()
    everything = "\n".join(
        [*shown, out, err, caplog.text, json.dumps(ingest.recipe(context)["key"])]
    )
    assert CANARY.lower() not in everything.lower()
    assert NUMBER not in everything
    (headers,) = (archive.parent / "workspace").rglob("headers/*.parquet")
    assert CANARY not in pd.read_parquet(headers).drop(columns="location").to_csv()
    private = {"files", "sources", "headers"}
    for path in (archive.parent / "workspace").rglob("*"):
        if path.is_file() and not private & set(path.parts):
            assert CANARY.encode() not in path.read_bytes(), path.name


def test_every_code_that_ingest_gives_is_declared(archive: Path) -> None:
    write_sagittal(archive / "good", TALL)
    (archive / "note.txt").write_text("no scan")
    context = ingested(archive)
    codes = {*context.read("files").code, *context.read("series").code} - {""}
    assert codes <= set(FAULTS)


def test_keyed_ids_depend_on_the_kind_of_id() -> None:
    keyed = Keyed(b"k" * 32)
    ids = {keyed.person("X"), keyed.exam("X"), keyed.series("X"), keyed.scan("X"), keyed.file("X")}
    assert len(ids) == 5
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in ids)
    assert keyed.scan("a", "b") == keyed.scan("b", "a")
    assert "k" * 8 not in repr(keyed)


def test_uids_of_the_makers_are_stable() -> None:
    assert uid("a", 1) == uid("a", 1) != uid("a", 2)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes of the first 3,000 flipped, cut out or put in; now and then the end cut off."""
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 2, 5, 30]))):
        at = int(rng.integers(0, max(1, min(len(changed), 3000))))
        kind = int(rng.integers(0, 3))
        if kind == 0 and at < len(changed):
            changed[at] = int(rng.integers(0, 256))
        elif kind == 1:
            del changed[at : at + int(rng.integers(1, 20))]
        else:
            changed[at:at] = rng.bytes(int(rng.integers(1, 12)))
    if rng.random() < 0.1:
        del changed[int(rng.integers(0, len(changed))) :]
    return bytes(changed)


def test_damaged_bytes_end_in_an_answer_never_in_a_crash(archive: Path) -> None:
    sources = [
        write_sagittal(archive / "plain", TALL)[0],
        write_sagittal(archive / "rle", TALL, series="S2", compress=True)[0],
        archive / "enhanced.dcm",
        archive / "sub-01_T2w.nii.gz",
    ]
    write_enhanced(sources[2], TALL, series="S3")
    write_nifti(sources[3], TALL)
    rng = np.random.default_rng(2511)
    keyed = Keyed(b"k" * 32)
    limits = limits_of(Ingest())
    place = archive / "damaged"
    ends = set()
    for i in range(400):
        place.write_bytes(mutated(sources[i % 4].read_bytes(), rng))
        (read,) = read_file(
            Seen("damaged", str(place), place.stat().st_size, ""), keyed, "StudyInstanceUID"
        )
        code = judge_series([read.header], limits).code if read.header else read.code
        ends.add(code)
        if read.header and read.header.kind == "dicom":
            ends.add(_code_of_pixels(place))
    assert ends <= {"", *FAULTS}
    assert len(ends) > 5, "the damage is of many kinds"


def _code_of_pixels(path: Path) -> str:
    try:
        read_frames(str(path))
    except BadScan as fault:
        return fault.code
    return ""


def test_show_accounts_for_every_file_and_says_why_for_every_series(archive: Path) -> None:
    def as_t1(dataset: FileDataset, number: int) -> None:
        dataset.EchoTime = "12"

    write_sagittal(archive / "good", TALL)
    write_sagittal(archive / "t1", TALL, person="P2", change=as_t1)
    (archive / "note.txt").write_text("no scan")
    context = ingested(archive)
    context.store.write(
        "study.resolved.yaml",
        yaml.safe_dump(context.study.model_dump(mode="json", by_alias=True)).encode(),
    )
    workspace = context.study.workspace
    rows = json.loads(show.as_json("files", show.read("files", None, workspace, None)))
    assert {row["location"] for row in rows} == {
        str(path) for path in archive.rglob("*") if path.is_file()
    }
    assert all(bool(row["code"]) != bool(row["series_id"]) for row in rows)
    console = Console(width=200, record=True, file=io.StringIO())
    for grid in show.grids("series", show.read("series", None, workspace, None)):
        console.print(grid)
    text = console.export_text()
    for series_id in context.read("series").series_id:
        assert series_id in text
    assert "a sagittal T2 of the spine" in text
    assert "TE is 12 ms, expected at least 55" in text
    assert FAULTS["not_t2"] in text


@pytest.mark.parametrize("files_per_group", [1, 10_000])
def test_the_same_objects_under_two_people_end_alike_in_one_group_or_many(
    archive: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None, files_per_group: int
) -> None:
    def other_person(dataset: FileDataset, number: int) -> None:
        dataset.PatientID = "another"

    write_sagittal(archive / "one", TALL)
    write_sagittal(archive / "two", TALL, change=other_person)
    for name in ("sub-01", "sub-02"):
        (archive / name).mkdir()
        write_nifti(archive / name / f"{name}_T2w.nii.gz", TALL)
    monkeypatch.setattr(ingest_groups, "FILES_PER_GROUP", files_per_group)
    context = ingested(archive)
    scans = context.read("scans")
    assert len(scans) == scans.scan_id.nunique() == scans.person_id.nunique() == 4
    assert set(context.read("files").code) == {""}


def test_a_file_that_could_not_be_opened_is_tried_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_sagittal(archive, TALL)
    true_open = headers.open_stream

    def failing(location: str) -> Any:
        if location == str(paths[3]):
            raise OSError(errno.EIO, "Input/output error")
        return true_open(location)

    with monkeypatch.context() as patch:
        patch.setattr(headers, "open_stream", failing)
        context = context_of(archive)
        assert ingest.run(context).unused["unreadable"] == 1
        assert ingest.run(context).refused["slice_gap"] == 1
    assert ingest.run(context).done["scans"] == 1
    assert set(context.read("files").code) == {""}


def test_a_changed_sidecar_is_read_wherever_chunks_end(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_scan, "CUT", 1)
    monkeypatch.setattr(ingest_scan, "MAX_CHUNK", 1)
    for name, echo in (("sub-01", 0.1), ("sub-02", 0.1)):
        write_nifti(archive / f"{name}_T2w.nii.gz", TALL)
        (archive / f"{name}_T2w.json").write_text(json.dumps({"EchoTime": echo}))
    assert ingested(archive).read("series").code.eq("").all()
    (archive / "sub-02_T2w.json").write_text(json.dumps({"EchoTime": 0.012}))
    assert sorted(ingested(archive).read("series").code) == ["", "not_t2"]


def test_another_object_under_the_same_id_is_told_from_a_copy(archive: Path) -> None:
    def brighter(dataset: FileDataset, number: int) -> None:
        dataset.PixelData = bytes(reversed(dataset.PixelData))

    write_sagittal(archive / "a", TALL)
    shutil.copytree(archive / "a", archive / "b")
    write_sagittal(archive / "c", TALL, change=brighter)
    files = ingested(archive).read("files")
    messages = files[files.code == "duplicate_file"].message
    assert len(messages) == 14
    assert messages.str.contains("differs").any()


def test_a_table_of_people_that_matches_nobody_is_told(archive: Path, tmp_path: Path) -> None:
    write_sagittal(archive, TALL)
    table = tmp_path / "participants.csv"
    table.write_text("person,sex,site\nnobody,F,hill\n")
    said: list[str] = []
    ingest.run(context_of(archive, said, participants=str(table)))
    assert any("nothing on the people of 1 of 1 scans" in line for line in said)


def test_a_table_of_exams_of_another_kind_is_told(archive: Path, tmp_path: Path) -> None:
    write_sagittal(archive, TALL)
    table = tmp_path / "participants.csv"
    table.write_text("person,exam,sex,site,age_years\nP1,A1,F,hill,30\n")
    said: list[str] = []
    ingest.run(context_of(archive, said, participants=str(table)))
    (line,) = [line for line in said if "not these exams" in line]
    assert "the people of 1 of 1 scans" in line
    assert "must hold the StudyInstanceUID" in line
    assert not any("nothing on the people" in line for line in said)


@pytest.mark.parametrize(
    ("end", "is_told"), [("4", True), ("45\n", False), ("45\r\n", False), ('"45"', False)]
)
def test_a_table_that_may_be_cut_within_its_last_value_is_told(
    archive: Path, tmp_path: Path, end: str, is_told: bool
) -> None:
    write_sagittal(archive, TALL)
    table = tmp_path / "participants.csv"
    table.write_bytes(f"person,sex,site,age_years\nP1,F,hill,{end}".encode())
    said: list[str] = []
    ingest.run(context_of(archive, said, participants=str(table)))
    assert any("the last line has no line end" in line for line in said) == is_told


def test_a_workspace_inside_the_input_is_refused(archive: Path) -> None:
    write_sagittal(archive, TALL)
    study = Study(workspace=str(archive / "results"), inputs=Inputs(scans=str(archive)))
    with pytest.raises(BadStudy, match="inside"):
        ingest.run(Context(study, say=lambda text: None))
    assert not (archive / "results").exists()


def test_names_that_look_like_markup_are_shown_as_they_are(tmp_path: Path) -> None:
    folder = tmp_path / "archive" / "[" / "x]"
    write_sagittal(folder, TALL)
    context = ingested(tmp_path / "archive")
    console = Console(width=200, record=True, file=io.StringIO())
    for table in ("files", "series"):
        for grid in show.grids(table, context.read(table)):
            console.print(grid)
    assert "file_id" in console.export_text()


def test_a_reader_stays_with_one_generation_while_another_is_written(archive: Path) -> None:
    write_sagittal(archive / "P1", TALL, person="P1")
    ingested(archive)
    reader = context_of(archive)
    scans = reader.read("scans")
    write_sagittal(archive / "P2", TALL, person="P2")
    ingested(archive)
    assert list(reader.read("sources").scan_id) == list(scans.scan_id)
    reader.forget()
    assert len(reader.read("sources")) == 2


@pytest.mark.parametrize("pack", [gzip.compress, lzma.compress, bz2.compress])
def test_packed_dicom_is_told_to_be_unpacked(archive: Path, pack: Callable[[bytes], bytes]) -> None:
    path = write_sagittal(archive, TALL)[0]
    (archive / "slice.dcm.packed").write_bytes(pack(path.read_bytes()))
    assert code_of_file(archive, "packed") == "not_unpacked"


def test_files_that_begin_with_their_meta_elements_are_dicom(archive: Path) -> None:
    """Some archives drop preamble and prefix (PS3.10 7.1) and keep group 0002."""
    for path in write_sagittal(archive, TALL):
        path.write_bytes(path.read_bytes()[132:])
    context = ingested(archive)
    assert list(context.read("series").code) == [""]
    assert np.array_equal(volume_of(context).voxels_RAS, TALL.voxels_RAS)


@pytest.mark.parametrize(
    ("key", "value"), [("min_slices", -3), ("max_tilt_degrees", 90), ("max_station_gap_mm", -1)]
)
def test_a_limit_that_makes_no_sense_is_refused(key: str, value: int) -> None:
    with pytest.raises(BadStudy, match=f"ingest.{key}"):
        study_from({"ingest": {key: value}})
