"""Storage and tables: nothing half-written is visible, and a table is what it says."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.store import Store
from spineage.io.storage.volumes import pack, unpack, volume_from_cells, volume_to_cells
from spineage.science.scan.geometry import Volume, reorient, resample
from spineage.tables import TABLES

FAULTS = TABLES["faults"]


def fault(name: str, **changes: object) -> dict[str, object]:
    row = {"scan_id": name, "source_digest": "d", "stage": "s", "code": "c", "message": "m"}
    return {**row, **changes}


@pytest.mark.parametrize("root", ["local", "memory://store"])
def test_what_is_written_is_read_back_by_a_pickled_store(root: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path) if root == "local" else root)
    write_part(store, "a/b", FAULTS, [fault("x"), fault("y")], "part-0")
    write_part(store, "a/b", FAULTS, [fault("z", message="")], "part-1")
    again = pickle.loads(pickle.dumps(store))
    assert sorted(read_table(again, "a/b", FAULTS).scan_id) == ["x", "y", "z"]
    assert set(read_table(again, "a/b", FAULTS).scan_id) == {"x", "y", "z"}
    assert read_table(again, "nowhere", FAULTS).empty


def test_a_draft_left_by_a_killed_writer_is_never_seen(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    write_part(store, "t", FAULTS, [fault("x")], "part-0")
    (tmp_path / "t/faults/.0123.draft").write_bytes(b"PAR1 half a fi")
    assert store.list("t/faults") == ["t/faults/part-0.parquet"]
    assert len(read_table(store, "t", FAULTS)) == 1


def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path))
    store.write("x", b"old")

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="disk full"):
        store.write("x", b"new")
    assert store.read("x") == b"old"


def test_a_table_refuses_missing_foreign_and_null_columns(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(BadStudy, match="lack"):
        write_part(store, "t", FAULTS, [{"scan_id": "x"}], "p")
    with pytest.raises(BadStudy, match="null"):
        write_part(store, "t", FAULTS, [fault("x", code=None)], "p")
    assert store.list("t") == []


def test_a_column_unknown_in_all_rows_keeps_its_type(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    scans = TABLES["scans"]
    row = dict.fromkeys(scans.schema.names, "x")
    row |= {"age_years": float("nan"), "field_tesla": None, "days_since_first": None, "sex": None}
    row |= {"num_stations": 1, "extent_mm": 1.0, "is_phantom": True}
    write_part(store, "t", scans, pd.DataFrame([row]), "p0")
    write_part(store, "t", scans, [{**row, "age_years": 50.0, "scan_id": "y"}], "p1")
    read = read_table(store, "t", scans).set_index("scan_id")
    assert np.isnan(read.age_years["x"])
    assert read.age_years["y"] == 50.0


def test_volumes_cross_steps_unchanged() -> None:
    volume = Volume(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.diag([4.0, 2, 1, 1]))
    back = volume_from_cells(volume_to_cells(volume, "voxels"), "voxels")
    assert np.array_equal(back.voxels_RAS, volume.voxels_RAS)
    assert back.voxels_RAS.dtype == np.int16
    assert np.array_equal(back.affine_RAS, volume.affine_RAS)
    labels = np.eye(5, dtype=np.uint8)
    assert np.array_equal(unpack(pack(labels), np.uint8, (5, 5)), labels)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)])
@pytest.mark.parametrize("flips", [(), (0,), (1, 2), (0, 1, 2)])
def test_reorienting_moves_no_voxel_in_the_world(
    order: tuple[int, int, int], flips: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    truth = Volume(rng.random((3, 5, 7)), np.diag([4.0, 1.5, 1.5, 1.0]))
    truth.affine_RAS[:3, 3] = (-10, 20, 30)
    voxels, affine = truth.voxels_RAS.transpose(order), truth.affine_RAS[:, [*order, 3]].copy()
    for axis in flips:
        voxels = np.flip(voxels, axis)
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
    back = reorient(voxels, affine)
    assert np.array_equal(back.voxels_RAS, truth.voxels_RAS)
    assert np.allclose(back.affine_RAS, truth.affine_RAS)


def test_resampling_keeps_a_bright_voxel_at_its_millimetres() -> None:
    source = Volume(np.zeros((8, 20, 40), np.float32), np.diag([4.0, 1.0, 1.0, 1.0]))
    source.voxels_RAS[4, 10, 30] = 1  # at (16, 10, 30) mm
    target = np.diag([4.0, 2.0, 2.0, 1.0])
    moved = resample(source, (8, 10, 20), target, order=1)
    assert np.argwhere(moved.voxels_RAS == 1).tolist() == [[4, 5, 15]]


@pytest.mark.parametrize(
    "use",
    [
        lambda store: store.exists("a"),
        lambda store: store.read("a"),
        lambda store: store.read_all(["a"]),
        lambda store: store.write("a", b""),
        lambda store: store.create("a", b""),
        lambda store: store.remove("a"),
        lambda store: store.remove_all(["a"]),
        lambda store: store.rename("a", "b"),
        lambda store: store.set_aside("a"),
        lambda store: store.list("a"),
    ],
)
@pytest.mark.parametrize("error", [PermissionError("of anna"), RuntimeError("of anna")], ids=repr)
def test_whatever_an_object_stores_client_raises_is_one_sentence(
    s3: str, error: Exception, use: Callable[[Store], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(f"{s3}/w")

    def refuse(*args: object, **options: object) -> None:
        raise error

    for name in ("exists", "cat_file", "cat", "pipe_file", "rm_file", "rm", "mv", "find"):
        monkeypatch.setattr(store.fs, name, refuse)
    with pytest.raises(
        BadStudy, match="check the address, the credentials and their rights"
    ) as told:
        use(store)
    assert "anna" not in str(told.value)
