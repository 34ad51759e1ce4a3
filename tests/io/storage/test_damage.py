"""Storage that is damaged, full or slow to answer: named in one sentence, or made anew; never a traceback."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spineage.errors import BadScan, BadStudy
from spineage.io.models.database import require_database
from spineage.io.storage import drafts
from spineage.io.storage.parquet import encode, read_table, write_part
from spineage.io.storage.parts import DamagedParts, PartReader, read_parts, read_sound
from spineage.io.storage.store import Store, write_file
from spineage.tables import FAULTS, TENSORS
from tests.test_cli import everything_in, fails_clearly, spineage


def fault(name: str, **changes: object) -> dict[str, object]:
    row = {"scan_id": name, "source_digest": "d", "stage": "s", "code": "c", "message": "m" * 500}
    return {**row, **changes}


def written(folder: Path, stage: str = "segment") -> tuple[Store, Path]:
    """Three parts of one scan each, and the path of the second."""
    store = Store(str(folder))
    for name in ("a", "b", "c"):
        write_part(store, f"{stage}/x", FAULTS, [fault(name)], name)
    return store, folder / stage / "x" / "faults" / "b.parquet"


def retyped(data: bytes) -> bytes:
    table = pa.table({**{name: ["b"] for name in FAULTS.schema.names}, "scan_id": [7]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def column_lost(data: bytes) -> bytes:
    table = pq.read_table(pa.BufferReader(data)).drop_columns("message")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def null_key(data: bytes) -> bytes:
    table = pa.table({**{name: ["b"] for name in FAULTS.schema.names}, "scan_id": [None]})
    sink = pa.BufferOutputStream()
    pq.write_table(table.cast(pa.schema([f.with_nullable(True) for f in FAULTS.schema])), sink)
    return sink.getvalue().to_pybytes()


def no_text(data: bytes) -> bytes:
    table = pa.table({name: [b"M\xfcller"] for name in FAULTS.schema.names})
    texts = [pa.Array.from_buffers(pa.string(), 1, c.chunk(0).buffers()) for c in table.columns]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(texts, schema=FAULTS.schema), sink)
    return sink.getvalue().to_pybytes()


def bit_flipped(data: bytes) -> bytes:
    return data[:30] + bytes([data[30] ^ 4]) + data[31:]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:-20],
    "empty": lambda data: b"",
    "garbage": lambda data: b"PAR1" + b"\xff" * 300 + b"PAR1",
    "retyped": retyped,
    "a column lost": column_lost,
    "a null key": null_key,
    "no text": no_text,
    "a bit flipped": bit_flipped,
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_part_is_named_with_the_remedy(name: str, tmp_path: Path) -> None:
    store, place = written(tmp_path)
    place.write_bytes(DAMAGE[name](place.read_bytes()))
    with pytest.raises(DamagedParts, match=r"segment/x/faults/b\.parquet .*spineage segment") as e:
        read_table(store, "segment/x", FAULTS)
    assert "\n" not in str(e.value)
    assert pickle.loads(pickle.dumps(e.value)).faults == e.value.faults


@pytest.mark.parametrize("name", DAMAGE)
def test_a_stage_that_fills_in_sets_it_aside_and_says_so(name: str, tmp_path: Path) -> None:
    store, place = written(tmp_path)
    place.write_bytes(DAMAGE[name](place.read_bytes()))
    said: list[str] = []
    found = read_sound(lambda: read_table(store, "segment/x", FAULTS), store, said.append)
    assert list(found.scan_id) == ["a", "c"]
    assert "segment/x/faults/b.parquet" in said[0]
    assert not place.exists()
    write_part(store, "segment/x", FAULTS, [fault("b")], "b")
    assert list(read_table(store, "segment/x", FAULTS).scan_id) == ["a", "b", "c"]


def test_a_part_of_a_published_table_is_never_set_aside(tmp_path: Path) -> None:
    store, place = written(tmp_path, "cohort")
    place.write_bytes(b"")
    with pytest.raises(DamagedParts, match="remove the folder cohort/x and run `spineage cohort`"):
        read_sound(lambda: read_table(store, "cohort/x", FAULTS), store, print)
    assert place.exists()


def test_a_part_that_is_gone_after_it_was_listed_is_named(tmp_path: Path) -> None:
    store, place = written(tmp_path)
    parts = store.list("segment")
    place.unlink()
    with pytest.raises(DamagedParts, match=r"b\.parquet in the workspace is gone"):
        read_parts(store, parts, FAULTS)


def test_many_parts_are_read_in_groups_and_each_damaged_one_is_named(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for i in range(600):
        (tmp_path / "score/x/faults").mkdir(parents=True, exist_ok=True)
        data = encode(FAULTS, [fault(f"s{i:03d}")])
        (tmp_path / f"score/x/faults/{i:03d}.parquet").write_bytes(data)
    assert len(read_table(store, "score/x", FAULTS, ["scan_id"])) == 600
    for i in (3, 599):
        (tmp_path / f"score/x/faults/{i:03d}.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedParts, match="and 1 parts more") as e:
        read_table(store, "score/x", FAULTS)
    assert len(e.value.faults) == 2


def test_a_worker_that_meets_a_damaged_part_refuses_that_scan_and_sets_it_aside(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    row = {"scan_id": "a", "source_digest": "d", "shape": [1], "voxels_zstd": b"x" * 300}
    write_part(store, "prepare/x", TENSORS, [{**row, "levels_zstd": b"y" * 300}], "a")
    part = "prepare/x/tensors/a.parquet"
    assert PartReader(store, TENSORS).row(part, "a", "d")["shape"] == [1]
    with pytest.raises(BadScan, match="other scans"):
        PartReader(store, TENSORS).row(part, "b", "d")
    assert not (tmp_path / part).exists()
    with pytest.raises(BadScan, match="gone") as e:
        PartReader(store, TENSORS).row(part, "a", "d")
    assert e.value.code == "damaged_part"


@pytest.mark.parametrize("code", ["ENOSPC", "EDQUOT", "EIO", "ESTALE"])
def test_a_disk_that_fails_is_one_sentence_and_leaves_no_draft(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(errno, code)

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    store = Store(str(tmp_path))
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(BadStudy, match=os.strerror(number)):
        store.write("a/b", b"data")
    with pytest.raises(BadStudy, match=os.strerror(number)):
        write_file(str(tmp_path / "study.yaml"), b"data")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("code", ["EIO", "ESTALE"])
def test_a_disk_that_cannot_be_read_is_no_damaged_part(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, place = written(tmp_path)
    number = getattr(errno, code)

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("spineage.io.storage.parts.pads.dataset", fail)
    with pytest.raises(BadStudy, match=os.strerror(number)):
        read_sound(lambda: read_table(store, "segment/x", FAULTS), store, print)
    assert place.exists()
    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", fail)
    with pytest.raises(BadStudy, match=os.strerror(number)):
        store.read("segment/x/faults/b.parquet")


def test_a_folder_that_cannot_be_listed_is_no_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, _ = written(tmp_path)

    def fail(path: str) -> None:
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("os.scandir", fail)
    with pytest.raises(BadStudy, match=r"cannot be listed .*Stale file handle"):
        store.list("segment")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    place = tmp_path / "tiny"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("this machine has no `mount`")
    if done.returncode:
        pytest.skip("this machine does not let this process mount a small file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1024))


def test_init_and_doctor_on_a_full_disk_say_so(tiny_disk: Path, tmp_path: Path) -> None:
    fill(tiny_disk)
    before = everything_in(tiny_disk)
    fails_clearly(spineage("init", "study.yaml", cwd=tiny_disk), "No space left on device", "free")
    assert everything_in(tiny_disk) == before
    (tmp_path / "study.yaml").write_text(f"workspace: {tiny_disk}\ncohort: {{rule: everyone}}\n")
    result = spineage("doctor", "--study", "study.yaml", cwd=tmp_path, SPINEAGE_KEY="k" * 32)
    (line,) = [text for text in result.stdout.splitlines() if "storage" in text]
    assert line.startswith("FAIL storage")
    assert "No space left on device" in line
    assert "0.00 GB free" in line
    assert everything_in(tiny_disk) == before


def test_init_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    fails_clearly(spineage("init", "file/study.yaml", cwd=tmp_path), "file/study.yaml")


def _write_for_ever(folder: str, started: object) -> None:
    os.fsync = lambda descriptor: (started.set(), time.sleep(600))  # type: ignore[attr-defined]
    Store(folder).write("segment/x/part", b"half")


def test_the_draft_of_a_killed_writer_is_removed_and_that_of_a_live_one_is_not(
    tmp_path: Path,
) -> None:
    store = Store(str(tmp_path))
    context = multiprocessing.get_context("spawn")
    writers = []
    for _ in range(2):
        started = context.Event()
        writer = context.Process(target=_write_for_ever, args=(str(tmp_path), started))
        writer.start()
        assert started.wait(60)
        writers.append(writer)
    try:
        assert len(list(tmp_path.rglob("*.draft"))) == 2
        assert store.remove_drafts() == 0
        os.kill(writers[0].pid, signal.SIGKILL)
        writers[0].join()
        assert store.remove_drafts() == 1
        assert len(list(tmp_path.rglob("*.draft"))) == 1
    finally:
        writers[1].kill()
        writers[1].join()


def test_a_draft_of_another_machine_is_removed_when_it_is_old(tmp_path: Path) -> None:
    fresh, old, no_draft = (tmp_path / n for n in (".0a-7-x.draft", ".0a-8-x.draft", "my.draft"))
    for place in (fresh, old, no_draft):
        place.touch()
    for place in (old, no_draft):
        os.utime(place, (0, time.time() - 2 * drafts.OLD_S))
    assert Store(str(tmp_path)).remove_drafts() == 1
    assert fresh.exists()
    assert no_draft.exists()


def test_a_database_that_is_none_or_is_locked_is_one_sentence(tmp_path: Path) -> None:
    place = tmp_path / "mlflow.db"
    uri = f"sqlite:///{place}"
    require_database(uri)
    place.write_bytes(b"garbage" * 1000)
    with pytest.raises(BadStudy, match=r"mlflow\.db is damaged.*move it away"):
        require_database(uri)
    place.unlink()
    with sqlite3.connect(place, isolation_level=None) as other:
        other.execute("create table t (x)")
        require_database(uri)
        other.execute("begin exclusive")
        began = time.monotonic()
        with pytest.raises(BadStudy, match=r"mlflow\.db is locked by another process"):
            require_database(uri)
        assert time.monotonic() - began < 10
        other.rollback()


def test_training_with_a_damaged_database_ends_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w/mlflow.db").write_bytes(b"garbage" * 1000)
    (tmp_path / "study.yaml").write_text("workspace: w\n")
    fails_clearly(spineage("train", cwd=tmp_path), "mlflow.db is damaged")
