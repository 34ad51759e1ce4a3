"""Explain: Grad-CAM and region occlusion of a few people the network has not learned from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spineage.engine.tasks import run_alone
from spineage.errors import BadStudy
from spineage.io.models.bundle import read_bundle
from spineage.io.storage.store import Store
from spineage.io.storage.tensors import people_of
from spineage.io.storage.volumes import pack
from spineage.run.context import Context, digest_of
from spineage.run.counts import Counts
from spineage.science.gap.sample import not_learned_from
from spineage.science.network.explain import grad_cam, occlusion_years, spread_out
from spineage.science.network.network import SpineAgeNet, load_network
from spineage.stages.score.stage import ChosenBundle, choose
from spineage.tables import KEY

SCHEMA = 1  # raise it when the same network and scan give another map


def recipe(context: Context) -> dict[str, Any]:
    """The section, the scores' address, which covers the bundle, and the scans chosen."""
    chosen = chosen_scans(context)
    return {
        "schema": SCHEMA,
        **context.study.recipe("explain"),
        "score": context.fingerprint("score"),
        "scans": digest_of([f"{row.scan_id}:{row.source_digest}" for row in chosen.itertuples()]),
    }


def run(context: Context) -> Counts:
    """Explain the chosen scans, once."""
    if not context.is_done("explain"):
        context.publish("explain", {"explanations": _on_worker(context, chosen_scans(context))})
    return Counts({"explained": len(context.read("explanations"))})


def chosen_scans(context: Context) -> pd.DataFrame:
    """Scans of people neither trained nor chosen on, spread over the gap; over the prediction without ages.

    One scan a person, the first by id. Raises BadStudy when everyone scored was used in training.
    """
    scores = context.read(
        "scores", [*KEY, "person_id", "role", "predicted_years", "age_years", "sag_years"]
    )
    scores = not_learned_from(scores).sort_values(KEY)
    scores = scores.drop_duplicates("person_id", ignore_index=True)
    if scores.empty:
        raise BadStudy(
            "every scored scan was used in training: score people of the test split, or new ones"
        )
    has_gap = scores["sag_years"].notna()
    if has_gap.any():
        scores, by = scores[has_gap], "sag_years"
    else:
        by = "predicted_years"
    chosen = spread_out(scores[by].to_numpy(np.float64), context.study.explain.num_scans)
    return scores.iloc[chosen].reset_index(drop=True)


@dataclass(frozen=True)
class Work:
    """What a worker needs to explain some scans. bundle: folder and digest; scans: their keys."""

    root: str
    bundle: ChosenBundle
    tensors: str
    scans: pd.DataFrame
    device: str


def _on_worker(context: Context, scans: pd.DataFrame) -> pd.DataFrame:
    """The driver's node may have no GPU, and may be small."""
    context.connect()
    cluster = context.study.cluster
    work = Work(
        context.store.root,
        choose(context),
        context.folder_of("tensors"),
        scans[KEY],
        cluster.device,
    )
    rows = run_alone(
        explain_scans, work, num_gpus=cluster.gpus_per_worker, labels=cluster.labels_of("predict")
    )
    return pd.DataFrame(rows)


def explain_scans(work: Work) -> list[dict[str, Any]]:
    """Rows of `explanations`."""
    store = Store(work.root)
    bundle, _ = read_bundle(store, work.bundle.folder, work.bundle.digest)
    model = load_network(bundle.weights, bundle.network).to(work.device)
    people = people_of(store, work.tensors, work.scans.assign(age_years=0.0))
    return [
        {
            **{name: work.scans[name].iloc[i] for name in KEY},
            **_explained(model, *people.tensor(i), bundle.region),
        }
        for i in range(len(work.scans))
    ]


def _explained(
    model: SpineAgeNet, voxels: np.ndarray, levels: np.ndarray, region: str
) -> dict[str, Any]:
    """The columns of `explanations` beside the key."""
    cam = grad_cam(model, voxels, levels, region)
    predicted_years, occlusion = occlusion_years(model, voxels, levels, region)
    return {
        "predicted_years": predicted_years,
        "regions": list(occlusion),
        "occlusion_years": list(occlusion.values()),
        "gradcam_shape": [int(n) for n in cam.shape],
        "gradcam_zstd": pack(cam),
    }
