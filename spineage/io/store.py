"""A workspace by URI: a local folder, NFS, s3://, gs://. Nothing half-written is ever visible in it."""

from __future__ import annotations

import errno
import os
import tempfile
import uuid
from pathlib import Path

import fsspec

from spineage.errors import BadStudy

NOT_OURS_TO_WRITE = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOSPC
}  # fmt: skip


class Store:
    """Files under one root. Picklable: each worker opens its own connection."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")
        self.is_local = "://" not in root or root.startswith("file://")
        if self.is_local:
            self.root = str(Path(root.removeprefix("file://")).absolute())
        try:
            self.fs, self._base = fsspec.core.url_to_fs(self.root)
        except (ImportError, ValueError) as error:
            raise BadStudy(f"storage {root.split('://')[0]}:// cannot be opened: {error}") from None

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.root,)

    def uri(self, *parts: str) -> str:
        """The full address of something in the store."""
        return "/".join((self.root, *parts))

    def exists(self, rel: str) -> bool:
        return bool(self.fs.exists(f"{self._base}/{rel}"))

    def read(self, rel: str) -> bytes:
        return bytes(self.fs.cat_file(f"{self._base}/{rel}"))

    def write(self, rel: str, data: bytes) -> None:
        """All or nothing: a rename on a file system, a single put on an object store."""
        target = f"{self._base}/{rel}"
        if not self.is_local:
            self.fs.pipe_file(target, data)
            return
        try:
            self._replace(target, data)
        except OSError as error:
            if error.errno not in NOT_OURS_TO_WRITE:
                raise
            raise BadStudy(f"the workspace cannot be written ({error.strerror}): {rel}") from None

    def _replace(self, target: str, data: bytes) -> None:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        draft = f"{os.path.dirname(target)}/.{uuid.uuid4().hex}.draft"
        with open(draft, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, target)

    def point(self, rel: str, data: bytes) -> None:
        """Write a small pointer file, unless it says so already."""
        if not (self.exists(rel) and self.read(rel) == data):
            self.write(rel, data)

    def list(self, rel: str, suffix: str = "") -> list[str]:
        """Everything below a folder, relative to the root, sorted; drafts of a killed run are not there."""
        try:
            found = self.fs.find(f"{self._base}/{rel}")
        except FileNotFoundError:
            return []
        names = (path[len(self._base) + 1 :] for path in found)
        return sorted(n for n in names if n.endswith(suffix) and not n.endswith(".draft"))

    def local(self, rel: str) -> Path:
        """A folder or file as a local path: itself when local, else a copy in the temporary folder."""
        if self.is_local:
            return Path(self._base) / rel
        copy = Path(tempfile.mkdtemp(prefix="spineage-")) / Path(rel).name
        self.fs.get(f"{self._base}/{rel}", str(copy), recursive=True)
        return copy
