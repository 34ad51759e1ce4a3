"""A study in which everything before `calibrate` has run: its results are written here, small and known.

Toy spines (boxes), a network with random weights, planted predictions. Recipes of the planted stages are
plain names, so that only the stages under test compute anything.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch

from spineage.io.storage.parquet import write_part
from spineage.io.storage.volumes import pack
from spineage.run.context import Context
from spineage.science.gap.score import mahalanobis
from spineage.science.network.network import (
    build_network,
    describe,
    network_input,
    predict,
    save_weights,
)
from spineage.science.network.tensor import make_tensor
from spineage.science.scan.geometry import Volume
from spineage.study import Study
from spineage.tables import TABLES
from tests.made.sealed import sealed_nifti
from tests.made.toy_spine import QUALITY, SMALL, toy_spine

PLANTED = ("ingest", "conditions", "cohort", "segment", "prepare", "train")
SEGMENTER = {
    "digest": "5e" * 32,
    "schema": "semantic",
    "labels": {"1": "vertebra"},
    "domain": "phantom",
}
SPLITS = {"train": 12, "validate": 2, "calibrate": 10, "test": 6}


class Planted(Context):
    """A workspace in which the planted stages have run already."""

    def recipe(self, stage: str) -> dict[str, Any]:
        return {"planted": stage} if stage in PLANTED else super().recipe(stage)


def planted_study(folder: Path, **sections: Any) -> Study:
    small = {"prepare": SMALL.model_dump(), "train": {"channels": (4, 8)}}
    return Study(workspace=str(folder), **{**small, **sections})


def plant(context: Context) -> pd.DataFrame:
    """Write scans, sources, masks, tensors, cohort and the training stage's results; returns the cohort.

    Everybody has one phantom scan, the first test person a repeat; one test person is not normal.
    """
    cohort = _cohort()
    volumes, tensors = _spines(tuple(cohort["age_years"]))
    keys = cohort[["scan_id", "source_digest"]].to_dict("records")
    places = [
        _save(context, key["scan_id"], scan) for key, (scan, _) in zip(keys, volumes, strict=True)
    ]
    _write(context, "ingest", "scans", _scans(cohort))
    _write(context, "ingest", "sources", [{**k, **p} for k, p in zip(keys, places, strict=True)])
    _write(
        context,
        "segment",
        "masks",
        [{**k, **_mask(v)} for k, (_, v) in zip(keys, volumes, strict=True)],
    )
    _write(
        context,
        "prepare",
        "tensors",
        [{**k, **_tensor(*t)} for k, t in zip(keys, tensors, strict=True)],
    )
    _write(context, "cohort", "cohort", cohort)
    _train(context, cohort, tensors)
    return cohort


@functools.cache
def _spines(ages_years: tuple[float, ...]) -> tuple[list[Any], list[Any]]:
    """Scans with their levels, and tensors: drawn once a test session."""
    volumes = [toy_spine(age, seed=i) for i, age in enumerate(ages_years)]
    return volumes, [make_tensor(*volume, SMALL) for volume in volumes]


def _cohort() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    splits = [split for split, n in SPLITS.items() for _ in range(n)]
    ages = rng.uniform(25, 84, len(splits)).round(1)
    people = pd.DataFrame({"person_id": [f"p{i:02d}" for i in range(len(splits))], "split": splits})
    people["age_years"] = ages
    people["status"] = ["normal"] * (len(splits) - 1) + ["not_normal"]
    people = people.assign(
        fit_status=people["status"], consensus="unknown", normal_probability=np.nan
    )
    people["scan_id"] = [f"s{i:02d}" for i in range(len(splits))]
    first_test = people[people["split"] == "test"].head(1)
    people = pd.concat([people, first_test.assign(scan_id="s99")], ignore_index=True)
    constant = {"source_digest": "d" * 64, "sex": "F", "site": "hill", "cluster": 0, "cluster_name": "none",
                "umap_x": 0.0, "umap_y": 0.0, "num_findings": 0, "burden": 0.0}  # fmt: skip
    return people.assign(exam_id="e-" + people["scan_id"], **constant)


def _scans(cohort: pd.DataFrame) -> pd.DataFrame:
    return cohort.assign(
        age_source="PatientAge", vendor="spineage-phantom", model="toy", field_tesla=1.5,
        days_since_first=0, num_stations=1, extent_mm=720.0, coverage_json="[]", is_phantom=True,
    )  # fmt: skip


def _save(context: Context, scan_id: str, scan: Volume) -> dict[str, object]:
    path = Path(context.store.root) / "voxels" / f"{scan_id}.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(scan.voxels_RAS.astype(np.float32), scan.affine_RAS).to_filename(path)
    return {
        **sealed_nifti(path),
        "num_voxels": scan.voxels_RAS.size,
    }


def _mask(levels: Volume) -> dict[str, Any]:
    return {
        "shape": list(levels.voxels_RAS.shape),
        "affine": levels.affine_RAS.ravel().tolist(),
        "levels_zstd": pack(levels.voxels_RAS),
        "numbering": "regular",
        "segmented": "whole volume",
        "num_discs_inferred": 0,
        "level_names": ["C2"], "level_height_mm": [13.0], "level_volume_mm3": [1e4],
        "disc_names": ["C2/3"], "disc_height_mm": [5.0], "disc_signal": [0.5], "canal_diameter_mm": [14.0],
        **QUALITY,
    }  # fmt: skip


def _tensor(voxels: np.ndarray, levels: np.ndarray) -> dict[str, Any]:
    return {"shape": list(voxels.shape), "voxels_zstd": pack(voxels), "levels_zstd": pack(levels)}


def _train(context: Context, cohort: pd.DataFrame, tensors: list[Any]) -> None:
    study = context.study
    model = build_network(
        study.train, study.prepare, age_mean_years=55.0, age_sd_years=12.0, seed=1
    ).eval()
    inputs = torch.stack([network_input(*tensor, study.train.region) for tensor in tensors])
    _, features = predict(model, inputs)
    trained = features[(cohort["split"] == "train").to_numpy()]
    mean = trained.mean(0)
    precision = np.linalg.inv(np.cov(trained.T) + 1e-4 * np.eye(trained.shape[1]))
    familiarity = {
        "mean": mean.tolist(),
        "precision": precision.tolist(),
        "train_distances": [mahalanobis(f, mean, precision) for f in trained],
    }
    told = {**describe(study.train, study.prepare), "familiarity": familiarity}
    folder = context.folder("train")
    context.store.write(f"{folder}/network.safetensors", save_weights(model))
    context.store.write(f"{folder}/network.json", json.dumps(told).encode())
    _write(context, "train", "predictions", planted_predictions(cohort))
    context.store.write(f"{folder}/done.json", b"{}")


def planted_predictions(cohort: pd.DataFrame) -> pd.DataFrame:
    """Overfitted on training people; pulled to 55 by 0.3 and 3 years off on the others."""
    rng = np.random.default_rng(1)
    age = cohort["age_years"].to_numpy()
    honest = 55 + 0.7 * (age - 55) + rng.normal(0, 3, len(age))
    return cohort.assign(predicted_years=np.where(cohort["split"] == "train", age + 0.01, honest))


def _write(context: Context, stage: str, table: str, rows: Any) -> None:
    if isinstance(rows, pd.DataFrame):
        rows = rows[TABLES[table].schema.names]
    write_part(context.store, context.folder(stage), TABLES[table], rows, "part-0")
