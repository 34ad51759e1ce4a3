"""What somebody sends who wants their code run: plans, checkpoints, segmenters with a right digest."""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from spineage.segmenter.folder import digest_of


class Runs:
    """Pickled, this is a program: it runs when it is opened."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str, dict[str, Any]]]:
        return exec, (self.code, {})


def armed(model: Path, code: str) -> Path:
    """The model's checkpoint runs this code when it is opened."""
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["trainer_name"] = Runs(code)
    torch.save(checkpoint, path)
    return model


def hub_model(folder: Path, canary: Path) -> Path:
    """A folder that `torch.hub.load` runs: it leaves a canary behind."""
    folder.mkdir()
    (folder / "hubconf.py").write_text(
        f"import os\nopen({str(canary)!r}, 'w').write(os.environ.get('SPINEAGE_KEY', ''))\n"
        "def net(**kwargs):\n    raise RuntimeError('done')\n"
    )
    return folder


def set_in(settings: Any, path: tuple[Any, ...], value: Any) -> None:
    """Change one value deep in a table."""
    for key in path[:-1]:
        settings = settings[key]
    settings[path[-1]] = value


def change_json(path: Path, place: tuple[Any, ...], value: Any) -> None:
    """Change one value in a JSON file."""
    settings = json.loads(path.read_text())
    set_in(settings, place, value)
    path.write_text(json.dumps(settings))


def sign(segmenter: Path) -> Path:
    """Give a segmenter whose files were changed the digest of what they are now."""
    path = segmenter / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["digest"] = digest_of(segmenter, manifest)
    path.write_text(json.dumps(manifest))
    return segmenter


def _parents() -> dict[int, tuple[int, str]]:
    """Of every process here: its parent, and when it began."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                found[int(entry.name)] = (int(fields[1]), fields[19])
    return found


def _adopt_orphans(is_wanted: bool) -> None:
    set_child_subreaper = 36
    assert ctypes.CDLL(None).prctl(set_child_subreaper, int(is_wanted), 0, 0, 0) == 0


@contextmanager
def nothing_outlives(num_expected: int) -> Iterator[Callable[[], bool]]:
    """Whatever is started within the block has ended soon after it.

    num_expected: as many processes must have been seen, or the test has seen nothing. Yields whether they
    have been seen by now.
    """
    _adopt_orphans(True)  # who hides by losing its parent becomes a child of this process
    before, seen, done = _parents(), set(), threading.Event()

    def watch() -> None:
        mine = {os.getpid()}
        while not done.is_set():
            now = _parents()
            for _ in range(5):  # children of children
                mine |= {pid for pid, (parent, _) in now.items() if parent in mine}
            seen.update((p, now[p][1]) for p in mine if p in now and p not in before)
            time.sleep(0.02)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: len(seen) >= num_expected
    finally:
        done.set()
        thread.join()
        _adopt_orphans(False)
    assert len(seen) >= num_expected, seen
    until = time.monotonic() + 5
    while time.monotonic() < until:
        for pid, _ in seen:  # the adopted ones that have ended
            with suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
        now = _parents()
        left = [pid for pid, began in seen if pid in now and now[pid][1] == began]
        if not left:
            return
        time.sleep(0.05)
    raise AssertionError(f"processes {left} outlived what started them")
