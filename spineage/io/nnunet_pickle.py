"""The one place where a foreign pickle is opened: a process that writes safetensors and JSON, and ends.

python -m spineage.io.nnunet_pickle CHECKPOINT WEIGHTS FACTS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file


def unpickle(checkpoint: str, weights: str, facts: str) -> None:
    """Network weights out, each tensor once (nnU-Net's decoder names the encoder's again); the optimiser
    stays."""
    opened = torch.load(checkpoint, map_location="cpu", weights_only=False)
    tensors: dict[tuple[int, torch.Size], tuple[str, torch.Tensor]] = {}
    for name, tensor in opened["network_weights"].items():
        tensors.setdefault(
            (tensor.data_ptr(), tensor.shape), (name.removeprefix("module."), tensor)
        )
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in tensors.values()}, weights
    )
    about = {
        "trainer": opened["trainer_name"],
        "configuration": opened["init_args"]["configuration"],
    }
    Path(facts).write_text(json.dumps(about))


if __name__ == "__main__":
    unpickle(*sys.argv[1:])
