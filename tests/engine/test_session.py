"""A session that this project starts: nobody else on the network gets into it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from spineage.engine import session
from spineage.errors import BadStudy

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


JOIN = """
import os, sys
import ray
from spineage.engine import session
session.connect(sys.argv[1])
def look():
    return oct(os.umask(0o077))
print("umask", ray.get(ray.remote(look).remote()))
"""


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    return {**kept, "HOME": str(home), **more}


def intrude(address: str, home: Path, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", INTRUDE, address],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(home, **more),
    )  # fmt: skip


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_of_a_cluster_that_others_started_write_private_files_for_us(
    tmp_path: Path,
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    short = tempfile.mkdtemp(prefix="ray-")
    env = environment(tmp_path, RAY_AUTH_MODE="disabled", PYTHONPATH=str(Path(__file__).parents[2]))
    started = [
        f"{Path(sys.executable).parent}/ray", "start", "--head", "--block", "--num-cpus=2", f"--port={port}",
        "--node-ip-address=127.0.0.1", "--include-dashboard=false", "--disable-usage-stats",
        f"--temp-dir={short}",
    ]  # fmt: skip
    head = subprocess.Popen(
        started, env=env, umask=0o022, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 120
        answer = None
        while time.monotonic() < deadline and (answer is None or answer.returncode):
            answer = subprocess.run(
                [sys.executable, "-c", JOIN, f"127.0.0.1:{port}"],
                capture_output=True, text=True, env=env, timeout=120,
            )  # fmt: skip
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(short, ignore_errors=True)
    assert answer
    assert "umask 0o77" in answer.stdout, answer.stderr[-2000:]


@pytest.mark.parametrize(
    "error",
    [
        Exception("The current node timed out during startup. This could happen because some of"),
        Exception("Head node session dir not found in NodeInfo, either GCS or head node's raylet may not "
                  "have started successfully."),
        RuntimeError("Failed to start GCS. Last connection error: deadline"),
        RuntimeError("Timed out waiting for node info for node_id=0."),
        TimeoutError("Timed out after 60 seconds while waiting for node to startup."),
    ],
)  # fmt: skip
def test_a_node_that_starts_too_slowly_is_one_sentence(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "did not start on this machine" in said_when_ray_raises(error, BadStudy, monkeypatch)


def test_another_fault_of_the_start_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    bug = ValueError("no such argument")
    assert said_when_ray_raises(bug, ValueError, monkeypatch) == "no such argument"


def said_when_ray_raises(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> str:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(session.ray, "init", fail)
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)  # others share the session
    monkeypatch.setattr(session, "_rooms", [])
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    try:
        with pytest.raises(kind) as told:
            session.connect(num_cpus=1)
    finally:
        session.disconnect()
    return str(told.value)


@contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """A port that takes every connection, and says this; its number."""
    with socket.create_server(("0.0.0.0", 0)) as server:
        open_ones: list[socket.socket] = []

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    one, _ = server.accept()
                    open_ones.append(one)
                    one.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        for one in open_ones:
            one.close()


@pytest.mark.parametrize(
    ("answer", "prefix"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", ""), (b"", "ray://")]
)
def test_a_port_of_something_else_is_refused_in_ten_seconds(
    answer: bytes, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    began = time.monotonic()
    with (
        listening(answer) as port,
        pytest.raises(BadStudy, match=r"answers at .* no Ray cluster; is it the"),
    ):
        session.connect(f"{prefix}127.0.0.1:{port}")
    assert time.monotonic() - began < 10


def test_a_cluster_that_listens_on_loopback_alone_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray would ask at the address of this node, where nobody listens, for ever."""
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session.ray.util, "get_node_ip_address", lambda: "127.0.0.2")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(BadStudy, match=rf"asked as 127\.0\.0\.2:{port}, as other nodes would"):
            session.connect(f"127.0.0.1:{port}")


def test_a_cluster_that_lets_nobody_in_in_time_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(**_: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(session, "_require_answer", lambda address: None)
    monkeypatch.setattr(session.ray, "init", fail)
    with pytest.raises(
        BadStudy, match=r"cannot join the Ray cluster at auto \(0 s\): The current node"
    ):
        session.connect("auto")
