"""Models of others: what their numbers mean, and that opening their pickles gives nothing away."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from spineage.errors import BadStudy
from spineage.science.spine.labels import LEVELS, SCHEMAS
from spineage.segmenter.dataset_json import final_values
from spineage.segmenter.folder import in_words, read_manifest
from spineage.segmenter.published import adopt as nnunet_import
from spineage.segmenter.published import checkpoint as nnunet_checkpoint
from spineage.segmenter.published.adopt import describe, import_segmenter
from spineage.segmenter.published.isolation import REFUSED, is_possible
from spineage.segmenter.published.layouts import LAYOUTS, Layout
from spineage.verbs.import_segmenter import convert
from tests.made.tiny_nnunet import LABELS, write_tiny_model

FULL = LAYOUTS["totalspineseg-full"]


def dataset_of(layout: Layout, channels: int = 1, **more: Any) -> dict[str, Any]:
    regions = any(isinstance(v, list) for v in layout.labels.values())
    order = {"regions_class_order": list(range(1, len(layout.labels)))} if regions else {}
    return {
        "labels": dict(layout.labels),
        "channel_names": {str(i): "MRI" for i in range(channels)},
        **order,
        **more,
    }


def described(dataset, folder=Path(), orientation=None, layout=None, label_map=None):
    return describe(folder, dataset, orientation, layout, label_map)


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(BadStudy) as error:
        described(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


# what the numbers mean


def test_vertebrae_mr_is_recognised_and_numbers_from_the_sacrum_up():
    facts = described(dataset_of(LAYOUTS["vertebrae_mr"]))
    assert (facts["layout"], facts["orientation"], facts["schema"]) == (
        "vertebrae_mr", "RAS", "levels"
    )  # fmt: skip
    assert facts["labels"]["1"] == "sacrum"
    assert [facts["labels"][str(v)] for v in (2, 6, 7, 18, 19, 25)] == [
        "L5", "L1", "T12", "T1", "C7", "C1"
    ]  # fmt: skip
    assert facts["lacks"] == ["discs", "canal", "cord"]


@pytest.mark.parametrize("with_muscles", [False, True])
def test_total_mr_is_recognised_with_and_without_muscles(with_muscles):
    layout = LAYOUTS["total_mr"]
    labels = {**layout.labels, **(layout.may_have if with_muscles else {})}
    facts = described({"labels": labels, "channel_names": {"0": "MR"}})
    drawn = {int(v): name for v, name in facts["labels"].items() if name != "background"}
    assert drawn == {18: "sacrum", 19: "vertebra", 20: "disc", 21: "cord"}
    assert len(facts["labels"]) == (51 if with_muscles else 30)


def test_the_single_totalspineseg_model_gives_levels_and_no_more_than_it_knows():
    facts = described(dataset_of(FULL))
    by_name = {name: facts["labels"][str(v)] for name, v in final_values(dataset_of(FULL)).items()}
    assert facts["schema"] == "levels"
    assert by_name["vertebrae_L1"] == "L1"
    assert by_name["disc_C7_T1"] == "disc_below_C7"
    assert by_name["disc_L5_S"] == "disc_below_L5"
    assert by_name["vertebrae_T"] == by_name["disc"] == "background"
    named = {n for n in by_name.values() if n != "background"}
    assert named == set(LEVELS) - {"background", "T13", "L6", "disc_below_T13", "disc_below_L6"}


@pytest.mark.parametrize(
    ("layout", "channels", "words"),
    [
        ("totalspineseg-step2", 2, "iterative labelling"),
        ("total_mr-muscles", 1, "nothing of the spine"),
    ],
)
def test_half_a_tool_is_refused_rather_than_mislabelled(layout, channels, words):
    assert words in refusal(dataset_of(LAYOUTS[layout], channels))
    assert words in refusal(dataset_of(LAYOUTS[layout], channels), layout=layout)


def test_a_stated_layout_must_be_that_of_the_files():
    assert "it is that of total_mr" in refusal(
        dataset_of(LAYOUTS["total_mr"]), layout="vertebrae_mr"
    )
    own = {"labels": LABELS, "channel_names": {"0": "T2"}}
    assert "leave --layout out" in refusal(own, layout="total_mr")
    assert "inference_config.json" in refusal(own, layout="spineps")
    assert "expected one of totalspineseg-step1" in refusal(own, layout="totalspinesegg")
    swapped = dataset_of(LAYOUTS["vertebrae_mr"])
    swapped["labels"]["vertebrae_L5"], swapped["labels"]["vertebrae_L4"] = 3, 2
    assert "vertebrae_L4, vertebrae_L5 differ" in refusal(swapped, layout="vertebrae_mr")
    assert "orientation" in refusal(dataset_of(LAYOUTS["vertebrae_mr"]), orientation="PIR")


SPINEPS = {
    "modeltype": "nnunet", "expected_inputs": ["img"], "model_expected_orientation": ["P", "I", "R"],
    "labels": {"1": "Arcus_Vertebrae", "2": "49", "3": "Spinal_Cord", "4": "Spinal_Canal",
               "5": "Endplate", "6": "Vertebra_Disc", "7": "S1"},
}  # fmt: skip


def spineps_folder(folder: Path, **changes: Any) -> tuple[dict[str, Any], Path]:
    (folder / "inference_config.json").write_text(json.dumps({**SPINEPS, **changes}))
    labels = {"background": 0, **{f"label {i}": i for i in range(1, 8)}}
    return {"labels": labels, "channel_names": {"0": "T2w"}}, folder


def test_a_semantic_model_of_spineps_says_itself_what_it_is(tmp_path):
    facts = described(*spineps_folder(tmp_path))
    assert (facts["layout"], facts["orientation"], facts["schema"]) == (
        "spineps",
        "PIR",
        "semantic",
    )
    assert list(facts["labels"].values()) == [
        "background", "vertebra", "vertebra", "cord", "canal", "vertebra", "disc", "sacrum"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"modeltype": "unet", "expected_inputs": ["seg"]}, "instance and VERIDAH networks"),
        ({"modeltype": "classifier"}, "spineps-veridah"),
        ({"labels": {"1": "Rib_Left"}}, "not of one model"),
        ({"labels": 3}, "lacks modeltype"),
    ],
)
def test_other_models_of_spineps_are_refused(tmp_path, changes, words):
    assert words in refusal(*spineps_folder(tmp_path, **changes))


REGIONS = {
    "labels": {"background": 0, "spine": [1, 2, 3], "bone": [1, 2], "sacrum": 2},
    "regions_class_order": [3, 1, 2],
    "channel_names": {"0": "T2"},
}


def test_a_region_is_named_by_what_is_in_no_later_one():
    label_map = {"spine": "disc", "bone": "vertebra", "sacrum": "sacrum"}
    facts = described(REGIONS, orientation="LPS", label_map=label_map)
    assert facts["labels"] == {"0": "background", "3": "disc", "1": "vertebra", "2": "sacrum"}
    assert facts["layout"] == ""
    del label_map["sacrum"]  # its name is ours, but a region's name covers more than its value
    assert "lacks sacrum" in refusal(REGIONS, orientation="LPS", label_map=label_map)
    broken = {**REGIONS, "regions_class_order": [1, 2]}
    assert "one number a region" in refusal(broken, orientation="LPS", label_map=label_map)


def test_several_channels_are_kept_in_their_order():
    dataset = {"labels": LABELS, "channel_names": {"1": "STIR", "0": "T2"}}
    assert described(dataset, orientation="RAS")["channels"] == ["T2", "STIR"]


@pytest.mark.parametrize(
    ("dataset", "label_map", "words"),
    [
        ({"channel_names": {"0": "T2"}}, None, "no labels"),
        ({"labels": LABELS}, None, "no input channels"),
        ({"labels": {"background": 0, "disc": 2}}, None, "consecutive"),
        ({"labels": {"background": 0, "disc": "2"}}, None, "disc"),
        ({"labels": LABELS}, {"bone": "vertebra"}, "dataset.json has no bone"),
        ({"labels": LABELS}, {"disc": "dics"}, "labels disc are in neither"),
        ({"labels": {"background": 0, "vertebra": 1, "C2": 2}}, None, "mix the semantic and"),
    ],
)
def test_labels_that_do_not_fit_are_one_sentence(dataset, label_map, words):
    if words != "no input channels":
        dataset = {"channel_names": {"0": "T2"}, **dataset}
    assert words in refusal(dataset, orientation="RAS", label_map=label_map)


def test_an_orientation_nobody_states_is_asked_for(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    with pytest.raises(BadStudy, match="--orientation"):
        convert(str(model), str(tmp_path / "out"), trust=True)
    assert not (tmp_path / "out").exists()


def test_weights_and_dataset_json_must_be_of_one_model(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    dataset = json.loads((model / "dataset.json").read_text())
    dataset["labels"]["sacrum and more"] = 6
    (model / "dataset.json").write_text(json.dumps(dataset))
    label_map = {"sacrum and more": "sacrum"}
    with pytest.raises(BadStudy, match=r"weights have 6 classes, dataset\.json says 7"):
        import_segmenter(model, tmp_path / "a", trust=True, orientation="RAS", label_map=label_map)
    about = {"num_channels": 2, "num_heads": 7}
    with pytest.raises(BadStudy, match=r"weights have 2 input channels, dataset\.json says 1"):
        nnunet_import._check_weights(about, dataset)


def test_a_refused_import_leaves_the_segmenter_that_was_there(tmp_path):
    good, other = write_tiny_model(tmp_path / "good"), write_tiny_model(tmp_path / "other")
    out = tmp_path / "out"
    manifest = import_segmenter(good, out, trust=True, orientation="RAS")
    dataset = json.loads((other / "dataset.json").read_text())
    dataset["labels"]["sacrum and more"] = 6
    (other / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(BadStudy, match="not of one model"):
        import_segmenter(
            other, out, trust=True, orientation="RAS", label_map={"sacrum and more": "sacrum"}
        )
    assert read_manifest(str(out)) == manifest
    assert {path.name for path in tmp_path.iterdir()} == {"good", "other", "out"}
    assert import_segmenter(good, out, trust=True, orientation="PIR")["orientation"] == "PIR"
    assert read_manifest(str(out))["orientation"] == "PIR"


def test_a_refusal_names_the_folder_that_was_asked_for(tmp_path, monkeypatch):
    def refuse(folder, **options):
        raise BadStudy(f"segmenter {folder} lacks something")

    monkeypatch.setattr(nnunet_import, "load_segmenter", refuse)
    model = write_tiny_model(tmp_path / "model")
    with pytest.raises(BadStudy, match=f"^segmenter {tmp_path}/out lacks something$"):
        import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")


def test_a_fold_that_is_not_there_names_those_that_are(tmp_path):
    model = write_tiny_model(tmp_path / "model", folds=("0", "2"))
    with pytest.raises(BadStudy, match=r"fold 1 has no checkpoint_final\.pth; .* 0, 2"):
        convert(str(model), str(tmp_path / "out"), trust=True, orientation="RAS", folds="0,1")


# opening a pickle


class Thief:
    """A pickle that runs this when it is opened."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, (self.code,)


