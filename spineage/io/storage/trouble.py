"""What the operating system says when a disk or its server fails, and what to do about it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Final

FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FAILED: Final = {
    errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV, errno.ETIMEDOUT, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENOTCONN, errno.EREMOTEIO,
}  # fmt: skip
CLOSED: Final = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP,
    errno.ENAMETOOLONG,
}  # fmt: skip
OF_DISKS: Final = FULL | FAILED | CLOSED
SURELY_OF_DISKS: Final = FULL | {errno.EIO, errno.ESTALE}
"""Of files alone; the others a network may answer as well."""


def describe(error: OSError) -> str:
    """The system's reason, and what to do: "No space left on device: free some space, then run again"."""
    return f"{reason_of(error)}: {_remedy(error.errno or 0)}"


def reason_of(error: Exception) -> str:
    """The system's words, without the path; of other errors the type alone, since their texts may quote."""
    number = getattr(error, "errno", None)
    return os.strerror(number) if isinstance(number, int) else type(error).__name__


def _remedy(number: int) -> str:
    if number in FULL:
        return "free some space there, then run again; what is done is kept"
    if number in FAILED:
        return "the disk or its server failed; when it answers, run again; what is done is kept"
    return "correct the location or its rights"


def free_space(location: str) -> str:
    """How much can still be written where the folder is, or will be, in words."""
    place = Path(location)
    while not place.exists() and place != place.parent:
        place = place.parent
    return f"{shutil.disk_usage(place).free / 1e9:.2f} GB free"
