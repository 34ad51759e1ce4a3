"""What lies in the input folder, and opening it. Names and locations are private: they may name people."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, cast

import fsspec

from spineage.errors import BadStudy


@dataclass(frozen=True)
class Seen:
    """One file. name: path below the input folder, with `/`; stamp: changes when the file does."""

    name: str
    location: str
    bytes: int
    stamp: str
    is_link_to_folder: bool = False


def walk_input(root: str) -> Iterator[Seen]:
    """See list_input."""
    yield from list_input(root)


def list_input(root: str) -> list[Seen]:
    """Every file below the folder or URI, sorted by name. Raises BadStudy when it is missing or empty."""
    if not root:
        raise BadStudy("no input: set inputs.scans in the study to the folder of the scans")
    found = sorted(_remote(root) if "://" in root else _local(root), key=lambda seen: seen.name)
    if not found:
        raise BadStudy(f"inputs.scans is empty: there is no file in {root}")
    return found


def _local(root: str) -> Iterator[Seen]:
    if not os.path.isdir(root):
        raise BadStudy(f"inputs.scans is not there: {root} is no folder")
    base = os.path.abspath(root)
    for folder, subfolders, files in os.walk(base):
        links = [name for name in subfolders if os.path.islink(os.path.join(folder, name))]
        for name in (*files, *links):
            path = os.path.join(folder, name)
            yield _seen(path, os.path.relpath(path, base).replace(os.sep, "/"), name in links)


def _seen(path: str, name: str, is_link_to_folder: bool) -> Seen:
    """A file that cannot be looked at (a broken link, no permission) is listed with no bytes."""
    try:
        status = os.stat(path)
    except OSError:
        return Seen(name, path, 0, "unreadable")
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return Seen(name, path, size, str(status.st_mtime_ns), is_link_to_folder)


def _remote(root: str) -> Iterator[Seen]:
    try:
        filesystem, base = fsspec.core.url_to_fs(root)
        details = cast(dict[str, dict[str, object]], filesystem.find(base, detail=True))
    except Exception as error:  # every protocol raises its own
        raise BadStudy(f"inputs.scans cannot be listed: {root} ({type(error).__name__})") from None
    for path, about in details.items():
        stamps = (about.get(k) for k in ("ETag", "mtime", "LastModified", "updated", "created"))
        stamp = next((str(s) for s in stamps if s), "")
        name = path[len(base) :].lstrip("/")
        yield Seen(name, filesystem.unstrip_protocol(path), int(str(about.get("size") or 0)), stamp)


def open_stream(location: str) -> BinaryIO:
    """The file, for reading and seeking. Raises OSError when it is gone."""
    if "://" in location:
        return cast(BinaryIO, fsspec.open(location, "rb").open())
    return open(location, "rb")


def open_bytes(location: str) -> bytes:
    """The whole file. Raises OSError when it is gone."""
    with open_stream(location) as stream:
        return stream.read()


def open_beside(location: str, suffix: str, other: str) -> bytes | None:
    """The neighbour whose name ends otherwise (`x.nii.gz` -> `x.json`), None when there is none."""
    if not location.endswith(suffix):
        return None
    try:
        return open_bytes(location[: -len(suffix)] + other)
    except OSError:
        return None
