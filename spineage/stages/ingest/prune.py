"""Earlier states of the input are removed by a rule: a week after they were made, when no pointer names them.

A stage that reads one may still be at work on it, and a study of another archive may share the workspace: so
neither age nor use alone decides.
"""

from __future__ import annotations

import datetime
from typing import Final

from spineage.errors import BadStudy
from spineage.io.storage import pointers
from spineage.io.storage.store import Store

KEPT: Final = datetime.timedelta(days=7)
POINTER: Final = "latest-"


def prune(store: Store, folder: str) -> int:
    """How many generations below `folder` were removed. None is where a pointer cannot be read."""
    paths = store.list(folder)
    generations: dict[str, list[str]] = {}
    for path in paths:
        name, _, below = path.removeprefix(f"{folder}/").partition("/")
        if below:
            generations.setdefault(name, []).append(path)
    named = {_named(store, path) for path in paths if path.startswith(f"{folder}/{POINTER}")}
    if None in named:
        return 0
    old = [
        name for name in generations.keys() - named if _is_old(store, f"{folder}/{name}/done.json")
    ]
    for name in sorted(old):
        for path in sorted(generations[name], key=lambda path: not path.endswith("/done.json")):
            store.remove(path)  # done.json first: what is half removed is no generation
    return len(old)


def _named(store: Store, pointer: str) -> str | None:
    try:
        name = pointers.read_object(store, pointer, "").get("generation")
    except BadStudy:
        return None
    return name if isinstance(name, str) else None


def _is_old(store: Store, done: str) -> bool:
    """Whether it was finished so long ago; one that is being made is not."""
    if not store.exists(done):
        return False
    modified: datetime.datetime = store.fs.modified(store.uri(done))
    if modified.tzinfo is None:
        modified = modified.replace(tzinfo=datetime.UTC)
    return datetime.datetime.now(datetime.UTC) - modified > KEPT
