"""Train a segmenter on one's own scans: nnU-Net's own training, a fold on each worker of the cluster.

From image and label files, a raw dataset of nnU-Net, or the masks of a study, to a folder that
`segment.weights` can name. Everything lies under `work`, which all machines must see: a run that was killed
goes on from there, and one that has ended trains nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spineage.engine.ddp import Worker, fit
from spineage.errors import BadStudy
from spineage.io import assemble, nnunet_folds
from spineage.io.nnunet_folds import HISTORY, Recipe, fold_folder, read_history, result_folder
from spineage.io.nnunet_import import import_segmenter
from spineage.io.nnunet_raw import Case, cases_from_folders, cases_from_raw, write_raw
from spineage.io.nnunet_training import DATASET
from spineage.io.parts import KEY, PartReader, find_parts
from spineage.io.store import Store
from spineage.io.tracking import Tracking, open_tracking
from spineage.io.volumes import mask_from_row
from spineage.science.foreign import TOOLS
from spineage.science.geometry import Volume
from spineage.stages.context import Context
from spineage.tables import MASKS

EXPERIMENT = "spineage-segmenter"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Source:
    """What is learned from: the cases, the schema their labels are in, the channels of their images, and
    words that name it in the record."""

    cases: Sequence[Case]
    schema: str
    channels: Sequence[str]
    about: dict[str, Any]


@dataclass(frozen=True)
class Machines:
    """How it is run; changes nothing about the result but its time."""

    workers: int = 1
    use_gpu: bool = False
    processes: int = 1
    augment_processes: int = 0
    keep_every: int = 10
    mlflow: str | None = None


def from_folders(images: str, labels: str, tool: str) -> Source:
    """Image and label files; see `nnunet_raw.cases_from_folders`."""
    cases = cases_from_folders(Path(images), Path(labels), tool)
    channels = ["T2", *(f"channel {i}" for i in range(1, cases[0].num_images))]
    return Source(cases, TOOLS[tool].schema, channels, {"kind": "folders", "labels_of": tool})


def _image(row: dict[str, Any], max_gap_mm: float) -> list[Volume]:
    return [assemble.read_scan(row, max_gap_mm=max_gap_mm)]


def _mask(store: Store, row: dict[str, Any]) -> Volume:
    return mask_from_row(
        PartReader(store, MASKS).row(row["part"], row["scan_id"], row["source_digest"])
    )


def from_raw(folder: str, label_map: dict[str, str] | None) -> Source:
    """A dataset in nnU-Net's raw layout; see `nnunet_raw.cases_from_raw`."""
    cases, channels, schema = cases_from_raw(Path(folder), label_map)
    return Source(cases, schema, channels, {"kind": "raw"})


def from_masks(context: Context) -> Source:
    """The scans of a study that have a mask: what one segmenter drew (and somebody looked at) teaches the
    next. Raises BadStudy when there is no `masks` table yet."""
    masks = find_parts(context.store, context.folder("segment"), MASKS)
    if masks.empty:
        raise BadStudy("this study has no masks yet: run `spineage segment` first")
    people = context.read("scans", [*KEY, "person_id"])
    rows = masks.merge(context.read("sources"), on=KEY).merge(people, on=KEY).sort_values(KEY)
    gap = context.study.ingest.max_station_gap_mm
    cases = [
        Case(
            str(row["scan_id"]),
            str(row["person_id"]),
            functools.partial(_image, row, gap),
            functools.partial(_mask, context.store, row),
        )
        for row in ({str(k): v for k, v in r.items()} for r in rows.to_dict("records"))
    ]
    about = {"kind": "masks", "segment": context.fingerprint("segment")}
    return Source(cases, "levels", ["T2"], about)


def train_folds(
    source: Source,
    out: str | Path,
    work: str | Path,
    *,
    recipe: Recipe,
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
    told = {
        "recipe": recipe.as_json(), "folds": list(folds), "domain": domain, "source": source.about,
        "channels": list(source.channels), "num_cases": len(source.cases),
        "cases": hashlib.sha256("\n".join(c.name for c in source.cases).encode()).hexdigest()[:16],
    }  # fmt: skip
    _claim(work, told)
    splits = _splits(source, work, machines.processes, say)
    _check_folds(folds, len(splits))
    say(f"planning and preprocessing {len(source.cases)} scans")
    nnunet_folds.plan(work, recipe, splits, machines.processes)
    tracking = open_tracking(machines.mlflow, Store(str(work)), EXPERIMENT)
    run_id = tracking.open_run("train-segmenter", str(work))
    tracking.log_params(run_id, told)
    _train(work, recipe, folds, machines, _listener(tracking, run_id, recipe, say), loop)
    manifest = import_segmenter(
        result_folder(work, recipe), out, trust=True, orientation="RAS", domain=domain,
        folds=tuple(folds), origin={**told, "figures": figures(work, recipe, folds)},
        isolated=False,
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


def figures(work: Path, recipe: Recipe, folds: Sequence[str]) -> dict[str, dict[str, float]]:
    """The last epoch of each fold: nnU-Net's losses and its pseudo-Dice on validation patches."""
    return {fold: read_history(fold_folder(work, fold, recipe) / HISTORY)[-1] for fold in folds}


def _train(
    work: Path,
    recipe: Recipe,
    folds: Sequence[str],
    machines: Machines,
    listen: Callable[[dict[str, float]], None],
    loop: Callable[[Worker, dict[str, Any]], None] | None,
) -> None:
    if all(nnunet_folds.is_trained(work, fold, recipe) for fold in folds):
        return
    fit(
        loop or fold_loop,
        {
            "work": str(work), "folds": list(folds), "recipe": recipe.as_json(),
            "keep_every": machines.keep_every, "augment_processes": machines.augment_processes,
        },
        num_workers=min(machines.workers, len(folds)),
        use_gpu=machines.use_gpu,
        storage=str(work / "ray"),
        name="folds",
        report_to=listen,
    )  # fmt: skip


def _listener(
    tracking: Tracking, run_id: str, recipe: Recipe, say: Say
) -> Callable[[dict[str, float]], None]:
    """Each epoch of each fold as a line and as MLflow metrics, while it goes on."""

    def listen(told: dict[str, float]) -> None:
        if "fold" not in told:
            return
        epoch = dict(told)
        fold, number = int(epoch.pop("fold")), int(epoch.pop("epoch"))
        name = "all" if fold < 0 else str(fold)
        say(
            f"  fold {name} epoch {number}/{recipe.epochs}: loss {epoch['train_loss']:.3f}, "
            f"validation {epoch['validate_loss']:.3f}, Dice {epoch['mean_dice']:.3f}"
        )
        tracking.log_metrics(
            run_id, {f"fold_{name}/{key}": value for key, value in epoch.items()}, number
        )

    return listen


def _number(fold: str) -> float:
    return -1.0 if fold == "all" else float(fold)


def _recipe(values: dict[str, Any]) -> Recipe:
    return Recipe(**{**values, "features": tuple(values["features"])})


def _work_folder(work: str) -> Path:
    if "://" in work:
        raise BadStudy(
            f"{work} is an object store, but nnU-Net trains from files: give a folder that all machines see "
            "(NFS or the like)"
        )
    return Path(work).absolute()


def _claim(work: Path, told: dict[str, Any]) -> None:
    """The folder is of one training: the same again goes on, another one is refused."""
    path = work / "recipe.json"
    work.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        Store(str(work)).write("recipe.json", json.dumps(told, indent=1).encode())
        return
    before = json.loads(path.read_text())
    differs = sorted(key for key in told if told[key] != before.get(key))
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
    return list(json.loads(kept.read_text()))


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
