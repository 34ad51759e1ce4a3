"""What lies in the input, one folder at a time, and opening it. Names and locations are private: they may
name people."""

from __future__ import annotations

import functools
import io
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, BinaryIO, Final, cast

import fsspec

from spineage.errors import BadScan, BadStudy
from spineage.io.files.archive import MARK, read_named
from spineage.io.files.bounded import read_at_most
from spineage.io.files.described import Descriptions
from spineage.io.files.seen import Seen
from spineage.io.storage.trouble import reason_of
from spineage.uris import strip_logins

MAX_FILE_BYTES: Final = 1 << 32  # of one read into memory as a whole
MAX_SIDECAR_BYTES: Final = 1 << 24
ANNEX: Final = os.path.join(".git", "annex", "objects")
LOCAL_SCHEMES: Final = ("file://", "local://")
STAMPS: Final = (
    "ETag",
    "md5Hash",
    "content_md5",
    "etag",
    "mtime",
    "LastModified",
    "last_modified",
    "updated",
    "created",
)
"""What object stores say of a file's content and age, whichever they have."""


@dataclass(frozen=True)
class _Folder:
    """A folder still to be listed, with what describes the images in it and below."""

    name: str
    location: str
    described: Descriptions = field(default_factory=Descriptions)


Found = Seen | _Folder
Lister = Callable[[_Folder], list[Found]]


def list_input(root: str) -> list[Seen]:
    """All of walk_input at once."""
    return list(walk_input(root))


def walk_input(root: str) -> Iterator[Seen]:
    """Every file below a folder or URI, depth first, names in the order of their code points.

    Holds the entries of one folder at each depth. Links to folders and out of the tree (but for those into
    the annex of their own data set), special files and what cannot be looked at are seen with their
    `trouble`. Raises BadStudy at once when the input is missing
    or empty, and on the way when an object store stops answering.
    """
    if not root:
        raise BadStudy("no input: set inputs.scans in the study to the folder of the scans")
    scheme = next((s for s in LOCAL_SCHEMES if root.startswith(s)), "")
    is_remote = "://" in root and not scheme
    entries = _remote(root) if is_remote else _local(root.removeprefix(scheme))
    first = next(entries, None)
    if first is None:
        raise BadStudy(f"inputs.scans is empty: there is no file in {strip_logins(root)}")
    return itertools.chain([first], entries)


def _walk(top: _Folder, entries_of: Lister) -> Iterator[Seen]:
    """Depth first without recursion: folders may be nested deeper than calls."""
    open_folders = [iter(_described(top, entries_of(top)))]
    while open_folders:
        entry = next(open_folders[-1], None)
        if entry is None:
            open_folders.pop()
        elif isinstance(entry, Seen):
            yield entry
        else:
            open_folders.append(iter(_described(entry, entries_of(entry))))


def _described(folder: _Folder, entries: Sequence[Found]) -> Iterator[Found]:
    """The entries of a folder, each with what describes it."""
    here = folder.described.below(entry for entry in entries if isinstance(entry, Seen))
    for entry in entries:
        if isinstance(entry, _Folder):
            yield replace(entry, described=here)
        else:
            above = here.of(entry.name)
            yield replace(entry, above=above) if above else entry


def _below(folder: _Folder, name: str) -> str:
    return f"{folder.name}/{name}" if folder.name else name


def _local(root: str) -> Iterator[Seen]:
    if not os.path.isdir(root):
        raise BadStudy(f"inputs.scans is not there: {root} is no folder")
    base = os.path.abspath(root)
    real_base = os.path.join(os.path.realpath(base), "")
    top = _Folder("", base)
    if not os.access(base, os.R_OK | os.X_OK):
        raise BadStudy(f"inputs.scans cannot be listed: {root} (permission denied)")
    return _walk(top, lambda folder: _local_entries(folder, real_base))


def _local_entries(folder: _Folder, real_base: str) -> list[Found]:
    try:
        with os.scandir(folder.location) as entries:
            ordered = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return [Seen(folder.name, folder.location, 0, "", "unreadable")]
    return [_local_entry(entry, _below(folder, entry.name), real_base) for entry in ordered]


def _local_entry(entry: os.DirEntry[str], name: str, real_base: str) -> Found:
    """A folder, a regular file, or something that must not be opened, and why."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return _folder(name, entry.path, entry.path)
        status = entry.stat()
        is_inside = (
            not entry.is_symlink()
            or os.path.realpath(entry.path).startswith(real_base)
            or _is_plain(entry.path)
        )
    except OSError:  # a broken or circular link, no permission
        return Seen(name, entry.path, 0, "", "unreadable")
    if not is_inside or stat.S_ISDIR(status.st_mode):
        return Seen(name, entry.path, 0, "", "link")
    if not stat.S_ISREG(status.st_mode):
        return Seen(name, entry.path, 0, "", "special_file")
    # a copy tool may set the time of change of the content; the time of change of the inode nobody can
    return Seen(name, entry.path, status.st_size, f"{status.st_mtime_ns}:{status.st_ctime_ns}")


def _folder(name: str, place: str, location: str) -> Found:
    """One still to be listed; a hidden one is no input: `.git` of a data set that git-annex or datalad keeps
    holds every image a second time, under names that say nothing."""
    is_hidden = name.rpartition("/")[2].startswith(".")
    return Seen(name, location, 0, "", "hidden") if is_hidden else _Folder(name, place)


def _remote(root: str) -> Iterator[Seen]:
    try:
        filesystem, base = fsspec.core.url_to_fs(root, use_listings_cache=False)
        top = _Folder("", base.rstrip("/"))
        _details(filesystem, top)
    except Exception as error:  # every protocol raises its own
        raise BadStudy(
            f"inputs.scans cannot be listed: {strip_logins(root)} ({type(error).__name__})"
        ) from None
    return _walk(top, lambda folder: _remote_entries(filesystem, folder))


def _remote_entries(filesystem: Any, folder: _Folder) -> list[Found]:
    """Raises BadStudy when the store stops answering: a part of the input must not pass for all of it."""
    try:
        details = _details(filesystem, folder)
    except PermissionError:
        address = filesystem.unstrip_protocol(folder.location)
        return [Seen(folder.name, address, 0, "", "unreadable")]
    except Exception as error:
        raise BadStudy(f"inputs.scans stopped answering ({type(error).__name__}): again") from None
    return [_remote_entry(filesystem, folder, about) for about in details]


def _details(filesystem: Any, folder: _Folder) -> list[dict[str, Any]]:
    """What lies directly in the folder; not the folder's own mark, nor anything out of it."""
    inside = f"{folder.location}/"
    details = filesystem.ls(folder.location, detail=True)
    within = [about for about in details if len(_path(about)) > len(inside)]
    return sorted((about for about in within if _path(about).startswith(inside)), key=_path)