LOOT = """
import os, socket
loot = ["key:" + os.environ.get("SPINEAGE_KEY", "none")]
for name, act in {tries!r}.items():
    try:
        loot.append(name + ":" + str(eval(act)))
    except Exception as error:
        loot.append(name + ":none")
raise RuntimeError("; ".join(loot))
"""


def with_thief(model: Path, tries: dict[str, str]) -> Path:
    path = model / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["trainer_name"] = Thief(LOOT.format(tries=tries))
    torch.save(checkpoint, path)
    return model


@pytest.fixture
def listener():
    """Somebody who waits for stolen goods, and what came."""
    server, came = socket.create_server(("127.0.0.1", 0)), []

    def listen() -> None:
        try:
            came.append(server.accept()[0].recv(100))
        except OSError:
            return

    threading.Thread(target=listen, daemon=True).start()
    yield server.getsockname()[1], came
    server.close()


def test_a_malicious_checkpoint_gets_nothing(tmp_path, monkeypatch, listener):
    port, came = listener
    secret = tmp_path / "key"
    secret.write_text("a secret in a file")
    monkeypatch.setenv("SPINEAGE_KEY", "a secret in the environment")
    tries = {
        "network": f"socket.create_connection(('127.0.0.1', {port}), 2).send(b'loot')",
        "file": f"open({str(secret)!r}).read()",
        "write": f"open({str(tmp_path / 'left')!r}, 'w').write('x')",
        "parent": f"open('/proc/{os.getpid()}/environ', 'rb').read()",
        "kill": f"os.kill({os.getpid()}, 0)",
        "import": "__import__('spineage.io.people.identity')",
        "escape": "(os.mkdir('/a'), os.chroot('/a'))",
    }
    model = with_thief(write_tiny_model(tmp_path / "model"), tries)
    with pytest.raises(BadStudy, match="fold 0 cannot be read") as error:
        import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")
    said = str(error.value)
    assert all(f"{name}:none" in said for name in ("key", *tries)), said
    assert not came
    assert not (tmp_path / "left").exists()


