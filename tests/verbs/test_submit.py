"""`spineage submit` on a real Ray head with token auth: plan, submit, watch, stop, submit again, finish."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spineage.engine.jobs import Jobs
from spineage.errors import BadStudy
from tests.made.clusters import ROOT, Cluster, Node, environment, free_port, running
from tests.made.demo_workspace import Demo, parts
from tests.verbs.test_job import equals_undisturbed, with_new_exams

TOKEN, OTHER = "a" * 64, "b" * 64
STOPPED = "spineage: stopped; what is done is kept, run again to go on"


def token_file(folder: Path, token: str) -> Path:
    path = folder / f"token-{token[0]}"
    path.write_text(token)
    path.chmod(0o600)
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Lets in who has the token."""
    with running([Node(2)], tmp_path / "log", token=token_file(tmp_path, TOKEN)) as found:
        yield found


def started(
    cluster: Cluster, folder: Path, *options: str, token: str = TOKEN
) -> subprocess.Popen[str]:
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token_file(folder.parent, token))}
    return subprocess.Popen(
        [
            sys.executable, "-m", "spineage.cli", "submit", "rescore", "--study", str(folder / "study.yaml"),
            "--address", cluster.jobs, *options,
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**environment(), **told},
    )  # fmt: skip


def submit(
    cluster: Cluster, folder: Path, *options: str, token: str = TOKEN
) -> subprocess.CompletedProcess[str]:
    process = started(cluster, folder, *options, token=token)
    said, complaint = process.communicate(timeout=400)
    return subprocess.CompletedProcess(options, process.returncode, said, complaint)


def drawing_worker(folder: Path) -> int | None:
    """The process of the worker that has drawn a scan last."""
    crews = [json.loads(path.read_text())["crew"] for path in folder.glob("status/*.json")]
    places = [one["worker"] for crew in crews for one in crew if one["work"] == "draw"]
    return int(places[-1].rpartition("/")[2]) if places else None


@pytest.mark.slow
def test_a_job_is_planned_submitted_watched_stopped_and_finished(
    cluster: Cluster, demo: Demo, tmp_path: Path
) -> None:
    folder = tmp_path / "w"
    num = len(with_new_exams(demo, folder, every=1))
    shutil.rmtree(folder / "status")  # of the demo's own workers
    refused = submit(cluster, folder, token=OTHER)
    assert refused.returncode == 2
    assert "does not take this token" in refused.stderr
    planned = submit(cluster, folder, "--plan")
    assert f"draw {num} by 1 worker" in planned.stdout

    before = len(parts(folder, "masks"))
    first = started(cluster, folder)
    until = time.monotonic() + 180
    while len(parts(folder, "masks")) == before:
        assert time.monotonic() < until
        assert first.poll() is None, first.communicate()
        time.sleep(0.2)
    while not (worker := drawing_worker(folder)):  # known when it has drawn a scan
        assert time.monotonic() < until
        time.sleep(0.1)
    os.kill(
        worker, signal.SIGSTOP
    )  # or the job may be done before it has been looked at and stopped
    status = [sys.executable, "-m", "spineage.cli", "status", "--workspace", str(folder)]
    told = subprocess.run(status, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "score: at work" in told
    assert "Ray job" in told
    assert re.search(r"^  draw: \S+/\d+ \d+ scans", told, re.MULTILINE)
    first.send_signal(signal.SIGINT)  # who watches leaves; the job goes on
    said, _ = first.communicate(timeout=60)
    assert first.returncode == 130
    assert "goes on: the same command follows it again" in said

    second = started(cluster, folder)
    assert second.stdout
    assert "is at work on this study already: it is followed" in second.stdout.readline()
    stopped = submit(cluster, folder, "--stop")
    assert STOPPED in stopped.stdout
    said, complaint = second.communicate(timeout=100)
    assert second.returncode == 143, said + complaint
    assert STOPPED in said.splitlines()
    assert not Path(f"/proc/{worker}").exists()
    masks, scores = parts(folder, "masks"), parts(folder, "scores")
    assert before < len(masks) < num, "it was stopped in the middle"
    assert not list(folder.glob("leases/**/*.json"))

    last = submit(cluster, folder)
    assert last.returncode == 0, last.stdout[-4000:] + last.stderr[-2000:]
    for noise in ("Fatal", " @ ", "core_worker.cc", "Progress bars", "execution of Dataset"):
        assert noise not in said + last.stdout
    after = parts(folder, "masks") | parts(folder, "scores")
    assert masks | scores == {path: after[path] for path in masks | scores}, "nothing is done twice"
    assert "goes on where the one before ended" in last.stdout
    assert re.search(r"\b0 left", last.stdout)
    equals_undisturbed(demo, folder)
    other = submit(cluster, folder, "--", "--no-such-option")
    assert other.returncode == 2, "the job's own exit code"


def test_a_cluster_that_is_not_there_is_one_sentence_within_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(BadStudy, match="no Ray dashboard answers at http://127"):
        Jobs(f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - began < 10


def test_an_address_that_is_given_wins_over_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:1")
    port = free_port()
    with pytest.raises(BadStudy, match=f"answers at http://127.0.0.1:{port} "):
        Jobs(f"http://127.0.0.1:{port}")
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:1"
    with pytest.raises(BadStudy, match=r"answers at http://127\.0\.0\.1:1 "):
        Jobs()
