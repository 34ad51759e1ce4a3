"""The one place where a foreign pickle is opened: a process that can reach nothing, writes tensors and a few
words, and ends.

python -m spineage.segmenter.published.unpickle \\
    CHECKPOINT_FD WEIGHTS_FD FACTS_FD ROOM MEMORY_BYTES FILE_BYTES CPU_S
The first three are file descriptors opened by the caller; ROOM is an empty folder, or `-` for a process that
is not isolated; the last three are `bounded_process.Bounds`, which hold either way.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import warnings

import numpy as np
import torch
from safetensors.torch import save

from spineage.segmenter.published.bounded_process import Bounds, bounds_of, set_limits
from spineage.segmenter.published.isolation import REFUSED, NoIsolation, isolate


def unpickle(checkpoint: int, weights: int, facts: int, room: str, bounds: Bounds) -> None:
    """Network weights out, each tensor once (nnU-Net's decoder names the encoder's again); the optimiser
    stays."""
    _import_all()
    if room == "-":
        set_limits(bounds.limits())
    else:
        isolate(room, (checkpoint, weights, facts), bounds.limits())
    with os.fdopen(checkpoint, "rb") as file:
        opened = torch.load(file, map_location="cpu", weights_only=False)
    tensors: dict[tuple[int, torch.Size], tuple[str, torch.Tensor]] = {}
    for name, tensor in opened["network_weights"].items():
        plain = name.removeprefix("module.").removeprefix("_orig_mod.")
        tensors.setdefault((tensor.data_ptr(), tensor.shape), (plain, tensor))
    kept = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.values()}
    with os.fdopen(weights, "wb") as file:
        file.write(save(kept))
    kernels = [(name, tensor.shape) for name, tensor in kept.items() if tensor.ndim >= 4]
    heads = [shape[0] for name, shape in kernels if "seg_layers" in name]
    about = {
        "trainer": str(opened["trainer_name"]),
        "configuration": str(opened["init_args"]["configuration"]),
        "num_channels": kernels[0][1][1] if kernels else None,
        "num_heads": heads[-1] if heads else None,
        "mirror_axes": [int(axis) for axis in opened.get("inference_allowed_mirroring_axes") or ()],
    }
    with os.fdopen(facts, "w") as file:
        file.write(json.dumps(about))


def _import_all() -> None:
    """Everything that opening a checkpoint imports on the way: in the empty room nothing can be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("pathlib", "numpy.core.multiarray", "numpy._core.multiarray"):
            importlib.import_module(name)
    buffer = io.BytesIO()
    sample = {"a": torch.zeros(1), "b": np.float64(1.5), "c": torch.device("cpu"), "d": np.ones(1)}
    torch.save(sample, buffer)
    buffer.seek(0)
    torch.load(buffer, map_location="cpu", weights_only=False)
    save({"a": torch.zeros(1)})


if __name__ == "__main__":
    os.umask(0o077)
    try:
        files = [int(number) for number in sys.argv[1:4]]
        unpickle(files[0], files[1], files[2], sys.argv[4], bounds_of(sys.argv[5:8]))
    except NoIsolation:
        sys.exit(REFUSED)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)
