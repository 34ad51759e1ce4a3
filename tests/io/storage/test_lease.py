"""Two runs on one result: one works, the other waits, says so, and takes over when the first is dead."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from spineage.errors import StoppedEarly
from spineage.io.storage import drafts, lease
from spineage.io.storage.lease import held
from spineage.io.storage.store import Store

ROOT = Path(__file__).parent.parent.parent.parent
FOLDER = "segment/0123456789abcdef"


@pytest.fixture(params=["a folder", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A workspace on a disk, and on a real S3 server."""
    return str(tmp_path) if request.param == "a folder" else f"{request.getfixturevalue('s3')}/w"


def holder(root: str) -> subprocess.Popen[str]:
    """Another run, that works already."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.made.lease_holder", root, FOLDER],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    return process


def files(root: str) -> list[str]:
    return Store(root).list("leases")


def test_a_run_that_ends_leaves_nothing_behind(root: str) -> None:
    for _ in range(2):
        with held(Store(root), FOLDER, print):
            assert files(root) == [f"leases/{FOLDER}/1.json"]
            with held(Store(root), "segment/another", print):
                pass
    assert not files(root)


def test_a_job_of_ray_is_named_by_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    told = '{"metadata": {"job_submission_id": "raysubmit_1"}}'
    for value, named in (
        (told, "Ray job raysubmit_1, process"),
        ("{}", "process"),
    ):
        monkeypatch.setenv(lease.SUBMITTED, value)
        assert lease.describe(lease._Lease(store, FOLDER, print)._record).startswith(named)


def test_a_second_run_waits_says_so_and_takes_over_when_the_first_is_killed(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    told: list[str] = []
    with holder(root) as first:
        timer = threading.Timer(1.5, first.kill)
        timer.start()
        began = time.monotonic()
        with held(Store(root), FOLDER, told.append):
            waited = time.monotonic() - began
            assert files(root) == [f"leases/{FOLDER}/2.json"]
        timer.join()
    assert 1 < waited < 30, "a process of this machine that is gone is known to be at once"
    assert len(told) == 2
    assert f"another run (process {first.pid} of this machine, since 20" in told[0]
    assert told[1].endswith("has died: it is taken over")
    assert not files(root)


def test_a_run_of_another_machine_is_dead_when_it_is_silent_for_long(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 1.5)
    with holder(root) as first:
        monkeypatch.setattr(drafts, "machine", lambda: "elsewhere")
        told: list[str] = []
        first.kill()
        began = time.monotonic()
        with held(Store(root), FOLDER, told.append):
            assert time.monotonic() - began > 1.5
    assert "of another machine, since" in told[0]


def test_a_beating_run_is_not_taken_for_dead(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    monkeypatch.setattr(lease, "BEAT_S", 0.2)
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 1.0)
    order: list[str] = []

    def second() -> None:
        with held(Store(root), FOLDER, lambda text: None):
            order.append("second")

    with held(Store(root), FOLDER, print):
        other = threading.Thread(target=second)
        other.start()
        time.sleep(2.5)
        order.append("first")
    other.join(timeout=30)
    assert order == ["first", "second"]


def test_a_run_that_was_taken_over_stops(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was asleep for so long that it was taken for dead."""
    monkeypatch.setattr(lease, "BEAT_S", 0.1)

    def sleep_too_long() -> None:
        with held(Store(root), FOLDER, print):
            assert Store(root).create(f"leases/{FOLDER}/2.json", b"{}")
            time.sleep(30)

    with pytest.raises(StoppedEarly, match=f"^another run has taken over {FOLDER}"):
        sleep_too_long()
    assert files(root) == [f"leases/{FOLDER}/1.json", f"leases/{FOLDER}/2.json"]


def test_a_run_that_slept_through_another_one_stops(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one has ended, and has left nothing behind."""
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)

    def sleep_too_long() -> None:
        with held(Store(root), FOLDER, print):
            Store(root).remove(f"leases/{FOLDER}/1.json")
            time.sleep(30)

    with pytest.raises(StoppedEarly, match=r"^another run has taken over"):
        sleep_too_long()
    assert not files(root)


def test_a_storage_that_fails_once_ends_no_heartbeat(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    true, failures = Store.list, [ConnectionError("reset"), TimeoutError()]

    def list_(store: Store, rel: str, suffix: str = "") -> list[str]:
        if threading.current_thread() is not threading.main_thread() and failures:
            raise failures.pop()
        return true(store, rel, suffix)

    monkeypatch.setattr(Store, "list", list_)
    with held(Store(root), FOLDER, print):
        time.sleep(1.5)
        assert b'"beat": 0' not in Store(root).read(f"leases/{FOLDER}/1.json")
    assert not failures


def test_of_many_that_begin_at_once_each_works_alone(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.01)
    inside, most = [0], [0]

    def work(_: int) -> None:
        with held(Store(root), FOLDER, lambda text: None):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert most == [1]


def test_a_lease_that_nobody_can_read_is_not_for_ever(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its writer was killed between making and filling it."""
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    monkeypatch.setattr(lease, "DEAD_AFTER_S", 0.5)
    assert Store(root).create(f"leases/{FOLDER}/7.json", b"")
    with held(Store(root), FOLDER, print):
        assert files(root) == [f"leases/{FOLDER}/8.json"]


def test_a_file_is_created_once(root: str) -> None:
    store = Store(root)
    assert [store.create("a/b.json", text) for text in (b"1", b"2")] == [True, False]
    assert store.read("a/b.json") == b"1"
    if store.is_local:
        assert os.stat(store.local("a/b.json")).st_mode & 0o077 == 0
    store.remove("a/b.json")
    store.remove("a/b.json")
    assert not store.exists("a/b.json")


def test_shards_work_side_by_side_and_a_run_of_all_scans_waits_for_them(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    store, order = Store(root), list[str]()

    def whole() -> None:
        with held(store, FOLDER, lambda text: None):
            order.append("whole")

    with held(store, FOLDER, print, "1-of-2"), held(store, FOLDER, print, "2-of-2"):
        assert len(files(root)) == 2
        thread = threading.Thread(target=whole)
        thread.start()
        time.sleep(1.0)
        order.append("shards")
    thread.join(30)
    assert order == ["shards", "whole"]
    assert not files(root)


def test_a_shard_waits_for_a_run_of_all_scans(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    store, order = Store(root), list[str]()

    def shard() -> None:
        with held(store, FOLDER, lambda text: None, "1-of-2"):
            order.append("shard")

    with held(store, FOLDER, print):
        thread = threading.Thread(target=shard)
        thread.start()
        time.sleep(1.0)
        order.append("whole")
    thread.join(30)
    assert order == ["whole", "shard"]
    assert not files(root)


def test_a_shard_whose_run_is_dead_holds_up_nobody(root: str) -> None:
    store = Store(root)
    gone = b'{"run": "x", "machine": "%s", "process": 4194305}' % drafts.machine().encode()
    store.write(f"leases/{FOLDER}/3-of-4/1.json", gone)
    began = time.monotonic()
    with held(store, FOLDER, print):
        assert time.monotonic() - began < 20
