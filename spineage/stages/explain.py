"""Explain: Grad-CAM and region occlusion of a few people the network has not learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from spineage.errors import BadStudy
from spineage.io.bundle import read_bundle
from spineage.io.tensors import people_of
from spineage.io.volumes import pack
from spineage.science.explain import grad_cam, occlusion_years, spread_out
from spineage.science.network import SpineAgeNet, load_network
from spineage.stages.context import Context, digest_of
from spineage.stages.score import choose

SCHEMA = 1  # raise it when the same network and scan give another map
KEY = ["scan_id", "source_digest"]


def recipe(context: Context) -> dict[str, Any]:
    """The section, the scores' address, which covers the bundle, and the scans chosen."""
    chosen = chosen_scans(context)
    return {
        "schema": SCHEMA,
        **context.study.recipe("explain"),
        "score": context.fingerprint("score"),
        "scans": digest_of([f"{row.scan_id}:{row.source_digest}" for row in chosen.itertuples()]),
    }


def run(context: Context) -> dict[str, int]:
    """Explain the chosen scans, once."""
    if not context.is_done("explain"):
        context.publish("explain", {"explanations": _explain(context, chosen_scans(context))})
    return {"explained": len(context.read("explanations"))}


def chosen_scans(context: Context) -> pd.DataFrame:
    """Scans of people neither trained nor chosen on, spread over the gap; over the prediction without ages.

    One scan a person, the first by id. Raises BadStudy when everyone scored was used in training.
    """
    scores = context.read(
        "scores", [*KEY, "person_id", "role", "predicted_years", "age_years", "sag_years"]
    )
    scores = scores[~scores["role"].isin(["train", "validate"])].sort_values(KEY)
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


def _explain(context: Context, scans: pd.DataFrame) -> pd.DataFrame:
    chosen = choose(context)
    bundle, _ = read_bundle(context.store, chosen.folder, chosen.digest)
    model = load_network(bundle.weights, bundle.network)
    if context.study.cluster.gpus_per_worker > 0:
        model = model.to("cuda")
    people = people_of(context.store, context.folder("prepare"), scans.assign(age_years=0.0))
    rows = [
        {
            **{name: scans[name].iloc[i] for name in KEY},
            **_explained(model, *people.tensor(i), bundle.region),
        }
        for i in range(len(scans))
    ]
    return pd.DataFrame(rows)


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
