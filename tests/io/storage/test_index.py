"""Where scans lie, by the names of parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.io.storage.index import part_name, parts_of_scans
from spineage.io.storage.parquet import write_part
from spineage.io.storage.parts import DamagedParts, read_sound
from spineage.io.storage.store import Store
from spineage.tables import FAULTS

FOLDER = "segment/x"
KEYS = [(f"{i:016x}", f"{i:064x}") for i in range(40)]


def fault(key: tuple[str, str]) -> dict[str, object]:
    return dict(zip(("scan_id", "source_digest"), key, strict=True)) | {
        "stage": "segment", "code": "c", "message": "m"
    }  # fmt: skip


def written(folder: Path) -> Store:
    """The first twenty a part each, five more in one part."""
    store = Store(str(folder))
    for key in KEYS[:20]:
        write_part(store, FOLDER, FAULTS, [fault(key)], part_name(*key))
    write_part(store, FOLDER, FAULTS, [fault(key) for key in KEYS[20:25]], "c0ffee")
    return store


def test_parts_are_found_by_name_and_those_of_many_scans_by_their_keys(tmp_path: Path) -> None:
    store = written(tmp_path)
    found = parts_of_scans(store, FOLDER, FAULTS, KEYS[10:])
    assert found == {
        **{key: f"{FOLDER}/faults/{part_name(*key)}.parquet" for key in KEYS[10:20]},
        **dict.fromkeys(KEYS[20:25], f"{FOLDER}/faults/c0ffee.parquet"),
    }
    assert parts_of_scans(store, "segment/other", FAULTS, KEYS) == {}


def test_a_part_named_by_its_scan_is_not_opened_to_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path)
    (tmp_path / FOLDER / "faults/c0ffee.parquet").unlink()

    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("read")

    monkeypatch.setattr("spineage.io.storage.index.read_parts", fail)
    assert len(parts_of_scans(store, FOLDER, FAULTS, KEYS)) == 20


@pytest.mark.parametrize("name", ["part-0", "whatever", "A-000000000000"])
def test_a_part_of_any_other_name_is_read_too(name: str, tmp_path: Path) -> None:
    store = written(tmp_path)
    write_part(store, FOLDER, FAULTS, [fault(KEYS[30])], name)
    assert parts_of_scans(store, FOLDER, FAULTS, KEYS[30:]) == {
        KEYS[30]: f"{FOLDER}/faults/{name}.parquet"
    }


@pytest.mark.parametrize("size", [0, 4, 11, 200])
def test_what_a_crash_of_the_machine_cut_short_is_set_aside(size: int, tmp_path: Path) -> None:
    store = written(tmp_path)
    name = f"{FOLDER}/faults/{part_name(*KEYS[3])}.parquet"
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:size])
    with pytest.raises(DamagedParts, match="cut short"):
        parts_of_scans(store, FOLDER, FAULTS, KEYS)
    said: list[str] = []
    found = read_sound(lambda: parts_of_scans(store, FOLDER, FAULTS, KEYS), store, said.append)
    assert found.keys() == {*KEYS[:25]} - {KEYS[3]}
    assert name in said[0]


def test_a_disk_that_fails_is_no_damaged_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path)

    def fail(*args: object, **kwargs: object) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.pread", fail)
    with pytest.raises(BadStudy, match=r"cannot be read: .*Input/output error"):
        parts_of_scans(store, FOLDER, FAULTS, KEYS)
    assert not list(tmp_path.rglob("*.damaged"))
