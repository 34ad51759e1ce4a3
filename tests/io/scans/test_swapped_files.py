"""Voxels are those that ingest saw: files that were exchanged, edited or put back are noticed."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import fsspec
import nibabel
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

from spineage import cli
from spineage.errors import TRANSIENT, BadScan
from spineage.io.files import listing
from spineage.io.scans.read import read_scan
from spineage.run.context import Context
from spineage.science.frames import dicts_of
from spineage.stages.ingest import stage as ingest
from spineage.stages.segment import AssembleStep
from spineage.study import Inputs, Study
from tests.made.dicom_makers import shaded, write_enhanced, write_sagittal

TALL = shaded((7, 40, 60))
OTHER = shaded((7, 40, 60), seed=1)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    folder = tmp_path / "archive"
    folder.mkdir()
    return folder


def ingested(archive: Path | str, workspace: Path) -> Context:
    context = Context(
        Study(workspace=str(workspace), inputs=Inputs(scans=str(archive))), say=lambda text: None
    )
    ingest.run(context)
    return context


def context_of(archive: Path) -> Context:
    return ingested(archive, archive.parent / "workspace")


def exchange(one: Path, other: Path) -> None:
    """Each under the other's name, with its own times, as a restored backup would have it."""
    aside = one.with_name("aside")
    for source, target in ((one, aside), (other, one), (aside, other)):
        shutil.move(source, target)


def fault_of(row: dict[str, object]) -> str:
    with pytest.raises(BadScan) as fault:
        read_scan(row)
    return fault.value.code


def test_files_of_two_people_exchanged_after_ingest_give_nobodys_voxels(archive: Path) -> None:
    """Same names, same series descriptions, same sizes: only the bytes say whose they are."""
    write_sagittal(archive / "a", TALL, person="P1")
    write_sagittal(archive / "b", OTHER, person="P2")
    rows = dicts_of(context_of(archive).read("sources"))
    assert [read_scan(row).voxels_RAS.shape for row in rows] == [(7, 40, 60)] * 2
    for number in range(7):
        exchange(archive / "a" / f"S1-{number}.dcm", archive / "b" / f"S1-{number}.dcm")
    assert [fault_of(row) for row in rows] == ["changed_since_ingest"] * 2
    with pytest.raises(BadScan, match="not the one that ingest saw"):
        AssembleStep()({**rows[0]})
    assert "changed_since_ingest" in TRANSIENT, "put back, the scan is tried again"
    for number in range(7):
        exchange(archive / "a" / f"S1-{number}.dcm", archive / "b" / f"S1-{number}.dcm")
    assert read_scan(rows[0]).voxels_RAS.shape == (7, 40, 60)


def test_one_slice_of_another_person_is_enough(archive: Path) -> None:
    paths = write_sagittal(archive / "a", TALL, person="P1")
    (row,) = dicts_of(context_of(archive).read("sources"))
    (strange,) = write_sagittal(archive.parent / "b", OTHER, person="P2")[3:4]
    shutil.copyfile(strange, paths[3])
    assert fault_of(row) == "changed_since_ingest"


@pytest.mark.parametrize("kind", ["enhanced", "zip", "nifti"])
def test_every_kind_of_file_is_compared(archive: Path, kind: str) -> None:
    def write(folder: Path, volume, person: str) -> Path:
        if kind == "nifti":
            path = folder / "sub-1_T2w.nii.gz"
            folder.mkdir(exist_ok=True)
            image = nibabel.Nifti1Image(volume.voxels_RAS.astype(np.int16), volume.affine_RAS)
            nibabel.save(image, path)
            return path
        if kind == "enhanced":
            write_enhanced(folder / "one.dcm", volume, person=person)
            return folder / "one.dcm"
        path = folder / "exam.zip"
        files = write_sagittal(archive.parent / f"files-{person}", volume, person=person)
        with zipfile.ZipFile(path, "w") as packed:
            for file in files:
                packed.write(file, file.name)
        return path

    path = write(archive, TALL, "P1")
    (row,) = dicts_of(context_of(archive).read("sources"))
    assert read_scan(row).voxels_RAS.shape == (7, 40, 60)
    outside = archive.parent / "outside"
    outside.mkdir()
    shutil.copyfile(write(outside, OTHER, "P2"), path)
    assert fault_of(row) == "changed_since_ingest"


