"""What lies in an input: order, links, special files, archives, bombs."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    MediaStorageDirectoryStorage,
)

from spineage.errors import BadScan, BadStudy
from spineage.io.dicom.codestreams import size_of
from spineage.io.dicom.pixels import read_frames
from spineage.io.files import archive as archives
from spineage.io.files.listing import list_input, open_bytes, walk_input
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.people.tables import read_participants
from spineage.io.scans.headers import Read, read_file
from spineage.io.scans.read import read_scan
from spineage.run.context import Context
from spineage.stages.ingest import stage as ingest
from spineage.study import Inputs, Study
from tests.made.dicom_makers import shaded, write_sagittal

TALL = shaded((7, 40, 60))
KEYED = Keyed(b"k" * 32)
MB = 1 << 20


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    (tmp_path / "input").mkdir()
    return tmp_path / "input"


def reads_of(path: Path) -> list[Read]:
    return read_file(Seen(path.name, str(path), path.stat().st_size, ""), KEYED, "StudyInstanceUID")


def codes_of(path: Path) -> list[str]:
    return [read.code for read in reads_of(path)]


def ingested(scans: str, workspace: Path) -> Context:
    context = Context(
        Study(workspace=str(workspace), inputs=Inputs(scans=scans)), say=lambda _: None
    )
    ingest.run(context)
    return context


def test_files_come_depth_first_in_one_order_and_as_they_are_found(root: Path) -> None:
    for name in ("b/2", "b/10", "a.dcm", "b.dcm", "B/x", "b/sub/y"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    names = [seen.name for seen in walk_input(str(root))]
    assert names == ["B/x", "a.dcm", "b/10", "b/2", "b/sub/y", "b.dcm"]
    found = walk_input(str(root))
    assert next(found).name == "B/x"
    (root / "b" / "new").write_bytes(b"")
    assert "b/new" in [seen.name for seen in found], "a folder is opened when its turn comes"


def test_a_wide_tree_is_walked_in_the_memory_of_one_folder(root: Path) -> None:
    for folder in range(60):
        (root / f"{folder:03d}").mkdir()
        for file in range(50):
            os.close(os.open(root / f"{folder:03d}" / f"{file}", os.O_CREAT))
    tracemalloc.start()
    assert sum(1 for _ in walk_input(str(root))) == 3000
    streamed = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    kept = list_input(str(root))
    assert len(kept) == 3000
    assert streamed * 4 < tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_a_tree_deeper_than_calls_may_nest_is_walked(root: Path) -> None:
    here, home = root, os.getcwd()
    try:
        for _ in range(1500):
            os.mkdir(here / "d") if here == root else os.mkdir("d")
            os.chdir(here / "d" if here == root else "d")
            here = Path("d")
        Path("deep").write_bytes(b"")
    finally:
        os.chdir(home)
    [seen] = list_input(str(root))
    subprocess.run(["rm", "-rf", str(root)], check=True)  # Python's own removal recurses
    assert seen.name.endswith("/deep")


def test_links_pipes_and_closed_places_are_seen_but_never_opened(root: Path) -> None:
    outside = root.parent / "outside.dcm"
    outside.write_bytes(b"secret")
    (root / "in.dcm").write_bytes(b"x" * 10)
    (root / "folder").mkdir()
    links = {"to_in": "in.dcm", "to_out": str(outside), "to_up": "..", "to_folder": "folder",
             "loop": "loop", "ping": "pong", "pong": "ping", "broken": "gone",
             "passwd": "/etc/passwd"}  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "folder" / "round").symlink_to(root)
    os.mkfifo(root / "pipe")
    (root / "to_null").symlink_to("/dev/null")
    codes = {seen.name: codes_of_seen(seen) for seen in walk_input(str(root))}
    assert codes == {
        "in.dcm": "not_imaging", "to_in": "not_imaging", "to_out": "link", "to_up": "link", "passwd": "link",
        "to_folder": "link", "folder/round": "link", "loop": "unreadable", "ping": "unreadable",
        "pong": "unreadable", "broken": "unreadable", "pipe": "special_file", "to_null": "link",
    }  # fmt: skip


def codes_of_seen(seen: Seen) -> str:
    [read] = read_file(seen, KEYED, "StudyInstanceUID")
    return read.code


def test_a_sidecar_that_is_a_pipe_or_a_link_is_not_read(root: Path) -> None:
    nifti_to(root / "t2_sag.nii.gz")
    os.mkfifo(root / "t2_sag.json")
    assert codes_of(root / "t2_sag.nii.gz") == [""]


def test_a_hidden_folder_is_seen_and_not_looked_into(root: Path) -> None:
    (root / ".git" / "annex" / "objects").mkdir(parents=True)
    nifti_to(root / ".git" / "annex" / "objects" / "t2_sag.nii.gz")
    (root / "sub-1" / ".cache").mkdir(parents=True)
    (root / ".hidden.txt").write_text("a file")
    codes = {seen.name: codes_of_seen(seen) for seen in walk_input(str(root))}
    assert codes == {".git": "hidden", "sub-1/.cache": "hidden", ".hidden.txt": "not_imaging"}


def test_an_annexed_image_is_one_file_and_its_annexed_sidecar_is_read(root: Path) -> None:
    kept = root / ".git" / "annex" / "objects" / "a1"
    kept.mkdir(parents=True)
    nifti_to(kept / "SHA256E-1.nii.gz")
    (kept / "SHA256E-2.json").write_text('{"EchoTime": 0.098}')
    (root / "anat").mkdir()
    for name, target in (("scan.nii.gz", "SHA256E-1.nii.gz"), ("scan.json", "SHA256E-2.json")):
        (root / "anat" / name).symlink_to(Path("../.git/annex/objects/a1") / target)
    [image] = [seen for seen in walk_input(str(root)) if seen.name.endswith(".nii.gz")]
    [read] = read_file(image, KEYED, "StudyInstanceUID")
    assert read.header
    assert read.header.echo_ms == 98.0


def test_a_sidecar_that_is_a_link_to_anywhere_else_is_not_read(root: Path) -> None:
    outside = root.parent / "outside.json"
    outside.write_text('{"EchoTime": 0.098}')
    nifti_to(root / "scan.nii.gz")
    for target in (outside, Path("other.json")):
        (root / "other.json").write_text('{"EchoTime": 0.098}')
        (root / "scan.json").symlink_to(target)
        [image] = [seen for seen in walk_input(str(root)) if seen.name == "scan.nii.gz"]
        [read] = read_file(image, KEYED, "StudyInstanceUID")
        assert read.header
        assert read.header.echo_ms is None
        (root / "scan.json").unlink()


@pytest.mark.parametrize("keyword", ["SOPInstanceUID", "SOPClassUID"])
def test_what_an_anonymiser_emptied_is_taken_from_the_file_meta(
    root: Path, tmp_path: Path, keyword: str
) -> None:
    for path in write_sagittal(root, TALL):
        dataset = pydicom.dcmread(path)
        setattr(dataset, keyword, "")
        dataset.save_as(path)
    context = ingested(str(root), tmp_path / "workspace")
    assert list(context.read("scans").num_stations) == [1]


def test_a_screenshot_among_the_slices_costs_nothing_but_itself(root: Path, tmp_path: Path) -> None:
    paths = write_sagittal(root, TALL)
    shot = pydicom.dcmread(paths[0])
    shot.SOPInstanceUID = shot.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    shot.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    del shot.ImagePositionPatient, shot.ImageOrientationPatient
    shot.save_as(root / "shot.dcm")
    context = ingested(str(root), tmp_path / "workspace")
    assert len(context.read("scans")) == 1
    series = context.read("series")
    assert sorted(series.code) == ["", "not_an_image"]
    assert sorted(series.num_files) == [1, len(paths)]


def test_the_images_of_a_dixon_acquisition_in_one_series_are_told_apart(
    root: Path, tmp_path: Path
) -> None:
    for image_type in ("IP", "OP", "W", "F"):
        folder = root / image_type
        for path in write_sagittal(folder, TALL):
            dataset = pydicom.dcmread(path)
            dataset.ImageType = ["DERIVED", "PRIMARY", image_type, image_type, "DERIVED"]
            own = pydicom.uid.generate_uid()
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = own
            dataset.save_as(path)
    context = ingested(str(root), tmp_path / "workspace")
    assert len(context.read("scans")) == 1
    assert sorted(context.read("series").code) == ["", "fat_only", "opposed_phase", "water_only"]


def test_names_of_any_bytes_are_read_and_written(root: Path, tmp_path: Path) -> None:
    paths = write_sagittal(root, TALL)
    os.rename(paths[0], os.fsencode(str(root)) + b"/\xff\xfe\x80.dcm")
    context = ingested(str(root), tmp_path / "workspace")
    assert list(context.read("series").num_files) == [7]
    assert read_scan(context.read("sources").iloc[0].to_dict()).voxels_RAS.shape[0] == 7


@pytest.mark.parametrize("bad", ["", "memory://nowhere/at/all", "nowhere://x"])
def test_no_input_is_told_before_anything_is_yielded(bad: str) -> None:
    with pytest.raises(BadStudy, match=r"inputs\.scans"):
        walk_input(bad)


def zipped(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    return path


def test_a_zipped_exam_gives_the_volume_of_the_folder(root: Path, tmp_path: Path) -> None:
    paths = write_sagittal(tmp_path / "exam", TALL)
    zipped(root / "exam.zip", {f"any/{p.name}": p.read_bytes() for p in paths})
    context = ingested(str(root), tmp_path / "workspace")
    files = context.read("files")
    assert sorted(files.code) == [""] * 7 + ["archive"]
    assert f"{root}/exam.zip!/any/S1-3.dcm" in set(files.location)
    volume = read_scan(context.read("sources").iloc[0].to_dict())
    assert np.array_equal(volume.voxels_RAS, TALL.voxels_RAS)


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_members_out_of_place_doubled_nested_or_encrypted_are_refused_each(root: Path) -> None:
    inner = zipped(root / "inner.zip", {"x": b"x"}).read_bytes()
    names = ("../up", "/abs", "C:\\drive", "a\\..\\..\\b", "twice", "twice", "inner.zip", "fine")
    with zipfile.ZipFile(root / "all.zip", "w") as packed:
        for name in names:
            packed.writestr(name, inner if name == "inner.zip" else b"x")
        packed.mkdir("folder")
    data = (root / "all.zip").read_bytes()
    codes = {read.seen.name.split("!/")[-1]: read.code for read in reads_of(root / "all.zip")}
    bad = dict.fromkeys(
        ["../up", "/abs", "C:\\drive", "a\\..\\..\\b", "twice", "twice!2"], "bad_archive"
    )
    assert codes == {
        "all.zip": "archive",
        **bad,
        "inner.zip": "nested_archive",
        "fine": "not_imaging",
    }
    at = data.rindex(b"PK\x01\x02")  # the folder's; the one before is `fine`
    at = data.rindex(b"PK\x01\x02", 0, at)
    (root / "all.zip").write_bytes(data[: at + 8] + b"\x01" + data[at + 9 :])
    assert codes_of(root / "all.zip")[-1] == "bad_archive", "encrypted"
    with pytest.raises(BadScan):
        open_bytes(f"{root / 'all.zip'}!/../up")


def cut(data: bytes) -> bytes:
    return data[:-30]


def claim_more(data: bytes) -> bytes:
    """The table of contents says the member unpacks to 1 TB, or packs to more than the archive holds."""
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 24] + struct.pack("<I", 0xFFFFFFF0) + data[at + 28 :]


def overlap(data: bytes) -> bytes:
    at = data.rindex(b"PK\x01\x02")
    return data[: at + 20] + struct.pack("<I", 10**8) + data[at + 24 :]


@pytest.mark.parametrize(
    ("spoil", "code"), [(cut, "bad_archive"), (claim_more, "too_large"), (overlap, "bad_archive")]
)
def test_an_archive_with_a_false_table_is_refused_whole(
    root: Path, spoil: Callable[[bytes], bytes], code: str
) -> None:
    path = zipped(root / "exam.zip", {"a": b"a" * 1000, "b": os.urandom(1000)})
    path.write_bytes(spoil(path.read_bytes()))
    assert codes_of(path) == [code]


def test_bombs_are_refused_before_they_go_off(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    zipped(root / "ratio.zip", {f"{i}": bytes(20 * MB) for i in range(4)})
    zipped(root / "many.zip", {f"{i}": b"" for i in range(300)})
    zipped(root / "lzma.zip", {"x": bytes(MB)}, zipfile.ZIP_LZMA)
    deflated_bomb(root / "deflated.dcm")
    (root / "t2.nii.gz").write_bytes(gzip.compress(nifti_bytes() + bytes(50 * MB)))
    monkeypatch.setattr(archives, "MAX_MEMBERS", 299)
    monkeypatch.setattr("spineage.io.dicom.start.MAX_INFLATED_BYTES", 8 * MB)
    tracemalloc.start()
    assert codes_of(root / "ratio.zip") == ["too_large"]
    assert codes_of(root / "many.zip") == ["too_large"]
    assert codes_of(root / "lzma.zip") == ["archive", "bad_archive"]
    assert codes_of(root / "deflated.dcm") == ["too_large"]
    assert codes_of(root / "t2.nii.gz") == ["too_large"]
    assert tracemalloc.get_traced_memory()[1] < 40 * MB
    tracemalloc.stop()


def deflated_bomb(path: Path) -> None:
    [first, *_] = write_sagittal(path.parent.parent / "plain", TALL)
    dataset = pydicom.dcmread(first)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    data = path.read_bytes()
    length = int.from_bytes(data[140:144], "little")
    head, packed = data[: 144 + length], data[144 + length :]
    plain = zlib.decompress(packed, -15) + bytes(60 * MB)
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(head + squeeze.compress(plain) + squeeze.flush())


def nifti_bytes() -> bytes:
    return nibabel.Nifti1Image(TALL.voxels_RAS.astype(np.int16), TALL.affine_RAS).to_bytes()


def nifti_to(path: Path) -> None:
    path.write_bytes(gzip.compress(nifti_bytes()) if path.suffix == ".gz" else nifti_bytes())


def test_a_deflated_object_is_read_and_cut_short_it_is_told(root: Path) -> None:
    def deflate(dataset: pydicom.dataset.FileDataset, number: int) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    path = write_sagittal(root, TALL, change=deflate)[0]
    assert codes_of(path) == [""]
    path.write_bytes(path.read_bytes()[:-100])
    assert codes_of(path) == ["truncated"]


def forge_jpeg_2000(data: bytes) -> bytes:
    """30,000 x 30,000 pixels, in one tile."""
    at = data.index(b"\xff\x51") + 6
    return data[:at] + struct.pack(">IIIIII", 30000, 30000, 0, 0, 30000, 30000) + data[at + 24 :]


def forge_components(data: bytes) -> bytes:
    at = data.index(b"\xff\x51") + 38
    return data[:at] + struct.pack(">H", 16384) + data[at + 2 :]


@pytest.mark.parametrize("forge", [forge_jpeg_2000, forge_components])
def test_a_forged_size_of_compressed_pixels_is_refused_before_decoding(
    root: Path, forge: Callable[[bytes], bytes]
) -> None:
    def pack(dataset: pydicom.dataset.FileDataset, number: int) -> None:
        dataset.PixelRepresentation = 0
        dataset.compress(JPEG2000Lossless)

    path = write_sagittal(root, TALL, change=pack)[0]
    frame, pixels = read_frames(str(path))[0]
    assert pixels.shape == (frame.rows, frame.columns)
    path.write_bytes(forge(path.read_bytes()))
    with pytest.raises(BadScan, match="not of the size") as fault:
        read_frames(str(path))
    assert fault.value.code == "bad_pixels"


def test_a_jpeg_says_its_size() -> None:
    table = b"\xff\xc4\x00\x05abc"
    for marker in (b"\xc3", b"\xf7"):
        frame = (
            b"\xff\xd8"
            + table
            + b"\xff\xff"
            + marker
            + b"\x00\x0b\x10\x02\x00\x01\x00\x01"
            + b"\0" * 9
        )
        assert size_of(frame) == (512, 256, 1)
    assert size_of(b"\xff\xd8" + table + b"\xff\xda\x00\x08" + b"\0" * 20) is None
    assert size_of(b"") is None


def test_a_dicomdir_is_told_whatever_it_refers_to(root: Path) -> None:
    path = write_sagittal(root, TALL)[0]
    dataset = pydicom.dcmread(path)
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    record = pydicom.Dataset()
    record.ReferencedFileID = ["..", "..", "DICOMDIR"]
    record.OffsetOfTheNextDirectoryRecord = 0  # itself
    dataset.DirectoryRecordSequence = pydicom.Sequence([record] * 50)
    dataset.save_as(root / "DICOMDIR")
    assert codes_of(root / "DICOMDIR") == ["directory"]


def header_with(element: bytes) -> bytes:
    """A bare implicit object that begins as one does and goes on with the element."""
    return b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + element


def test_deep_nesting_and_huge_lengths_are_faults(root: Path) -> None:
    opened = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    claim = b"\x08\x00\x80\x00UT\0\0" + struct.pack("<I", 0xFFFFFFF0)
    for name, data in (("deep", opened * 20_000), ("claim", claim + b"x" * 100)):
        (root / name).write_bytes(header_with(data))
        assert codes_of(root / name) == ["unreadable"], name
    big = b"\x08\x00\x08\x00CS\xff\xff" + b"A\\" * 32767 + b"A"
    (root / "many").write_bytes(header_with(big))
    assert codes_of(root / "many") == ["unreadable"]


def test_sidecars_and_tables_of_bids_are_quiet(root: Path) -> None:
    for name in (
        "dataset_description.json",
        "participants.tsv",
        "sub-1_dwi.bval",
        "sub-1_dwi.bvec",
    ):
        (root / name).write_text("1 2 3")
    assert {codes_of_seen(seen) for seen in walk_input(str(root))} == {"sidecar"}


def test_people_come_from_a_bids_table(root: Path) -> None:
    table = root / "participants.tsv"
    table.write_text("participant_id\tage\tsex\nsub-01\t61.5\tmale\n02\tn/a\tn/a\nsub-03\t89+\tF\n")
    people = read_participants(str(table), KEYED).set_index("person_id")
    listed = people.loc[KEYED.person("sub-01")]
    assert (listed.age_years, listed.sex) == (61.5, "M")
    assert people.site.isna().all()
    assert np.isnan(people.age_years[KEYED.person("sub-02")])
    assert people.sex[KEYED.person("sub-03")] == "F"


def test_an_annexed_image_is_followed_where_the_input_is_a_part_of_its_data_set(root: Path) -> None:
    kept = root / ".git" / "annex" / "objects" / "a1"
    kept.mkdir(parents=True)
    nifti_to(kept / "SHA256E-1.nii.gz")
    (root / "sub-1").mkdir()
    (root / "sub-1" / "t2_sag.nii.gz").symlink_to("../.git/annex/objects/a1/SHA256E-1.nii.gz")
    (root / "sub-1" / "other.nii.gz").symlink_to("../outside.nii.gz")
    nifti_to(root / "outside.nii.gz")
    codes = {seen.name: codes_of_seen(seen) for seen in walk_input(str(root / "sub-1"))}
    assert codes == {"t2_sag.nii.gz": "", "other.nii.gz": "link"}
