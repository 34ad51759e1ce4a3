"""Five hundred tiny scans on three nodes, while drivers, workers and a node are killed: the table is that of
an undisturbed run, row for row, read by plain pyarrow."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import nibabel as nib
import numpy as np
import pyarrow.dataset as pads
import pytest

from spineage.io.storage.parquet import write_part
from spineage.tables import SOURCES
from tests.chaos import population
from tests.made import processes
from tests.made.clusters import ROOT, Cluster, Node, environment, running
from tests.made.sealed import sealed_nifti

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("SPINEAGE_TEST_KILLS", "4"))
"""Of the driver, at random moments; CI has little time."""
FEW = 130
"""One of each kind is among them."""
PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "20"}
"""With a head that does not answer; Ray's own is a minute."""
KINDS = {number: population.befalls(number) for number in range(population.NUM)}


def drive(workspace: str | Path, cluster: Cluster, marks: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.chaos.population"]
    return subprocess.Popen(
        [*command, str(workspace), cluster.address, str(marks)],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**environment(), "PYTHONPATH": str(ROOT), **PATIENCE}, start_new_session=True,
    )  # fmt: skip


def workers_of(cluster: Cluster) -> list[int]:
    """Its processes that serve a step."""
    stats = processes.stats()
    found = {pid for daemon in cluster.daemons for pid in processes.below(daemon.pid, stats)}
    return sorted(pid for pid in found if _name(pid).startswith("ray::MapWorker"))


def _name(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def expected(num: int) -> dict[str, dict[str, Any]]:
    """What an undisturbed run writes of the first scans."""
    return {
        population.name_of(number)[0]: {
            **dict(zip(("scan_id", "source_digest"), population.name_of(number), strict=True)),
            **population.mask_of(number),
        }
        for number, kind in KINDS.items()
        if number < num and kind not in ("refused", "killer")
    }


def prepare(workspace: str, tmp_path: Path, num: int = population.NUM) -> None:
    (tmp_path / "marks").mkdir()
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4)), tmp_path / "scan.nii.gz")
    sealed = sealed_nifti(tmp_path / "scan.nii.gz")
    rows = [
        {**sealed, "scan_id": scan_id, "source_digest": digest, "num_voxels": 8}
        for scan_id, digest in map(population.name_of, range(num))
    ]
    context = population.context_of(workspace)
    write_part(context.store, context.folder("ingest"), SOURCES, rows, "part-0")


def read(workspace: str | Path, table: str) -> list[dict[str, Any]]:
    """By plain pyarrow."""
    files, place = fsspec.core.url_to_fs(str(workspace))
    [folder] = files.glob(f"{place}/segment/*/{table}")
    return list(pads.dataset(folder, filesystem=files).to_table().to_pylist())


def finish(workspace: str | Path, cluster: Cluster, marks: Path) -> str:
    """What the last run says: what crashed or hung is tried in a second one, and then given up."""
    said = ""
    for _ in range(3):
        driver = drive(workspace, cluster, marks)
        said, _ = driver.communicate(timeout=300)
        assert driver.returncode == 0, said
        if is_done(said):
            break
    return said


def is_done(said: str) -> bool:
    """Whether the last line of a run says that nothing is left for the next."""
    return bool(re.search(r"\b0 left\b", said.splitlines()[-1]))


def is_whole(workspace: str | Path, num: int = population.NUM) -> bool:
    """Every scan that can have a mask has the one of an undisturbed run, once."""
    rows = read(workspace, "masks")
    assert len(rows) == len({row["scan_id"] for row in rows}), "none twice"
    return {row["scan_id"]: row for row in rows} == expected(num)


class Failing:
    """In front of a server: some requests are refused, and some are not answered for too long."""

    def __init__(self, application: Any) -> None:
        self._application, self.count, self.num_failed = application, 0, 0

    def __call__(self, environ: dict[str, Any], start: Any) -> Any:
        self.count += 1
        if self.count % 11 == 0:
            self.num_failed += 1
            start("503 Slow Down", [("Content-Type", "application/xml")])
            return [b"<Error><Code>SlowDown</Code><Message>slow down</Message></Error>"]
        if self.count % 211 == 0:
            self.num_failed += 1
            time.sleep(4.0)  # the client waits for two seconds
        return self._application(environ, start)


