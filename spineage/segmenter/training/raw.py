"""Training scans in nnU-Net's raw layout, whatever they come from: image and label files, a raw dataset of
nnU-Net, or our masks.

Everything is turned to RAS+ and to our own labels before nnU-Net sees it, so that a segmenter trained here
says what it expects and what it draws.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from spineage.errors import BadScan, BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.io.nifti import read_voxels
from spineage.science.scan.geometry import Volume, reorient
from spineage.science.spine.foreign import TOOLS, adapt
from spineage.science.spine.labels import SCHEMAS

NUM_SPLITS = 5
MIN_PEOPLE = 2


@dataclass(frozen=True)
class Case:
    """One training scan. images: reads one volume a channel, of which there are num_images; labels: reads
    the labels, in our schema; person: who must be in one split."""

    name: str
    person: str
    images: Callable[[], Sequence[Volume]]
    labels: Callable[[], Volume]
    num_images: int = 1


def cases_from_folders(images: Path, labels: Path, tool: str) -> list[Case]:
    """Pair `NAME.nii.gz` (or `NAME_0000.nii.gz`, `NAME_0001.nii.gz` for more channels; `NAME_T2w.nii.gz` as
    BIDS has it) with the label files that begin with NAME.

    tool: one of science/spine/foreign.py's TOOLS; `spineps-veridah` takes two label files a case, one with
    `seg-vert` in its name and one with `seg-spine` or `seg-subreg`. Raises BadStudy when a case has none
    or too many.
    """
    if tool not in TOOLS:
        raise BadStudy(f"schema {tool!r} is not known; expected one of {', '.join(TOOLS)}")
    for what, folder in (("images", images), ("labels", labels)):
        if not folder.is_dir():
            raise BadStudy(f"the folder of {what} does not exist: {folder.name}")
    files = sorted(p for p in labels.iterdir() if _stem(p))
    groups = _channels(images, files)
    if not groups:
        raise BadStudy("the folder of images holds no .nii or .nii.gz file")
    _require_same_channels(groups)
    return [
        _case(name, paths, [p for p in files if _belongs(p, name, set(groups))], tool)
        for name, paths in groups.items()
    ]


def cases_from_raw(
    folder: Path, label_map: dict[str, str] | None
) -> tuple[list[Case], list[str], str]:
    """(cases, channel names, schema) of a dataset in nnU-Net's raw layout: imagesTr, labelsTr, dataset.json.

    Raises BadStudy as `cases_from_folders`, or when its labels have no names of ours.
    """
    from spineage.segmenter.dataset_json import (
        channel_names,
        check_dataset,
        has_regions,
        our_labels,
    )

    dataset = read_table_file(
        folder / "dataset.json",
        "dataset.json of the raw dataset",
        "expected nnU-Net's raw layout (dataset.json, imagesTr, labelsTr)",
    )
    check_dataset(dataset)
    if has_regions(dataset):
        raise BadStudy("the dataset has overlapping regions; train on plain labels")
    schema, names = our_labels(dataset, label_map)
    table = {int(value): SCHEMAS[schema][name] for value, name in names.items()}
    if not (folder / "labelsTr").is_dir():
        raise BadStudy("there is no folder labelsTr")
    groups = _channels(folder / "imagesTr", list((folder / "labelsTr").iterdir()))
    _require_same_channels(groups)
    cases = []
    for name, paths in groups.items():
        label = folder / "labelsTr" / f"{name}{dataset.get('file_ending', '.nii.gz')}"
        if not label.is_file():
            raise BadStudy(f"case {name} has no {label.name} in labelsTr")
        read = functools.partial(_with_table, label, table)
        cases.append(Case(name, person_of(name), _reader(paths), read, len(paths)))
    return cases, channel_names(dataset), schema


def person_of(name: str) -> str:
    """The person a file is of: BIDS' `sub-...` where a name has one, else each case is a person."""
    return name.split("_")[0] if name.startswith("sub-") else name


def write_raw(
    cases: Sequence[Case], schema: str, channels: Sequence[str], folder: Path, *, threads: int
) -> list[dict[str, list[str]]]:
    """Write imagesTr, labelsTr and, last of all, dataset.json; the splits by person.

    Labels get consecutive values, those that occur, under our names. Raises BadStudy, naming the case, for
    files that cannot be read, do not fit each other, or hold what their schema has not.
    """
    make_folders(folder)
    with ThreadPoolExecutor(threads) as pool:
        present = sorted(set().union(*pool.map(_present, cases)) | {0})
        table = np.zeros(256, np.uint8)
        table[present] = np.arange(len(present))
        list(pool.map(lambda case: _write_case(case, table, len(channels), folder), cases))
    names = {value: name for name, value in SCHEMAS[schema].items()}
    labels = {names[value]: number for number, value in enumerate(present)}
    splits = split_by_person({case.name: case.person for case in cases})
    describe(folder, channels, labels, len(cases))
    return splits


def make_folders(folder: Path) -> None:
    """imagesTr and labelsTr."""
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)


def save_case(folder: Path, name: str, images: Sequence[Volume], labels: Volume) -> None:
    """One case's files, voxels in RAS order and in the type that they have."""
    _save(labels, folder / f"labelsTr/{name}.nii.gz")
    for number, image in enumerate(images):
        _save(image, folder / f"imagesTr/{name}_{number:04d}.nii.gz")


def describe(folder: Path, channels: Sequence[str], labels: dict[str, int], num_cases: int) -> None:
    """dataset.json: the last file, so that a folder that has it is whole."""
    dataset = {
        "channel_names": {str(i): name for i, name in enumerate(channels)},
        "labels": labels,
        "numTraining": num_cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset, indent=1))


