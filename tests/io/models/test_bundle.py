"""A bundle is whole, or it is not read."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pickle
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from spineage.errors import BadStudy
from spineage.io.models.bundle import (
    Bundle,
    bundle_files,
    bundle_of,
    digest_of_files,
    mark_of,
    read_bundle,
)
from spineage.io.models.values import Prepared
from spineage.io.storage.store import Store
from spineage.run.context import Context
from spineage.science.gap.bias import AgeBias
from spineage.science.gap.conformal import Intervals
from spineage.science.gap.score import Familiarity
from spineage.stages.score import stage as score
from spineage.study import Prepare, study_from
from tests.made.attackers import set_in


def some_bundle() -> Bundle:
    return Bundle(
        weights=safetensors.torch.save({"linear.weight": torch.arange(6.0).reshape(2, 3)}),
        network={"channels": [4, 8], "pools": [[1, 2, 2], [2, 2, 2]], "dropout": 0.2},
        region="whole",
        prepare={"shape": [4, 8, 12], "spacing_mm": [4.0, 2.2, 2.2], "normalise": "csf"},
        segmenter={"digest": "ab" * 32, "labels": {"1": "vertebra"}, "domain": "phantom"},
        domain="phantom",
        train_age_years=(25.5, 83.25),
        cohort="0123456789abcdef",
        bias=AgeBias((2.0, -0.3), ((0.25, 0.01), (0.01, 0.04)), 55.1, 40, 30.0, 80.0),
        intervals=Intervals((50.0,), (6.0, 9.0), (20, 20), 0.9),
        familiarity=Familiarity(np.arange(8.0), np.eye(8) / 3, 4.5),
        roles={mark_of("anna", "0123456789abcdef"): "train"},
        self_test_years=51.0625,
    )


def signed(files: dict[str, bytes], place: tuple[Any, ...], value: Any) -> dict[str, bytes]:
    """The bundle with one value of bundle.json changed, and digests that say it is whole."""
    told = json.loads(files["bundle.json"])
    set_in(told, place, value)
    again = {**files, "bundle.json": json.dumps(told).encode()}
    return {**again, "bundle.sha256": digest_of_files(again).encode()}


def write(store: Store, files: dict[str, bytes], folder: str = "bundle") -> None:
    for name, content in files.items():
        store.write(f"{folder}/{name}", content)


def same(a: Bundle, b: Bundle) -> bool:
    plain_a, plain_b = dataclasses.asdict(a), dataclasses.asdict(b)
    for plain in (plain_a, plain_b):
        for name in ("mean_F", "precision_FF"):
            plain["familiarity"][name] = plain["familiarity"][name].tolist()
    return plain_a == plain_b


def test_what_is_written_is_read(tmp_path):
    store, bundle = Store(str(tmp_path)), some_bundle()
    files = bundle_files(bundle)
    write(store, files)
    again, digest = read_bundle(store, "bundle")
    assert same(again, bundle)
    assert digest == digest_of_files(files)


def test_equal_models_are_equal_bytes():
    assert bundle_files(some_bundle()) == bundle_files(some_bundle())
    other = dataclasses.replace(some_bundle(), self_test_years=51.0)
    assert digest_of_files(bundle_files(other)) != digest_of_files(bundle_files(some_bundle()))


@pytest.mark.parametrize("name", sorted(bundle_files(some_bundle())))
def test_one_changed_byte_in_any_file_is_noticed(tmp_path, name):
    store, files = Store(str(tmp_path)), bundle_files(some_bundle())
    content = bytearray(files[name])
    content[len(content) // 2] ^= 1
    write(store, {**files, name: bytes(content)})
    with pytest.raises(BadStudy, match="digest differs"):
        read_bundle(store, "bundle")


@pytest.mark.parametrize("name", sorted(bundle_files(some_bundle())))
def test_a_missing_file_is_named(tmp_path, name):
    store, files = Store(str(tmp_path)), bundle_files(some_bundle())
    del files[name]
    write(store, files)
    with pytest.raises(BadStudy, match=name):
        read_bundle(store, "bundle")


def test_a_whole_bundle_that_is_not_the_expected_one_is_refused(tmp_path):
    store = Store(str(tmp_path))
    write(store, bundle_files(dataclasses.replace(some_bundle(), self_test_years=1.0)))
    read_bundle(store, "bundle")
    with pytest.raises(BadStudy, match="digest differs"):
        read_bundle(store, "bundle", expected=digest_of_files(bundle_files(some_bundle())))


def test_a_pickle_in_place_of_weights_is_never_opened(tmp_path):
    """The digest stops a swapped file; safetensors stops one that was signed for."""

    class Bomb:
        def __reduce__(self):
            return (tmp_path.joinpath("exploded").write_text, ("",))

    bomb = pickle.dumps(Bomb())
    store = Store(str(tmp_path))
    write(store, {**bundle_files(some_bundle()), "weights.safetensors": bomb})
    with pytest.raises(BadStudy):
        read_bundle(store, "bundle")
    write(store, bundle_files(dataclasses.replace(some_bundle(), weights=bomb)), "signed")
    with pytest.raises(BadStudy, match=r"weights\.safetensors .* is not safetensors"):
        read_bundle(store, "signed")
    assert not (tmp_path / "exploded").exists()


def test_another_schema_is_refused_with_a_way_out(tmp_path):
    store, files = Store(str(tmp_path)), bundle_files(some_bundle())
    write(store, signed(files, ("schema",), 99))
    with pytest.raises(BadStudy, match="schema '99'"):
        read_bundle(store, "bundle")


def test_a_person_is_found_by_id_and_the_bundle_holds_no_id():
    bundle = some_bundle()
    assert bundle.role_of("anna") == "train"
    assert bundle.role_of("berta") == "unseen"
    assert all(b"anna" not in content for content in bundle_files(bundle).values())


# signed again, with values that no bundle has

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("distance_limit",), NAN),
        (("distance_limit",), INFINITE),
        (("distance_limit",), 0),
        (("distance_limit",), "4.5"),
        (("distance_limit",), True),
        (("region",), "skull"),
        (("domain",), 1),
        (("cohort",), "../../x"),
        (("train_age_years",), [83, 25]),
        (("train_age_years",), [NAN, 80]),
        (("train_age_years",), "2580"),
        (("prepare", "shape"), [0, 8, 12]),
        (("prepare", "shape"), [4, 8]),
        (("prepare", "shape"), [4, 8, 10**9]),
        (("prepare", "shape"), [4.0, 8, 12]),
        (("prepare", "spacing_mm"), [4, 2, -2]),
        (("prepare", "normalise"), "__import__('os')"),
        (("network", "channels"), []),
        (("network", "channels"), [4, 10**9]),
        (("network", "pools"), [[1, 2, 2]]),
        (("network", "pools"), [[4, 8, 12], [2, 2, 2]]),
        (("network", "dropout"), 1.0),
        (("network", "module"), "os"),
        (("segmenter", "digest"), "../x"),
        (("segmenter", "labels"), {"1": ["vertebra"]}),
        (("segmenter", "mode"), "both"),
        (("segmenter", "mirror"), "yes"),
        (("calibration", "coefficients"), []),
        (("calibration", "coefficients"), [2.0, NAN]),
        (("calibration", "coefficients"), {"0": 2.0}),
        (("calibration", "covariance"), [[0.25]]),
        (("calibration", "covariance"), [[0.25, 5.0], [0.01, 0.04]]),
        (("calibration", "covariance"), [[-0.25, 0.01], [0.01, 0.04]]),
        (("calibration", "num_people"), -1),
        (("calibration", "age_low_years"), 90),
        (("calibration", "degree"), 1),
        (("intervals", "half_width_years"), [6.0]),
        (("intervals", "half_width_years"), [6.0, -9.0]),
        (("intervals", "half_width_years"), [6.0, INFINITE]),
        (("intervals", "edges_years"), []),
        (("intervals", "coverage"), 1.0),
        (("intervals", "num_people"), [20, None]),
        (("self_test", "expected_years"), NAN),
        (("self_test",), None),
        (("files",), []),
        (("extra",), "x"),
    ],
    ids=str,
)  # fmt: skip
def test_a_value_that_no_bundle_has_is_one_sentence_whoever_signed_it(place, value):
    with pytest.raises(BadStudy, match=r"bundle\.json of the model bundle") as refused:
        bundle_of(signed(bundle_files(some_bundle()), place, value))
    said = str(refused.value)
    assert place[0] in said or "not JSON" in said
    assert "calibrate again" in said
    assert said.isprintable()
    assert len(said) < 400


def test_intervals_whose_edges_fall_are_refused():
    bundle = some_bundle()
    falling = Intervals((50.0, 40.0), (6.0, 9.0, 9.0), (20, 20, 20), 0.9)
    with pytest.raises(BadStudy, match="edges_years must rise"):
        bundle_of(bundle_files(dataclasses.replace(bundle, intervals=falling)))


@pytest.mark.parametrize("content", [b"[]", b"7", b"{", b"[" * 50_000, b"\xff\xfe"])
def test_a_bundle_json_that_is_no_table_is_one_sentence(content):
    files = {**bundle_files(some_bundle()), "bundle.json": content}
    files["bundle.sha256"] = digest_of_files(files).encode()
    with pytest.raises(BadStudy, match=r"bundle\.json of the model bundle is not JSON"):
        bundle_of(files)


def features(mean: Any, precision: Any) -> bytes:
    return bytes(safetensors.numpy.save({"mean": mean, "precision": precision}))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("roles.json", b"[]", "roles.json"),
        ("roles.json", b'{"0123456789abcdef": "teach"}', "0123456789abcdef"),
        ("roles.json", b'{"anna": "train"}', "roles.json"),
        ("roles.json", b"[" * 50_000, "roles.json"),
        ("familiarity.safetensors", b"\xff" * 50, "not safetensors"),
        ("familiarity.safetensors", features(np.zeros(3), np.eye(3)), "8 features"),
        ("familiarity.safetensors", features(np.zeros(8), np.eye(8) * NAN), "not a number"),
        ("familiarity.safetensors", features(np.zeros(8), -np.eye(8)), "negative"),
        ("familiarity.safetensors", features(np.zeros(8, "f4"), np.eye(8)), "64-bit"),
        ("familiarity.safetensors", bytes(safetensors.numpy.save({"mean": np.zeros(8)})), "lacks"),
        ("weights.safetensors", bytes(safetensors.numpy.save({"a": np.full(3, NAN)})), "NaN"),
    ],
)  # fmt: skip
def test_another_file_that_no_bundle_has_is_one_sentence(name, content, words):
    files = {**bundle_files(some_bundle()), name: content}
    digest = hashlib.sha256(content).hexdigest()
    with pytest.raises(BadStudy, match=words) as refused:
        bundle_of(signed(files, ("files", name), digest))
    assert name in str(refused.value)


def test_every_setting_of_prepare_has_its_check():
    assert set(Prepared.model_fields) == set(Prepare.model_fields)


# the registry's tag and what is fetched by it


class FromRegistry:
    """A registry whose tag and files are the attacker's."""

    def __init__(self, digest: str, files: dict[str, bytes]) -> None:
        self.digest, self.files, self.times = digest, files, 0

    def resolve(self, name: str) -> tuple[str, str]:
        return "1", self.digest

    def fetch(self, name: str, files: Any) -> dict[str, bytes]:
        self.times += 1
        return self.files


def bring(tmp_path: Any, monkeypatch: Any, registry: FromRegistry) -> str:
    monkeypatch.setattr(score, "open_tracking", lambda *_: registry)
    values = {"name": "a study", "workspace": str(tmp_path / "workspace")}
    return score._bring(Context(study_from(values)), "models:/spine-age@champion")


def test_a_download_that_is_not_what_the_tag_says_is_written_nowhere(tmp_path, monkeypatch):
    files = bundle_files(some_bundle())
    wrong = FromRegistry("0" * 64, files)
    with pytest.raises(BadStudy, match="digest differs"):
        bring(tmp_path, monkeypatch, wrong)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_download_that_was_broken_once_is_fetched_again(tmp_path, monkeypatch):
    files = bundle_files(some_bundle())
    digest = digest_of_files(files)
    store = Store(str(tmp_path / "workspace"))
    write(store, {**files, "weights.safetensors": b"cut short"}, f"models/{digest}")
    registry = FromRegistry(digest, files)
    assert bring(tmp_path, monkeypatch, registry) == digest
    assert store.read(f"models/{digest}/weights.safetensors") == files["weights.safetensors"]
    assert bring(tmp_path, monkeypatch, registry) == digest
    assert registry.times == 1
