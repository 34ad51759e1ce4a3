"""A bundle is whole, or it is not read."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch

from spineage.errors import BadStudy
from spineage.io.bundle import Bundle, bundle_files, digest_of_files, mark_of, read_bundle
from spineage.io.store import Store
from spineage.science.calibrate import AgeBias
from spineage.science.conformal import Intervals
from spineage.science.score import Familiarity


def some_bundle() -> Bundle:
    return Bundle(
        weights=safetensors.torch.save({"linear.weight": torch.arange(6.0).reshape(2, 3)}),
        network={"channels": [4, 8], "pools": [[1, 2, 2], [2, 2, 2]], "dropout": 0.2},
        region="whole",
        prepare={"shape": [4, 8, 12], "spacing_mm": [4.0, 2.2, 2.2], "normalise": "csf"},
        segmenter={"digest": "ab" * 32, "labels": {"vertebra": 1}, "domain": "phantom"},
        domain="phantom",
        train_age_years=(25.5, 83.25),
        cohort="0123456789abcdef",
        bias=AgeBias((2.0, -0.3), ((0.25, 0.01), (0.01, 0.04)), 55.1, 40, 30.0, 80.0),
        intervals=Intervals((50.0,), (6.0, 9.0), (20, 20), 0.9),
        familiarity=Familiarity(np.arange(3.0), np.eye(3) / 3, 4.5),
        roles={mark_of("anna", "0123456789abcdef"): "train"},
        self_test_years=51.0625,
    )


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
    bundle, _ = read_bundle(store, "signed")
    with pytest.raises(safetensors.SafetensorError):
        safetensors.torch.load(bundle.weights)
    assert not (tmp_path / "exploded").exists()


def test_another_schema_is_refused_with_a_way_out(tmp_path):
    store, files = Store(str(tmp_path)), bundle_files(some_bundle())
    told = json.loads(files["bundle.json"]) | {"schema": 99}
    files["bundle.json"] = json.dumps(told).encode()
    files["bundle.sha256"] = digest_of_files(files).encode()
    write(store, files)
    with pytest.raises(BadStudy, match="schema 99"):
        read_bundle(store, "bundle")


def test_a_person_is_found_by_id_and_the_bundle_holds_no_id():
    bundle = some_bundle()
    assert bundle.role_of("anna") == "train"
    assert bundle.role_of("berta") == "unseen"
    assert all(b"anna" not in content for content in bundle_files(bundle).values())
