"""Preparing as a stage: what each scan becomes, what is not done twice, and what a refusal leaves."""

from __future__ import annotations

import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.io.storage.index import part_name
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.tensors import TensorPeople, people_of
from spineage.io.storage.volumes import pack, place_to_cells, tensor_from_row, volume_to_cells
from spineage.run import fill
from spineage.science.network.tensor import make_tensor
from spineage.science.spine.labels import LEVELS
from spineage.stages import prepare
from spineage.study import Prepare, Study
from spineage.tables import FAULTS, TENSORS
from tests.made.toy_spine import SMALL, toy_spine
from tests.made.toy_study import toy_study

KEY = {"scan_id": "scan", "source_digest": "d" * 64}


def row_of(scan, mask):
    """A row as the streaming chain of scoring hands it on: voxels, and the columns of `masks`."""
    return {
        **KEY,
        **volume_to_cells(scan, "voxels"),
        **place_to_cells(mask),
        "levels_zstd": pack(mask.voxels_RAS),
        "numbering": "regular",
        "segmented": "whole volume",
        "num_discs_inferred": 0,
        "role": "unseen",
    }


def test_a_row_becomes_the_tensor_that_science_makes():
    scan, mask = toy_spine()
    row = prepare.PrepareStep(SMALL.model_dump(mode="json"))(row_of(scan, mask))
    for told, expected in zip(tensor_from_row(row), make_tensor(scan, mask, SMALL), strict=True):
        assert np.array_equal(told, expected)


def test_the_row_keeps_what_scoring_needs_and_drops_the_voxels():
    row = prepare.PrepareStep(SMALL.model_dump(mode="json"))(row_of(*toy_spine()))
    assert row["role"] == "unseen"
    assert row["numbering"] == "regular"
    assert not {"voxels", "voxels_dtype", "affine"} & set(row)
    assert row["shape"] == list(SMALL.shape)


def test_a_spine_that_is_not_whole_raises_its_fault():
    scan, mask = toy_spine()
    headless = np.where(mask.voxels_RAS == LEVELS["C2"], 0, mask.voxels_RAS)
    step = prepare.PrepareStep(SMALL.model_dump(mode="json"))
    with pytest.raises(BadScan) as caught:
        step(row_of(scan, mask.with_voxels(headless)))
    assert caught.value.code == "incomplete_spine"


def test_step_arguments_are_the_studys_section():
    study = Study(prepare=SMALL)
    assert Prepare.model_validate(prepare.prepare_kwargs(study)["recipe"]) == SMALL


def test_a_written_tensor_is_read_back_and_a_fault_goes_to_the_faults(tmp_path):
    context = toy_study(tmp_path, num_people=6)
    writer = fill.WriteEach(context.store.root, "prepare/x", "tensors")
    row = prepare.PrepareStep(SMALL.model_dump(mode="json"))(row_of(*toy_spine()))
    fault = {
        **KEY,
        "scan_id": "other",
        "stage": "prepare",
        "code": "implausible_mask",
        "message": "m",
    }
    writer([row, fault])
    tensors = read_table(context.store, "prepare/x", TENSORS)
    assert list(tensors["scan_id"]) == ["scan"]
    assert list(read_table(context.store, "prepare/x", FAULTS)["scan_id"]) == ["other"]
    voxels, levels = tensor_from_row(tensors.iloc[0].to_dict())
    assert np.array_equal(voxels, make_tensor(*toy_spine(), SMALL)[0])
    assert levels.dtype == np.uint8


def test_scans_with_a_tensor_or_a_lasting_fault_are_known_and_crashed_ones_are_tried_again(
    tmp_path,
):
    context = toy_study(tmp_path, num_people=6)
    folder = context.folder("prepare")
    people = context.read("cohort")
    before = fill.answered(context.store, folder, TENSORS, people)
    for code in ("implausible_mask", "crashed"):
        fault = {
            "scan_id": code,
            "source_digest": "d",
            "stage": "prepare",
            "code": code,
            "message": "m",
        }
        write_part(context.store, folder, FAULTS, [fault], code)
    assert len(before) == 6
    after = fill.answered(context.store, folder, TENSORS, people)
    assert after - before == {("implausible_mask", "d")}


def test_tensors_are_read_by_number_in_any_order(tmp_path):
    context = toy_study(tmp_path, num_people=6)
    cohort = context.read("cohort")
    people = people_of(context.store, context.folder("prepare"), cohort)
    backwards = people_of(context.store, context.folder("prepare"), cohort[::-1])
    assert len(people) == 6
    for i in (4, 0, 4):
        assert np.array_equal(people.tensor(i)[0], backwards.tensor(5 - i)[0])
        assert people.age_years(i) == cohort["age_years"][i]


def test_the_cache_holds_no_more_than_its_bytes(tmp_path):
    context = toy_study(tmp_path, num_people=6)
    cohort = context.read("cohort")
    keys = list(zip(cohort["scan_id"], cohort["source_digest"], strict=True))
    folder = context.folder("prepare")
    size = len(context.store.read(f"{folder}/tensors/{part_name(*keys[0])}.parquet"))
    people = TensorPeople(context.store, folder, keys, [50.0] * 6, cache_bytes=3 * size)
    expected = [people.tensor(i)[0].copy() for i in range(6)]
    assert 1 <= len(people._rows) < 6
    assert all(np.array_equal(people.tensor(i)[0], expected[i]) for i in range(6))
    nothing = TensorPeople(context.store, folder, keys, [50.0] * 6, cache_bytes=0)
    assert np.array_equal(nothing.tensor(0)[0], expected[0])
    assert not nothing._rows
