"""The scripts for Slurm, submitted to a real one of two nodes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.made.clusters import ROOT
from tests.made.demo_workspace import Demo, parts
from tests.made.slurm import Slurm, checkout, require_slurm, running
from tests.verbs.test_job import equals_undisturbed, with_new_exams

SCRIPTS = ROOT / "cluster" / "slurm"
STOPPED = "spineage: stopped; what is done is kept, run again to go on"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    require_slurm()
    with running(tmp_path_factory.mktemp("slurm")) as found:
        yield found


def symmetric(study: Path, *, nodes: int) -> list[str]:
    """README's line for sbatch, on nodes of one core."""
    script = str(SCRIPTS / "symmetric.sh")
    return [
        f"--nodes={nodes}",
        "--cpus-per-task=1",
        script,
        "jobs/rescore.py",
        "--study",
        str(study),
    ]


def test_one_ray_cluster_of_two_nodes_scores_what_is_missing(
    slurm: Slurm, demo: Demo, tmp_path: Path
) -> None:
    here, workspace = checkout(tmp_path / "checkout"), tmp_path / "w"
    with_new_exams(demo, workspace)
    before = set(workspace.rglob("rates/score/*.json"))
    job = slurm.submit(here, *symmetric(workspace / "study.yaml", nodes=2))
    found = slurm.ended(job)
    said = (here / f"slurm-{job}.out").read_text()
    assert (found["JobState"], found["ExitCode"]) == ("COMPLETED", "0:0"), said[-4000:]
    assert "exited unexpectedly" not in said, "the other node is ended before it takes alarm"
    assert {path.name for path in here.iterdir()} == {".venv", "jobs", f"slurm-{job}.out"}
    equals_undisturbed(demo, workspace)
    [rate] = set(workspace.rglob("rates/score/*.json")) - before
    assert json.loads(rate.read_text())["pace"]["cores"] == 2, "one core of each node"


def test_the_exit_code_of_the_job_is_that_of_slurm(slurm: Slurm, tmp_path: Path) -> None:
    here = checkout(tmp_path / "checkout")
    job = slurm.submit(here, *symmetric(tmp_path / "none.yaml", nodes=1))
    found = slurm.ended(job)
    said = (here / f"slurm-{job}.out").read_text()
    assert found["ExitCode"] == "2:0", said[-4000:]
    assert "none.yaml" in said


def test_a_cancelled_job_lets_go_and_goes_on(slurm: Slurm, demo: Demo, tmp_path: Path) -> None:
    here, workspace = checkout(tmp_path / "checkout"), tmp_path / "w"
    with_new_exams(demo, workspace, every=2)
    job = symmetric(workspace / "study.yaml", nodes=2)
    before = len(parts(workspace, "masks"))
    first = slurm.submit(here, *job)
    until = time.monotonic() + 180
    while len(parts(workspace, "masks")) < before + 3:
        assert time.monotonic() < until, [p.read_text()[-3000:] for p in here.glob("*.out")]
        time.sleep(0.2)
    slurm.ask("scancel", "--signal=TERM", "--batch", first)  # as a time limit does
    ended = slurm.ended(first)
    assert (ended["JobState"], ended["ExitCode"]) == ("FAILED", "143:0")
    assert STOPPED in (here / f"slurm-{first}.out").read_text()
    assert not list(workspace.glob("leases/**/*.json"))
    masks = parts(workspace, "masks")
    again = slurm.submit(here, *job)
    assert slurm.ended(again)["ExitCode"] == "0:0", (here / f"slurm-{again}.out").read_text()[
        -4000:
    ]
    after = parts(workspace, "masks")
    assert masks == {path: after[path] for path in masks}, "nothing is done twice"
    equals_undisturbed(demo, workspace)


def test_an_array_without_ray_is_cancelled_submitted_again_and_merged(
    slurm: Slurm, demo: Demo, tmp_path: Path
) -> None:
    here, workspace = checkout(tmp_path / "checkout"), tmp_path / "w"
    with_new_exams(demo, workspace, every=1)
    script = [str(SCRIPTS / "array.sh"), str(workspace / "study.yaml"), "2"]
    status = workspace / "status" / "score.2-of-2.json"
    job = slurm.submit(here, "--array=1-2", "--mem=3G", *script)
    until = time.monotonic() + 180
    while not (status.exists() and json.loads(status.read_text())["counts"]):
        assert time.monotonic() < until, [p.read_text() for p in here.glob("*.out")]
        time.sleep(0.2)
    slurm.ask("scancel", f"{job}_2")
    assert slurm.ended(f"{job}_2")["JobState"] == "CANCELLED"
    assert STOPPED in (here / f"slurm-{job}_2.out").read_text()
    assert slurm.ended(f"{job}_1")["ExitCode"] == "0:0"
    masks = parts(workspace, "masks")

    again = slurm.submit(here, "--array=2", "--mem=3G", *script)
    assert slurm.ended(f"{again}_2")["ExitCode"] == "0:0", (
        here / f"slurm-{again}_2.out"
    ).read_text()
    after = parts(workspace, "masks")
    assert masks == {path: after[path] for path in masks}, "nothing is done twice"
    last = slurm.submit(
        here, "--cpus-per-task=1", f"--wrap=spineage score --study {workspace / 'study.yaml'}"
    )
    assert slurm.ended(last)["ExitCode"] == "0:0", (here / f"slurm-{last}.out").read_text()
    equals_undisturbed(demo, workspace)
