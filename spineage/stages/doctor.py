"""Is everything a study needs there? Each line is ok, or says what to do."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from spineage.engine import session
from spineage.errors import BadStudy
from spineage.stages.context import PACKAGES
from spineage.study import Study


@dataclass(frozen=True)
class Check:
    """One line of the doctor."""

    name: str
    is_ok: bool
    found: str


def examine(study: Study | None) -> Iterator[Check]:
    """Packages and devices; with a study also its inputs, storage, key, weights, Ray and MLflow."""
    yield Check("python", True, platform.python_version())
    yield Check(
        "packages", True, ", ".join(f"{p} {importlib.metadata.version(p)}" for p in PACKAGES)
    )
    yield Check("devices", True, _devices())
    yield Check("import", True, _import())
    if study is None:
        yield Check("study", True, "none named: give --study to check its inputs and services")
        return
    for name, probe in (
        ("inputs", _inputs), ("key", _key), ("storage", _storage), ("weights", _weights),
        ("ray", _ray), ("mlflow", _mlflow),
    ):  # fmt: skip
        yield _tried(name, probe, study)


def _tried(name: str, probe: Callable[[Study], str], study: Study) -> Check:
    try:
        return Check(name, True, probe(study))
    except BadStudy as error:
        return Check(name, False, str(error))


def _devices() -> str:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{os.cpu_count()} CPU cores, " + (", ".join(gpus) or "no GPU")


def _import() -> str:
    from spineage.io.isolation import is_possible

    if is_possible():
        return "a checkpoint can be opened in a process without network or files"
    return "no process can be isolated here: run `spineage import-segmenter` on another machine"


def _inputs(study: Study) -> str:
    named = {k: v for k, v in study.inputs.model_dump().items() if v and k not in ("exam_key",)}
    if "scans" not in named:
        raise BadStudy("inputs.scans is empty: name the folder or URI of the scans")
    for key, location in named.items():
        if "://" not in location and not Path(location).exists():
            raise BadStudy(f"inputs.{key} does not exist; correct it in the study file")
    return ", ".join(sorted(named))


def _key(study: Study) -> str:
    from spineage.io.identity import load_key

    load_key(study)
    return "found"


def _storage(study: Study) -> str:
    from spineage.io.store import Store

    store = Store(study.workspace)
    name = ".doctor"
    try:
        store.write(name, b"ok")
        store.read(name)
        store.fs.rm_file(f"{store._base}/{name}")
    except Exception as error:
        raise BadStudy(
            f"cannot write to the workspace ({type(error).__name__}): check the credentials and rights"
        ) from None
    return "the workspace can be written and read"


def _weights(study: Study) -> str:
    from spineage.io.nnunet import load_segmenter
    from spineage.io.segmenters import in_words

    return in_words(load_segmenter(study.segment.weights, device="cpu").manifest)


def _ray(study: Study) -> str:
    if not (study.cluster.ray or os.environ.get("RAY_ADDRESS")):
        return "none named: a session is started on this machine when needed"
    session.connect(study.cluster.ray, gpus_needed=study.cluster.gpus_per_worker)
    found = session.resources()
    return f"{found['nodes']:g} nodes, {found['CPU']:g} CPUs, {found['GPU']:g} GPUs"


def _mlflow(study: Study) -> str:
    if not study.cluster.mlflow:
        return "none named: sqlite in the workspace"
    from spineage.io import tracking

    tracking.check(study.cluster.mlflow)
    return "answers"
