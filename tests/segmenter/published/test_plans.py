"""A plans.json is a program to nnU-Net; to us it is a list of known names, or it is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from spineage.errors import BadStudy
from spineage.segmenter.folder import read_manifest
from spineage.segmenter.predict.predictor import load_segmenter
from spineage.segmenter.published.adopt import import_segmenter
from spineage.study import Study
from spineage.verbs.doctor import examine
from tests.made.attackers import change_json, hub_model, sign
from tests.made.tiny_nnunet import write_tiny_model

TINY = ("configurations", "tiny")
ARCHITECTURE = (*TINY, "architecture")
KWARGS = (*ARCHITECTURE, "arch_kwargs")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("foreign") / "model")


@pytest.fixture(scope="module")
def imported(model, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("ours") / "segmenter"
    import_segmenter(model, out, trust=True, orientation="RAS", isolated=False)
    return out


@pytest.fixture
def attack(tmp_path, monkeypatch) -> tuple[dict[str, Any], Path]:
    """An architecture that runs a file of the attacker's, and where that leaves a canary."""
    canary = tmp_path / "canary"
    monkeypatch.setenv("SPINEAGE_KEY", "a secret in the environment")
    folder = hub_model(tmp_path / "hub", canary)
    told = {"repo_or_dir": str(folder), "model": "net", "source": "local", "trust_repo": True}
    architecture = {
        "network_class_name": "torch.hub.load",
        "arch_kwargs": {**told, "n_stages": 3, "strides": [[1, 1, 1]]},
        "_kw_requires_import": [],
    }
    return architecture, canary


def test_the_attack_runs_code_where_nothing_holds_it(attack):
    architecture, canary = attack
    with pytest.raises(RuntimeError, match="done"):
        get_network_from_plans(
            "torch.hub.load", architecture["arch_kwargs"], [], 1, 6, deep_supervision=None
        )
    assert canary.read_text() == "a secret in the environment"


def test_a_network_of_the_attackers_is_refused_at_the_import(model, attack, tmp_path):
    architecture, canary = attack
    theirs = shutil.copytree(model, tmp_path / "theirs")
    change_json(theirs / "plans.json", ARCHITECTURE, architecture)
    with pytest.raises(BadStudy, match=r"names 'torch\.hub\.load' as network_class_name"):
        import_segmenter(theirs, tmp_path / "out", trust=True, orientation="RAS")
    assert not canary.exists()


def test_a_network_of_the_attackers_is_refused_at_every_load_and_by_the_doctor(
    imported, attack, tmp_path
):
    architecture, canary = attack
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    change_json(theirs / "plans.json", ARCHITECTURE, architecture)
    sign(theirs)
    read_manifest(str(theirs))  # its digest is right
    with pytest.raises(BadStudy, match=r"torch\.hub\.load"):
        load_segmenter(str(theirs))
    study = Study.model_validate({
        "name": "a study", "workspace": str(tmp_path / "workspace"),
        "segment": {"weights": str(theirs)},
    })  # fmt: skip
    (said,) = [check for check in examine(study) if check.name == "weights"]
    assert not said.is_ok
    assert "torch.hub.load" in said.found
    assert not canary.exists()


NAMES: list[tuple[tuple[Any, ...], Any]] = [
    ((*ARCHITECTURE, "network_class_name"), "os.system"),
    ((*ARCHITECTURE, "network_class_name"), "dynamic_network_architectures.architectures.unet.nn"),
    ((*ARCHITECTURE, "network_class_name"), ["torch.nn.Module"]),
    ((*ARCHITECTURE, "_kw_requires_import"), ["n_stages"]),
    ((*ARCHITECTURE, "_kw_requires_import"), ["conv_op", "block"]),
    ((*KWARGS, "conv_op"), "subprocess.Popen"),
    ((*KWARGS, "conv_op"), "torch.nn.LeakyReLU"),
    ((*KWARGS, "norm_op"), "torch.load"),
    ((*KWARGS, "dropout_op"), "antigravity"),
    ((*KWARGS, "nonlin"), "builtins.exec"),
    ((*KWARGS, "block"), "torch.hub.load"),
    ((*KWARGS, "norm_op_kwargs"), {"eps": "os.system"}),
    ((*KWARGS, "norm_op_kwargs"), {"device": "meta"}),
    ((*KWARGS, "nonlin_kwargs"), ["inplace"]),
    ((*KWARGS, "features_per_stage"), [4, 8, 10**9]),
    ((*KWARGS, "features_per_stage"), [4, 8, -1]),
    ((*KWARGS, "n_stages"), 10**12),
    ((*KWARGS, "n_stages"), True),
    ((*KWARGS, "kernel_sizes"), [[3, 3, 10**6]] * 3),
    ((*KWARGS, "n_conv_per_stage"), "2"),
    (("label_manager",), "recursive_find_python_class"),
    (("label_manager",), "join"),
    (("image_reader_writer",), "os"),
    (("dataset_name",), "../../elsewhere"),
    (("plans_name",), "a/b"),
    (("experiment_planner_used",), "x\n\x1b[2J"),
    ((*TINY, "data_identifier"), "/etc"),
    ((*TINY, "preprocessor_name"), "join"),
    ((*TINY, "inherits_from"), "tiny"),
    ((*TINY, "inherits_from"), ["tiny"]),
    ((*TINY, "normalization_schemes"), ["np"]),
    ((*TINY, "normalization_schemes"), [["ZScoreNormalization"]]),
    ((*TINY, "use_mask_for_norm"), ["yes"]),
    ((*TINY, "resampling_fn_data"), "recursive_find_python_class"),
    ((*TINY, "resampling_fn_data_kwargs"), {"folder": "/tmp"}),
    ((*TINY, "resampling_fn_data_kwargs"), {"order": "__import__('os')"}),
    ((*TINY, "resampling_fn_seg"), "torch"),
    ((*TINY, "resampling_fn_probabilities"), "map_coordinates"),
    ((*TINY, "patch_size"), [10**5, 10**5, 10**5]),
    ((*TINY, "patch_size"), [8, 64]),
    ((*TINY, "spacing"), [0, 1.6, 1.6]),
    ((*TINY, "spacing"), [float("nan"), 1.6, 1.6]),
    (("transpose_forward",), [0, 0, 1]),
    (("transpose_backward",), "012"),
    (("foreground_intensity_properties_per_channel",), {"0": {"mean": "1"}}),
    (("configurations",), ["tiny"]),
]