def _path(details: dict[str, Any]) -> str:
    return str(details["name"]).rstrip("/")


def _remote_entry(filesystem: Any, folder: _Folder, details: dict[str, Any]) -> Found:
    path = _path(details)
    name = _below(folder, path[len(folder.location) + 1 :])
    if details.get("type") == "directory":
        return _folder(name, path, filesystem.unstrip_protocol(path))
    stamp = ":".join(str(details[key]) for key in STAMPS if details.get(key))
    return Seen(name, filesystem.unstrip_protocol(path), int(details.get("size") or 0), stamp)


def open_stream(location: str) -> BinaryIO:
    """A file, or a member of an archive (`<archive>!/<member>`), for reading and seeking.

    Raises OSError when it is gone, BadScan when its archive is at fault.
    """
    archive, member = _split(location)
    if not member:
        return _open_file(location)
    with _open_file(archive) as stream:
        return io.BytesIO(read_named(stream, member))


def lost_since_ingest(error: OSError) -> BadScan:
    """Of a file that ingest read: it is gone, or its disk or server does not give it. Another node, or the
    next day, may have it, so neither is said of the scan for ever."""
    if isinstance(error, FileNotFoundError):
        return BadScan("changed_since_ingest", "a file is gone since ingest: run ingest again")
    return BadScan("unavailable", f"a file cannot be read ({reason_of(error)})")


def open_bytes(location: str, limit: int = MAX_FILE_BYTES) -> bytes:
    """The whole file. Raises as open_stream does, and BadScan too_large beyond `limit` bytes."""
    with open_stream(location) as stream:
        return read_at_most(stream, limit)


def open_beside(location: str, suffix: str, other: str) -> bytes | None:
    """The neighbour whose name ends otherwise (`x.nii.gz` -> `x.json`), None when there is none.

    It is looked at as every file is: no link is followed, but for one into the data set's own annex, and no
    pipe opened. Raises OSError when it is there, and its disk or server does not give it.
    """
    if not location.endswith(suffix):
        return None
    beside = location[: -len(suffix)] + other
    try:
        is_file = _is_remote(beside) or _split(beside)[1] or _is_plain(beside)
        return open_bytes(beside, MAX_SIDECAR_BYTES) if is_file else None
    except (FileNotFoundError, NotADirectoryError, PermissionError, BadScan):
        return None


def open_above(seen: Seen) -> bytes:
    """A JSON file of `Seen.above`, b"" where it is none that can be: all images below it ask for it.

    Raises OSError when its disk or server does not give it: without it the image may be taken for another.
    """
    try:
        return _kept(seen) if seen.stamp else open_bytes(seen.location, MAX_SIDECAR_BYTES)
    except (FileNotFoundError, PermissionError, BadScan):
        return b""


@functools.lru_cache(maxsize=64)
def _kept(seen: Seen) -> bytes:
    """All images of a data set ask for the same few."""
    return open_bytes(seen.location, MAX_SIDECAR_BYTES)


def _is_plain(location: str) -> bool:
    """A regular file, or a link to one that git-annex keeps for the data set that the link lies in."""
    if not os.path.islink(location):
        return stat.S_ISREG(os.lstat(location).st_mode)
    target, folder = os.path.realpath(location), os.path.dirname(os.path.abspath(location))
    while folder != os.path.dirname(folder):
        kept = os.path.join(os.path.realpath(folder), ANNEX, "")
        if target.startswith(kept):
            return stat.S_ISREG(os.lstat(target).st_mode)
        folder = os.path.dirname(folder)
    return False


def _split(location: str) -> tuple[str, str]:
    """Archive and member, where what stands before the mark is a file; else the location and ""."""
    at = location.find(MARK)
    while at >= 0:
        if _is_file(location[:at]):
            return location[:at], location[at + len(MARK) :]
        at = location.find(MARK, at + 1)
    return location, ""


def _is_remote(location: str) -> bool:
    return "://" in location


def _is_file(location: str) -> bool:
    if not _is_remote(location):
        return os.path.isfile(location)
    filesystem, path = fsspec.core.url_to_fs(location)
    return bool(filesystem.isfile(path))


def _open_file(location: str) -> BinaryIO:
    if _is_remote(location):
        return cast(BinaryIO, fsspec.open(location, "rb").open())
    return open(location, "rb")
