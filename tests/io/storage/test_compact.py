"""Small parts become large ones: nothing lost, nothing twice, whoever reads and whenever it is killed."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pytest

from spineage.io.storage import compact as compacting
from spineage.io.storage.compact import MAX_SMALL, compact
from spineage.io.storage.index import parts_of_scans
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.store import Store
from spineage.tables import FAULTS

FOLDER = "score/x"
KEYS = [(f"{i:016x}", f"{i:064x}") for i in range(400)]


def fault(key: tuple[str, str], code: str = "c") -> dict[str, object]:
    named = dict(zip(("scan_id", "source_digest"), key, strict=True))
    return {**named, "stage": "score", "code": code, "message": key[0]}


def written(store: Store, keys: list[tuple[str, str]] = KEYS) -> Store:
    """Four rows a part."""
    for start in range(0, len(keys), 4):
        rows = [fault(key) for key in keys[start : start + 4]]
        write_part(store, FOLDER, FAULTS, rows, f"{start:024x}")
    return store


def in_plain_pyarrow(folder: Path) -> list[str]:
    """What anybody reads, with names that begin with _ passed over."""
    return sorted(pads.dataset(folder / FOLDER / "faults").to_table()["scan_id"].to_pylist())


def names(store: Store) -> list[str]:
    return [part.rpartition("/")[2] for part in store.list(FOLDER, ".parquet")]


@pytest.mark.parametrize("place", ["a folder", "memory", "s3"])
def test_many_small_parts_become_one_with_the_same_rows(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if place == "s3":
        root = request.getfixturevalue("s3")
    else:
        root = str(tmp_path) if place == "a folder" else f"memory://{tmp_path.name}"
    store = written(Store(root))
    before = read_table(store, FOLDER, FAULTS).sort_values("scan_id", ignore_index=True)
    assert compact(store, FOLDER, FAULTS) == 100
    (name,) = names(store)
    assert name.endswith("x400.parquet")
    after = read_table(store, FOLDER, FAULTS).sort_values("scan_id", ignore_index=True)
    assert after.equals(before)
    assert set(parts_of_scans(store, FOLDER, FAULTS, KEYS).values()) == {f"{FOLDER}/faults/{name}"}
    assert compact(store, FOLDER, FAULTS) == 0


def test_few_parts_stay_as_they_are(tmp_path: Path) -> None:
    store = written(Store(str(tmp_path)), KEYS[: 4 * MAX_SMALL])
    assert compact(store, FOLDER, FAULTS) == 0
    assert len(names(store)) == MAX_SMALL


def test_large_parts_are_not_merged_again_and_small_merged_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compacting, "LARGE_ROWS", 100)
    monkeypatch.setattr(compacting, "READ_AT_ONCE", 10)
    monkeypatch.setattr(compacting, "MAX_SMALL", 6)
    store = written(Store(str(tmp_path)), KEYS[:300])
    compact(store, FOLDER, FAULTS)
    first = names(store)
    assert sorted(int(name.split("x")[1].split(".")[0]) for name in first) == [60, 120, 120]
    written(store, KEYS[300:])
    compact(store, FOLDER, FAULTS)
    assert set(first) <= set(names(store)), "large ones are written once"
    assert len(read_table(store, FOLDER, FAULTS)) == 400
    assert in_plain_pyarrow(tmp_path) == [key for key, _ in KEYS]


def test_parts_with_a_row_that_may_change_stay(tmp_path: Path) -> None:
    store = written(Store(str(tmp_path)))
    write_part(
        store, FOLDER, FAULTS, [fault(KEYS[0]), fault(("a" * 16, "b" * 64), "crashed")], "f" * 24
    )

    def lasting(rows: pa.Table) -> pa.ChunkedArray:
        return pc.not_equal(rows["code"], "crashed")

    assert compact(store, FOLDER, FAULTS, lasting) == 100
    assert [name for name in names(store) if name.startswith("f" * 24)] == [f"{'f' * 24}.parquet"]
    assert len(names(store)) == 2


def test_a_scan_that_was_written_twice_is_kept_once(tmp_path: Path) -> None:
    store = written(Store(str(tmp_path)))
    write_part(store, FOLDER, FAULTS, [fault(key) for key in KEYS[:9]], "e" * 24)
    compact(store, FOLDER, FAULTS)
    assert in_plain_pyarrow(tmp_path) == [key for key, _ in KEYS]


@pytest.mark.parametrize("steps", range(0, 104, 7))
def test_killed_anywhere_it_goes_on_and_nobody_reads_a_scan_twice(
    steps: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stopped after so many files were written, removed or renamed."""
    left = [steps]

    def step(call):  # type: ignore[no-untyped-def]
        def counted(*args, **kwargs):  # type: ignore[no-untyped-def]
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            return call(*args, **kwargs)

        return counted

    store = written(Store(str(tmp_path)))
    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", step(Path.unlink))
        killed.setattr("os.replace", step(__import__("os").replace))
        with pytest.raises(KeyboardInterrupt):
            compact(store, FOLDER, FAULTS)
    seen = in_plain_pyarrow(tmp_path)
    assert len(seen) == len(set(seen)), "short perhaps, doubled never"
    rows = read_table(store, FOLDER, FAULTS).drop_duplicates(["scan_id", "source_digest"])
    assert sorted(rows.scan_id) == [key for key, _ in KEYS], "ours sees all"
    assert parts_of_scans(store, FOLDER, FAULTS, KEYS).keys() == {*KEYS}
    write_part(store, FOLDER, FAULTS, [fault(("c" * 16, "d" * 64))], "c" * 24)
    compact(store, FOLDER, FAULTS)
    assert in_plain_pyarrow(tmp_path) == sorted([key for key, _ in KEYS] + ["c" * 16])
    assert not [name for name in names(store) if name.startswith("_")]


def test_a_table_that_is_merged_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(Store(str(tmp_path)))
    listed = Store.list

    def then_merged(self: Store, rel: str, suffix: str = "") -> list[str]:
        parts = listed(self, rel, suffix)
        monkeypatch.undo()
        compact(store, FOLDER, FAULTS)
        return parts

    monkeypatch.setattr(Store, "list", then_merged)
    assert sorted(read_table(store, FOLDER, FAULTS).scan_id) == [key for key, _ in KEYS]
