"""Processes of this machine, out of /proc; and daemons that a test starts and ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def daemon(
    command: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    ends_within_s: float = 10,
) -> Iterator[subprocess.Popen[bytes]]:
    """A leader of processes, which all end with the block; what they say is added to the log."""
    with log.open("ab") as file:
        process = subprocess.Popen(
            command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # it ended by itself, or a test has killed it
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(ends_within_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def stats() -> dict[int, list[str]]:
    """Of every process the fields of its `stat` that follow the name: state, parent and so on."""
    found: dict[int, list[str]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            found[int(place.name)] = (place / "stat").read_text().rpartition(")")[2].split()
    return found


def below(pid: int, among: dict[int, list[str]]) -> set[int]:
    """The processes that descend from it."""
    found = {pid}
    while more := {child for child, stat in among.items() if int(stat[1]) in found} - found:
        found |= more
    return found - {pid}


def peak_mib(pid: int) -> float:
    """The highest resident memory that a process has reached. Raises OSError when it is gone."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"{pid} has ended")
