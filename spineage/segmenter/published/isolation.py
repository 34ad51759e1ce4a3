"""A process that can reach nothing: no network, no files, no other process, no environment of its parent's.

Linux namespaces and a filter on system calls by ctypes (`os.unshare` came with Python 3.12). Nothing is
installed and no right is needed where the kernel lets a user make namespaces; where it does not,
`NoIsolation` says so and the caller decides.

Three processes: the one that called waits; its child, the first of a namespace, waits too and runs nothing
foreign; the child of that one returns from `isolate`. When either of the first two ends, the kernel ends
the namespace: whatever was started in it, and however it tried to hide.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NoReturn

from spineage.segmenter.published.bounded_process import ProcessLimits, set_limits
from spineage.segmenter.published.syscalls import restrict_system_calls

NEW_USER, NEW_NETWORK, NEW_IPC, NEW_PROCESSES = 0x10000000, 0x40000000, 0x08000000, 0x20000000
SET_DEATH_SIGNAL, SET_DUMPABLE, SET_NO_NEW_PRIVILEGES = 1, 4, 38
CAPABILITY_VERSION_3 = 0x20080522
REFUSED: Final = 73
"""Exit code of a process that could not be isolated and therefore did nothing."""


class NoIsolation(OSError):
    """The kernel grants no namespaces to this user."""


def clean_environment(home: Path) -> dict[str, str]:
    """What Python needs to start and nothing else: no key, no credential, no proxy."""
    return {
        "PATH": os.defpath,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(home),
        "OMP_NUM_THREADS": "1",
    }


def isolate(room: str, keep: tuple[int, ...], limits: ProcessLimits = ()) -> None:
    """Cut this process off; what returns is a grandchild of it, in the empty folder `room` as its whole file
    system.

    limits: see `Bounds.limits`. The file descriptors 0 to 2 and `keep` stay open; import what you need
    before, nothing can be imported after. The caller's own process waits and ends as the grandchild ends.
    Raises NoIsolation, with nothing changed that matters, when the kernel refuses.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise NoIsolation("only Linux has namespaces")
    if libc.unshare(NEW_USER | NEW_NETWORK | NEW_IPC | NEW_PROCESSES):
        raise NoIsolation(ctypes.get_errno(), "unshare")
    libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL)  # after unshare, which would clear it
    first = os.fork()
    if first:
        _end_as(first)
    libc.prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    libc.prctl(SET_DUMPABLE, 0)  # nobody within may trace the first process
    try:
        os.chroot(room)
        os.chdir("/")
        _close_all_but({0, 1, 2, *keep})
        _drop_rights(libc)
        second = os.fork()
        if second:
            _end_as(second)
        set_limits(limits)
        restrict_system_calls(libc)
    except OSError as error:
        raise NoIsolation(error.errno, str(error.strerror)) from None


def is_possible() -> bool:
    """Whether this machine lets a process be isolated; asks a process of its own."""
    code = (
        "import sys, tempfile\nfrom spineage.segmenter.published import isolation\n"
        "try: isolation.isolate(tempfile.gettempdir(), ())\n"
        f"except isolation.NoIsolation: sys.exit({REFUSED})\n"
    )
    environment = clean_environment(Path(tempfile.gettempdir()))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment)
    return done.returncode == 0


def _end_as(child: int) -> NoReturn:
    """Wait for a child, whatever else ends before it, and end as it does."""
    while True:
        ended, status = os.wait()
        if ended == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


def _close_all_but(kept: set[int]) -> None:
    low = 0
    for high in (*sorted(kept), os.sysconf("SC_OPEN_MAX")):
        if high > low:  # os.closerange(0, 0) closes everything
            os.closerange(low, high)
        low = high + 1


def _drop_rights(libc: ctypes.CDLL) -> None:
    """The rights that came with the namespace could lead out of the room."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if libc.prctl(SET_NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.capset(header, nothing):
        raise NoIsolation(ctypes.get_errno(), "capset")
