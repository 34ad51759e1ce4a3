"""A real Ray head on loopback, a real `ray job submit` of the population job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from tests.demo_workspace import Demo, environment, scores_of

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def head(tmp_path: Path) -> Iterator[str]:
    """`ray start --head` in its own process group; its dashboard's address."""
    port, dashboard, agent, agent_grpc = (free_port() for _ in range(4))
    bin_folder = str(Path(sys.executable).parent)
    env = {**environment(), "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    short = tempfile.mkdtemp(prefix="ray-")  # a socket's path has 107 bytes at most
    log = (tmp_path / "head.log").open("w")
    process = subprocess.Popen(
        [
            f"{bin_folder}/ray", "start", "--head", "--block", "--num-cpus=4", "--disable-usage-stats",
            f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
            "--node-ip-address=127.0.0.1", f"--temp-dir={short}",
            # the tests' own session has the default ports, and an agent without its port takes no job
            f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
        ],
        env=env, stdout=log, stderr=log, start_new_session=True,
    )  # fmt: skip
    address = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=2).close()
            break
        except OSError:
            time.sleep(0.5)
    yield address
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    shutil.rmtree(short, ignore_errors=True)


def test_the_population_job_is_submitted_to_a_ray_head_and_leaves_its_scores(
    demo: Demo, head: str, tmp_path: Path
) -> None:
    folder = demo.copy(tmp_path / "w", without=("score",))
    bin_folder = Path(sys.executable).parent
    for _ in range(20):
        result = subprocess.run(
            [
                f"{bin_folder}/ray", "job", "submit", "--address", head, "--working-dir", ".", "--",
                "python", "jobs/rescore.py", "--study", str(folder / "study.yaml"),
            ],
            cwd=ROOT, capture_output=True, text=True, timeout=300,
            env={**environment(), "PATH": f"{bin_folder}:{os.environ['PATH']}"},
        )  # fmt: skip
        if "No available agent" not in result.stdout + result.stderr:
            break
        time.sleep(3)  # a fresh head answers before its job agent has come up
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-2000:]
    assert "score" in result.stdout
    scores = scores_of(demo.context(folder))
    undisturbed = scores_of(demo.context())
    pd.testing.assert_series_equal(scores.predicted_years, undisturbed.predicted_years)
    assert list(scores.scan_id) == list(undisturbed.scan_id)
