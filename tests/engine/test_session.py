"""A session that this project starts: nobody else on the network gets into it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

SERVE = """
import ray
from spineage.engine import session
session.connect(num_cpus=1)
print(ray.get_runtime_context().gcs_address, flush=True)
input()
"""
INTRUDE = """
import sys
import ray
ray.init(address=sys.argv[1], logging_level="ERROR")
print("inside", ray.get(ray.remote(lambda: 1).remote()))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**kept, "HOME": str(home), **more}


def intrude(address: str, home: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INTRUDE, address],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home, **more),
    )  # fmt: skip


def test_only_who_has_the_token_gets_into_a_session(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    other.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", SERVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env=environment(own),
    ) as server:  # fmt: skip
        assert server.stdout
        address = server.stdout.readline().strip()
        assert ":" in address
        tried = {
            "right": intrude(address, own, RAY_AUTH_MODE="token"),
            "without": intrude(address, other, RAY_AUTH_MODE="disabled"),
            "wrong": intrude(address, other, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64),
        }
        told = {name: process.communicate(timeout=120) for name, process in tried.items()}
        server.communicate("\n", timeout=60)
    inside = {name: "inside" in out for name, (out, _) in told.items()}
    assert inside == {"right": True, "without": False, "wrong": False}, told["right"][1][-2000:]