def split_by_person(
    people: dict[str, str], seed: int = 12345, num_splits: int = NUM_SPLITS
) -> list[dict[str, list[str]]]:
    """nnU-Net's `splits_final.json` from {case: person}: no person on both sides; as many splits as there
    are people where these are few. Raises BadStudy for fewer than two."""
    who = np.random.default_rng(seed).permutation(sorted(set(people.values())))
    if len(who) < MIN_PEOPLE:
        raise BadStudy(f"{len(who)} person to train on; expected {NUM_SPLITS} or more")
    parts = [set(part.tolist()) for part in np.array_split(who, min(num_splits, len(who)))]
    return [
        {
            "train": sorted(name for name, person in people.items() if person not in part),
            "val": sorted(name for name, person in people.items() if person in part),
        }
        for part in parts
    ]


def _stem(path: Path) -> str:
    for ending in (".nii.gz", ".nii"):
        if path.name.endswith(ending) and not path.name.startswith("."):
            return path.name.removesuffix(ending)
    return ""


def _channels(folder: Path, labels: Sequence[Path]) -> dict[str, list[Path]]:
    """{case: image files, channel by channel}.

    Four digits at the end number channels, unless there are labels of that number: then they number cases.
    """
    if not folder.is_dir():
        raise BadStudy(f"there is no folder {folder.name}")
    labelled = {p.name[: end.start()] for p in labels for end in re.finditer(r"[._]", p.name)}
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if stem := _stem(path):
            head, _, tail = stem.rpartition("_")
            is_number = len(tail) == 4 and tail.isdigit()
            is_channel = head and (tail == "T2w" or (is_number and stem not in labelled))
            groups.setdefault(head if is_channel else stem, []).append(path)
    return groups


def _require_same_channels(groups: dict[str, list[Path]]) -> None:
    usual = len(next(iter(groups.values()), []))
    for name, paths in groups.items():
        if len(paths) != usual:
            raise BadStudy(f"case {name} has {len(paths)} images, others have {usual}")


def _belongs(path: Path, name: str, names: set[str]) -> bool:
    """Whether a label file is of a case, and of none with a longer name."""
    mine = [n for n in names if path.name.startswith((f"{n}.", f"{n}_"))]
    return bool(mine) and max(mine, key=len) == name


def _case(name: str, images: list[Path], labels: list[Path], tool: str) -> Case:
    drawn = _drawn(name, labels, tool)
    return Case(name, person_of(name), _reader(images), lambda: _adapted(tool, *drawn), len(images))


def _drawn(name: str, labels: list[Path], tool: str) -> list[Path]:
    """The label file of a case, or its mask of vertebrae and its mask of tissues."""
    if tool != "spineps-veridah":
        if len(labels) != 1:
            raise BadStudy(f"case {name} has {len(labels)} label files, expected one")
        return labels
    vert = [p for p in labels if "seg-vert" in p.name]
    spine = [p for p in labels if "seg-spine" in p.name or "seg-subreg" in p.name]
    if len(vert) != 1 or len(spine) != 1:
        raise BadStudy(
            f"case {name} has {len(vert)} seg-vert and {len(spine)} seg-spine (or seg-subreg) masks, "
            "expected one of each"
        )
    return [*vert, *spine]


def _reader(paths: list[Path]) -> Callable[[], list[Volume]]:
    return lambda: [_read(path) for path in paths]


def _read(path: Path) -> Volume:
    voxels, grid = read_voxels(str(path))
    return reorient(voxels, grid.affine_RAS)


def _adapted(tool: str, path: Path, tissues: Path | None = None) -> Volume:
    return adapt(_read(path), tool, _read(tissues) if tissues else None)


def _with_table(path: Path, table: dict[int, int]) -> Volume:
    """A label file by {value: ours}."""
    volume = _read(path)
    values, index = np.unique(volume.voxels_RAS, return_inverse=True)
    unknown = [float(v) for v in values if float(v) not in table]
    if unknown:
        raise BadScan(
            "implausible_mask", f"value {unknown[0]:g} is not one of dataset.json's labels"
        )
    ours = np.array([table[int(v)] for v in values], np.uint8)
    return volume.with_voxels(ours[index].reshape(volume.voxels_RAS.shape))


def _present(case: Case) -> set[int]:
    with _named(case):
        return {int(v) for v in np.unique(case.labels().voxels_RAS)}


def _write_case(case: Case, table: Any, num_channels: int, folder: Path) -> None:
    with _named(case):
        images, labels = case.images(), case.labels()
        if len(images) != num_channels:
            raise BadScan("bad_values", f"{len(images)} images, expected {num_channels}")
        for image in images:
            _require_same_grid(image, labels)
        save_case(folder, case.name, images, labels.with_voxels(table[labels.voxels_RAS]))


def _require_same_grid(image: Volume, labels: Volume) -> None:
    if image.voxels_RAS.shape != labels.voxels_RAS.shape or not np.allclose(
        image.affine_RAS, labels.affine_RAS, atol=1e-2
    ):
        raise BadScan("implausible_mask", "image and labels lie on different grids")


def _save(volume: Volume, path: Path) -> None:
    nib.save(nib.Nifti1Image(volume.voxels_RAS, volume.affine_RAS), path)


class _named:
    """What is wrong with a file becomes a sentence that names its case."""

    def __init__(self, case: Case) -> None:
        self._name = case.name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, BadScan | OSError):
            raise BadStudy(f"case {self._name}: {error}") from None