def test_an_object_store_that_fails_and_times_out_loses_nothing(
    tmp_path: Path, s3: str, s3_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience = {"config_kwargs": {"read_timeout": 2}}
    monkeypatch.setenv("FSSPEC_S3", json.dumps(patience))
    prepare(f"{s3}/w", tmp_path, FEW)
    failing = Failing(s3_server._server.app)
    s3_server._server.app = failing
    with running([Node(2)], tmp_path / "log") as cluster:
        finish(f"{s3}/w", cluster, tmp_path / "marks")
    s3_server._server.app = failing._application
    assert failing.num_failed > 20
    assert is_whole(f"{s3}/w", FEW)


def test_whatever_is_killed_the_table_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    workspace, draw = tmp_path / "w", random.Random(13)
    prepare(str(workspace), tmp_path)
    with running([Node(1), Node(1), Node(1)], tmp_path / "log") as cluster:
        grown = []
        for kill in range(KILLS):
            driver = drive(workspace, cluster, tmp_path / "marks")
            if kill:  # the first dies wherever it is in its start
                wait_for_masks(workspace, grown[-1] + draw.randint(1, 300 // KILLS))
            time.sleep(draw.uniform(0.0, 0.3) if kill else draw.uniform(2.0, 16.0))
            if kill % 2:
                workers = workers_of(cluster)
                for pid in draw.sample(workers, min(1, len(workers))):
                    os.kill(pid, signal.SIGKILL)
                time.sleep(1.0)
            if kill == KILLS // 2:
                os.killpg(cluster.daemons[-1].pid, signal.SIGKILL)  # a node of three
                time.sleep(draw.uniform(0.0, 6.0))
            os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
            grown.append(len(list(workspace.glob("segment/*/masks/*.parquet"))))
        assert grown[-1] < len(expected(population.NUM)), f"all was done before the last: {grown}"
        said = finish(workspace, cluster, tmp_path / "marks")
    assert is_whole(workspace)
    lasting = {
        (r["scan_id"], r["code"]) for r in read(workspace, "faults") if r["code"] != "crashed"
    }
    refused = [population.name_of(number)[0] for number, kind in KINDS.items() if kind == "refused"]
    assert {scan for scan, code in lasting if code == "incomplete_spine"} == set(refused)
    assert f"{len([k for k in KINDS.values() if k == 'killer'])} given_up" in said, said
    assert not list(workspace.glob("leases/**/*.json"))


def test_two_drivers_at_once_one_works_and_the_other_takes_over_when_it_is_killed(
    tmp_path: Path,
) -> None:
    workspace = tmp_path / "w"
    prepare(str(workspace), tmp_path, FEW)
    with running([Node(1), Node(1)], tmp_path / "log") as cluster:
        first = drive(workspace, cluster, tmp_path / "marks")
        wait_for_masks(workspace, 5)
        second = drive(workspace, cluster, tmp_path / "marks")
        assert second.stdout
        heard = next(line for line in second.stdout if "works on it" in line)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        num_before = len(read(workspace, "masks"))
        said, _ = second.communicate(timeout=300)
        assert second.returncode == 0, said
        assert f"another run (process {first.pid} of this machine, since" in heard
        assert "the run that worked on segment/" in said
        if not is_done(said):
            finish(workspace, cluster, tmp_path / "marks")
    assert num_before < len(expected(FEW)), "the second had something to do"
    assert is_whole(workspace, FEW)


def test_a_disk_that_is_full_ends_a_run_and_the_next_goes_on(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    workspace.mkdir()
    with small_disk(workspace) as grow:
        prepare(str(workspace), tmp_path, FEW)
        with running([Node(1), Node(1), Node(1)], tmp_path / "log") as cluster:
            full = drive(workspace, cluster, tmp_path / "marks")
            said, _ = full.communicate(timeout=300)
            assert full.returncode == 2, said
            assert "No space left on device" in said.splitlines()[-1]
            assert 5 < len(read(workspace, "masks")) < len(expected(FEW))
            grow()
            finish(workspace, cluster, tmp_path / "marks")
        assert is_whole(workspace, FEW)


def test_a_head_that_is_lost_ends_a_run_with_a_sentence_and_another_cluster_goes_on(
    tmp_path: Path,
) -> None:
    workspace = tmp_path / "w"
    prepare(str(workspace), tmp_path, FEW)
    with running([Node(2)], tmp_path / "log") as cluster:
        driver = drive(workspace, cluster, tmp_path / "marks")
        wait_for_masks(workspace, 5)
        os.killpg(cluster.daemons[0].pid, signal.SIGKILL)
        said, _ = driver.communicate(timeout=120)
    assert driver.returncode == 1, said
    assert said.splitlines()[-1].startswith(
        "spineage: the head of the Ray cluster does not answer"
    ), said
    with running([Node(2)], tmp_path / "log") as cluster:
        finish(workspace, cluster, tmp_path / "marks")
    assert is_whole(workspace, FEW)


def wait_for_masks(workspace: Path, num: int) -> None:
    until = time.monotonic() + 100
    while len(list(workspace.glob("segment/*/masks/*.parquet"))) < num:
        assert time.monotonic() < until
        time.sleep(0.2)


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """A disk with room for some of the masks in a folder's place, and how to make it larger."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=64m", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