def test_the_thief_of_that_test_steals_where_nothing_holds_it(tmp_path, listener):
    port, _ = listener
    (tmp_path / "key").write_text("a secret in a file")
    tries = {
        "network": f"socket.create_connection(('127.0.0.1', {port}), 2).send(b'loot')",
        "file": f"open({str(tmp_path / 'key')!r}).read()",
    }
    model = with_thief(write_tiny_model(tmp_path / "model"), tries)
    with pytest.raises(BadStudy, match="network:4; file:a secret in a file"):
        import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS", isolated=False)


def test_a_machine_without_isolation_is_refused_unless_told(tmp_path, monkeypatch):
    model = write_tiny_model(tmp_path / "model")

    with monkeypatch.context() as patch:
        patch.setattr(nnunet_checkpoint, "run_bounded", lambda *_, **__: (REFUSED, ""))
        with pytest.raises(BadStudy, match="--not-isolated"):
            import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")
    said = convert(str(model), str(tmp_path / "out"), trust=True, orientation="RAS", isolated=False)
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest["opened"] == "not isolated"
    assert manifest["digest"][:12] in said
    assert manifest["trained_by"] == "nnUNetTrainer_custom"


def test_this_machine_isolates():
    assert is_possible()


def test_a_manifest_in_words_says_what_matters():
    manifest = {
        "digest": "0123456789abcdef", "layout": "vertebrae_mr", "configuration": "3d_fullres",
        "folds": ["0"], "schema": "levels", "orientation": "RAS", "domain": "human",
        "channels": ["MRI"], "lacks": ["discs", "canal", "cord"],
    }  # fmt: skip
    said = in_words(manifest)
    assert "0123456789ab, vertebrae_mr, 3d_fullres of 1 fold," in said
    assert "draws no discs, canal, cord" in said
    assert "2 input channels (T2, STIR)" in in_words({**manifest, "channels": ["T2", "STIR"]})


def test_every_layout_ends_in_our_names():
    for name, layout in LAYOUTS.items():
        assert layout.refusal or any(
            set(layout.names.values()) <= set(schema) for schema in SCHEMAS.values()
        ), name
        assert layout.fits(layout.labels)
