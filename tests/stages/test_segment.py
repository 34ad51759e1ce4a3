"""segment as a stage: masks for good scans, reasons for bad ones, nothing done twice."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from spineage.errors import TRANSIENT, BadScan, BadStudy, DeviceFault
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.volumes import mask_from_row
from spineage.run import fill
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.spine.labels import LEVELS
from spineage.segmenter.folder import folder_of, read_manifest
from spineage.segmenter.published.adopt import import_segmenter
from spineage.stages import segment
from spineage.stages.segment import device_faults
from spineage.study import study_from
from spineage.tables import FAULTS, MASKS, SOURCES
from tests.made.sealed import sealed_nifti
from tests.made.tiny_nnunet import write_tiny_model

RECIPE = PhantomRecipe(
    num_people=2, seed=5, repeat_share=0.0, transitional_share=0.0, artefact_share=0.0
)


@pytest.fixture(scope="module")
def people():
    return [render(exam, RECIPE) for exam in draw_population(RECIPE)]


@pytest.fixture(scope="module")
def rows(people, tmp_path_factory):
    """Rows of `sources`: two whole spines, a lumbar scan, and a file that is gone."""
    folder = tmp_path_factory.mktemp("scans")
    images = {f"whole{i}": person.image for i, person in enumerate(people)}
    lumbar = people[0].image
    images["lumbar"] = lumbar.with_voxels(lumbar.voxels_RAS)
    rows = []
    for name, image in images.items():
        voxels = image.voxels_RAS[:, :, :170] if name == "lumbar" else image.voxels_RAS
        nib.save(nib.Nifti1Image(voxels, image.affine_RAS), folder / f"{name}.nii.gz")
        rows.append(source(name, folder / f"{name}.nii.gz"))
    return [*rows, source("gone", folder / "gone.nii.gz")]


def source(name: str, path: Path) -> dict[str, object]:
    return {
        "scan_id": name,
        "source_digest": f"{name:0<64}",
        **sealed_nifti(path),
        "num_voxels": 1_000_000,
    }


def context_of(folder: Path, rows, **sections) -> Context:
    study = study_from({"workspace": str(folder), **sections})
    context = Context(study, say=lambda text: None)
    context._fingerprints["ingest"] = "pinned"
    write_part(context.store, context.folder("ingest"), SOURCES, rows, "part-0")
    return context


@pytest.fixture(scope="module")
def done(rows, tmp_path_factory, ray_session):
    context = context_of(tmp_path_factory.mktemp("study"), rows)
    return context, segment.run(context)


def test_whole_spines_are_segmented_and_the_others_refused_with_a_code(done):
    context, counts = done
    assert counts.done["segmented"] == 2
    assert counts.done["already"] == 0
    assert sum(counts.refused.values()) == 1
    assert counts.left == 1
    faults = read_table(context.store, context.folder("segment"), FAULTS).set_index("scan_id")
    assert faults.loc["gone", "code"] == "changed_since_ingest"
    assert faults.loc["lumbar", "code"] in {"incomplete_spine", "levels_unknown"}
    assert set(faults.stage) == {"segment"}


def test_the_mask_names_what_is_in_the_phantom(done, people):
    context, _ = done
    masks = read_table(context.store, context.folder("segment"), MASKS).set_index("scan_id")
    for i, person in enumerate(people):
        row = masks.loc[f"whole{i}"]
        found, truth = mask_from_row(row), person.levels
        assert np.allclose(found.affine_RAS, truth.affine_RAS, atol=1e-3)
        for name in ("T3", "L2", "disc_below_C5", "disc_below_L5", "sacrum"):
            here = truth.voxels_RAS == LEVELS[name]
            assert np.mean(found.voxels_RAS[here] == LEVELS[name]) > 0.6, name
        assert row.numbering == "regular"
        assert len(row.disc_names) == len(row.disc_height_mm) == len(row.disc_signal) == 23


def test_a_second_run_tries_the_scan_whose_file_was_gone_and_opens_no_other(done, monkeypatch):
    context, _ = done
    asked = []

    def run_rows(rows, *args, **kwargs):
        asked.extend(one.row()["scan_id"] for one in rows.packed)
        return Counter({"changed_since_ingest": len(rows)})

    monkeypatch.setattr(fill, "run_rows", run_rows)
    counts = segment.run(context)
    assert asked == ["gone"]
    assert counts == Counts({"already": 3, "segmented": 0}, left=1)


def test_a_scan_that_crashed_is_tried_again_and_one_that_was_refused_is_not(tmp_path, rows):
    context = context_of(tmp_path, rows)
    for row, code in zip(
        rows, ("crashed", "deadline", "incomplete_spine", "unreadable"), strict=True
    ):
        fault = {k: row[k] for k in ("scan_id", "source_digest")} | {
            "stage": "segment",
            "code": code,
            "message": "",
        }
        write_part(context.store, context.folder("segment"), FAULTS, [fault], row["scan_id"])
    known = fill.answered(context.store, context.folder("segment"), MASKS, context.read("sources"))
    assert {scan_id for scan_id, _ in known} == {"lumbar", "gone"}


def test_the_address_follows_the_weights_and_not_where_they_lie(tmp_path, rows):
    here, there = tmp_path / "here", tmp_path / "there"
    import_segmenter(write_tiny_model(tmp_path / "model"), here, trust=True, orientation="RAS")
    shutil.copytree(here, there)
    prints = [
        context_of(tmp_path / "study", rows, segment={"weights": str(w)}).fingerprint("segment")
        for w in (here, there, "demo")
    ]
    assert prints[0] == prints[1] != prints[2]


def test_weights_that_are_not_there_stop_the_study_before_any_work(tmp_path, rows):
    context = context_of(tmp_path, rows, segment={"weights": str(tmp_path / "nowhere")})
    with pytest.raises(BadStudy, match="import-segmenter"):
        segment.run(context)


def test_how_the_network_looks_at_a_scan_is_part_of_the_address(tmp_path, rows):
    prints = {
        context_of(tmp_path / "study", rows, segment=section).fingerprint("segment")
        for section in ({}, {"mode": "fast"}, {"mirror": True})
    }
    assert len(prints) == 3


def test_a_model_without_a_canal_stops_the_study_before_any_work(tmp_path, rows):
    bones = tmp_path / "bones"
    labels = {"background": 0, "vertebra": 1, "disc": 2, "sacrum": 3}
    import_segmenter(
        write_tiny_model(tmp_path / "model", labels=labels), bones, trust=True, orientation="RAS"
    )
    context = context_of(tmp_path, rows, segment={"weights": str(bones)})
    with pytest.raises(BadStudy, match="draws no canal"):
        segment.run(context)


def test_a_model_of_two_images_stops_the_study_before_any_work(tmp_path, rows):
    two = tmp_path / "two"
    import_segmenter(
        write_tiny_model(tmp_path / "model", channels=2), two, trust=True, orientation="RAS"
    )
    context = context_of(tmp_path, rows, segment={"weights": str(two)})
    with pytest.raises(BadStudy, match="2 images of a person"):
        segment.run(context)


def test_weights_changed_after_the_import_stop_the_study_before_any_work(
    tmp_path, rows, monkeypatch
):
    shutil.copytree(folder_of("demo"), tmp_path / "weights")
    plans = tmp_path / "weights" / "plans.json"
    plans.write_text(plans.read_text() + " ")

    def never(*args, **kwargs):
        raise AssertionError("no worker may be made")

    monkeypatch.setattr(fill, "run_rows", never)
    context = context_of(tmp_path, rows, segment={"weights": str(tmp_path / "weights")})
    with pytest.raises(BadStudy, match="changed after the import"):
        segment.run(context)


def test_the_demo_segmenter_says_what_it_was_trained_on():
    manifest = read_manifest("demo")
    assert manifest["domain"] == "phantom"
    assert manifest["orientation"] == "RAS"
    assert manifest["schema"] == "semantic"
    assert "train-demo-segmenter" in manifest["origin"]["command"]
    size = sum(file.stat().st_size for file in folder_of("demo").iterdir())
    assert size < 4_000_000


def test_steps_are_made_from_plain_values_and_refuse_by_raising(rows):
    """The score stage builds the same steps in its own chain."""
    study = study_from({})
    assemble = segment.AssembleStep(**segment.assemble_kwargs(study))
    draw = segment.SegmentStep(**segment.segment_kwargs(study))
    name = segment.NameStep(**segment.name_kwargs(study))
    with pytest.raises(BadScan) as fault:
        assemble(rows[3])
    assert fault.value.code == "changed_since_ingest"
    row = name(draw(assemble(rows[0])))
    assert row["scan_id"] == "whole0"
    assert not {"stations_json", "seal_key", "labels", "voxels"} & set(row)
    assert {c.name for c in MASKS.columns} <= set(row)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory"),
        (torch.AcceleratorError("an illegal memory access", 700), "device_failed"),
    ],
)
def test_what_a_device_throws_takes_it_out_of_service(error: Exception, code: str) -> None:
    with pytest.raises(DeviceFault) as fault, device_faults():
        raise error
    assert fault.value.code == code
    assert code in TRANSIENT, "another device may do it"
