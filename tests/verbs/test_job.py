"""A real Ray head on loopback, and README's job submitted to it: done, stopped, gone on."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.made.clusters import BIN, ROOT, Cluster, Node, environment, running
from tests.made.demo_workspace import Demo, parts, scores_of

pytestmark = pytest.mark.slow


def submit(cluster: Cluster, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """README's line; a fresh head answers before its job agent has come up."""
    job = ["--", "python", "jobs/rescore.py", "--study", str(folder / "study.yaml")]
    sent = ["--runtime-env", "jobs/runtime_env.yaml", "--working-dir", "."]
    for _ in range(20):
        result = ray_job(cluster, "submit", *sent, *options, *job)
        if "No available agent" not in result.stdout + result.stderr:
            break
        time.sleep(3)
    return result


def ray_job(cluster: Cluster, verb: str, *rest: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / "ray"), "job", verb, "--address", cluster.jobs, *rest],
        cwd=ROOT, capture_output=True, text=True, timeout=400, env=environment(),
    )  # fmt: skip


def with_new_exams(demo: Demo, folder: Path, *, every: int = 9) -> list[str]:
    """A copy of the demo in which one scan in `every` has not been segmented, prepared or scored."""
    demo.copy(folder)
    new = sorted(demo.context().read("scans", ["scan_id"]).scan_id)[::every]
    for path in [
        p for table in ("masks", "tensors", "faults") for p in folder.rglob(f"{table}/*.parquet")
    ]:
        if path.name.startswith(tuple(new)):
            path.unlink()
    for path in folder.rglob("scores/*.parquet"):
        rows = pd.read_parquet(path)
        if rows.scan_id.isin(new).any():
            path.unlink()
    return new


def last_lines(result: subprocess.CompletedProcess[str]) -> list[str]:
    """What the job itself said at its end, without what the command that submitted it says."""
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    return [line for line in lines if line.startswith(("ingest ", "score ", "spineage:"))]


def equals_undisturbed(demo: Demo, folder: Path) -> None:
    scores, undisturbed = scores_of(demo.context(folder)), scores_of(demo.context())
    assert list(scores.scan_id) == list(undisturbed.scan_id)
    pd.testing.assert_series_equal(scores.predicted_years, undisturbed.predicted_years)
    rows = [pd.read_parquet(path) for path in parts(folder, "scores")]
    assert sum(map(len, rows)) == len(undisturbed), "plain pyarrow reads each scan once"


@pytest.mark.parametrize("cores", [1, 3, 6])
def test_new_exams_are_done_on_few_cores_and_then_nothing_is_new(
    cores: int, demo: Demo, tmp_path: Path
) -> None:
    new = with_new_exams(demo, tmp_path / "w")
    with running([Node(cores)], tmp_path / "log") as cluster:
        first = submit(cluster, tmp_path / "w")
        assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-2000:]
        before = parts(tmp_path / "w", "scores")
        again = submit(cluster, tmp_path / "w")
    assert again.returncode == 0, again.stdout[-4000:]
    assert len(new) >= 4
    assert "to segment" in first.stdout
    assert ", 0 new," in last_lines(again)[-1] or "0 new" in " ".join(last_lines(again))
    assert parts(tmp_path / "w", "scores") == before
    equals_undisturbed(demo, tmp_path / "w")


def test_a_submitted_job_with_relative_places_is_refused(tmp_path: Path) -> None:
    """Where it would write is a copy that Ray removes. The study is submitted with the job."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "study.yaml").write_text("inputs: {scans: dicom}\n")
    script = (
        "import sys; from spineage.flow import RESCORE; from spineage.run.entry import run_job; "
    )
    (package / "job.py").write_text(script + "sys.exit(run_job(RESCORE, ''))\n")
    with running([Node(1)], tmp_path / "log") as cluster:
        for _ in range(20):
            result = subprocess.run(
                [
                    str(BIN / "ray"), "job", "submit", "--address", cluster.jobs, "--working-dir",
                    str(package), "--", sys.executable, "job.py", "--study", "study.yaml",
                ],
                cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment(),
            )  # fmt: skip
            if "No available agent" not in result.stdout + result.stderr:
                break
            time.sleep(3)
    assert result.returncode == 1
    assert "spineage: workspace is relative, and a submitted job runs in a copy" in result.stdout
