"""Real Ray clusters on loopback, of nodes with few cores; a node may have a disk of its own at a folder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.made.processes import daemon

ROOT = Path(__file__).parent.parent.parent
BIN = Path(sys.executable).parent
FAKE = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
"""For the autoscaler of a cluster that has one."""
HIDING = 'mount -t tmpfs none "$0" && exec "$@"'


@dataclass(frozen=True)
class Cluster:
    """Where it listens: for drivers, and for jobs (an address of HTTP)."""

    address: str
    jobs: str
    folder: str
    """Of the head's sessions."""
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """`ray start` of each node, the leader of its processes; the head's is the first."""


@dataclass(frozen=True)
class Node:
    """own: a folder in whose place this node has a disk of its own. program: a folder whose `spineage` it has
    instead of this one. label: of Ray's, name=value."""

    cores: int = 1
    own: Path | None = None
    program: Path | None = None
    label: str = ""


def environment() -> dict[str, str]:
    """Of daemons, drivers and the command that submits."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    path = f"{BIN}:{os.environ['PATH']}"
    return {**kept, "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "PATH": path}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def running(
    nodes: Sequence[Node],
    log: Path,
    workers: dict[str, Any] | None = None,
    token: Path | None = None,
) -> Iterator[Cluster]:
    """A head and more nodes; the head is the first. workers: a node type that Ray's autoscaler adds when
    work asks for it, as `ray up` has them. token: the file of the token that it asks for."""
    auth = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)} if token else {}
    port, dashboard, agent, agent_grpc = (free_port() for _ in range(4))
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the path of a socket has 107 bytes at most
    cluster = Cluster(f"127.0.0.1:{port}", f"http://127.0.0.1:{dashboard}", folder)
    head = [
        "--head", f"--port={port}", f"--temp-dir={folder}", "--node-ip-address=127.0.0.1",
        f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1",
        # the tests' own session has the default ports, and an agent without its port takes no job
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={agent_grpc}",
    ]  # fmt: skip
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if workers:
            head.append(f"--autoscaling-config={_autoscaler(Path(folder), port, workers)}")
            stack.callback(_end_those_of, folder)
        cluster.daemons.append(stack.enter_context(_daemon(nodes[0], head, log, auth)))
        _wait_for(f"{cluster.jobs}/api/version")
        for node in nodes[1:]:
            joins = [f"--address={cluster.address}", "--node-ip-address=127.0.0.1"]
            cluster.daemons.append(stack.enter_context(_daemon(node, joins, log, auth)))
        _wait_for_nodes(cluster.address, len(nodes), auth)
        yield cluster


def _autoscaler(folder: Path, port: int, workers: dict[str, Any]) -> Path:
    """What Ray's own tests start an autoscaler with: its nodes are processes of this machine."""
    hooks = (
        "initialization",
        "setup",
        "head_setup",
        "worker_setup",
        "head_start_ray",
        "worker_start_ray",
    )
    empty: dict[str, Any] = {f"{hook}_commands": [] for hook in hooks}
    empty |= {key: {} for key in ("auth", "docker", "file_mounts")}
    config = {
        "cluster_name": "growing", "max_workers": workers["max_workers"], "upscaling_speed": 10.0,
        "idle_timeout_minutes": 5, "head_node_type": "ray.head.default", **empty,
        "cluster_synced_files": [], "file_mounts_sync_continuously": False, "rsync_exclude": [],
        "rsync_filter": [],
        "provider": {
            "type": "fake_multinode", "use_node_id_as_ip": True, "disable_node_updaters": True,
            "disable_launch_config_check": True, "launch_multiple": True,
            "gcs_address": f"127.0.0.1:{port}",
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "more": {"node_config": {}, "min_workers": 0, **workers},
        },
    }  # fmt: skip
    path = folder / "autoscaler.yaml"
    path.write_text(json.dumps(config))
    return path


def _end_those_of(folder: str) -> None:
    """Nodes that an autoscaler started are no children of ours; they name the session's folder."""
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if folder in entry.read_text():
                os.kill(int(entry.parent.name), signal.SIGKILL)


@contextmanager
def _daemon(
    node: Node, options: Sequence[str], log: Path, auth: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        str(BIN / "ray"), "start", "--block", "--disable-usage-stats", f"--num-cpus={node.cores}", *options,
    ]  # fmt: skip
    if node.label:
        command.append(f"--labels={node.label}")
    if node.own:
        node.own.mkdir(exist_ok=True)
        command = ["unshare", "--mount", "sh", "-c", HIDING, str(node.own), *command]
    program = {"PYTHONPATH": str(node.program)} if node.program else {}
    env = environment() | FAKE | program | auth
    with daemon(command, log, env=env, ends_within_s=5) as process:
        yield process


def require_own_disks() -> None:
    """Skip where a node cannot be given a disk of its own."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine grants no mount namespace, so its nodes share a disk")


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except urllib.error.HTTPError:
            return  # it asks for a token
        except OSError:
            time.sleep(0.3)


def _wait_for_nodes(address: str, num: int, auth: dict[str, str]) -> None:
    """Until all are there, as a driver sees it."""
    look = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR'); "
    look += "print(sum(n['Alive'] for n in ray.nodes()))"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        seen = subprocess.run(
            [sys.executable, "-c", look, address],
            env=environment() | auth, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if seen.stdout.strip() == str(num):
            return
