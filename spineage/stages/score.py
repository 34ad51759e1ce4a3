"""score: a spine age and a gap for every scan, segmenting and preparing what is missing.

The address covers the model bundle and the recipes before it, and not the list of scans: a run fills in
what is not there, so a killed run, next month's exams and a new model are one mechanism.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from spineage.engine import session
from spineage.engine.rows import Limits, Row, Step, plain_progress, run_rows
from spineage.errors import TRANSIENT, BadStudy
from spineage.io.bundle import BUNDLE_FILES, DIGEST, Bundle, read_bundle
from spineage.io.parquet import read_keys, read_table, write_part
from spineage.io.parts import find_parts
from spineage.io.segmenters import read_manifest
from spineage.io.store import Store
from spineage.io.tracking import open_tracking
from spineage.science.network import load_network
from spineage.science.score import require_self_test, self_test
from spineage.stages import prepare, segment
from spineage.stages.calibrate import latest_bundle
from spineage.stages.context import Context
from spineage.stages.score_sink import WriteScores, batch_name
from spineage.stages.score_steps import Fill, PredictStep, WhenNeeded
from spineage.tables import FAULTS, MASKS, SCORES, TENSORS

SCHEMA = 1
KEY = ["scan_id", "source_digest"]


@dataclass(frozen=True)
class Chosen:
    """The bundle that scores: where it lies in the workspace, and its digest."""

    folder: str
    digest: str


def recipe(context: Context) -> dict[str, Any]:
    """Which bundle, and how its input is made."""
    return {
        "schema": SCHEMA,
        "bundle": choose(context).digest,
        "segment": context.fingerprint("segment"),
        "prepare": context.fingerprint("prepare"),
    }


def choose(context: Context) -> Chosen:
    """This study's own bundle, one of the registry, or a folder; a name is looked up once a process.

    A bundle from elsewhere is copied to `models/<digest>/`, where every worker finds it and nobody
    changes it. Raises BadStudy when there is none, or it is not whole.
    """
    name = context.study.score.model
    if name is None:
        return Chosen(*latest_bundle(context))
    if name not in context.resolved:
        context.resolved[name] = _bring(context, name)
    digest = context.resolved[name]
    return Chosen(f"models/{digest}", digest)


def _bring(context: Context, name: str) -> str:
    """Copy a bundle into the workspace; its digest."""
    if name.startswith("models:/"):
        tracking = open_tracking(context.study.cluster.mlflow, context.store, context.study.name)
        _, digest = tracking.resolve(name)
        if context.store.exists(f"models/{digest}/{DIGEST}"):
            return digest
        files = tracking.fetch(name)
    else:
        source = Store(name)
        _, digest = read_bundle(source, "")
        files = {file: source.read(file) for file in BUNDLE_FILES}
    for file in BUNDLE_FILES:
        if file in files:
            context.store.write(f"models/{digest}/{file}", files[file])
    read_bundle(context.store, f"models/{digest}", digest)
    return digest


def run(context: Context) -> dict[str, int]:
    """Score what is not scored. Returns how many of the study's scans are scored, refused (by code) and
    left.

    Raises BadStudy before any work when the bundle does not fit the study, and StoppedEarly when too many
    scans fail alike.
    """
    chosen = choose(context)
    bundle, _ = read_bundle(context.store, chosen.folder, chosen.digest)
    require_fit(context, bundle)
    model = load_network(bundle.weights, bundle.network)
    require_self_test(self_test(model, tuple(bundle.prepare["shape"])), bundle.self_test_years)
    scans = context.read("scans")
    todo = _missing(context, scans)
    manifest = _manifest(context, _inherit_faults(context, todo), bundle)
    if manifest:
        _score(context, chosen, manifest)
    return {**_totals(context, scans), "new": len(todo)}


def require_fit(context: Context, bundle: Bundle) -> None:
    """A network sees what it was trained on: the same preparation, from the same segmenter, or BadStudy."""
    ours = context.study.recipe("prepare")["prepare"]
    other = [f"prepare.{k}: {v}" for k, v in bundle.prepare.items() if ours.get(k) != v]
    if other or set(ours) != set(bundle.prepare):
        raise BadStudy(
            "the model was trained on tensors prepared otherwise: set "
            f"{', '.join(other) or 'prepare'} in the study"
        )
    found = read_manifest(context.study.segment.weights)["digest"]
    if found != bundle.segmenter["digest"]:
        raise BadStudy(
            f"the model was trained on masks of segmenter {bundle.segmenter['digest'][:12]}, segment.weights "
            f"is {found[:12]}: name the former, or train and calibrate with the latter"
        )
    section = context.study.segment
    for key, before in (("mode", "exact"), ("mirror", False)):  # of bundles that do not say
        theirs = bundle.segmenter.get(key, before)
        if getattr(section, key) != theirs:
            raise BadStudy(
                f"the model was trained on masks drawn with segment.{key}: {theirs}, the study says "
                f"{getattr(section, key)}: set it so, or train and calibrate with the study's"
            )


# which scans


def _missing(context: Context, scans: pd.DataFrame) -> pd.DataFrame:
    """Scans without a score and without a lasting fault."""
    folder = context.folder("score")
    faults = read_table(context.store, folder, FAULTS, [*KEY, "code"])
    lasting = faults[~faults["code"].isin(TRANSIENT)]
    done = read_keys(context.store, folder, SCORES) | _keys(lasting)
    return _without(scans, done)


def _inherit_faults(context: Context, todo: pd.DataFrame) -> pd.DataFrame:
    """Scans that segment or prepare have refused are refused here with the same words; the others are
    returned."""
    earlier = pd.concat(
        [context.read("faults", stage=stage) for stage in ("segment", "prepare")], ignore_index=True
    )
    earlier = earlier[~earlier["code"].isin(TRANSIENT)].drop_duplicates(KEY)
    wanted = set(_pairs(todo))
    rows = [
        _without_nan(row)
        for row in earlier.to_dict("records")
        if (row["scan_id"], row["source_digest"]) in wanted
    ]
    if rows:
        write_part(context.store, context.folder("score"), FAULTS, rows, batch_name(rows))
    return _without(todo, _keys(earlier))


def _manifest(context: Context, todo: pd.DataFrame, bundle: Bundle) -> list[Row]:
    """One row per scan: who it is, which of its mask and tensor exist, and its sources where one does
    not."""
    measured = ["numbering", "num_discs_inferred"]
    masks = find_parts(context.store, context.folder("segment"), MASKS, measured)
    tensors = find_parts(context.store, context.folder("prepare"), TENSORS)
    rows = todo.merge(masks.rename(columns={"part": "masks_part"}), on=KEY, how="left")
    rows = rows.merge(tensors.rename(columns={"part": "tensors_part"}), on=KEY, how="left")
    rows["masks_part"] = rows["masks_part"].fillna("")
    rows["tensors_part"] = rows["tensors_part"].fillna("").where(rows["masks_part"] != "", "")
    rows["role"] = [bundle.role_of(person) for person in rows["person_id"]]
    rows["part"] = rows["masks_part"]  # as prepare's steps call it
    if (rows["tensors_part"] == "").any():
        rows = rows.merge(context.read("sources"), on=KEY, how="left")
        rows.loc[rows["tensors_part"] != "", "num_voxels"] = 0  # read part by part, in that order
    rows = rows.sort_values(["tensors_part", "masks_part", *KEY])
    return [_without_nan(row) for row in rows.to_dict("records")]


def _without_nan(row: dict[Any, Any]) -> Row:
    """What pandas calls NaN is unknown, and unknown is None."""
    return {str(k): None if isinstance(v, float) and v != v else v for k, v in row.items()}


def _without(rows: pd.DataFrame, keys: set[tuple[str, str]]) -> pd.DataFrame:
    return rows.loc[np.array([key not in keys for key in _pairs(rows)], dtype=bool)]


def _pairs(rows: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(rows["scan_id"], rows["source_digest"], strict=True))


def _keys(rows: pd.DataFrame) -> set[tuple[str, str]]:
    return set(_pairs(rows))


# the work


def _score(context: Context, chosen: Chosen, manifest: list[Row]) -> None:
    cluster = context.study.cluster
    context.connect()
    num_unsegmented = sum(not row["masks_part"] for row in manifest)
    num_unprepared = sum(not row["tensors_part"] for row in manifest)
    context.say(
        f"  {len(manifest)} scans to score, {num_unprepared} of them to prepare, {num_unsegmented} to segment"
    )
    steps = _chain(context, chosen, num_unsegmented, num_unprepared)
    _require_gpus(steps)
    folders = {stage: context.folder(stage) for stage in ("segment", "prepare", "score")}
    run_rows(
        manifest,
        steps,
        Step(WriteScores, {"root": context.store.root, "folders": folders}, "score", num_cpus=0.25),
        rows_per_part=cluster.rows_per_part,
        limits=Limits(cluster.max_fault_fraction, cluster.min_scans_before_stop),
        say=plain_progress("score"),
        tell=lambda text: context.say(f"  {text}"),
    )


def _chain(
    context: Context, chosen: Chosen, num_unsegmented: int, num_unprepared: int
) -> list[Step]:
    """No more steps than the scans need: each is a process that loads its libraries and weights."""
    predict = _predict(context, chosen)
    if not num_unprepared:
        return [predict]
    if not num_unsegmented:
        (from_sources,) = prepare.steps(context)
        return [_filling(context, from_sources, "prepare", TENSORS.name), predict]
    assemble, segment_, name = segment.steps(context.study)
    name = replace(name, kwargs={**name.kwargs, "keep_voxels": True})
    kwargs = prepare.prepare_kwargs(context.study)
    on_mask = replace(assemble, make=prepare.PrepareStep, kwargs=kwargs, name="prepare")
    return [
        _when_needed(assemble, TENSORS.name),
        _when_needed(segment_, TENSORS.name, MASKS.name),
        _filling(context, name, "segment", MASKS.name),
        _filling(context, on_mask, "prepare", TENSORS.name),
        predict,
    ]


def _when_needed(step: Step, *unless: str) -> Step:
    """The step of another stage, for scans of which none of these tables has a part."""
    kwargs = {"make": step.make, "kwargs": step.kwargs, "unless": unless}
    return replace(step, make=WhenNeeded, kwargs=kwargs)


def _filling(context: Context, step: Step, stage: str, table: str) -> Step:
    """The step of another stage, with its answers kept there."""
    place = {"root": context.store.root, "folder": context.folder(stage), "table": table}
    return replace(step, make=Fill, kwargs={"make": step.make, "kwargs": step.kwargs, **place})


def _predict(context: Context, chosen: Chosen) -> Step:
    cluster = context.study.cluster
    device = "cuda" if cluster.gpus_per_worker else "cpu"
    bundle = {"root": context.store.root, "folder": chosen.folder, "digest": chosen.digest}
    return Step(
        PredictStep, {**bundle, "device": device}, "score", workers=cluster.predict_workers,
        num_gpus=cluster.gpus_per_worker, deadline_s=cluster.deadline_s,
    )  # fmt: skip


def _require_gpus(steps: list[Step]) -> None:
    """Segmenter and network hold their GPUs at once: a chain that does not fit would wait for ever."""
    wanted = sum(step.num_gpus * step.workers for step in steps)
    found = session.resources()["GPU"]
    if wanted > found:
        raise BadStudy(
            f"scoring holds {wanted:g} GPUs at once (segment_workers and predict_workers, gpus_per_worker "
            f"each) and the cluster has {found:g}: lower cluster.gpus_per_worker (0.5 shares a GPU) or the "
            "workers"
        )


# how it went


def _totals(context: Context, scans: pd.DataFrame) -> dict[str, int]:
    """Of the study's scans: scored, refused by code, and left for the next run (transient faults)."""
    folder = context.folder("score")
    wanted = set(_pairs(scans))
    scored = read_keys(context.store, folder, SCORES) & wanted
    faults = read_table(context.store, folder, FAULTS, [*KEY, "code"])
    code_of = {
        key: code
        for key, code in zip(_pairs(faults), faults["code"], strict=True)
        if key in wanted - scored and code not in TRANSIENT
    }
    counts = {"scored": len(scored)}
    for code, n in sorted(Counter(code_of.values()).items()):
        counts[f"refused:{code}"] = n
    counts["left"] = len(wanted) - len(scored) - len(code_of)
    return counts