@pytest.mark.parametrize(("place", "value"), NAMES, ids=lambda v: str(v)[:50])
def test_whatever_plans_name_outside_the_lists_is_one_sentence(imported, tmp_path, place, value):
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    change_json(theirs / "plans.json", place, value)
    with pytest.raises(BadStudy) as refused:
        load_segmenter(str(sign(theirs)))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("overwrite_image_reader_writer",), "recursive_find_python_class"),
        (("overwrite_image_reader_writer",), {"a": 1}),
        (("file_ending",), "/../../secret.nii.gz"),
        (("labels",), {"background": 0, "vertebra": {"$ref": 1}}),
        (("labels",), {"background": 0, "vertebra": 1, "ignore": "2"}),
        (("labels",), {"background": 0, "vertebra": 1, "ignore": 1}),
        (("channel_names",), {"a": "T2"}),
        (("channel_names",), ["T2"]),
        (("regions_class_order",), {}),
    ],
    ids=str,
)
def test_whatever_dataset_json_says_else_is_one_sentence(imported, tmp_path, place, value):
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    if place == ("regions_class_order",):
        change_json(theirs / "dataset.json", ("labels", "vertebra"), [1, 2])
    change_json(theirs / "dataset.json", place, value)
    with pytest.raises(BadStudy) as refused:
        load_segmenter(str(sign(theirs)))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("configuration", ["tiny"]),
        ("orientation", "RAX"),
        ("orientation", 7),
        ("labels", [1]),
        ("labels", {"-1": "vertebra"}),
        ("labels", {"1": ["vertebra"]}),
        ("labels", {"300": "vertebra"}),
        ("domain", "x"),
        ("mirror_axes", [9]),
        ("mirror_axes", "all"),
        ("trained_by", "\x1b[2J"),
        ("layout", 4),
        ("channels", "T2"),
        ("lacks", [None]),
        ("origin", "http://elsewhere"),
        ("origin", {"num_cases": "<script>"}),
    ],
)
def test_a_manifest_with_a_right_digest_is_still_looked_at(imported, tmp_path, key, value):
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    change_json(theirs / "manifest.json", (key,), value)
    with pytest.raises(BadStudy, match=key):
        load_segmenter(str(sign(theirs)))


@pytest.mark.parametrize("content", [b"[" * 100_000, b"7", b"{", b'{"a": NaN}', b"\xff" * 20])
@pytest.mark.parametrize("name", ["plans.json", "dataset.json", "manifest.json"])
def test_json_that_is_no_table_is_one_sentence(imported, tmp_path, name, content):
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    (theirs / name).write_bytes(content)
    if name != "manifest.json":
        sign(theirs)
    with pytest.raises(BadStudy, match="is not JSON"):
        load_segmenter(str(theirs))


def test_weights_that_are_none_are_one_sentence(imported, tmp_path):
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    (theirs / "weights.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(BadStudy, match="not safetensors"):
        load_segmenter(str(sign(theirs)))


def test_plans_of_every_kind_that_nnunet_writes_are_still_read(imported, tmp_path):
    """The longer names of torch.nn, and a residual network as nnU-Net's larger presets plan it."""
    theirs = shutil.copytree(imported, tmp_path / "theirs")
    change_json(theirs / "plans.json", (*KWARGS, "nonlin"), "torch.nn.modules.activation.LeakyReLU")
    assert load_segmenter(str(sign(theirs))).num_channels == 1
    settings = json.loads((theirs / "plans.json").read_text())
    architecture = settings["configurations"]["tiny"]["architecture"]
    architecture["network_class_name"] = (
        "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
    )
    kwargs = architecture["arch_kwargs"]
    kwargs["n_blocks_per_stage"] = kwargs.pop("n_conv_per_stage")
    (theirs / "plans.json").write_text(json.dumps(settings))
    with pytest.raises(BadStudy, match="do not fit the network"):  # built, but of other weights
        load_segmenter(str(sign(theirs)))
