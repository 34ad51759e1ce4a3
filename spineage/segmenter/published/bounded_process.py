"""A process that runs what others wrote: how much it may take, and that it ends with all it started."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

MAX_OUTPUT_BYTES: Final = 64_000
"""More than any error message; whoever writes more is stopped, or the reader's memory would fill."""


ProcessLimits = tuple[tuple[int, int], ...]
"""Kinds of resource and how much of each."""


class Overrun(Exception):
    """The process was stopped, with all it had started: it took more than it was given. Says of what."""


@dataclass(frozen=True)
class Bounds:
    """What a process may take. memory_bytes: beyond what it holds already; file_bytes: of each file;
    cpu_s: of the processor. It starts no other process."""

    memory_bytes: int
    file_bytes: int
    cpu_s: int

    def limits(self) -> ProcessLimits:
        """For this process as it is now: its present memory is counted in."""
        with open("/proc/self/statm") as file:
            held = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        return (
            (resource.RLIMIT_AS, held + self.memory_bytes),
            (resource.RLIMIT_FSIZE, self.file_bytes),
            (resource.RLIMIT_CPU, self.cpu_s),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),  # binds all but root, whom `syscalls` binds
            (resource.RLIMIT_NOFILE, 64),
        )

    def as_words(self) -> list[str]:
        """For a command line; `bounds_of` reads it."""
        return [str(self.memory_bytes), str(self.file_bytes), str(self.cpu_s)]


def set_limits(limits: ProcessLimits) -> None:
    """Bind this process, for good: the hard limits are lowered too."""
    for kind, most in limits:
        hard = resource.getrlimit(kind)[1]
        low = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (low, low))


def bounds_of(words: Sequence[str]) -> Bounds:
    """Bounds from a command line."""
    memory_bytes, file_bytes, cpu_s = map(int, words)
    return Bounds(memory_bytes, file_bytes, cpu_s)


def run_bounded(command: Sequence[str], timeout_s: float, **options: Any) -> tuple[int, str]:
    """(exit code, what it said on stderr) of a process in a session of its own; its group ends with it.

    options: of subprocess.Popen. Raises Overrun when it takes longer, or says more than a message.
    """
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True, **options,
    )  # fmt: skip
    try:
        said = _listen(process, time.monotonic() + timeout_s)
        return process.wait(), said.decode(errors="replace")
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(
                process.pid, signal.SIGKILL
            )  # its own group, whether or not it leads it still
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def _listen(process: subprocess.Popen[bytes], deadline: float) -> bytes:
    """What it says until it has ended; a child that keeps the pipe open is not waited for."""
    assert process.stderr is not None
    said, pipe = b"", process.stderr.fileno()
    while True:
        has_ended = process.poll() is not None
        readable, _, _ = select.select([pipe], [], [], 0 if has_ended else 0.05)
        if readable:
            piece = os.read(pipe, 65536)
            said += piece
        if len(said) > MAX_OUTPUT_BYTES:
            raise Overrun(f"it wrote more than {MAX_OUTPUT_BYTES // 1000} kB of messages")
        if has_ended and not (readable and piece):
            return said
        if time.monotonic() > deadline:
            raise Overrun("it took too long")
        if readable and not piece:
            time.sleep(0.05)  # it closed the pipe and goes on
