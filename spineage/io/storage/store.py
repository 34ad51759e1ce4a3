"""A workspace by URI: a local folder, NFS, s3://, gs://. Nothing half-written is ever visible in it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec

from spineage.errors import BadStudy
from spineage.io.storage import drafts
from spineage.io.storage.trouble import OF_DISKS, describe, reason_of
from spineage.uris import without_logins

ASIDE = ".damaged"


def write_file(path: str, data: bytes) -> None:
    """A file outside of any workspace, whole or not at all. Raises BadStudy with the system's reason."""
    place = Path(path).absolute()
    try:
        drafts.write_whole(str(place), data)
    except OSError as error:
        if error.errno not in OF_DISKS:
            raise
        raise BadStudy(f"{path} cannot be written: {describe(error)}") from None


class Store:
    """Files under one root. Picklable: each worker opens its own connection."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.is_local = "://" not in root or root.startswith("file://")
        if self.is_local:
            self.root = str(Path(root.removeprefix("file://")).absolute())
        try:
            # what another run has written since is seen: listings of an object store are not kept
            options = {} if self.is_local else {"use_listings_cache": False}
            self.fs, self._base = fsspec.core.url_to_fs(self.root, **options)
        except (ImportError, ValueError) as error:
            raise BadStudy(
                f"storage {root.split('://')[0]}:// cannot be opened: {without_logins(str(error))}"
            ) from None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    def uri(self, *parts: str) -> str:
        """The full address of something in the store."""
        return "/".join((self.root, *parts))

    def exists(self, rel: str) -> bool:
        with self._in_a_sentence(f"the workspace cannot be read ({rel})"):
            return bool(self.fs.exists(f"{self._base}/{rel}"))

    def read(self, rel: str) -> bytes:
        """The content. Raises FileNotFoundError, and BadStudy when the disk or its server fails."""
        with self._in_a_sentence(f"the workspace cannot be read ({rel})"):
            return bytes(self.fs.cat_file(f"{self._base}/{rel}"))

    def read_all(self, rels: Sequence[str]) -> dict[str, bytes]:
        """The contents, asked for side by side. Raises FileNotFoundError; BadStudy when the server fails."""
        places = {f"{self._base}/{rel}": rel for rel in rels}
        with self._in_a_sentence("the workspace cannot be read"):
            found = self.fs.cat(list(places), on_error="return")
            for content in found.values():
                if isinstance(content, Exception):
                    raise content
        return {places[self.fs._strip_protocol(place)]: data for place, data in found.items()}

    def write(self, rel: str, data: bytes) -> None:
        """All or nothing: a rename on a file system, a single put on an object store."""
        target = f"{self._base}/{rel}"
        with self._in_a_sentence(f"the workspace cannot be written ({rel})"):
            if self.is_local:
                drafts.write_whole(target, data)
            else:
                self.fs.pipe_file(target, data)

    def create(self, rel: str, data: bytes) -> bool:
        """Write a small file that is not there yet; False when it is. Of two at once one succeeds."""
        target = f"{self._base}/{rel}"
        with self._in_a_sentence(f"the workspace cannot be written ({rel})"):
            try:
                if self.is_local:
                    drafts.create(target, data)
                else:
                    self.fs.pipe_file(target, data, mode="create")
            except FileExistsError:
                return False
            except Exception:
                if not self.is_local and self.exists(rel):
                    return False  # s3fs says EINVAL
                raise
        return True

    def remove(self, rel: str) -> None:
        """Remove a file, and the folders above it that it leaves empty; one that is gone already is fine."""
        with (
            suppress(FileNotFoundError),
            self._in_a_sentence(f"{rel} in the workspace cannot be removed"),
        ):
            self.fs.rm_file(f"{self._base}/{rel}")
            if self.is_local:
                drafts.remove_empty(Path(self._base) / rel, Path(self._base))

    def remove_all(self, rels: Sequence[str]) -> None:
        """Remove files of one folder, which stays; one that is gone already is fine."""
        if not rels:
            return
        with (
            suppress(FileNotFoundError),
            self._in_a_sentence(f"{rels[0]} in the workspace cannot be removed"),
        ):
            if self.is_local:
                for rel in rels:
                    Path(self._base, rel).unlink(missing_ok=True)
            else:
                self.fs.rm([f"{self._base}/{rel}" for rel in rels])

    def rename(self, rel: str, to: str) -> None:
        """Give a file another name; on an object store it has both for a moment."""
        with self._in_a_sentence(f"{rel} in the workspace cannot be renamed"):
            if self.is_local:
                os.replace(f"{self._base}/{rel}", f"{self._base}/{to}")
            else:
                self.fs.mv(f"{self._base}/{rel}", f"{self._base}/{to}")

    @contextmanager
    def _in_a_sentence(self, what: str) -> Iterator[None]:
        """What a disk, or whatever the client of an object store, raises is a BadStudy; a file that is not
        there stays that."""
        try:
            yield
        except (FileNotFoundError, BadStudy):
            raise
        except Exception as error:
            is_of_disks = isinstance(error, OSError) and error.errno in OF_DISKS
            if self.is_local and not is_of_disks:
                raise
            why = (
                describe(error)
                if isinstance(error, OSError) and is_of_disks
                else f"{reason_of(error)}; check the address, the credentials and their rights"
            )
            raise BadStudy(f"{what}: {why}") from None

    def remove_drafts(self) -> int:
        """Remove what killed runs left half-written; how many. A draft of a live writer stays."""
        return drafts.remove_dead(self._base) if self.is_local else 0

    def set_aside(self, rel: str) -> None:
        """Give a damaged file another name, by which nobody finds it; one that is gone already is fine."""
        place = f"{self._base}/{rel}"
        with (
            suppress(FileNotFoundError),
            self._in_a_sentence(f"{rel} is damaged and cannot be set aside"),
        ):
            if self.is_local:
                os.replace(place, place + ASIDE)
            else:
                self.fs.mv(place, place + ASIDE)

    def point(self, rel: str, data: bytes) -> None:
        """Write a small pointer file, unless it says so already."""
        if not (self.exists(rel) and self.read(rel) == data):
            self.write(rel, data)

    def list(self, rel: str, suffix: str = "") -> list[str]:
        """Everything below a folder, relative to the root, sorted; drafts of a killed run are not there."""
        top = f"{self._base}/{rel}"
        try:
            with self._in_a_sentence(f"the workspace cannot be listed ({rel})"):
                found = list(self._walk(top) if self.is_local else self.fs.find(top))
        except FileNotFoundError:
            return []
        names = (path[len(self._base) + 1 :] for path in found)
        return sorted(n for n in names if n.endswith(suffix) and not drafts.is_draft(n))

    def _walk(self, top: str) -> Iterator[str]:
        """A folder that cannot be read is no empty one."""

        def stop(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError | NotADirectoryError):
                raise error

        for folder, _, names in os.walk(top, onerror=stop, followlinks=True):
            yield from (f"{folder}/{name}" for name in names)

    def local(self, rel: str) -> Path:
        """A folder or file as a local path: itself when local, else a copy in the temporary folder."""
        if self.is_local:
            return Path(self._base) / rel
        copy = Path(tempfile.mkdtemp(prefix="spineage-")) / Path(rel).name
        self.fs.get(f"{self._base}/{rel}", str(copy), recursive=True)
        return copy
