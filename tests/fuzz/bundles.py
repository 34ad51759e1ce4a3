"""Model bundles: as they were published, and signed again after the damage; read, built and self-tested."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import safetensors.numpy

from spineage.io.models.bundle import (
    DIGEST,
    FAMILIARITY,
    MANIFEST,
    ROLES,
    WEIGHTS,
    Bundle,
    bundle_files,
    mark_of,
    read_bundle,
)
from spineage.io.storage.store import Store
from spineage.science.gap.bias import AgeBias
from spineage.science.gap.conformal import Intervals
from spineage.science.gap.score import (
    Familiarity,
    require_self_test,
    score_one,
    self_test,
)
from spineage.science.network.network import build_network, describe, load_network, save_weights
from spineage.study import Prepare, Train
from tests.fuzz.damage import BYTEWISE, Draw
from tests.fuzz.outcome import Answer, Trial, outcome
from tests.fuzz.texts import damaged_text

PREPARE = Prepare(shape=(4, 16, 32))
TRAIN = Train(channels=(4, 8))
COHORT = "0123456789abcdef"


def make(folder: Path, *, with_real: bool) -> Trial:
    files = make_bundle()
    store = Store(str(folder))

    def trial(seed: int, number: int) -> Answer:
        rng = np.random.default_rng([seed, number])
        name, changed = damaged_bundle(files, rng)
        for file, content in changed.items():
            (folder / file).write_bytes(content)
        return {"source": name, **outcome(lambda: use_bundle(store, ""))}

    return trial


def make_bundle() -> dict[str, bytes]:
    """A small model that answers its own self-test."""
    model = build_network(TRAIN, PREPARE, age_mean_years=55.0, age_sd_years=12.0, seed=1).eval()
    return bundle_files(
        Bundle(
            weights=save_weights(model),
            network={k: describe(TRAIN, PREPARE)[k] for k in ("channels", "pools", "dropout")},
            region="whole",
            prepare=PREPARE.model_dump(mode="json"),
            segmenter={"digest": "ab" * 32, "labels": {"1": "vertebra"}, "domain": "phantom"},
            domain="phantom",
            train_age_years=(25.5, 83.25),
            cohort=COHORT,
            bias=AgeBias((2.0, -0.3), ((0.25, 0.01), (0.01, 0.04)), 55.1, 40, 30.0, 80.0),
            intervals=Intervals((50.0,), (6.0, 9.0), (20, 20), 0.9),
            familiarity=Familiarity(np.arange(8.0), np.eye(8) / 3, 4.5),
            roles={mark_of("anna", COHORT): "train"},
            self_test_years=self_test(model, PREPARE.shape),
        )
    )


def damaged_bundle(files: dict[str, bytes], rng: Draw) -> tuple[str, dict[str, bytes]]:
    """One file damaged; three times of four signed again, so that the damage is looked at."""
    name = (MANIFEST, MANIFEST, MANIFEST, WEIGHTS, FAMILIARITY, ROLES)[int(rng.integers(6))]
    if name == FAMILIARITY and rng.random() < 0.5:
        content = _odd_familiarity(files[name], rng)
    elif name.endswith(".json"):
        content = damaged_text(files[name], rng)
    else:
        text = bytearray(files[name])
        BYTEWISE[int(rng.integers(len(BYTEWISE)))](text, rng)
        content = bytes(text)
    changed = {**files, name: content}
    return (f"signed {name}", _signed(changed)) if rng.random() < 0.75 else (name, changed)


def _odd_familiarity(data: bytes, rng: Draw) -> bytes:
    arrays = safetensors.numpy.load(data)
    name = list(arrays)[int(rng.integers(len(arrays)))]
    odd = (
        arrays[name] * np.nan,
        arrays[name][:-1],
        arrays[name].astype(np.int8),
        arrays[name][None],
    )
    arrays[name] = np.ascontiguousarray(odd[int(rng.integers(4))])
    return bytes(safetensors.numpy.save(arrays))


def _signed(files: dict[str, bytes]) -> dict[str, bytes]:
    try:
        manifest = json.loads(files[MANIFEST])
        for name in (WEIGHTS, FAMILIARITY, ROLES):
            manifest["files"][name] = hashlib.sha256(files[name]).hexdigest()
        files[MANIFEST] = json.dumps(manifest).encode()
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    files[DIGEST] = hashlib.sha256(files[MANIFEST]).hexdigest().encode()
    return files


def use_bundle(store: Store, folder: str) -> None:
    """What a worker does with it, and what comes out is a number."""
    bundle, _ = read_bundle(store, folder)
    model = load_network(bundle.weights, bundle.network)
    require_self_test(self_test(model, tuple(bundle.prepare["shape"])), bundle.self_test_years)
    bundle.role_of("anna")
    distance = bundle.familiarity.distance(np.zeros(8))
    answer = score_one(50.0, 60.0, bias=bundle.bias, intervals=bundle.intervals)
    for value in (distance, bundle.familiarity.limit, *answer.values()):
        assert value is None or np.isfinite(value), "an answer that is no number"
