"""Train a segmenter on one's own scans: nnU-Net's own training, a fold on each worker of the cluster.

From image and label files, a raw dataset of nnU-Net, or the masks of a study, to a folder that
`segment.weights` can name. Everything lies under `work`, which all machines must see: a run that was killed
goes on from there, and one that has ended trains nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spineage.engine.training.ddp import Worker, fit
from spineage.errors import BadStudy
from spineage.io.models.tracking import Tracking, open_tracking
from spineage.io.storage.pointers import parse, parse_object
from spineage.io.storage.store import Store
from spineage.run.context import digest_of
from spineage.segmenter.published.adopt import import_segmenter
from spineage.segmenter.published.isolation import is_possible
from spineage.segmenter.training import folds as nnunet_folds
from spineage.segmenter.training.folds import (
    HISTORY,
    FoldRecipe,
    fold_folder,
    read_history,
    result_folder,
)
from spineage.segmenter.training.raw import write_raw
from spineage.segmenter.training.trainer import DATASET
from spineage.verbs.segmenter_sources import Source

EXPERIMENT = "spineage-segmenter"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Machines:
    """How it is run; changes nothing about the result but its time."""

    workers: int = 1
    use_gpu: bool = False
    processes: int = 1
    augment_processes: int = 0
    keep_every: int = 10
    mlflow: str | None = None


def train_folds(
    source: Source,
    out: str | Path,
    work: str | Path,
    *,
    recipe: FoldRecipe,
    folds: Sequence[str],
    machines: Machines,
    domain: str,
    say: Say = print,
    loop: Callable[[Worker, dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Train the folds, import them into `out`; the manifest, with each fold's last figures in `origin`.

    Raises BadStudy when `out` is taken, when `work` holds another training or cannot be seen by all, and
    for scans that do not fit their labels.
    """
    out, work = Path(out), _work_folder(str(work))
    if (out / "manifest.json").exists():
        raise BadStudy(f"{out} already holds a segmenter; give another folder")
    training = {
        "recipe": recipe.as_json(), "folds": list(folds), "domain": domain, "source": source.about,
        "schema": source.schema, "channels": list(source.channels), "num_cases": len(source.cases),
        "cases": hashlib.sha256("\n".join(c.name for c in source.cases).encode()).hexdigest()[:16],
    }  # fmt: skip
    _claim(work, training)
    splits = _splits(source, work, machines.processes, say)
    _check_folds(folds, len(splits))
    say(f"planning and preprocessing {len(source.cases)} scans")
    nnunet_folds.plan(work, recipe, splits, machines.processes)
    tracking = open_tracking(machines.mlflow, Store(str(work)), EXPERIMENT)
    run_id = tracking.open_run("train-segmenter", digest_of(training))
    tracking.log_params(run_id, training)
    listener = Listener(tracking, run_id, work, recipe, folds, say)
    _train(work, recipe, folds, machines, listener, loop)
    listener.catch_up()
    found = figures(work, recipe, folds)
    manifest = import_segmenter(
        result_folder(work, recipe), out, trust=True, orientation="RAS", domain=domain,
        folds=tuple(folds), origin={**training, "figures": found}, dice=_dice_of(found),
        isolated=is_possible(),
    )  # fmt: skip
    _publish(tracking, run_id, out, manifest)
    return manifest


def fold_loop(worker: Worker, config: dict[str, Any]) -> None:
    """Each worker trains folds of its own, in rounds; all meet at the end of a round and nowhere else.

    What is done is known by nnU-Net's own checkpoints, so that a run may go on with other workers.
    """
    folds, recipe = config["folds"], _recipe(config["recipe"])
    rounds = math.ceil(len(folds) / worker.size)
    torch.set_num_threads(1 if worker.device.type == "cpu" else torch.get_num_threads())
    for turn in range(rounds):
        number = turn * worker.size + worker.rank
        if number < len(folds):
            fold = folds[number]
            nnunet_folds.train_fold(
                Path(config["work"]),
                fold,
                recipe,
                device=worker.device,
                keep_every=config["keep_every"],
                augment_processes=config["augment_processes"],
                tell=lambda epoch, fold=fold: worker.tell({**epoch, "fold": _number(fold)}),  # type: ignore[misc]
            )
        worker.report({"rounds": turn + 1}, {"rounds": turn + 1})


def figures(work: Path, recipe: FoldRecipe, folds: Sequence[str]) -> dict[str, dict[str, float]]:
    """The last epoch of each fold: nnU-Net's losses and its pseudo-Dice on validation patches."""
    return {fold: read_history(fold_folder(work, fold, recipe) / HISTORY)[-1] for fold in folds}


def _dice_of(found: Mapping[str, Mapping[str, float]]) -> str:
    """In words: the mean over folds of what nnU-Net measures while it trains, on patches."""
    mean = sum(one["mean_dice"] for one in found.values()) / len(found)
    scans = "of the training's own" if "all" in found else "of scans held out"
    return f"{mean:.3f} (nnU-Net's pseudo-Dice, mean over labels, on patches {scans})"


