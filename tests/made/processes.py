"""Processes of this machine, out of /proc."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


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
