"""Foreign nnU-Net v2 results become segmenters of ours, once.

A checkpoint of nnU-Net is a pickle: opening it runs whatever code it holds. So it is opened only when the
user says that its origin is trusted, and in a process that can reach neither network nor files nor the
environment (`checkpoint.py`), which writes tensors and ends. Where the kernel grants no such process
the import is refused, unless the user says to do without; the manifest tells how it was opened.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.segmenter.dataset_json import channel_names, check_dataset, has_regions, our_labels
from spineage.segmenter.folder import digest_of, has_three_axes
from spineage.segmenter.predict.predictor import load_segmenter, refuse_unsupported
from spineage.segmenter.published.checkpoint import convert_folds
from spineage.segmenter.published.layouts import Known, recognise
from spineage.segmenter.published.release import model_folder

CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
UNKNOWN_DICE = "unknown"
TRAINER = "nnUNetTrainer"
"""Any other name makes nnU-Net's look-up import optional packages; the plans alone describe the network."""


def import_segmenter(
    model: str | Path,
    out_folder: str | Path,
    *,
    trust: bool,
    orientation: str | None = None,
    layout: str | None = None,
    label_map: dict[str, str] | None = None,
    folds: tuple[str, ...] | None = None,
    checkpoint: str | None = None,
    domain: str = "human",
    origin: dict[str, Any] | None = None,
    dice: str = UNKNOWN_DICE,
    isolated: bool = True,
) -> dict[str, Any]:
    """Turn an nnU-Net result (dataset.json, plans.json, fold_X/checkpoint) into a segmenter; its manifest.

    model: the folder, one that it is nested in, or the released zip archive.

    orientation: axis codes of the files it was trained on, as nibabel names them; nnU-Net never reorients.
    layout: a published model of nnunet_layouts.py; none looks whether it is one of them.
    label_map: name in dataset.json to name in our schema; needed when they differ, and for regions.
    folds: which to use, averaged; none means all that hold the checkpoint. checkpoint: the file in each;
    none means the final one, and the best one where no fold has a final one.
    domain: 'phantom' or 'human', what it was trained on; later stages record it. dice: how well it draws,
    and on what, in words; a published model comes without.
    isolated: False opens the pickle in an ordinary process, for what this machine itself has trained.
    Raises BadStudy when not trusted, when files are missing or contradict each other, when nobody states
    the orientation, or when the model is of an unsupported kind.
    """
    if not trust:
        raise BadStudy(
            "an nnU-Net checkpoint is a pickle, and opening one runs the code inside: "
            "add --trust if you know where it comes from"
        )
    if domain not in ("phantom", "human"):
        raise BadStudy(f"domain is {domain!r}, expected 'phantom' or 'human'")
    with model_folder(Path(model)) as folder, _all_or_nothing(Path(out_folder)) as built:
        plans, dataset = (_read_json(folder / n) for n in ("plans.json", "dataset.json"))
        check_dataset(dataset)
        facts = describe(folder, dataset, orientation, layout, label_map)
        checkpoint = checkpoint or _usual_checkpoint(folder)
        names = folds or _folds_with(folder, checkpoint)
        paths = {name: folder / f"fold_{name}" / checkpoint for name in names}
        for name, path in paths.items():
            if not path.is_file():
                raise BadStudy(
                    f"fold {name} has no {path.name}; folds with one: "
                    f"{', '.join(_folds_with(folder, checkpoint))}"
                )
        training = convert_folds(paths, built, isolated)
        refuse_unsupported(PlansManager(dict(plans)), dataset, training["configuration"])
        _check_weights(training, dataset)
        for name in ("plans.json", "dataset.json"):
            shutil.copyfile(folder / name, built / name)
        manifest: dict[str, Any] = {
            "format": 1,
            "configuration": training["configuration"],
            **facts,
            "domain": domain,
            "folds": list(names),
            "checkpoint": checkpoint,
            "dice": dice,
            "trainer": TRAINER,
            "trained_by": training["trainer"],
            "mirror_axes": training["mirror_axes"],
            "opened": "isolated" if isolated else "not isolated",
            "nnunetv2": importlib.metadata.version("nnunetv2"),
            "origin": origin or {},
        }
        manifest["digest"] = digest_of(built, manifest)
        write_manifest(built, manifest)
        load_segmenter(str(built))  # what cannot be loaded is refused here, not in a worker
    return manifest


