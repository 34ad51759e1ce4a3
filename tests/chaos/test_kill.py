"""Killed in the middle and started again: nothing lost, nothing done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.made.demo_workspace import Demo, environment, parts, run, scores_of

pytestmark = pytest.mark.slow


def test_scoring_killed_by_sigkill_goes_on_and_equals_an_undisturbed_run(
    demo: Demo, tmp_path: Path
) -> None:
    folder = demo.copy(tmp_path / "w", without=("score",))
    unseen = sorted(demo.context().read("scans", ["scan_id"]).scan_id)[::3]
    lost = [
        path
        for path in folder.rglob("*.parquet")
        if path.parent.name in ("masks", "tensors") and path.name.startswith(tuple(unseen))
    ]
    assert {path.parent.name for path in lost} == {"masks", "tensors"}
    for path in lost:  # a third has yet to be segmented and prepared
        path.unlink()
    process = subprocess.Popen(
        [sys.executable, "-m", "spineage.cli", "score"],
        cwd=folder, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 180
    while len(parts(folder, "scores")) < 4 and time.monotonic() < deadline:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(2)  # Ray's own processes notice that their driver is gone
    first = {p: t for t_ in ("scores", "masks", "tensors") for p, t in parts(folder, t_).items()}
    assert len(parts(folder, "scores")) >= 4
    total = len(demo.context().read("scans", ["scan_id"]))
    done = sum(len(pd.read_parquet(p, columns=["scan_id"])) for p in parts(folder, "scores"))
    assert done < total

    again = run("score", cwd=folder)
    assert again.returncode == 0, again.stderr[-3000:]
    last = {p: t for t_ in ("scores", "masks", "tensors") for p, t in parts(folder, t_).items()}
    assert {p: last[p] for p in first} == first
    rows = [pd.read_parquet(p) for p in parts(folder, "scores")]
    table = pd.concat(rows).sort_values("scan_id", ignore_index=True)
    assert table.scan_id.is_unique
    undisturbed = scores_of(demo.context())
    pd.testing.assert_frame_equal(
        table.drop(columns="flags"), undisturbed.drop(columns="flags"), check_exact=True
    )
    assert [list(f) for f in table["flags"]] == [list(f) for f in undisturbed["flags"]]
    faults = demo.context(folder).read("faults", stage="score")
    assert set(faults.scan_id) == set(demo.context().read("faults", stage="score").scan_id)


def test_what_a_worker_finds_damaged_is_made_anew_in_the_same_run(
    demo: Demo, tmp_path: Path
) -> None:
    folder = demo.copy(tmp_path / "w", without=("score",))
    (tensor, _, other, *_) = sorted(folder.rglob("tensors/*.parquet"))
    mask = next(path for path in folder.rglob("masks/*.parquet") if path.name == other.name)
    other.unlink()  # so that its mask is read
    for part in (tensor, mask):
        whole = part.read_bytes()
        middle = len(whole) // 2  # in the voxels: its name and both ends are right
        part.write_bytes(whole[:middle] + bytes(8) + whole[middle + 8 :])
    done = run("score", cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "2 damaged_part" not in done.stdout.splitlines()[-1]
    assert {path.name for path in folder.rglob("*.damaged")} == {
        f"{part.name}.damaged" for part in (tensor, mask)
    }
    scores, undisturbed = scores_of(demo.context(folder)), scores_of(demo.context())
    pd.testing.assert_frame_equal(scores, undisturbed)
