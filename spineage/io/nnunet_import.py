"""Foreign nnU-Net v2 results become segmenters of ours, once.

A checkpoint of nnU-Net is a pickle: opening it runs whatever code it holds. So it is opened only when the
user says that its origin is trusted, and in a process that can reach neither network nor files nor the
environment (`isolation.py`), which writes tensors and ends. Where the kernel grants no such process the
import is refused, unless the user says to do without; the manifest tells how it was opened.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file, save_file

from spineage.errors import BadStudy
from spineage.io.isolation import REFUSED, clean_environment
from spineage.io.nnunet import load_segmenter, refuse_unsupported
from spineage.io.nnunet_layouts import Known, recognise
from spineage.io.nnunet_names import channel_names, has_regions, our_labels
from spineage.io.segmenters import digest_of

TRAINER = "nnUNetTrainer"
"""Any other name makes nnU-Net's look-up import optional packages; the plans alone describe the network."""
TIMEOUT_S = 600


def import_segmenter(
    model_folder: str | Path,
    out_folder: str | Path,
    *,
    trust: bool,
    orientation: str | None = None,
    layout: str | None = None,
    label_map: dict[str, str] | None = None,
    folds: tuple[str, ...] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    domain: str = "human",
    origin: dict[str, Any] | None = None,
    isolated: bool = True,
) -> dict[str, Any]:
    """Turn an nnU-Net result folder (dataset.json, plans.json, fold_X/checkpoint) into a segmenter; its
    manifest.

    orientation: axis codes of the files it was trained on, as nibabel names them; nnU-Net never reorients.
    layout: a published model of nnunet_layouts.py; none looks whether it is one of them.
    label_map: name in dataset.json to name in our schema; needed when they differ, and for regions.
    folds: which to use, averaged; none means all that hold the checkpoint.
    domain: 'phantom' or 'human', what it was trained on; later stages record it.
    isolated: False opens the pickle in an ordinary process, for what this machine itself has trained.
    Raises BadStudy when not trusted, when files are missing or contradict each other, when nobody states
    the orientation, or when the model is of an unsupported kind.
    """
    model_folder, out_folder = Path(model_folder), Path(out_folder)
    if not trust:
        raise BadStudy(
            "an nnU-Net checkpoint is a pickle, and opening one runs the code inside: "
            "add --trust if you know where it comes from"
        )
    if domain not in ("phantom", "human"):
        raise BadStudy(f"domain is {domain!r}, expected 'phantom' or 'human'")
    plans, dataset = (
        _read_json(model_folder / "plans.json"),
        _read_json(model_folder / "dataset.json"),
    )
    facts = describe(model_folder, dataset, orientation, layout, label_map)
    names = folds or _folds_with(model_folder, checkpoint)
    paths = {name: model_folder / f"fold_{name}" / checkpoint for name in names}
    for name, path in paths.items():
        if not path.is_file():
            raise BadStudy(
                f"fold {name} has no {path.name}; folds with one: "
                f"{', '.join(_folds_with(model_folder, checkpoint))}"
            )
    with _all_or_nothing(out_folder) as built:
        about = _convert(paths, built, isolated)
        refuse_unsupported(PlansManager(dict(plans)), dataset, about["configuration"])
        _check_weights(about, dataset)
        for name in ("plans.json", "dataset.json"):
            shutil.copyfile(model_folder / name, built / name)
        manifest: dict[str, Any] = {
            "format": 1,
            "configuration": about["configuration"],
            **facts,
            "domain": domain,
            "folds": list(names),
            "trainer": TRAINER,
            "trained_by": about["trainer"],
            "mirror_axes": about["mirror_axes"],
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
    model_folder: Path,
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
    known = recognise(model_folder, dataset, layout)
    schema, labels = our_labels(dataset, {**(known.names or {}), **(label_map or {})})
    return {
        "layout": known.layout,
        "orientation": _orientation(orientation, known),
        "schema": schema,
        "labels": labels,
        "channels": channels,
        "lacks": list(known.lacks),
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


def _check_weights(about: dict[str, Any], dataset: dict[str, Any]) -> None:
    """The weights and dataset.json must be of one model: as many channels in and classes out."""
    labels = [v for n, v in dataset["labels"].items() if n != "ignore"]
    expected = {
        "num_channels": ("input channels", len(channel_names(dataset))),
        "num_heads": ("classes", len(labels) - has_regions(dataset)),
    }
    for key, (what, number) in expected.items():
        if about[key] is not None and about[key] != number:
            raise BadStudy(
                f"the weights have {about[key]} {what}, dataset.json says {number}: "
                "they are not of one model; take the dataset.json the model was trained with"
            )


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


def _convert(paths: dict[str, Path], out_folder: Path, isolated: bool) -> dict[str, Any]:
    """Open each pickle in a process of its own; merge the folds into weights.safetensors.

    Returns what the checkpoints say of themselves: they must say the same.
    """
    tensors: dict[str, Any] = {}
    about: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="spineage-") as scratch:
        for name, path in paths.items():
            found = _open_apart(name, path, Path(scratch), isolated)
            if about and found != about:
                raise BadStudy(
                    f"fold {name} is of trainer {found['trainer']} and configuration "
                    f"{found['configuration']}, the folds before of {about['trainer']} and "
                    f"{about['configuration']}: give folds of one training"
                )
            about = found
            weights = load_file(Path(scratch) / f"weights_{name}")
            tensors.update({f"fold_{name}/{key}": value for key, value in weights.items()})
    save_file(tensors, out_folder / "weights.safetensors")
    return about


def _open_apart(name: str, path: Path, scratch: Path, isolated: bool) -> dict[str, Any]:
    """Run nnunet_pickle.py on one checkpoint; it is handed open files, so it needs no file system."""
    room, weights, facts = (scratch / f"{kind}_{name}" for kind in ("room", "weights", "facts"))
    room.mkdir()
    with contextlib.ExitStack() as stack, _in_time(name):
        files = [
            stack.enter_context(p.open(mode))
            for p, mode in ((path, "rb"), (weights, "wb"), (facts, "wb"))
        ]
        numbers = [file.fileno() for file in files]
        done = subprocess.run(
            [
                sys.executable, "-m", "spineage.io.nnunet_pickle",
                *map(str, numbers), str(room) if isolated else "-",
            ],
            pass_fds=numbers, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT_S, env=clean_environment(room), cwd=scratch,
        )  # fmt: skip
    if done.returncode == REFUSED:
        raise BadStudy(
            "this machine grants no process without network (user namespaces are off), in which a pickle "
            "could be opened safely: import the model on another one, or add --not-isolated if you would "
            "run any program of its authors"
        )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        raise BadStudy(f"the checkpoint of fold {name} cannot be read: {reason[0][:300]}")
    return _facts(name, facts)


@contextlib.contextmanager
def _in_time(name: str) -> Iterator[None]:
    try:
        yield
    except subprocess.TimeoutExpired:
        raise BadStudy(
            f"opening the checkpoint of fold {name} took more than {TIMEOUT_S // 60} minutes and was "
            "stopped; copy it to a local disk, or ask its authors what it does"
        ) from None


def _facts(name: str, path: Path) -> dict[str, Any]:
    """What the process wrote, which a checkpoint may have had a hand in."""
    try:
        found = dict(json.loads(path.read_text()))
        numbers = [found["num_channels"], found["num_heads"]]
        words = [found["trainer"], found["configuration"]]
    except (ValueError, KeyError, TypeError):
        raise BadStudy(f"the checkpoint of fold {name} says nothing of its training") from None
    if not all(n is None or isinstance(n, int) for n in numbers) or not all(
        isinstance(w, str) for w in words
    ):
        raise BadStudy(f"the checkpoint of fold {name} does not describe its training in words")
    return found
