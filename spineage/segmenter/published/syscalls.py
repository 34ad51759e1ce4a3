"""A filter on system calls: this process may compute, allocate, read and write what is open, and end.

No open, no socket, no new process, no signal to others, no change of itself. Linux's seccomp by ctypes, on
the two kinds of machine whose numbers are listed here.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from typing import Final

SET_SECCOMP, FILTER_MODE = 22, 2
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
NUMBER_AT, ARCHITECTURE_AT = 0, 4

ALLOWED: Final[dict[str, tuple[int, frozenset[int]]]] = {
    "x86_64": (0xC000003E, frozenset({
        0, 1, 17, 19, 20, 8,  # read, write, pread64, readv, writev, lseek
        3, 5, 262, 16, 72,  # close, fstat, newfstatat, ioctl, fcntl
        9, 10, 11, 12, 25, 28,  # mmap, mprotect, munmap, brk, mremap, madvise
        13, 14, 15, 131, 234,  # rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack, tgkill (abort)
        24, 202, 219, 273, 324, 334,  # sched_yield, futex, restart, set_robust_list, membarrier, rseq
        35, 228, 229, 230,  # nanosleep, clock_gettime, clock_getres, clock_nanosleep
        39, 186, 102, 104, 107, 108,  # getpid, gettid, getuid, getgid, geteuid, getegid
        63, 98, 99, 204, 318,  # uname, getrusage, sysinfo, sched_getaffinity, getrandom
        60, 231,  # exit, exit_group
    })),
    "aarch64": (0xC00000B7, frozenset({
        63, 64, 67, 65, 66, 62,
        57, 80, 79, 29, 25,
        222, 226, 215, 214, 216, 233,
        134, 135, 139, 132, 131,
        124, 98, 128, 99, 283, 293,
        101, 113, 114, 115,
        172, 178, 174, 176, 175, 177,
        160, 165, 179, 123, 278,
        93, 94,
    })),
}  # fmt: skip
"""By machine: the kernel's name for it, and the numbers of what is allowed, in the same order."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def restrict_system_calls(libc: ctypes.CDLL) -> None:
    """Refuse all other system calls (EPERM) to this thread and what comes of it, for ever.

    The process must have given up gaining privileges. Raises OSError where the kernel has no such filter or
    the machine's numbers are not known.
    """
    if platform.machine() not in ALLOWED:
        raise OSError(errno.ENOSYS, f"system calls of {platform.machine()} are not known")
    architecture, numbers = ALLOWED[platform.machine()]
    lines = [
        (LOAD, 0, 0, ARCHITECTURE_AT),
        (JUMP_IF_EQUAL, 1, 0, architecture),
        (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, NUMBER_AT),
        *((JUMP_IF_EQUAL, len(numbers) - i, 0, n) for i, n in enumerate(sorted(numbers))),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    ]
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    program = _Program(len(lines), code)
    if libc.prctl(SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")
