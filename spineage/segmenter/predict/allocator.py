"""What a process does with memory it has freed: keep it, where glibc lets us say so.

Layers of a 3D network make and free blocks of tens of megabytes. glibc returns each to the system, which
hands it out again as pages of zeros, one fault a page: half of the CPU time of a small network's tile was
that (0.87 to 0.92 s against 0.43, 2026-11-24, two threads, two tiles at once).
"""

from __future__ import annotations

import ctypes
from typing import Final

TRIM_THRESHOLD: Final = -1  # of malloc.h
MMAP_THRESHOLD: Final = -3
ARENA_MAX: Final = -8
KEPT_BYTES: Final = 1 << 30


def keep_freed_memory() -> bool:
    """Blocks up to 1 GiB stay with this process when freed; whether the C library took it.

    For the whole process and for good, so for one that does nothing else. One arena: those of threads hold
    no block over 64 MB. Its results are the same.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc: nothing to gain, nothing to lose
        return False
    options = ((ARENA_MAX, 1), (MMAP_THRESHOLD, KEPT_BYTES), (TRIM_THRESHOLD, KEPT_BYTES))
    taken = [mallopt(option, value) == 1 for option, value in options]
    return all(taken)
