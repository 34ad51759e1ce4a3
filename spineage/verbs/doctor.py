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
from spineage.engine.rows import BYTES_A_WORKER
from spineage.errors import BadStudy, place_of
from spineage.io.scans.given import list_given
from spineage.io.storage.store import Store
from spineage.io.storage.trouble import free_space, reason_of
from spineage.run.checks import (
    check_findings,
    check_lifestyle,
    check_registry,
    check_sites,
    check_splits,
)
from spineage.run.context import PACKAGES, Context
from spineage.run.nodes import visit_nodes
from spineage.segmenter.folder import require_segmenter, require_usable
from spineage.study import Study
from spineage.uris import strip_logins

OLDEST_CUDNN = 91_500
PROBE, PROBE_BYTES = ".doctor", 1 << 20
"""What is written into the workspace: more than a disk that is full, or a quota that is used up, takes."""


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
        ("inputs", _inputs), ("people", _people), ("key", _key), ("storage", _storage),
        ("weights", _weights), ("tables", _tables), ("sites", _sites), ("ray", _ray), ("mlflow", _mlflow),
    ):  # fmt: skip
        yield _tried(name, probe, study)


def _tried(name: str, probe: Callable[[Study], str], study: Study) -> Check:
    try:
        return Check(name, True, probe(study))
    except BadStudy as error:
        return Check(name, False, str(error))
    except Exception as error:  # the other lines are wanted all the same
        return Check(name, False, f"{place_of(error)}: please report it")


def _devices() -> str:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    require_sound_cudnn(bool(gpus), torch.backends.cudnn.version())
    return f"{os.cpu_count()} CPU cores, " + (", ".join(gpus) or "no GPU")


def require_sound_cudnn(has_gpu: bool, version: int | None) -> None:
    """Raise BadStudy for a cuDNN whose 3D convolutions in bfloat16 are wrong (pytorch 163539)."""
    if has_gpu and version is not None and version < OLDEST_CUDNN:
        major, minor = version // 10_000, version // 100 % 100
        raise BadStudy(
            f"cuDNN {major}.{minor} computes 3D convolutions in bfloat16 wrongly on GPUs: install 9.15 or "
            "newer (pip install 'nvidia-cudnn-cu12>=9.15', or the torch that brings it)"
        )


def _import() -> str:
    from spineage.segmenter.published.isolation import is_possible

    if is_possible():
        return "a checkpoint can be opened in a process without network or files"
    return "no process can be isolated here: run `spineage import-segmenter` on another machine"


NO_LOCATIONS = ("exam_key", "max_age_shown")
"""Keys of inputs that name no file."""


def _inputs(study: Study) -> str:
    named = {k: v for k, v in study.inputs.model_dump().items() if v and k not in NO_LOCATIONS}
    if "scans" not in named:
        raise BadStudy("inputs.scans is empty: name the folder or URI of the scans")
    for key, location in named.items():
        if "://" not in location and not Path(location).exists():
            raise BadStudy(f"inputs.{key} does not exist; correct it in the study file")
    return ", ".join(sorted(named))


def _people(study: Study) -> str:
    """What the tables about people hold, in counts, so that a wrong column is seen before it is used."""
    from spineage.io.people.words import (
        describe_lifestyle,
        describe_participants,
        tell_open_end,
    )

    inputs, told = study.inputs, []
    if inputs.participants:
        told.append(describe_participants(inputs.participants, inputs.max_age_shown))
    if inputs.lifestyle:
        told.append(describe_lifestyle(inputs.lifestyle, study.associate.lifestyle))
    if inputs.findings and (open_end := tell_open_end(inputs.findings, "findings")):
        told.append(f"findings: {open_end}")
    return ". ".join(told) or "no participants or lifestyle table is named"


def _key(study: Study) -> str:
    from spineage.io.people.identity import load_key, require_private_key

    load_key(study)
    require_private_key(study)
    return "found"


def _storage(study: Study) -> str:
    store = Store(study.workspace)
    left = f", {free_space(store.root)}" if store.is_local else ""
    try:
        store.write(PROBE, bytes(PROBE_BYTES))
        store.read(PROBE)
        store.fs.rm_file(store.uri(PROBE))
    except BadStudy as error:
        raise BadStudy(f"{error}{left}") from None
    except FileNotFoundError:
        raise BadStudy(
            f"{strip_logins(study.workspace)} is in no bucket that is there, or none that this login may "
            "see: correct workspace in the study, or make the bucket"
        ) from None
    except Exception as error:
        raise BadStudy(
            f"cannot write to the workspace ({reason_of(error)}){left}: check the credentials and rights"
        ) from None
    return f"the workspace can be written and read{left}"


def _weights(study: Study) -> str:
    from spineage.segmenter.folder import in_words
    from spineage.segmenter.predict.predictor import load_segmenter

    if study.segment.masks:
        return _masks(study)
    require_usable(study.segment.weights)
    return in_words(load_segmenter(study.segment.weights, device="cpu").manifest)


def _masks(study: Study) -> str:
    require_segmenter(study.segment)
    assert study.segment.masks
    num = len(list_given(study.segment.masks))
    what = "a table of masks" if study.segment.masks.endswith(".csv") else f"{num} files of masks"
    return f"{what} of {study.segment.masks_of}; no network draws"


def _tables(study: Study) -> str:
    context = Context(study)
    for check in (check_findings, check_splits, check_lifestyle):
        check(context)
    return "findings, splits and lifestyle fit the study, as far as it names them"


def _sites(study: Study) -> str:
    context = Context(study)
    if not study.cohort.test_sites:
        return "no cohort.test_sites"
    if not context.has("scans"):
        return "cohort.test_sites are checked when ingest has run"
    check_sites(context)
    return "everybody's at cohort.test_sites is in test"


def _ray(study: Study) -> str:
    cluster, told = study.cluster, list[str]()
    if not (cluster.ray or session.is_submitted()):
        session.require_gpus_here(cluster.gpus_per_worker)
        return "none named: a session is started on this machine when needed"
    session.connect(cluster.ray, gpus_needed=cluster.gpus_per_worker, grows=cluster.grows)
    found = session.resources()
    if not cluster.grows:
        require_object_store(study, found["object_store_bytes"])
    if session.is_joined():
        weights = "" if study.segment.masks else study.segment.weights
        visit_nodes(Store(study.workspace), weights, told.append)
    has = f"{found['nodes']:g} nodes, {found['CPU']:g} CPUs, {found['GPU']:g} GPUs"
    return ", ".join([has, "each sees the workspace and has the same software and weights", *told])


def require_object_store(study: Study, have_bytes: float) -> None:
    """Raise BadStudy when Ray's object stores hold less than the workers of a scoring keep between them."""
    cluster = study.cluster
    workers = 3 * cluster.cpu_workers + cluster.segment_workers + cluster.predict_workers + 1
    needed = workers * BYTES_A_WORKER
    if have_bytes < needed:
        raise BadStudy(
            f"the object stores of all nodes hold {have_bytes / 1e9:.1f} GB, and {workers} workers keep up "
            f"to {needed / 1e9:.1f} GB in them: what does not fit goes to disk, slowly; start nodes with a "
            "larger --object-store-memory (and /dev/shm), or ask for fewer workers"
        )


def _mlflow(study: Study) -> str:
    check_registry(study)
    return "answers" if study.cluster.mlflow else "none named: sqlite in the workspace"
