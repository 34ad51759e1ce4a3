"""Foreign nnU-Net v2 results become segmenters of ours, once.

A checkpoint of nnU-Net is a pickle: opening it runs whatever code it holds. So it is opened only when the
user says that its origin is trusted, and in a process of its own, which writes safetensors and JSON and
ends.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file, save_file

from spineage.errors import BadStudy
from spineage.io.nnunet import load_segmenter, refuse_unsupported
from spineage.io.segmenters import SCHEMAS, digest_of

TRAINER = "nnUNetTrainer"
"""Any other name makes nnU-Net's look-up import optional packages; the plans alone describe the network."""


def import_segmenter(
    model_folder: str | Path,
    out_folder: str | Path,
    *,
    trust: bool,
    orientation: str = "RAS",
    label_map: dict[str, str] | None = None,
    folds: tuple[str, ...] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    domain: str = "human",
    origin: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Turn an nnU-Net result folder (dataset.json, plans.json, fold_X/checkpoint) into a segmenter; its
    manifest.

    orientation: axis codes of the files it was trained on, as nibabel names them; nnU-Net never reorients.
    label_map: name in dataset.json to name in our schema; needed when they differ.
    folds: which to use, averaged; none means all that hold the checkpoint.
    domain: 'phantom' or 'human', what it was trained on; later stages record it.
    Raises BadStudy when not trusted, when files are missing, or when the model is of an unsupported kind.
    """
    model_folder, out_folder = Path(model_folder), Path(out_folder)
    if not trust:
        raise BadStudy(
            "an nnU-Net checkpoint is a pickle, and opening one runs the code inside: "
            "add --trust if you know where it comes from"
        )
    if domain not in ("phantom", "human"):
        raise BadStudy(f"domain is {domain!r}, expected 'phantom' or 'human'")
    _check_orientation(orientation)
    plans, dataset = (
        _read_json(model_folder / "plans.json"),
        _read_json(model_folder / "dataset.json"),
    )
    schema, labels = _labels(dataset, label_map)
    names = folds or _folds_with(model_folder, checkpoint)
    out_folder.mkdir(parents=True, exist_ok=True)
    about = _convert(
        [model_folder / f"fold_{name}" / checkpoint for name in names], names, out_folder
    )
    refuse_unsupported(PlansManager(dict(plans)), dataset, about["configuration"])
    for name in ("plans.json", "dataset.json"):
        shutil.copyfile(model_folder / name, out_folder / name)
    manifest: dict[str, Any] = {
        "format": 1,
        "configuration": about["configuration"],
        "orientation": orientation,
        "schema": schema,
        "labels": labels,
        "domain": domain,
        "folds": list(names),
        "trainer": TRAINER,
        "trained_by": about["trainer"],
        "nnunetv2": importlib.metadata.version("nnunetv2"),
        "origin": origin or {},
    }
    manifest["digest"] = digest_of(out_folder, manifest)
    write_manifest(out_folder, manifest)
    load_segmenter(
        str(out_folder)
    )  # a model that cannot be loaded is refused here, not in a worker
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write `manifest.json`; `origin` may be added to later, it is outside the digest."""
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, sort_keys=True) + "\n")


def _check_orientation(orientation: str) -> None:
    """Three codes, one of each axis; nobody can tell it from the files."""
    axes = [next((axis for axis in ("LR", "PA", "IS") if code in axis), "") for code in orientation]
    if sorted(axes) != ["IS", "LR", "PA"]:
        raise BadStudy(
            f"orientation is {orientation!r}, expected three axis codes such as RAS or PIR: those of "
            "the files the model was trained on"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise BadStudy(
            f"no {path.name} there: give the folder that holds plans.json, dataset.json and fold_X"
        ) from None
    except ValueError:
        raise BadStudy(f"{path.name} is not JSON") from None


def _folds_with(model_folder: Path, checkpoint: str) -> tuple[str, ...]:
    names = tuple(
        sorted(
            p.parent.name.removeprefix("fold_") for p in model_folder.glob(f"fold_*/{checkpoint}")
        )
    )
    if not names:
        raise BadStudy(f"no fold there holds {checkpoint}; was the training finished?")
    return names


def _labels(
    dataset: dict[str, Any], label_map: dict[str, str] | None
) -> tuple[str, dict[str, str]]:
    """(schema, {value in the network's output: our name}); every label must have a name of ours."""
    foreign = {name: value for name, value in dataset.get("labels", {}).items() if name != "ignore"}
    if any(isinstance(value, list) and len(value) > 1 for value in foreign.values()):
        raise BadStudy("the model was trained on overlapping regions; import one trained on labels")
    label_map = label_map or {}
    unheard = sorted(set(label_map) - set(foreign))
    if unheard:
        raise BadStudy(f"label map: dataset.json has no {', '.join(unheard)}")
    ours = {name: label_map.get(name, name) for name in foreign}
    for schema, known in SCHEMAS.items():
        if set(ours.values()) <= set(known):
            return schema, {str(foreign[name]): ours[name] for name in foreign}
    unknown = sorted(name for name in foreign if ours[name] not in SCHEMAS["semantic"])
    raise BadStudy(
        f"labels {', '.join(unknown[:6])} are in neither the semantic nor the levels schema: map each to "
        f"one of {', '.join(SCHEMAS['semantic'])} with a label map (see `spineage import-segmenter --help`)"
    )


def _convert(checkpoints: list[Path], names: tuple[str, ...], out_folder: Path) -> dict[str, Any]:
    """Open each pickle in a process of its own; merge the folds into weights.safetensors."""
    tensors, about = {}, {}
    with tempfile.TemporaryDirectory(dir=out_folder) as scratch:
        for name, path in zip(names, checkpoints, strict=True):
            if not path.is_file():
                raise BadStudy(f"fold {name} has no {path.name}")
            target, facts = Path(scratch) / "weights", Path(scratch) / "facts.json"
            done = subprocess.run(
                [
                    sys.executable,
                    "-m",
                    "spineage.io.nnunet_pickle",
                    str(path),
                    str(target),
                    str(facts),
                ],
                capture_output=True,
                text=True,
                timeout=600,
            )
            if done.returncode:
                reason = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
                raise BadStudy(f"the checkpoint of fold {name} cannot be read: {reason[0]}")
            tensors.update(
                {f"fold_{name}/{key}": value for key, value in load_file(target).items()}
            )
            about = json.loads(facts.read_text())
    save_file(tensors, out_folder / "weights.safetensors")
    return about