def _train(
    work: Path,
    recipe: FoldRecipe,
    folds: Sequence[str],
    machines: Machines,
    listen: Callable[[dict[str, float]], None],
    loop: Callable[[Worker, dict[str, Any]], None] | None,
) -> None:
    if all(nnunet_folds.is_trained(work, fold, recipe) for fold in folds):
        return
    num_workers = min(machines.workers, len(folds))
    fit(
        loop or fold_loop,
        {
            "work": str(work), "folds": list(folds), "recipe": recipe.as_json(),
            "keep_every": machines.keep_every, "augment_processes": machines.augment_processes,
        },
        workers=(num_workers, num_workers),
        gpus_per_worker=float(machines.use_gpu),
        storage=str(work / "ray"),
        name="folds",
        report_to=listen,
    )  # fmt: skip


class Listener:
    """Each epoch of each fold as a line and as MLflow metrics, while it goes on.

    A worker that is killed may not have told its last epoch: `catch_up` logs what the folds wrote down
    since the listener was made and nobody heard.
    """

    def __init__(
        self,
        tracking: Tracking,
        run_id: str,
        work: Path,
        recipe: FoldRecipe,
        folds: Sequence[str],
        say: Say,
    ) -> None:
        self._tracking, self._run_id, self._recipe, self._say = tracking, run_id, recipe, say
        self._paths = {f: fold_folder(work, f, recipe) / HISTORY for f in folds}
        self._heard = {
            (fold, row["epoch"]) for fold, path in self._paths.items() for row in read_history(path)
        }

    def __call__(self, metrics: dict[str, float]) -> None:
        if "fold" in metrics:
            number = int(metrics["fold"])
            epoch = {key: value for key, value in metrics.items() if key != "fold"}
            self._hear("all" if number < 0 else str(number), epoch)

    def catch_up(self) -> None:
        """Log the epochs nobody heard."""
        for fold, path in self._paths.items():
            for row in read_history(path):
                if (fold, row["epoch"]) not in self._heard:
                    self._hear(fold, row)

    def _hear(self, fold: str, epoch: dict[str, float]) -> None:
        self._heard.add((fold, epoch["epoch"]))
        number = int(epoch["epoch"])
        self._say(
            f"  fold {fold} epoch {number}/{self._recipe.epochs}: loss {epoch['train_loss']:.3f}, "
            f"validation {epoch['validate_loss']:.3f}, Dice {epoch['mean_dice']:.3f}"
        )
        figures = {f"fold_{fold}/{key}": v for key, v in epoch.items() if key != "epoch"}
        self._tracking.log_metrics(self._run_id, figures, number)


def _number(fold: str) -> float:
    return -1.0 if fold == "all" else float(fold)


def _recipe(values: dict[str, Any]) -> FoldRecipe:
    return FoldRecipe(**{**values, "features": tuple(values["features"])})


def _work_folder(work: str) -> Path:
    if "://" in work:
        raise BadStudy(
            f"{work} is an object store, but nnU-Net trains from files: give a folder that all machines see "
            "(NFS or the like)"
        )
    return Path(work).absolute()


def _claim(work: Path, training: dict[str, Any]) -> None:
    """The folder is of one training: the same again goes on, another one is refused."""
    path = work / "recipe.json"
    work.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Store(str(work)).write("recipe.json", json.dumps(training, indent=1).encode())
        return
    other = "give another folder as --work, or remove this one"
    before = parse_object(path.read_bytes(), str(path), other)
    differs = sorted(key for key in training if training[key] != before.get(key))
    if differs:
        raise BadStudy(
            f"{work.name} holds another training, which differs in {', '.join(differs)}: give another "
            "folder as --work"
        )


def _splits(source: Source, work: Path, threads: int, say: Say) -> list[dict[str, list[str]]]:
    """Write the raw dataset once; the splits of its cases."""
    kept = work / "splits.json"
    if not kept.exists():
        say(f"writing {len(source.cases)} scans in nnU-Net's raw layout")
        raw = work / "raw" / DATASET
        splits = write_raw(source.cases, source.schema, source.channels, raw, threads=threads)
        Store(str(work)).write("splits.json", json.dumps(splits).encode())
    remedy = "remove it, and the training begins anew"
    return list(parse(kept.read_bytes(), str(kept), remedy))


def _check_folds(folds: Sequence[str], num_splits: int) -> None:
    known = {"all", *map(str, range(num_splits))}
    odd = [fold for fold in folds if fold not in known]
    if odd or not folds or len(set(folds)) != len(folds):
        raise BadStudy(
            f"folds {', '.join(folds) or 'none'}: expected some of {', '.join(sorted(known))}, each once"
        )


def _publish(tracking: Tracking, run_id: str, out: Path, manifest: dict[str, Any]) -> None:
    """The end of the MLflow run: each fold's mean Dice, and what the segmenter says of itself."""
    last = {
        f"final/fold_{k}_mean_dice": f["mean_dice"]
        for k, f in manifest["origin"]["figures"].items()
    }
    tracking.log_metrics(run_id, last)
    names = ("manifest.json", "plans.json", "dataset.json")
    tracking.log_files(run_id, {name: (out / name).read_bytes() for name in names}, "segmenter")
    tracking.close_run(run_id)
