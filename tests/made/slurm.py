"""A real Slurm of two nodes on one machine: each has a name, a network and processes, both one disk."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.made.clusters import ROOT, environment
from tests.made.processes import daemon

NODES = ("one", "two")
PROGRAMS = ("slurmctld", "slurmd", "munged", "ip", "unshare")
CONFIG = """
ClusterName=made
SlurmctldHost=one
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=30
SlurmdParameters=config_overrides
NodeName=one,two CPUs=2 Sockets=2 RealMemory=12000
PartitionName=all Nodes=ALL Default=YES MaxTime=60 State=UP
"""
ON_NODE = """
mount --bind {folder}/hosts /etc/hosts
mount -t tmpfs none /sys/fs/cgroup
hostname {node}
"""
LIVES: Final = '"$@" & wait $!'
"""The first process of a node: it takes in whom others leave behind, and all end with it."""


@dataclass(frozen=True)
class Slurm:
    """Where its files are, and where its nodes' networks are named."""

    folder: Path
    spaces: dict[str, str]

    def on(self, node: str, *command: str, lives: bool = False) -> list[str]:
        """A command on one node, or (lives) with all that it starts the node itself."""
        script = ON_NODE.format(folder=self.folder, node=node) + (LIVES if lives else 'exec "$@"')
        own = ["--pid", "--fork", "--kill-child", "--mount-proc"] if lives else []
        inside = ["unshare", "--mount", "--uts", *own, "sh", "-ec", script, "sh", *command]
        return ["ip", "netns", "exec", self.spaces[node], *inside]

    def ask(self, *command: str, cwd: Path | None = None) -> str:
        """What a client's command on the first node says."""
        ended = subprocess.run(
            self.on("one", *command),
            cwd=cwd, env=self.environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def submit(self, cwd: Path, *arguments: str) -> str:
        """sbatch; the number of the job."""
        return self.ask("sbatch", "--parsable", *arguments, cwd=cwd).strip()

    def ended(self, job: str, within_s: float = 400) -> dict[str, str]:
        """Of a job (JOB or JOB_TASK) once it has ended: what `scontrol` knows of it."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            told = self.ask("scontrol", "show", "job", job)
            found = dict(pair.partition("=")[::2] for pair in told.split())
            if found["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
                return found
            time.sleep(1)
        raise AssertionError(f"job {job} did not end: {told}")

    def environment(self) -> dict[str, str]:
        """Of its daemons and of those who ask."""
        kept = {k: v for k, v in environment().items() if k != "RAY_AUTH_MODE"}
        return {
            **kept, "SLURM_CONF": str(self.folder / "slurm.conf"), "PYTHONPATH": str(ROOT),
            "PATH": f"{kept['PATH']}:/usr/sbin",
        }  # fmt: skip


def require_slurm() -> None:
    """Skip where it is not installed, or networks cannot be made."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    if missing := [program for program in PROGRAMS if not shutil.which(program, path=path)]:
        pytest.skip(f"a real Slurm needs {', '.join(missing)} (Debian: slurmctld, slurmd, munge)")
    if subprocess.run(
        ["unshare", "--net", "--uts", "--pid", "--fork", "true"], check=False
    ).returncode:
        pytest.skip("this machine grants no networks of their own to nodes")


@contextmanager
def running(folder: Path) -> Iterator[Slurm]:
    """Its daemons end with the block, and all that they started."""
    require_slurm()
    mark = secrets.token_hex(3)
    slurm = Slurm(folder, {node: f"slurm-{mark}-{node}" for node in NODES})
    for name in ("state", "munge", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    key = folder / "munge" / "key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    (folder / "slurm.conf").write_text(CONFIG.format(folder=folder))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    (folder / "hosts").write_text("127.0.0.1 localhost\n10.213.77.1 one\n10.213.77.2 two\n")
    with ExitStack() as stack:
        _join(slurm, stack)
        files = ("key", "pid", "log", "seed")
        munge = [f"--{name}-file={folder}/munge/{name}" for name in files]
        socket = f"--socket={folder}/munge.sock"
        daemons = [
            ["munged", "--foreground", "--force", socket, *munge],
            slurm.on("one", "slurmctld", "-D"),
            *(slurm.on(node, "slurmd", "-D", "-N", node, lives=True) for node in NODES),
        ]
        for command in daemons:
            stack.enter_context(daemon(command, folder / "log", env=slurm.environment()))
        until = time.monotonic() + 60
        while _num_idle(slurm) < len(NODES):
            assert time.monotonic() < until, (folder / "log").read_text()[-4000:]
            time.sleep(0.5)
        yield slurm


def _num_idle(slurm: Slurm) -> int:
    with suppress(AssertionError):
        return slurm.ask("sinfo", "--Node", "--noheader", "--format=%T").split().count("idle")
    return 0


def _join(slurm: Slurm, stack: ExitStack) -> None:
    """A network each, and a wire between them."""
    ends = {node: f"v{node}" for node in NODES}

    def ip(*command: str) -> None:
        subprocess.run(["ip", *command], check=True, capture_output=True)

    for space in slurm.spaces.values():
        ip("netns", "add", space)
        stack.callback(ip, "netns", "delete", space)
    one, two = NODES
    ip("link", "add", ends[one], "netns", slurm.spaces[one], "type", "veth",
       "peer", "name", ends[two], "netns", slurm.spaces[two])  # fmt: skip
    for number, (node, space) in enumerate(slurm.spaces.items(), start=1):
        ip("-n", space, "address", "add", f"10.213.77.{number}/24", "dev", ends[node])
        for link in (ends[node], "lo"):
            ip("-n", space, "link", "set", link, "up")


def checkout(folder: Path) -> Path:
    """A folder as the scripts want it: the environment and the jobs where a checkout has them."""
    folder.mkdir()
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "jobs").symlink_to(ROOT / "jobs")
    return folder
