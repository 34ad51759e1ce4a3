"""A file is written as a draft beside its place and then renamed, so that nobody sees half of it.

A draft's name says whose it is: `.<machine>-<process>-<random>.draft`. So the next run can tell what a killed
run left from what a run beside it is writing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from spineage.privacy import private

SUFFIX = ".draft"
MOST_TRIES = 100
OLD_S = 24 * 3600.0
"""Of a writer on another machine nobody can say whether it lives; a write takes seconds, not a day."""


def write_whole(target: str, data: bytes) -> None:
    """All or nothing; a draft that could not be finished is removed, since it may fill the disk."""
    folder = os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    draft = f"{folder}/.{machine()}-{os.getpid()}-{uuid.uuid4().hex[:16]}{SUFFIX}"
    try:
        with open(draft, "wb", opener=private) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def create(target: str, data: bytes) -> None:
    """A small file that is not there yet. Raises FileExistsError when it is."""
    for tries_left in reversed(range(MOST_TRIES)):
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            with open(target, "xb", opener=private) as file:
                file.write(data)
            return
        except FileNotFoundError:  # another run has just removed the folder, which was empty
            if not tries_left:
                raise


def remove_empty(path: Path, root: Path) -> None:
    """Remove the empty folders above a path, up to and with the root."""
    for folder in path.parents:
        if not folder.is_relative_to(root):
            return
        try:
            folder.rmdir()
        except OSError:
            return


@functools.cache
def machine() -> str:
    """Names the set of processes in which a process number means something: host, boot, namespace."""
    marks = [socket.gethostname()]
    with contextlib.suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        marks.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:12]


def remove_dead(root: str) -> int:
    """Remove the drafts of dead writers below a folder; returns how many."""
    num_removed = 0
    for draft in _drafts(root):
        with contextlib.suppress(OSError):  # another run removed it, or its writer renamed it
            if _is_dead(draft):
                os.unlink(draft)
                num_removed += 1
    return num_removed


def is_draft(name: str) -> bool:
    """Whether a file of this name was never finished."""
    return os.path.basename(name).startswith(".") and name.endswith(SUFFIX)


def _drafts(root: str) -> Iterator[str]:
    for folder, _, names in os.walk(root):
        yield from (f"{folder}/{name}" for name in names if is_draft(name))


def _is_dead(draft: str) -> bool:
    """Its writer was here and is gone; or nobody knows, and it is old."""
    owner, _, rest = os.path.basename(draft).removeprefix(".").partition("-")
    number = rest.partition("-")[0]
    if owner == machine() and number.isdigit():
        return not is_running(int(number))
    return time.time() - os.stat(draft).st_mtime > OLD_S


def is_running(number: int) -> bool:
    """Whether a process of this machine lives; one that is dead and not yet buried does not."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return True
