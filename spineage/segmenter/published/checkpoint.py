"""Checkpoints of nnU-Net opened in a process apart, and what that process wrote, looked at before it is used.

A checkpoint may hold any program. The process has bounds on memory, files, processor time and messages
(`bounded_process.py`) and can reach nothing (`isolation.py`); when it ends, or is late, all it started ends.
"""

from __future__ import annotations

import contextlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.segmenter.plans import PLAIN_NAME
from spineage.segmenter.published.bounded_process import Bounds, Overrun, run_bounded
from spineage.segmenter.published.isolation import REFUSED, clean_environment

TIMEOUT_S: Final = 600
MB: Final = 2**20
PARAMETER: Final = re.compile(r"[A-Za-z0-9_.]{1,200}")
KINDS: Final = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64})


def convert_folds(paths: dict[str, Path], out_folder: Path, isolated: bool) -> dict[str, Any]:
    """Open each checkpoint in a process of its own; merge the folds into weights.safetensors.

    Returns what the checkpoints say of themselves: they must say the same. Raises BadStudy in one sentence
    for whatever a checkpoint does instead of holding weights.
    """
    tensors: dict[str, Any] = {}
    first_fold: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="spineage-") as scratch:
        for name, path in paths.items():
            facts = _open_apart(name, path, Path(scratch), isolated)
            if first_fold and facts != first_fold:
                raise BadStudy(
                    f"fold {name} is of trainer {facts['trainer']} and configuration "
                    f"{facts['configuration']}, the folds before of {first_fold['trainer']} and "
                    f"{first_fold['configuration']}: give folds of one training"
                )
            first_fold = facts
            weights = _weights(name, Path(scratch) / f"weights_{name}")
            tensors.update({f"fold_{name}/{key}": value for key, value in weights.items()})
    save_file(tensors, out_folder / "weights.safetensors")
    return first_fold


def _open_apart(name: str, path: Path, scratch: Path, isolated: bool) -> dict[str, Any]:
    """Run unpickle.py on one checkpoint; it is handed open files, so it needs no file system."""
    room, weights, facts = (scratch / f"{kind}_{name}" for kind in ("room", "weights", "facts"))
    room.mkdir(mode=0o500)
    size = (
        path.stat().st_size
    )  # read, kept, cloned and written: four times; the optimiser is read only
    bounds = Bounds(4 * size + 512 * MB, size + 16 * MB, TIMEOUT_S)
    with contextlib.ExitStack() as stack:
        files = [
            stack.enter_context(p.open(mode))
            for p, mode in ((path, "rb"), (weights, "wb"), (facts, "wb"))
        ]
        numbers = [file.fileno() for file in files]
        command = [
            sys.executable, "-P", "-m", "spineage.segmenter.published.unpickle", *map(str, numbers),
            str(room) if isolated else "-", *bounds.as_words(),
        ]  # fmt: skip
        try:
            code, said = run_bounded(
                command, TIMEOUT_S, pass_fds=numbers, env=clean_environment(room), cwd=scratch
            )
        except Overrun as overrun:
            raise BadStudy(
                f"opening the checkpoint of fold {name} was stopped because {overrun} (allowed: "
                f"{TIMEOUT_S} s); copy it to a local disk, or ask its authors what it does"
            ) from None
    if code == REFUSED:
        raise BadStudy(
            "this machine grants no process without network (user namespaces are off), in which a pickle "
            "could be opened safely: import the model on another one, or add --not-isolated if you would "
            "run any program of its authors"
        )
    if code:
        reason = said.strip().splitlines()[-1:] or [f"it ended with {code}"]
        raise BadStudy(f"the checkpoint of fold {name} cannot be read: {_printable(reason[0])}")
    return _facts(name, facts)


def _weights(name: str, path: Path) -> dict[str, torch.Tensor]:
    """Finite tensors by plain names: what a network is filled with."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError):
        raise BadStudy(f"the checkpoint of fold {name} gave no weights") from None
    for key, tensor in weights.items():
        if not PARAMETER.fullmatch(key) or tensor.dtype not in KINDS or tensor.ndim > 6:
            raise BadStudy(
                f"the checkpoint of fold {name} holds {_printable(key)}, which is no weight"
            )
        if not torch.isfinite(tensor).all():
            raise BadStudy(
                f"the weights of fold {name} are not all numbers ({key} holds NaN or infinity): ask its "
                "authors for a checkpoint of a training that ended well"
            )
    return dict(weights)


def _facts(name: str, path: Path) -> dict[str, Any]:
    """What the process wrote, which a checkpoint may have had a hand in."""
    what = f"what the checkpoint of fold {name} says of its training"
    facts = read_table_file(path, what, "take a checkpoint that nnU-Net wrote")
    numbers = [facts.get("num_channels"), facts.get("num_heads")]
    words = [facts.get("trainer"), facts.get("configuration")]
    axes = facts.get("mirror_axes")
    if (
        not all(n is None or (type(n) is int and 0 < n <= 4096) for n in numbers)
        or not all(isinstance(w, str) and PLAIN_NAME.fullmatch(w) for w in words)
        or not isinstance(axes, list)
        or not all(type(axis) is int and axis in (0, 1, 2) for axis in axes)
    ):
        raise BadStudy(
            f"the checkpoint of fold {name} does not describe its training in plain words and numbers: "
            "take one that nnU-Net wrote"
        )
    keys = ("trainer", "configuration", "num_channels", "num_heads", "mirror_axes")
    return {key: facts[key] for key in keys}


def _printable(text: str) -> str:
    """A foreign text for a message: short, and nothing that moves a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text[:300])
