"""A fold loop that workers can import, whose process is killed once in the middle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest import mock

from spineage.engine.training.ddp import Worker
from spineage.segmenter.training.folds import FoldTrainer
from spineage.verbs.segmenter_folds import fold_loop

FOLD, EPOCH = 1, 3


def die_once(worker: Worker, config: dict[str, Any]) -> None:
    """Writes down each epoch that is begun; the process that begins EPOCH of FOLD dies there, once."""
    work = Path(config["work"])
    plain = FoldTrainer.on_epoch_start

    def begin(trainer: FoldTrainer) -> None:
        with (work / "begun").open("a") as file:
            file.write(f"{trainer.fold} {trainer.current_epoch + 1}\n")
        mark = work / "died"
        if (trainer.fold, trainer.current_epoch + 1) == (FOLD, EPOCH) and not mark.exists():
            mark.touch()
            os._exit(1)
        plain(trainer)

    with mock.patch.object(FoldTrainer, "on_epoch_start", begin):
        fold_loop(worker, config)
