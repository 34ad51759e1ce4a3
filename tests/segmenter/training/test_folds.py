"""nnU-Net's own training on one's own scans: a fold a worker, killed, taken up again, imported, logged."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest
import torch

from spineage.errors import BadStudy
from spineage.io.storage.parquet import write_part
from spineage.io.storage.volumes import pack, place_to_cells
from spineage.run.context import Context
from spineage.science.scan.geometry import Volume
from spineage.segmenter.folder import read_manifest
from spineage.segmenter.predict.predictor import load_segmenter
from spineage.segmenter.published.adopt import import_segmenter
from spineage.segmenter.training.folds import (
    HISTORY,
    FoldRecipe,
    FoldTrainer,
    fold_folder,
    is_trained,
    read_history,
    result_folder,
    train_fold,
)
from spineage.segmenter.training.raw import (
    cases_from_folders,
    cases_from_raw,
    split_by_person,
    write_raw,
)
from spineage.study import study_from
from spineage.tables import MASKS, SCANS, SOURCES, Table
from spineage.verbs import segmenter_folds, segmenter_sources
from spineage.verbs.train_segmenter import Options, train
from tests.made.dying_fold import die_once
from tests.made.sealed import sealed_nifti

pytestmark = pytest.mark.slow

RECIPE = FoldRecipe(
    "spine", epochs=3, iterations=2, validation_iterations=1, batch_size=1, features=(2, 4, 4)
)
AFFINE_PIR = np.array([[0, 0, 4.0, 0], [-2, 0, 0, 0], [0, -2, 0, 0], [0, 0, 0, 1]], float)


def write_scan(folder: Path, name: str, seed: int, *, value: int = 44, shape=(16, 24, 6)) -> None:
    """A scan in PIR with a vertebra (L4 in TotalSpineSeg's numbers), the canal and the disc below it."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.int16)
    labels[2:9, 2:10, 1:5], labels[2:9, 12:15, 1:5], labels[11:14, 1:22, 1:5] = value, 94, 2
    image = (rng.normal(100, 5, shape) + 2 * labels).astype(np.float32)
    for part, array in (("images", image), ("labels", labels)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, AFFINE_PIR), folder / part / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Six scans of five people."""
    folder = tmp_path_factory.mktemp("scans")
    for number, name in enumerate(["sub-1_a", "sub-1_b", "sub-2", "sub-3", "sub-4", "sub-5"]):
        write_scan(folder, name, number)
    return folder


def source_of(scans: Path) -> segmenter_sources.Source:
    return segmenter_sources.from_folders(
        str(scans / "images"), str(scans / "labels"), "totalspineseg"
    )


@pytest.fixture(scope="module")
def trained(scans, tmp_path_factory, ray_session):
    """Two folds on two workers, one of which is killed in its third epoch."""
    root, said = tmp_path_factory.mktemp("trained"), []
    manifest = segmenter_folds.train_folds(
        source_of(scans),
        root / "out",
        root / "work",
        recipe=RECIPE,
        folds=["0", "1"],
        machines=segmenter_folds.Machines(workers=2, keep_every=1),
        domain="phantom",
        say=said.append,
        loop=die_once,
    )
    return root, manifest, said


def test_a_killed_fold_goes_on_from_its_last_checkpoint(trained):
    work = trained[0] / "work"
    begun = [line.split() for line in (work / "begun").read_text().splitlines()]
    assert [epoch for fold, epoch in begun if fold == "1"] == ["1", "2", "3", "3"]
    for fold in ("0", "1"):
        history = read_history(fold_folder(work, fold, RECIPE) / HISTORY)
        assert [row["epoch"] for row in history] == [1, 2, 3]
        assert all(np.isfinite(row["train_loss"]) for row in history)
    assert not list(work.rglob("*.draft"))


class DiesAtItsEnd(FoldTrainer):
    """Is stopped between its last epoch and the checkpoint that says it is done."""

    def on_train_end(self) -> None:
        raise KeyboardInterrupt


def test_a_fold_stopped_after_its_last_epoch_trains_none_again(trained, tmp_path):
    work, told = tmp_path / "work", []
    shutil.copytree(trained[0] / "work", work)
    settings = {"device": torch.device("cpu"), "keep_every": 10, "augment_processes": 0}
    with pytest.raises(KeyboardInterrupt):
        train_fold(work, "all", RECIPE, **settings, tell=told.append, trainer_class=DiesAtItsEnd)
    assert not is_trained(work, "all", RECIPE)
    train_fold(work, "all", RECIPE, **settings, tell=told.append)
    assert is_trained(work, "all", RECIPE)
    assert [epoch["epoch"] for epoch in told] == [1, 2, 3]
    assert read_history(fold_folder(work, "all", RECIPE) / HISTORY) == told


def test_both_folds_become_one_segmenter_that_says_what_it_draws(trained):
    root, manifest, _ = trained
    assert read_manifest(str(root / "out")) == manifest
    assert manifest["labels"] == {
        "0": "background", "1": "L4", "2": "disc_below_L3", "3": "canal"
    }  # fmt: skip
    assert (manifest["folds"], manifest["orientation"]) == (["0", "1"], "RAS")
    assert (manifest["schema"], manifest["domain"]) == ("levels", "phantom")
    assert set(manifest["origin"]["figures"]) == {"0", "1"}
    segmenter = load_segmenter(str(root / "out"))
    assert len(segmenter.engine.ensemble.networks) == 2
    image = Volume(np.random.default_rng(0).normal(100, 5, (6, 16, 24)), np.diag([4.0, 2, 2, 1]))
    assert segmenter.segment(image).voxels_RAS.shape == (6, 16, 24)


def test_every_epoch_of_every_fold_is_said_and_logged(trained):
    root, _, said = trained
    for fold in (0, 1):
        assert sum(text.startswith(f"  fold {fold} epoch 3/3") for text in said) == 1
    client = mlflow.MlflowClient(f"sqlite:///{root / 'work' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(segmenter_folds.EXPERIMENT)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["recipe.epochs"] == "3"
    for fold in (0, 1):
        logged = client.get_metric_history(run.info.run_id, f"fold_{fold}/mean_dice")
        assert {metric.step for metric in logged} == {1, 2, 3}
    kept = {file.path for file in client.list_artifacts(run.info.run_id, "segmenter")}
    assert "segmenter/manifest.json" in kept


def test_a_run_that_has_ended_trains_nothing(trained, scans, tmp_path):
    root, manifest, _ = trained
    before = (root / "work" / "begun").read_text()
    again = segmenter_folds.train_folds(
        source_of(scans), tmp_path / "again", root / "work", recipe=RECIPE, folds=["0", "1"],
        machines=segmenter_folds.Machines(), domain="phantom", say=lambda text: None, loop=die_once,
    )  # fmt: skip
    assert again["digest"] == manifest["digest"]
    assert (root / "work" / "begun").read_text() == before


def test_another_training_does_not_take_the_folder(trained, scans, tmp_path):
    root = trained[0]
    common = {"folds": ["0", "1"], "machines": segmenter_folds.Machines(), "domain": "phantom"}
    with pytest.raises(BadStudy, match="differs in recipe"):
        segmenter_folds.train_folds(
            source_of(scans), tmp_path / "a", root / "work", recipe=FoldRecipe("spine"), **common
        )
    with pytest.raises(BadStudy, match="already holds a segmenter"):
        segmenter_folds.train_folds(
            source_of(scans), root / "out", root / "work", recipe=RECIPE, **common
        )
    with pytest.raises(BadStudy, match="object store"):
        segmenter_folds.train_folds(
            source_of(scans), tmp_path / "a", "s3://bucket/work", recipe=RECIPE, **common
        )


def test_a_checkpoint_that_nnunet_really_wrote_opens_where_nothing_can_be_reached(
    trained, tmp_path
):
    result = result_folder(trained[0] / "work", RECIPE)
    manifest = import_segmenter(
        result, tmp_path / "out", trust=True, orientation="RAS", folds=("0",)
    )
    assert manifest["opened"] == "isolated"
    assert manifest["trained_by"] == "FoldTrainer"


def test_the_raw_layout_is_in_ras_with_our_names_and_splits_by_person(trained):
    raw = trained[0] / "work" / "raw" / "Dataset801_Spine"
    about = json.loads((raw / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "L4": 1, "disc_below_L3": 2, "canal": 3}
    image = nib.load(raw / "imagesTr" / "sub-1_a_0000.nii.gz")
    labels = nib.load(raw / "labelsTr" / "sub-1_a.nii.gz")
    assert nib.aff2axcodes(image.affine) == nib.aff2axcodes(labels.affine) == ("R", "A", "S")
    assert image.shape == (6, 16, 24)
    assert set(np.unique(labels.dataobj)) == {0, 1, 2, 3}
    splits = json.loads((trained[0] / "work" / "splits.json").read_text())
    assert len(splits) == 5
    for split in splits:
        assert ("sub-1_a" in split["val"]) == ("sub-1_b" in split["val"])
        assert not set(split["val"]) & set(split["train"])
    assert sorted(name for split in splits for name in split["val"]) == sorted(
        ["sub-1_a", "sub-1_b", "sub-2", "sub-3", "sub-4", "sub-5"]
    )


def test_a_raw_dataset_of_nnunet_is_read_with_a_label_map(trained, tmp_path):
    raw = trained[0] / "work" / "raw" / "Dataset801_Spine"
    cases, channels, schema = cases_from_raw(raw, None)
    assert (len(cases), channels, schema) == (6, ["T2"], "levels")
    label_map = {"L4": "vertebra", "disc_below_L3": "disc"}
    cases, channels, schema = cases_from_raw(raw, label_map)
    assert schema == "semantic"
    write_raw(cases, schema, channels, tmp_path / "raw", threads=2)
    about = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "vertebra": 1, "disc": 2, "canal": 3}


def filled(table: Table, **values: Any) -> dict[str, Any]:
    """A row of a table; what is not given is empty."""
    kinds = {pa.string(): "", pa.int64(): 0, pa.float64(): 0.0, pa.bool_(): False, pa.binary(): b""}
    return {c.name: values.get(c.name, kinds.get(c.dtype, [])) for c in table.columns}


def test_the_masks_of_a_study_are_learned_from_person_by_person(scans, tmp_path):
    context = Context(study_from({"workspace": str(tmp_path)}), say=lambda text: None)
    context._fingerprints = {"ingest": "here", "segment": "here"}
    with pytest.raises(BadStudy, match="spineage ingest"):
        segmenter_sources.from_masks(context)
    row = filled(SOURCES, scan_id="nobody", source_digest="0" * 64)
    write_part(context.store, context.folder("ingest"), SOURCES, [row], "part-0")
    with pytest.raises(BadStudy, match="spineage segment"):
        segmenter_sources.from_masks(context)
    for number, case in enumerate(source_of(scans).cases):
        labels, key = case.labels(), {"scan_id": case.name, "source_digest": f"{number:064d}"}
        file = scans / "images" / f"{case.name}.nii.gz"
        packed = {**place_to_cells(labels), "levels_zstd": pack(labels.voxels_RAS)}
        for table, values in (
            (MASKS, packed), (SCANS, {"person_id": case.person}),
            (SOURCES, sealed_nifti(file)),
        ):  # fmt: skip
            stage = "segment" if table is MASKS else "ingest"
            row = filled(table, **key, **values)
            write_part(context.store, context.folder(stage), table, [row], case.name)
    source = segmenter_sources.from_masks(context)
    assert (source.schema, len(source.cases)) == ("levels", 6)
    splits = write_raw(source.cases, source.schema, source.channels, tmp_path / "raw", threads=2)
    about = json.loads((tmp_path / "raw" / "dataset.json").read_text())
    assert about["labels"] == {"background": 0, "L4": 1, "disc_below_L3": 2, "canal": 3}
    assert all(("sub-1_a" in s["val"]) == ("sub-1_b" in s["val"]) for s in splits)
    image = nib.load(tmp_path / "raw" / "imagesTr" / "sub-2_0000.nii.gz")
    assert np.allclose(image.get_fdata(), source_of(scans).cases[2].images()[0].voxels_RAS)


def test_folds_that_are_not_there_are_refused(scans, tmp_path):
    for folds in ([], ["5"], ["0", "0"]):
        with pytest.raises(BadStudy, match="expected some of 0, 1, 2, 3, 4, all"):
            segmenter_folds.train_folds(
                source_of(scans), tmp_path / "out", tmp_path / "-".join(["w", *folds]),
                recipe=RECIPE, folds=folds, machines=segmenter_folds.Machines(), domain="phantom",
                say=lambda text: None,
            )  # fmt: skip


def test_labels_that_do_not_fit_their_schema_name_the_case(tmp_path):
    write_scan(tmp_path, "sub-1", 1)
    write_scan(tmp_path, "sub-2", 2, value=48)
    cases = cases_from_folders(tmp_path / "images", tmp_path / "labels", "totalspineseg")
    with pytest.raises(BadStudy, match="case sub-2: value 48 is not one of the labels"):
        write_raw(cases, "levels", ["T2"], tmp_path / "raw", threads=1)
    assert not (tmp_path / "raw" / "dataset.json").exists()


def test_an_image_on_another_grid_than_its_labels_is_named(tmp_path):
    write_scan(tmp_path, "sub-1", 1)
    moved = nib.load(tmp_path / "images" / "sub-1.nii.gz")
    affine = moved.affine + np.diag([0, 0, 0, 0])
    affine[0, 3] += 9
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), affine), tmp_path / "images" / "sub-1.nii")
    (tmp_path / "images" / "sub-1.nii.gz").unlink()
    write_scan(tmp_path, "sub-2", 2)
    cases = cases_from_folders(tmp_path / "images", tmp_path / "labels", "totalspineseg")
    with pytest.raises(BadStudy, match="case sub-1: image and labels lie on different grids"):
        write_raw(cases, "levels", ["T2"], tmp_path / "raw", threads=1)


@pytest.mark.parametrize(
    ("images", "labels", "tool", "words"),
    [
        (["a"], [], "totalspineseg", "case a has 0 label files"),
        (["a"], ["a", "a_two"], "levels", "case a has 2 label files"),
        (["a"], ["a_seg-vert_msk"], "spineps-veridah", "1 seg-vert and 0 seg-spine"),
        (["a_0000", "a_0001", "b_0000"], ["a", "b"], "levels", "case b has 1 images"),
        ([], [], "levels", "holds no .nii"),
        (["a"], ["a"], "totalspine", "expected one of totalspineseg"),
    ],
)
def test_files_that_do_not_pair_are_one_sentence(tmp_path, images, labels, tool, words):
    for part, names in (("images", images), ("labels", labels)):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
    with pytest.raises(BadStudy) as error:
        cases_from_folders(tmp_path / "images", tmp_path / "labels", tool)
    assert words in str(error.value)


def test_a_corrected_label_is_another_training_though_its_size_and_time_are_the_same(tmp_path):
    for name in ("sub-1", "sub-2"):
        write_scan(tmp_path, name, seed=1)
    first = source_of(tmp_path).about["content"]
    label = next((tmp_path / "labels").iterdir())
    before, data = label.stat(), bytearray(label.read_bytes())
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert source_of(tmp_path).about["content"] == first, (
        "a copy of the folder is the same training"
    )
    data[4] ^= 1  # the packer's time stamp: any byte is content
    label.write_bytes(data)
    os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert source_of(tmp_path).about["content"] != first


def test_a_label_file_goes_to_the_longest_name_it_begins_with(tmp_path):
    for part, names in (("images", ["a_T2w", "a_1"]), ("labels", ["a_msk", "a_1_msk"])):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
    cases = cases_from_folders(tmp_path / "images", tmp_path / "labels", "levels")
    assert sorted(case.name for case in cases) == ["a", "a_1"]


def test_four_digits_number_channels_unless_the_labels_have_them_too(tmp_path):
    scans = {"images": ["spine_0001", "spine_0002"], "labels": ["spine_0001", "spine_0002_msk"]}
    for part, names in scans.items():
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.nii.gz").touch()
    cases = cases_from_folders(tmp_path / "images", tmp_path / "labels", "levels")
    assert [(case.name, case.num_images) for case in cases] == [
        ("spine_0001", 1),
        ("spine_0002", 1),
    ]


def test_few_people_make_few_splits_and_one_makes_none():
    assert len(split_by_person({"a": "p", "b": "q", "c": "p"})) == 2
    with pytest.raises(BadStudy, match="1 person"):
        split_by_person({"a": "p", "b": "p"})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "name one source"),
        ({"images": "a"}, "name one source"),
        ({"images": "a", "labels": "b", "raw": "c"}, "name one source"),
        ({"raw": "c"}, "--work"),
        ({"raw": "c", "work": "w", "epochs": 0}, "1 or more"),
        ({"raw": "c", "work": "w", "domain": "dogs"}, "human or phantom"),
        ({"raw": "nowhere", "work": "w"}, "nnU-Net's raw layout"),
    ],
)
def test_what_the_command_is_told_must_make_sense(tmp_path, change, words):
    options = Options(str(tmp_path / "out"), folds="0", configuration="2d", epochs=1, processes=1)
    with pytest.raises(BadStudy) as error:
        train(replace(options, **change), print)
    assert words in str(error.value)


def test_the_job_is_the_command_and_fails_in_one_sentence(tmp_path):
    root = Path(segmenter_folds.__file__).parents[2]
    job = root / "jobs" / "train_segmenter.py"
    assert len(job.read_text().splitlines()) <= 40
    done = subprocess.run(
        [sys.executable, str(job), "--out", str(tmp_path / "out"), "--images", "nowhere"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("spineage: name one source of scans")
    assert len(done.stderr.strip().splitlines()) == 1
