"""A workspace in which stages have run, one file of it damaged or gone: shown, read and worked on again."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pyarrow.types as pat
from rich.console import Console

from spineage.errors import BadStudy
from spineage.io.models.database import require_database
from spineage.io.storage.index import keys_of, parts_of_scans
from spineage.io.storage.parquet import write_part
from spineage.io.storage.parts import PartReader
from spineage.io.storage.volumes import mask_from_row, tensor_from_row
from spineage.run import runner
from spineage.run.context import Context
from spineage.run.fill import missing
from spineage.run.refusals import why_empty
from spineage.stages import calibrate
from spineage.stages.ingest import stage as ingest
from spineage.study import read_study, study_from
from spineage.tables import FAULTS, KEY, MASKS, TABLES, TENSORS, Table
from spineage.verbs import show
from tests.fuzz.bundles import make_bundle, use_bundle
from tests.fuzz.columns import damaged_parquet
from tests.fuzz.corpus import CANARY, TALL
from tests.fuzz.damage import BYTEWISE, Draw
from tests.fuzz.outcome import Answer, Trial, outcome
from tests.fuzz.texts import damaged_text
from tests.made.dicom_makers import write_sagittal

Act = Callable[[Path, Draw], None]


def make(folder: Path, *, with_real: bool) -> Trial:
    os.environ["SPINEAGE_KEY"] = "a key for tests, 16 bytes or more"
    workspace = folder / "workspace"
    _make_workspace(folder, workspace)
    whole = _snapshot(workspace)

    def trial(seed: int, number: int) -> Answer:
        rng = np.random.default_rng([seed, number])
        _restore(workspace, whole)
        victim = list(whole)[number % len(whole)]
        _damage(workspace / victim, rng)
        ends: list[object] = []
        for act in ACTS:
            answer = outcome(lambda act=act: act(workspace, rng))  # type: ignore[misc]
            if "wrong" in answer:
                return {"source": victim, "wrong": f"{act.__name__}: {answer['wrong']}"}
            ends += answer["ends"]  # type: ignore[misc]
        return {"source": victim, "ends": ends}

    return trial


def _damage(place: Path, rng: Draw) -> None:
    if rng.random() < 0.1:
        place.unlink()
        return
    data = place.read_bytes()
    if place.suffix == ".parquet":
        place.write_bytes(damaged_parquet(data, rng))
    elif place.suffix in (".json", ".yaml"):
        place.write_bytes(damaged_text(data, rng))
    else:
        text = bytearray(data)
        BYTEWISE[int(rng.integers(len(BYTEWISE)))](text, rng)
        place.write_bytes(bytes(text))


def _snapshot(workspace: Path) -> dict[str, bytes]:
    files = sorted(path for path in workspace.rglob("*") if path.is_file())
    return {path.relative_to(workspace).as_posix(): path.read_bytes() for path in files}


def _restore(workspace: Path, whole: dict[str, bytes]) -> None:
    for path in workspace.rglob("*"):
        if path.is_file() and path.relative_to(workspace).as_posix() not in whole:
            path.unlink()
    for name, data in whole.items():
        place = workspace / name
        if not place.is_file() or place.read_bytes() != data:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)


# what is done with it


def _context(workspace: Path) -> Context:
    """As the study says that ran there; a study that is damaged is another one, or refused."""
    study = read_study(workspace / "study.resolved.yaml", workspace=str(workspace))
    return Context(study, say=lambda text: None)


def shows(workspace: Path, rng: Draw) -> None:
    name = list(TABLES)[int(rng.integers(len(TABLES)))]
    data = show.read(name, None, str(workspace), None)
    show.as_json(name, data)
    for grid in show.grids(name, data):
        Console(file=io.StringIO()).print(grid)


def shows_faults(workspace: Path, rng: Draw) -> None:
    show.grids("faults", show.read("faults", None, str(workspace), None))


def reads_rows(workspace: Path, rng: Draw) -> None:
    """As a worker does: a row of masks, and one of tensors."""
    context = _context(workspace)
    for stage, table, decode in (
        ("segment", MASKS, mask_from_row), ("prepare", TENSORS, tensor_from_row)
    ):  # fmt: skip
        folder = context.folder(stage)
        scans = keys_of(context.read("sources"))
        reader = PartReader(context.store, table)
        for key, part in parts_of_scans(context.store, folder, table, scans).items():
            decode(reader.row(part, *key))


def fills_in(workspace: Path, rng: Draw) -> None:
    """What segment and prepare look at before they work."""
    context = _context(workspace)
    context.read("sources")
    for stage, table in (("segment", MASKS), ("prepare", TENSORS)):
        missing(context, stage, table, context.read("sources"))
    why_empty(context.store, context.folder, "tensors")


def reads_published(workspace: Path, rng: Draw) -> None:
    context = _context(workspace)
    context.read("conditions")
    context.asset("conditions", "features.json")
    context.records("conditions")
    context.records("ingest")


def loads_the_model(workspace: Path, rng: Draw) -> None:
    context = _context(workspace)
    folder, _ = calibrate.latest_bundle(context)
    use_bundle(context.store, folder)


def opens_the_registry(workspace: Path, rng: Draw) -> None:
    require_database(f"sqlite:///{workspace / 'mlflow.db'}")


def ingests(workspace: Path, rng: Draw) -> None:
    context = _context(workspace)
    if context.study.inputs.scans != str(workspace.parent / "archive"):
        raise BadStudy("another input")  # the whole disk, perhaps
    ingest.run(context)


ACTS: tuple[Act, ...] = (
    shows, shows_faults, reads_rows, reads_published, loads_the_model, opens_the_registry, fills_in, ingests,
)  # fmt: skip


# how it is made


def _make_workspace(folder: Path, workspace: Path) -> None:
    def named(dataset: object, number: int) -> None:
        dataset.PatientName = CANARY  # type: ignore[attr-defined]

    write_sagittal(folder / "archive" / "a", TALL, change=named)
    nifti = nibabel.Nifti1Image(TALL.voxels_RAS.astype(np.int16), TALL.affine_RAS)
    nibabel.save(nifti, folder / "archive" / "sub-1_T2w.nii.gz")
    study = study_from(
        {
            "workspace": str(workspace),
            "inputs": {"scans": str(folder / "archive")},
            "cohort": {"rule": "everyone"},
        }
    )
    context = Context(study, say=lambda text: None)
    runner.run_stages(context, ["ingest", "conditions"])
    scans = context.read("scans")
    for i, key in enumerate(scans[KEY].to_dict("records")):
        row = {**key, **_zeros(MASKS)}
        write_part(context.store, context.folder("segment"), MASKS, [row], f"m{i}")
        row = {**key, **_zeros(TENSORS)}
        write_part(context.store, context.folder("prepare"), TENSORS, [row], f"t{i}")
        fault = {**key, "stage": "segment", "code": "cut_off", "message": "cut off"}
        write_part(context.store, context.folder("segment"), FAULTS, [fault], f"f{i}")
    bundle = f"calibrate/{'0' * 16}/bundle"
    files = make_bundle()
    for name, content in files.items():
        context.store.write(f"{bundle}/{name}", content)
    context.store.write(f"calibrate/{'0' * 16}/done.json", b"{}")
    digest = files["bundle.sha256"].decode().strip()
    pointer = pd.Series({"folder": bundle, "digest": digest}).to_json().encode()
    context.store.write(calibrate._pointer(context), pointer)
    with sqlite3.connect(workspace / "mlflow.db") as database:
        database.execute("create table runs (x text)")
        database.executemany("insert into runs values (?)", [("x" * 100,)] * 100)


def _zeros(table: Table) -> dict[str, object]:
    """A row of a small mask or tensor: every column has some value of its type."""
    row: dict[str, object] = {}
    for column in table.columns:
        if column.name in KEY:
            continue
        if pat.is_list(column.dtype):
            is_text = pat.is_string(column.dtype.value_type)
            row[column.name] = ["C2"] if is_text else [1]
        elif pat.is_binary(column.dtype):
            row[column.name] = b""
        else:
            row[column.name] = "x" if pat.is_string(column.dtype) else 0
    return {**row, **_voxels(table)}


def _voxels(table: Table) -> dict[str, object]:
    from spineage.io.storage.volumes import pack

    levels = np.zeros((2, 3, 4), np.uint8)
    if table is TENSORS:
        voxels = pack(np.zeros((2, 3, 4), np.float16))
        return {"shape": [2, 3, 4], "voxels_zstd": voxels, "levels_zstd": pack(levels)}
    affine = [float(v) for v in np.eye(4).ravel()]
    return {"shape": [2, 3, 4], "affine": affine, "levels_zstd": pack(levels)}
