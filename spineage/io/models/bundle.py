"""The model bundle: a folder that holds all that turns a prepared scan into a spine age, and proves it is
whole.

    bundle.json              what it is, in words and numbers; names the sha256 of every other file
    weights.safetensors      the network
    familiarity.safetensors  mean and precision of the training scans' features (refusal by distance)
    roles.json               which people the model has used, as marks that say nothing without their id
    bundle.sha256            sha256 of bundle.json: the bundle's digest

Reading checks every digest, and every value (`values.py`). Nothing in it is unpickled, and it holds no
time of writing: equal models are equal bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import safetensors.numpy

from spineage.errors import BadStudy
from spineage.io.files.json_table import parse_table
from spineage.io.models.values import (
    REMEDY,
    check_features,
    check_manifest,
    check_roles,
    check_weights,
)
from spineage.io.storage.store import Store
from spineage.science.gap.bias import AgeBias
from spineage.science.gap.conformal import Intervals
from spineage.science.gap.score import SELF_TEST_TOLERANCE_YEARS, Familiarity

SCHEMA = 1
KIND = "spineage-bundle"
WEIGHTS, FAMILIARITY, ROLES = "weights.safetensors", "familiarity.safetensors", "roles.json"
MANIFEST, DIGEST = "bundle.json", "bundle.sha256"
BUNDLE_FILES = (MANIFEST, WEIGHTS, FAMILIARITY, ROLES, DIGEST)


@dataclass(frozen=True)
class Bundle:
    """A trained and calibrated model.

    weights: safetensors bytes. network: its architecture. prepare: the recipe of its input. segmenter:
    digest, labels and domain of the network that draws the spine. domain: phantom, mixed or real, of the
    training scans. train_age_years: lowest and highest age trained on. cohort: fingerprint of the cohort
    it was trained in. roles: mark (`mark_of`) -> role of the people used in it. self_test_years: its
    answer to `self_test_tensor`.
    """

    weights: bytes
    network: dict[str, Any]
    region: str
    prepare: dict[str, Any]
    segmenter: dict[str, Any]
    domain: str
    train_age_years: tuple[float, float]
    cohort: str
    bias: AgeBias
    intervals: Intervals
    familiarity: Familiarity
    roles: dict[str, str]
    self_test_years: float

    def role_of(self, person_id: str) -> str:
        """What the model used this person for: train, validate, calibrate, test, or unseen."""
        return self.roles.get(mark_of(person_id, self.cohort), "unseen")


def mark_of(person_id: str, cohort: str) -> str:
    """A mark by which whoever holds a person's id can find them in a bundle, and nobody else can."""
    return hashlib.blake2b(person_id.encode(), key=cohort.encode()[:64], digest_size=8).hexdigest()


def bundle_files(bundle: Bundle) -> dict[str, bytes]:
    """The bundle as files: name -> content."""
    features = {"mean": bundle.familiarity.mean_F, "precision": bundle.familiarity.precision_FF}
    files = {
        WEIGHTS: bundle.weights,
        FAMILIARITY: bytes(
            safetensors.numpy.save({k: np.ascontiguousarray(v) for k, v in features.items()})
        ),
        ROLES: _json(bundle.roles),
    }
    manifest = {
        "kind": KIND,
        "schema": SCHEMA,
        "network": bundle.network,
        "region": bundle.region,
        "prepare": bundle.prepare,
        "segmenter": bundle.segmenter,
        "domain": bundle.domain,
        "train_age_years": list(bundle.train_age_years),
        "cohort": bundle.cohort,
        "calibration": dataclasses.asdict(bundle.bias),
        "intervals": dataclasses.asdict(bundle.intervals),
        "distance_limit": bundle.familiarity.limit,
        "self_test": {
            "expected_years": bundle.self_test_years,
            "tolerance_years": SELF_TEST_TOLERANCE_YEARS,
        },
        "files": {name: _sha256(content) for name, content in files.items()},
    }
    files[MANIFEST] = _json(manifest)
    files[DIGEST] = f"{_sha256(files[MANIFEST])}\n".encode()
    return files


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """The digest that names a bundle: sha256 of its bundle.json, which names those of the other files."""
    return _sha256(files[MANIFEST])


def read_bundle(store: Store, folder: str, expected: str | None = None) -> tuple[Bundle, str]:
    """A bundle and its digest; see `bundle_of`."""
    return bundle_of(read_files(store, folder), expected)


def read_files(store: Store, folder: str) -> dict[str, bytes]:
    """A bundle's files. Raises BadStudy when one is not there."""
    return {name: _read(store, folder, name) for name in BUNDLE_FILES}


def bundle_of(files: Mapping[str, bytes], expected: str | None = None) -> tuple[Bundle, str]:
    """The bundle that these files are, and its digest.

    expected: the digest it must have, where somebody knows it. Raises BadStudy, naming the part, for files
    that are no bundle, were written by another version, were changed, or hold values no bundle has.
    """
    missing = [name for name in BUNDLE_FILES if name not in files]
    if missing:
        raise _missing(missing[0])
    digest = _sha256(files[MANIFEST])
    recorded = files[DIGEST].decode(errors="replace").strip()
    if digest != recorded or (expected is not None and digest != expected):
        raise _changed(MANIFEST)
    manifest = parse_table(files[MANIFEST], f"{MANIFEST} of the model bundle", REMEDY)
    if manifest.get("kind") != KIND or manifest.get("schema") != SCHEMA:
        raise BadStudy(
            f"the model bundle has schema {str(manifest.get('schema'))[:20]!r}, this version reads {SCHEMA}: "
            "calibrate again"
        )
    check_manifest(files[MANIFEST])
    for name in (WEIGHTS, FAMILIARITY, ROLES):
        if _sha256(files[name]) != manifest["files"].get(name):
            raise _changed(name)
    return _bundle(manifest, files), digest


def _bundle(manifest: dict[str, Any], files: Mapping[str, bytes]) -> Bundle:
    check_weights(files[WEIGHTS])
    check_roles(files[ROLES])
    features = check_features(files[FAMILIARITY], manifest["network"]["channels"][-1])
    low, high = manifest["train_age_years"]
    return Bundle(
        weights=files[WEIGHTS],
        network=manifest["network"],
        region=manifest["region"],
        prepare=manifest["prepare"],
        segmenter=manifest["segmenter"],
        domain=manifest["domain"],
        train_age_years=(low, high),
        cohort=manifest["cohort"],
        bias=AgeBias(**_tuples(manifest["calibration"])),
        intervals=Intervals(**_tuples(manifest["intervals"])),
        familiarity=Familiarity(
            features["mean"], features["precision"], manifest["distance_limit"]
        ),
        roles=json.loads(files[ROLES]),
        self_test_years=manifest["self_test"]["expected_years"],
    )


def _read(store: Store, folder: str, name: str) -> bytes:
    try:
        return store.read(f"{folder}/{name}" if folder else name)
    except (FileNotFoundError, NotADirectoryError):
        raise _missing(name) from None


def _missing(name: str) -> BadStudy:
    return BadStudy(f"the model bundle has no {name}: the folder is not a bundle, or half of one")


def _changed(name: str) -> BadStudy:
    return BadStudy(
        f"{name} of the model bundle is not the file that was published: its digest differs; "
        f"{REMEDY}"
    )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON lists as the tuples they were."""
    return {name: _tuple(value) for name, value in values.items()}


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()
