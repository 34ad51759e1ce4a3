"""A model as its makers release it: a folder, a folder within one, or a zip archive of either.

Of an archive nothing is written but the few files of a model, under names made here.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from spineage.errors import BadStudy

PLANS: Final = "plans.json"
WANTED: Final = re.compile(
    r"(plans|dataset|inference_config)\.json|fold_(\d|all)/checkpoint_\w+\.pth"
)
MAX_BYTES: Final = 1 << 33
"""Of all files of a model: five folds of the largest network, with their optimisers, are 5 GB."""
ENCRYPTED: Final = 0x1  # bit of the general purpose flags, APPNOTE 4.4.4


@contextlib.contextmanager
def model_folder(model: Path) -> Iterator[Path]:
    """The folder of a released model that holds plans.json and dataset.json; an archive is unpacked beside
    nothing of yours, and removed again.

    Raises BadStudy when there is none, or there are several.
    """
    if model.suffix == ".zip" and model.is_file() and not zipfile.is_zipfile(model):
        raise BadStudy(f"{model.name} is no whole zip archive: download it again")
    if not zipfile.is_zipfile(model):
        yield _only([p.parent for p in _plans_below(model)], model) if model.is_dir() else model
        return
    with tempfile.TemporaryDirectory(prefix="spineage-model-") as unpacked:
        _unpack(model, Path(unpacked))
        yield Path(unpacked)


def _plans_below(model: Path) -> list[Path]:
    at_top = model / PLANS
    return [at_top] if at_top.is_file() else sorted(model.rglob(PLANS))


def _only(folders: list[Path], model: Path) -> Path:
    """The one folder; without any the model's own, of which the import says what is missing."""
    if len(folders) > 1:
        raise BadStudy(
            f"{model.name} holds {len(folders)} models, such as {folders[0].name} and {folders[1].name}: "
            "give the folder of one"
        )
    return folders[0] if folders else model


def _unpack(model: Path, folder: Path) -> None:
    with _archive(model) as packed:
        members = [info for info in packed.infolist() if not info.is_dir()]
        tops = {PurePosixPath(i.filename).parent for i in members if _base(i) == PLANS}
        if len(tops) != 1:
            raise BadStudy(
                f"{model.name} holds {len(tops) or 'no'} models (folders with {PLANS}): unpack it, and give "
                "the folder of one"
            )
        top = tops.pop()
        left = MAX_BYTES
        for info in members:
            name = _below(info, top)
            if not WANTED.fullmatch(name):
                continue
            left -= info.file_size
            if left < 0 or info.flag_bits & ENCRYPTED:
                raise BadStudy(f"{model.name} is encrypted, or unpacks to more than a model holds")
            target = folder / name
            target.parent.mkdir(exist_ok=True)
            with packed.open(info) as source, target.open("wb") as file:
                _copy(source, file, info.file_size)


@contextlib.contextmanager
def _archive(model: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(model) as packed:
            yield packed
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as error:
        raise BadStudy(
            f"{model.name} cannot be unpacked ({type(error).__name__}): download it again"
        ) from None


def _copy(source: IO[bytes], file: IO[bytes], size: int) -> None:
    """At most what the table of contents promised."""
    shutil.copyfileobj(source, file)
    if file.tell() > size:
        raise BadStudy("the archive unpacks to more than it says")


def _base(info: zipfile.ZipInfo) -> str:
    return PurePosixPath(info.filename).name


def _below(info: zipfile.ZipInfo, top: PurePosixPath) -> str:
    path = PurePosixPath(info.filename)
    return str(path.relative_to(top)) if path.is_relative_to(top) else ""
