"""The rows of a made-up study: numbers and cartoons that satisfy tables.py."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pandas as pd

from spineage.io.people.identity import Keyed, stretch
from spineage.io.storage.volumes import pack
from spineage.science.spine.labels import LEVELS, VERTEBRAE
from spineage.tables import TABLES
from tests.made.sealed import sealed_nifti
from tests.made.toy_spine import QUALITY

SHAPE, SPACING_MM = (8, 40, 160), (4.0, 4.4, 4.4)
SPINE = tuple(v for v in VERTEBRAE if v not in ("T13", "L6"))
CLUSTERS = (
    (0, "few findings", 0.1),
    (1, "disc bulge, lumbar", 4.0),
    (2, "stenosis and osteophytes", 11.0),
    (-1, "no group (noise)", 6.0),
)
STUDY_KEY = b"the key of a made-up study"
KEYED = Keyed(stretch(STUDY_KEY))


def hashed(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()[:16]


def person(i: int, rng: np.random.Generator, phantoms: bool) -> dict[str, Any]:
    age = float(rng.uniform(25, 84))
    gap = float(rng.normal(0, 4))
    cluster, name, burden = CLUSTERS[
        min(3, max(0, int((age + gap - 25) / 20 + rng.normal(0, 0.5))))
    ]
    predicted = 55 + 0.8 * (age + gap - 55) + float(rng.normal(0, 3))
    person = hashed("person", i)
    return {
        "scan_id": hashed("scan", i),
        "source_digest": hashed("source", i) * 4,
        "person_id": person,
        "raw_exam": f"1.2.{i}",
        "exam_id": KEYED.exam(f"1.2.{i}"),
        "age_years": age,
        "sex": "FM"[i % 2],
        "site": f"site {i % 3}",
        "age_source": "PatientAge",
        "vendor": "spineage-phantom" if phantoms else "Siemens",
        "model": "one",
        "field_tesla": 1.5,
        "days_since_first": 0,
        "num_stations": 3,
        "extent_mm": 620.0,
        "coverage_json": "[]",
        "is_phantom": phantoms,
        "split": ("train", "train", "test", "train", "calibrate", "test", "validate")[i % 7],
        "cluster": cluster,
        "cluster_name": name,
        "status": "normal" if cluster in (0, 1) else "not_normal",
        "fit_status": "normal" if cluster in (0, 1) else "not_normal",
        "consensus": {2: "not_normal", -1: "uncertain"}.get(cluster, "normal"),
        "normal_probability": {0: 1.0, 1: 0.9, 2: 0.05, -1: 0.4}[cluster],
        "umap_x": float(3 * cluster + rng.normal(0, 0.5)),
        "umap_y": float(rng.normal(cluster % 2 * 2, 0.6)),
        "num_findings": int(burden),
        "burden": burden + float(rng.exponential(1)),
        "gap_years": gap,
        "predicted_years": predicted,
    }


def second_exam(first: dict[str, Any]) -> dict[str, Any]:
    """The same person two years later."""
    raw_exam = first["raw_exam"] + ".9"
    return {
        **first,
        "raw_exam": raw_exam,
        "exam_id": KEYED.exam(raw_exam),
        "scan_id": hashed("scan", first["person_id"], 2),
        "source_digest": hashed("source", raw_exam) * 4,
        "age_years": first["age_years"] + 2,
        "days_since_first": 730,
    }


def record(stage: str) -> dict[str, Any]:
    """A run record."""
    return {
        "stage": stage, "seed": 2511, "version": "0.1.0", "packages": {"torch": "2.13.0", "ray": "2.60.0"},
        "python": "3.11.2", "machine": {"system": "Linux", "architecture": "x86_64"},
        "started": "2026-01-02T03:04:05+00:00", "seconds": 12.5, "counts": {}, "recipe": {},
    }  # fmt: skip


def key(scan: dict[str, Any]) -> dict[str, Any]:
    return {"scan_id": scan["scan_id"], "source_digest": scan["source_digest"]}


def only(table: str, rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows)[TABLES[table].schema.names]


def series(scan: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for code in ("", "", "", "localizer"):
        rows.append(
            {
                "series_id": hashed("series", scan["scan_id"], len(rows)),
                "person_id": scan["person_id"],
                "exam_id": scan["exam_id"],
                "scan_id": None if code else scan["scan_id"],
                "code": code,
                "message": code,
                "kind": "dicom",
                "burned_in": False,
                "num_files": 15,
                "num_slices": 15,
                "plane": "sagittal",
                "repetition_ms": 3000.0,
                "echo_ms": 100.0,
                "in_plane_mm": 0.9,
                "slice_gap_mm": 4.0,
                "extent_mm": 260.0,
            }
        )
    return rows


def source(scan: dict[str, Any], folder: str, suffix: str = ".nii.gz") -> dict[str, Any]:
    """One NIfTI a scan; nothing is there unless a test writes it."""
    return {**key(scan), **sealed_nifti(f"{folder}/{scan['scan_id']}{suffix}"), "num_voxels": 1}


def fault(scan: dict[str, Any], code: str = "incomplete_spine") -> dict[str, Any]:
    message = "21 levels were found, at least 22 are expected"
    return {**key(scan), "stage": "segment", "code": code, "message": message}


def files(scans: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            "file_id": hashed("file", s["scan_id"], n),
            "location": f"/somewhere/{n}.dcm",
            "bytes": 1000,
            "series_id": hashed("series", s["scan_id"], 0),
            "code": "",
            "message": "",
        }
        for s in scans
        for n in range(3)
    ]
    rows.append(
        {
            **rows[0],
            "file_id": "odd",
            "series_id": None,
            "code": "not_imaging",
            "message": "neither DICOM nor NIfTI",
        }
    )
    return pd.DataFrame(rows)


def cartoon(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """[R, A, S] signal and levels: a curved stack of boxes with a canal behind it."""
    levels = np.zeros(SHAPE, np.uint8)
    step = (SHAPE[2] - 16) / (len(SPINE) + 1)
    for i, name in enumerate((*SPINE, "sacrum")):
        top = SHAPE[2] - 6 - int(i * step)
        front = int(20 + 5 * np.sin(i / 4))
        levels[2:6, front : front + 9, top - 4 : top] = LEVELS[name]
        if name not in ("sacrum", "C1"):
            levels[2:6, front : front + 9, top - 6 : top - 4] = LEVELS[f"disc_below_{name}"]
        levels[3:5, front - 6 : front - 1, top - 6 : top] = LEVELS["canal"]
        levels[3:5, front - 4 : front - 2, top - 6 : top] = LEVELS["cord"]
    signal = np.where(levels > 0, 0.4 + 0.3 * (levels >= 100) + 0.3 * (levels >= 200), 0)
    return (signal * rng.uniform(0.9, 1.1, SHAPE)).astype(np.float16), levels


def tensor(scan: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    voxels, levels = cartoon(rng)
    return {
        **key(scan),
        "shape": list(SHAPE),
        "voxels_zstd": pack(voxels),
        "levels_zstd": pack(levels),
    }


def mask(scan: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    discs = [v for v in SPINE if v != "C1"]
    wear = (scan["age_years"] + scan["gap_years"]) / 100
    _, levels = cartoon(rng)
    return {
        **key(scan),
        "shape": list(SHAPE),
        "affine": np.diag([*SPACING_MM, 1.0]).ravel().tolist(),
        "levels_zstd": pack(levels),
        "numbering": "regular",
        "segmented": "whole volume",
        "num_discs_inferred": 0,
        "level_names": list(SPINE),
        "level_height_mm": [20.0] * len(SPINE),
        "level_volume_mm3": [9000.0] * len(SPINE),
        "disc_names": discs,
        "disc_height_mm": [
            float(5 + 5 * i / 22 - 2 * wear + rng.normal(0, 0.3)) for i in range(len(discs))
        ],
        "disc_signal": [float(0.8 - 0.5 * wear + rng.normal(0, 0.03)) for _ in discs],
        "canal_diameter_mm": [14.0] * len(discs),
        **QUALITY,
    }


def history(rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        {
            "epoch": e,
            "train_loss": 12 / e**0.5,
            "train_mae_years": 12 / e**0.5 + float(rng.normal(0, 0.2)),
            "validate_mae_years": 13 / e**0.45 + float(rng.normal(0, 0.5)),
            "learning_rate": 1e-3,
        }
        for e in range(1, 31)
    ]
    return pd.DataFrame(rows)


def calibration() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {
                "bundle_digest": "b" * 64,
                "degree": 1,
                "coefficients": [0.4, -0.2],
                "covariance": [0.2, 0.0, 0.0, 0.001],
                "centre_years": 54.0,
                "num_people": 9,
                "age_low_years": 27.0,
                "age_high_years": 82.0,
                "bin_edges_years": [],
                "half_width_years": [9.0],
                "nominal_coverage": 0.9,
            }
        ]
    )


def score(scan: dict[str, Any]) -> dict[str, Any]:
    age, predicted = scan["age_years"], scan["predicted_years"]
    spine_age = predicted - 0.4 + 0.2 * (age - 54)
    flags = ["trained_on"] if scan["split"] == "train" and scan["status"] == "normal" else []
    return {
        **{
            name: scan[name]
            for name in (
                "scan_id",
                "source_digest",
                "person_id",
                "exam_id",
                "age_years",
                "sex",
                "site",
            )
        },
        "role": scan["split"] if scan["status"] == "normal" else "unseen",
        "predicted_years": predicted,
        "interval_low_years": predicted - 9,
        "interval_high_years": predicted + 9,
        "spine_age_years": spine_age,
        "sag_years": spine_age - age,
        "correction_se_years": 0.5,
        "distance": 0.4,
        "flags": flags + (["age_outside_range"] if not 27 <= age <= 82 else []),
        "bundle_digest": "b" * 64,
    }


def associations(rng: np.random.Generator) -> pd.DataFrame:
    names = {
        "conditions": ("disc_bulge", "osteophytes", "stenosis", "fracture", "scoliosis"),
        "lifestyle": ("smoking", "heavy_work", "coffee", "left_handed"),
    }
    rows = []
    for family, exposures in names.items():
        for population in ("all", "normal", "not_normal"):
            for outcome in ("sag", "raw_gap"):
                for i, exposure in enumerate(exposures):
                    effect = float(3 - i + rng.normal(0, 0.3))
                    rows.append(
                        {
                            "family": family,
                            "exposure": exposure,
                            "population": population,
                            "outcome": outcome,
                            "covariates": "spline(age, 4) + sex + site",
                            "effect_years": effect,
                            "low_years": effect - 1.9,
                            "high_years": effect + 1.9,
                            "p": 0.001 * 4**i,
                            "q": 0.002 * 4**i,
                            "num_exposed": 12 + 7 * i,
                            "num_unexposed": 30,
                            "is_small": i < 2,
                        }
                    )
    return pd.DataFrame(rows)


def explanation(scan: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    shape = (2, 10, 40)
    return {
        **key(scan),
        "predicted_years": scan["predicted_years"],
        "regions": ["cervical", "thoracic", "lumbar", "discs"],
        "occlusion_years": [float(x) for x in rng.normal([1, 2, 5, 3], 1)],
        "gradcam_shape": list(shape),
        "gradcam_zstd": pack((np.linspace(1, 0, 40) ** 2 * np.ones(shape)).astype(np.float16)),
    }


def truth(scans: list[dict[str, Any]]) -> pd.DataFrame:
    rows = [
        {
            "person": s["person_id"],
            "exam": s["raw_exam"],
            "accession": s["raw_exam"],
            "age_years": s["age_years"],
            "sex": s["sex"],
            "site": s["site"],
            "gap_years": s["gap_years"],
            "biological_years": s["age_years"] + s["gap_years"],
            "oracle_years": s["age_years"] + s["gap_years"] * 0.8,
            "anatomy": "regular",
            "num_discs": 23,
            "repeat_of": None,
            "factors": "{}",
        }
        for s in scans
    ]
    return pd.DataFrame(rows)


def ablations(rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        {
            "arm": f"{region}-l1-{fraction}",
            "region": region,
            "loss": "l1",
            "fraction": fraction,
            "seed": seed,
            "rule": rule,
            "parameters": "{}",
            "num_train": int(40 * fraction),
            "validate_mae_years": 8 - 2 * fraction,
            "test_mae_years": 8 - 2 * fraction + float(rng.normal(0, 0.2)),
            "test_r2": 0.4 + 0.2 * fraction,
        }
        for region, fraction, rule in (
            *(
                (region, fraction, "study")
                for region in ("whole", "lumbar")
                for fraction in (0.5, 1.0)
            ),
            ("whole", 1.0, "everyone"),
        )
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows)


NOT_TESTED = [
    {"family": "conditions", "exposure": "metal", "population": "all", "outcome": outcome,
     "reason": "2 exposed and 40 unexposed people, 5 of each are needed"}
    for outcome in ("sag", "raw_gap")
]  # fmt: skip


def audit(cohort: pd.DataFrame) -> dict[str, Any]:
    """What the cohort stage says of its groups."""
    described = {
        "num_people": len(cohort), "share": 1.0, "median_burden": 3.0, "median_findings": 2.0,
        "median_age_years": 55.0, "share_female": 0.5,
    }  # fmt: skip
    group = {
        "cluster": 0,
        "name": "disc bulge, lumbar",
        "observed_over_expected": 1.1,
        "is_normal": True,
        **described,
    }
    return {
        "outcome": "clustered", "low_burden_limit": 1.0, "num_normal_by_guard": 3, "population": described,
        "groups": [group], "noise": "people of no group are judged one by one",
        "num_not_normal_by_person": 2, "num_not_normal_by_disease": 1,
        "noise_share": {"fitted": 0.05, "placed": 0.3}, "is_placed_noise_high": True,
        "arithmetic": {"arithmetic": "x86-64-v3", "libc": ["glibc 2.36"]},
        "findings": _findings(),
        "stability": _drawn_again(), "alternatives": [_under("clusters", 20), _under("paper", 9)],
    }  # fmt: skip


def _findings() -> dict[str, Any]:
    conditions = [f"disc bulge, {region}" for region in ("cervical", "thoracic", "lumbar")]
    return {
        "conditions": conditions,
        "population": [0.1, 0.2, 0.3],
        "groups": {"0": [0.2, 0.5, 0.9]},
    }


def _under(rule: str, num_normal: int) -> dict[str, Any]:
    return {
        "rule": rule, "num_normal": num_normal, "num_not_normal": 32 - num_normal, "num_train_normal": 7,
        "num_gained": 0, "num_lost": 1, "num_without_findings_not_normal": 3, "median_age_years": 50.0,
        "share_female": 0.5, "normal_by_decade": {"20": 0.9, "50": 0.5, "80": num_normal / 32},
    }  # fmt: skip


def _drawn_again() -> dict[str, Any]:
    """One grid cell of two seeds and four bootstraps."""
    row = {
        "num_neighbors": 15, "num_components": 5, "min_cluster_share": 0.08, "min_samples": 5,
        "num_draws": 6, "num_not_clustered": 0, "median_groups": 3.0, "normal_share": 0.6,
        "normal_share_low": 0.5, "normal_share_high": 0.7, "seed_ari": 0.9, "seed_ari_low": 0.9,
        "seed_ami": 0.8, "seed_ami_low": 0.8,
    }  # fmt: skip
    return {
        "grid": {"num_seeds": 2, "num_bootstraps": 4}, "num_draws": 6, "num_not_clustered": 0,
        "num_seeds": 2, "num_bootstraps": 4, "num_unsettled": 3, "settled_within": 0.05,
        "rows": [row], "jaccard": [{"cluster": 0, "name": "few findings", "mean": 0.8, "low": 0.7}],
        "against_the_fit": [{"fit": "normal", "consensus": "uncertain", "num_people": 3}],
        "without_umap": {"num_people": 16, "share_same_status": 0.9, "num_groups": 2, "ari": 0.7, "ami": 0.6},
    }  # fmt: skip
