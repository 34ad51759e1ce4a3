"""Before work on a cluster: every node sees the workspace, has the same software and weights, and some room.

A node that writes its results to a disk of its own loses them, and the run would end well: so each node reads
a word that the driver has written, and writes one that the driver reads.
"""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from spineage.engine.tasks import Visited, on_each_node
from spineage.errors import BadStudy
from spineage.io.storage.store import Store
from spineage.io.storage.trouble import reason_of
from spineage.run.attempts import digest_of_program
from spineage.run.context import PACKAGES
from spineage.segmenter.folder import read_manifest

FOLDER: Final = "visits"
WITHIN_S: Final = 60.0
"""A node that starts its first worker takes seconds, one that is at work some more."""
LITTLE_BYTES: Final = 2e9
SHARED: Final = "give a folder that every node sees, or a URI such as s3://bucket/folder"


@dataclass(frozen=True)
class Look:
    """What one node found: trouble is the first sentence of what stands against it, "" when nothing does.

    written: the file that it wrote for the driver.
    """

    trouble: str
    software: dict[str, str]
    weights: str
    free_bytes: float
    written: str = ""


def visit_nodes(store: Store, weights: str, tell: Callable[[str], None]) -> None:
    """Raise BadStudy for the first node that cannot take part; a node with little room is told.

    weights: of the segmenter, which all nodes must have, compared by the digest of their files; "" is none.
    """
    place, word = f"{FOLDER}/{uuid.uuid4().hex}", uuid.uuid4().hex
    store.write(f"{place}/driver", word.encode())
    try:
        visited = on_each_node(look, store.root, place, word, weights, within_s=WITHIN_S)
        compare(visited, software(), _digest(weights), tell)
        _require_words(store, place, {one.answer.written for one in visited})
    finally:
        for name in store.list(place):
            store.remove(name)


def look(root: str, place: str, word: str, weights: str) -> Look:
    """On a node: whether the driver's word is here, a word for the driver, and what is installed."""
    trouble, written, folders = "", f"{place}/{uuid.uuid4().hex}", [tempfile.gettempdir()]
    try:
        store = Store(root)
        if store.read(f"{place}/driver") != word.encode():
            trouble = "reads another file where the driver wrote one"
        store.write(written, word[::-1].encode())
        if store.is_local:
            folders.append(root)
    except FileNotFoundError:
        trouble = f"does not see the workspace {root} of the driver"
    except BadStudy as error:
        trouble = f"cannot use the workspace: {error}"
    except Exception as error:  # an object store's client has many: no login, no answer
        trouble = f"cannot use the workspace ({reason_of(error)})"
    free_bytes = min(float(shutil.disk_usage(folder).free) for folder in folders)
    return Look(trouble, software(), _digest(weights), free_bytes, written)


def compare(
    visited: list[Visited], here: dict[str, str], weights: str, tell: Callable[[str], None]
) -> None:
    """Raise BadStudy when a node differs from the driver, which has `here` installed, and these weights."""
    for one in visited:
        if one.answer is None:
            raise BadStudy(
                f"{one.name} has not answered in {WITHIN_S:.0f} s: remove it, or wait for it"
            )
        if isinstance(one.answer, Exception):
            raise BadStudy(f"{one.name} cannot run spineage: install the same on every node")
        found: Look = one.answer
        if found.trouble:
            raise BadStudy(f"{one.name} {found.trouble}: {SHARED}")
        differ = [
            f"{name} {found.software.get(name, 'missing')} where the driver has {version}"
            for name, version in here.items()
            if found.software.get(name) != version
        ]
        if differ:
            raise BadStudy(f"{one.name} has {', '.join(differ)}: install the same on every node")
        if found.weights != weights:
            raise BadStudy(
                f"{one.name} has other segmenter weights than the driver ({found.weights[:60]}, not "
                f"{weights[:60]}): put the same where every node reads them"
            )
        if found.free_bytes < LITTLE_BYTES:
            tell(f"  {one.name} has {found.free_bytes / 1e9:.1f} GB of disk left")


def _require_words(store: Store, place: str, written: set[str]) -> None:
    """A file system of several machines may show a file late."""
    until = time.monotonic() + WITHIN_S
    while not written <= set(store.list(place)):
        if time.monotonic() > until:
            raise BadStudy(
                f"what a node writes to {store.root} is not seen by the driver: {SHARED}"
            )
        time.sleep(1.0)


def software() -> dict[str, str]:
    """What decides an answer or a crash: versions of this process's libraries, and our own source."""
    # without the local tag: of one torch, nodes with and without a GPU have other builds
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in PACKAGES}
    return {**versions, "python": platform.python_version(), "spineage": digest_of_program()}


def _digest(weights: str) -> str:
    try:
        return str(read_manifest(weights)["digest"]) if weights else ""
    except BadStudy as error:
        return str(error)