@contextlib.contextmanager
def _all_or_nothing(folder: Path) -> Iterator[Path]:
    """A folder to build in, beside `folder`, whose files go there only when nothing was raised: a refused
    import leaves the segmenter that was there before as it was."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as building:
        try:
            yield Path(building)
        except BadStudy as error:  # in the user's words: nobody knows this folder
            raise BadStudy(str(error).replace(building, str(folder))) from None
        folder.mkdir(exist_ok=True)
        for path in sorted(Path(building).iterdir(), key=lambda p: p.name == "manifest.json"):
            path.replace(folder / path.name)


def describe(
    folder: Path,
    dataset: dict[str, Any],
    orientation: str | None,
    layout: str | None,
    label_map: dict[str, str] | None,
) -> dict[str, Any]:
    """What the manifest says of a model before its weights are opened: layout, orientation, schema, labels
    (final value to our name), channels, and what it does not draw.

    Raises BadStudy as `import_segmenter` does.
    """
    channels = channel_names(dataset)
    known = recognise(folder, dataset, layout)
    schema, labels = our_labels(dataset, {**(known.names or {}), **(label_map or {})})
    return {
        "layout": known.layout,
        "orientation": _orientation(orientation, known),
        "schema": schema,
        "labels": labels,
        "channels": channels,
        "lacks": list(known.lacks),
        "without": list(known.without),
    }


def _orientation(stated: str | None, known: Known) -> str:
    if stated is None and known.orientation is None:
        raise BadStudy(
            "nobody says in which orientation the model was trained, and nnU-Net does not reorient: state "
            "the axis codes of its training files with --orientation (nibabel.aff2axcodes of one of them, "
            "e.g. RAS)"
        )
    if stated and known.orientation and stated != known.orientation:
        raise BadStudy(
            f"orientation {stated} was stated, but {known.layout} models expect {known.orientation}: "
            "leave --orientation out"
        )
    orientation = stated or known.orientation or ""
    _check_orientation(orientation)
    return orientation


def _check_weights(training: dict[str, Any], dataset: dict[str, Any]) -> None:
    """The weights and dataset.json must be of one model: as many channels in and classes out."""
    labels = [v for n, v in dataset["labels"].items() if n != "ignore"]
    expected = {
        "num_channels": ("input channels", len(channel_names(dataset))),
        "num_heads": ("classes", len(labels) - has_regions(dataset)),
    }
    for key, (what, number) in expected.items():
        if training[key] is not None and training[key] != number:
            raise BadStudy(
                f"the weights have {training[key]} {what}, dataset.json says {number}: "
                "they are not of one model; take the dataset.json the model was trained with"
            )


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json`; `origin` may be added to later, it is outside the digest."""
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _check_orientation(orientation: str) -> None:
    """Nobody can tell it from the files."""
    if not has_three_axes(orientation):
        raise BadStudy(
            f"orientation is {orientation!r}, expected three axis codes such as RAS or PIR: those of "
            "the files the model was trained on"
        )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise BadStudy(
            f"no {path.name} there: give the folder that holds plans.json, dataset.json and fold_X"
        )
    return read_table_file(path, path.name, "take the one the model was trained with")


def _usual_checkpoint(folder: Path) -> str:
    """The final one; the best one where only that was released."""
    return next(
        (name for name in CHECKPOINTS if any(folder.glob(f"fold_*/{name}"))), CHECKPOINTS[0]
    )


def _folds_with(model_folder: Path, checkpoint: str) -> tuple[str, ...]:
    names = tuple(
        sorted(
            p.parent.name.removeprefix("fold_") for p in model_folder.glob(f"fold_*/{checkpoint}")
        )
    )
    if not names:
        raise BadStudy(f"no fold there holds {checkpoint}; was the training finished?")
    return names