def test_what_is_no_image_any_more_is_another_file(archive: Path) -> None:
    paths = write_sagittal(archive, TALL)
    (row,) = dicts_of(context_of(archive).read("sources"))
    paths[0].write_bytes(b"no image" * 100)
    assert fault_of(row) == "changed_since_ingest"


def same_size_and_time(path: Path) -> None:
    """Another person's id of the same length, written in place; the time of change set back."""
    before = path.stat()
    dataset = pydicom.dcmread(path)
    dataset.PatientID = "P9"
    dataset.save_as(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_other_content_of_the_same_size_and_time_is_noticed_by_the_next_ingest(
    archive: Path,
) -> None:
    paths = write_sagittal(archive, TALL, person="P1")
    before = context_of(archive).read("scans").iloc[0]
    for path in paths:
        same_size_and_time(path)
    after = context_of(archive).read("scans").iloc[0]
    assert after.person_id != before.person_id
    assert after.source_digest != before.source_digest


def test_a_file_that_was_only_touched_is_read_again_and_is_the_same(archive: Path) -> None:
    """As where a copy or a network disk gives files other times."""
    paths = write_sagittal(archive, TALL, person="P1")
    context = context_of(archive)
    before, (row,) = context.read("scans"), dicts_of(context.read("sources"))
    for path in paths:
        path.chmod(0o640)  # the inode's time of change, and nothing else
        os.utime(path, ns=(1, 1))
    assert read_scan(row).voxels_RAS.shape == (7, 40, 60)
    assert context_of(archive).read("scans").equals(before)


def put_in_memory(paths: list[Path]) -> None:
    memory = fsspec.filesystem("memory")
    for path in paths:
        memory.pipe(f"/swapped/{path.name}", path.read_bytes())


def test_a_store_that_gives_no_times_is_read_again_each_time(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain http listings are like that."""
    monkeypatch.setattr(listing, "STAMPS", ())
    put_in_memory(write_sagittal(archive / "a", TALL, person="P1"))
    workspace = archive.parent / "workspace"
    first = ingested("memory://swapped", workspace)
    before, generation = first.read("scans").iloc[0], first.tables_folder("ingest")
    assert ingested("memory://swapped", workspace).tables_folder("ingest") == generation
    put_in_memory(write_sagittal(archive / "b", TALL, person="P9"))
    after = ingested("memory://swapped", workspace).read("scans").iloc[0]
    assert after.person_id != before.person_id


def test_the_key_of_the_seals_is_on_no_screen(archive: Path) -> None:
    write_sagittal(archive, TALL)
    context = context_of(archive)
    key = context.read("sources").seal_key.iloc[0]
    study = archive.parent / "study.yaml"
    study.write_text(f"workspace: {context.store.root}\ninputs:\n  scans: {archive}\n")
    for options in ([], ["--json"]):
        told = CliRunner().invoke(cli.app, ["show", "sources", "--study", str(study), *options])
        assert told.exit_code == 0, told.output
        assert "stations_json" in told.output
        assert key not in told.output


def test_digests_say_nothing_to_who_has_a_file_and_no_key(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sagittal(archive, TALL)
    digests, parts = [], []
    for name, key in (
        ("one", "a key for tests, 16 bytes or more"),
        ("two", "another key, long enough"),
    ):
        monkeypatch.setenv("SPINEAGE_KEY", key)
        context = ingested(archive, archive.parent / name)
        (row,) = dicts_of(context.read("sources"))
        seals = {source["seal"] for source in json.loads(row["stations_json"])[0]}
        assert len(seals) == 7
        digests.append({row["source_digest"], row["seal_key"], *seals})
        parts.append({path.name for path in (archive.parent / name).rglob("headers/*")})
    assert digests[0].isdisjoint(digests[1])
    assert parts[0].isdisjoint(parts[1]), "the names of parts are digests of file names"
