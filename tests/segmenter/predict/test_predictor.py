import json
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from safetensors.torch import load_file

from spineage.errors import BadScan, BadStudy
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS, SEMANTIC
from spineage.segmenter.folder import digest_of
from spineage.segmenter.predict.networks import refuse_unsupported
from spineage.segmenter.predict.predictor import Segmenter, load_segmenter
from spineage.segmenter.published.adopt import import_segmenter, write_manifest
from tests.made.tiny_nnunet import LABELS, tiny_plans, write_tiny_model


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("nnunet") / "model")


@pytest.fixture(scope="module")
def imported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "segmenter"
    import_segmenter(model, folder, trust=True, orientation="RAS", domain="phantom")
    return folder


def blob(shape=(9, 40, 100), spacing=(4.0, 1.6, 1.6), seed=0, border=0):
    """Smooth noise on a grid: an image with structure at the scale of the network's field of view."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(3, 6, 10))
    zoomed = np.kron(coarse, np.ones((4, 8, 12)))[: shape[0], : shape[1], : shape[2]]
    voxels = np.zeros(shape, np.float32)
    inner = tuple(slice(border, n - border) for n in shape)
    voxels[inner] = (100 + 30 * zoomed + rng.normal(size=zoomed.shape))[inner]
    return Volume(voxels, np.diag([*spacing, 1.0]))


def predicted_by_nnunet(model, volume, folds=("0",)):
    """nnU-Net's own in-memory prediction, mirroring off, as the reference.

    Whether the two agree in every kind of model: see test_nnunet_parity.
    """
    with redirect_stdout(StringIO()):
        predictor = nnUNetPredictor(
            use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False
        )
        for fold in folds:
            path = model / f"fold_{fold}" / "checkpoint_final.pth"
            checkpoint = torch.load(path, weights_only=False)
            torch.save(
                {**checkpoint, "trainer_name": "nnUNetTrainer"}, path.with_name("reference.pth")
            )
        predictor.initialize_from_trained_model_folder(
            str(model), [int(f) for f in folds], "reference.pth"
        )
        image = np.asarray(volume.voxels_RAS, np.float32).transpose(2, 1, 0)[None]
        labels = predictor.predict_single_npy_array(image, {"spacing": volume.spacing_mm[::-1]})
    return labels.transpose(2, 1, 0)


def test_folds_are_averaged_as_nnunet_averages_them(tmp_path):
    model = write_tiny_model(tmp_path / "model", folds=("0", "1"))
    manifest = import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")
    volume = blob((8, 32, 64))
    ours = load_segmenter(str(tmp_path / "out")).segment(volume).voxels_RAS
    assert manifest["folds"] == ["0", "1"]
    assert (ours == predicted_by_nnunet(model, volume, ("0", "1"))).mean() >= 0.9999
    assert not np.array_equal(ours, predicted_by_nnunet(model, volume))


@settings(max_examples=6, deadline=None)
@given(st.permutations(["LR", "PA", "IS"]), st.tuples(*[st.integers(0, 1)] * 3))
def test_a_model_of_any_orientation_sees_its_own_and_answers_in_ras(pairs, ends):
    """The wrapped network is told apart by position: labels must land where the image's marks were."""
    codes = "".join(pair[end] for pair, end in zip(pairs, ends, strict=True))
    seen = {}

    class Marks:
        def __init__(self):
            self.dataset = {"channel_names": {"0": "T2"}}

        def segment(self, image, spacing_mm, is_fast):
            seen["spacing"], seen["shape"] = spacing_mm, image.shape[1:]
            return image[0].astype(np.uint8), "as read"

    volume = blob((4, 6, 8), spacing=(1.0, 2.0, 3.0))
    volume = Volume(
        (np.arange(4 * 6 * 8) % 251).reshape(4, 6, 8).astype(np.float32), volume.affine_RAS
    )
    segmenter = Segmenter(Marks(), {"orientation": codes, "schema": "semantic", "labels": {}})
    segmenter._schema_of = np.arange(256, dtype=np.uint8)
    labels = segmenter.segment(volume)
    assert np.array_equal(labels.voxels_RAS, volume.voxels_RAS)
    axis_of = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}
    assert seen["spacing"] == [volume.spacing_mm[axis_of[c]] for c in codes[::-1]]
    assert seen["shape"] == tuple(volume.voxels_RAS.shape[axis_of[c]] for c in codes[::-1])


def test_a_pickle_is_not_opened_without_trust(model, tmp_path):
    with pytest.raises(BadStudy, match="--trust"):
        import_segmenter(model, tmp_path / "out", trust=False)
    assert not (tmp_path / "out").exists()


def test_code_in_a_trusted_pickle_runs_elsewhere_and_a_broken_one_is_one_sentence(tmp_path):
    model = write_tiny_model(tmp_path / "model")
    (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"not a pickle")
    with pytest.raises(BadStudy, match="fold 0 cannot be read"):
        import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")


def test_the_imported_weights_carry_no_optimiser_and_no_tensor_twice(model, imported):
    weights = load_file(imported / "weights.safetensors")
    parameters = torch.load(model / "fold_0" / "checkpoint_final.pth", weights_only=False)[
        "network_weights"
    ]
    unique = {tensor.data_ptr(): tensor.numel() for tensor in parameters.values()}
    assert sum(tensor.numel() for tensor in weights.values()) == sum(unique.values())
    assert json.loads((imported / "manifest.json").read_text())["trainer"] == "nnUNetTrainer"


@pytest.mark.parametrize("name", ["weights.safetensors", "plans.json", "dataset.json"])
def test_a_changed_or_missing_file_is_noticed(imported, tmp_path, name):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in imported.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / name).write_bytes((copy / name).read_bytes() + b" ")
    with pytest.raises(BadStudy, match="import the model again"):
        load_segmenter(str(copy))
    (copy / name).unlink()
    with pytest.raises(BadStudy, match=name):
        load_segmenter(str(copy))


def test_a_changed_label_map_is_noticed(imported, tmp_path):
    for file in imported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    manifest["labels"]["1"], manifest["labels"]["2"] = "disc", "vertebra"
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadStudy, match="digest"):
        load_segmenter(str(tmp_path))


def test_foreign_labels_need_a_map_and_are_written_in_our_schema(tmp_path):
    foreign = {"background": 0, "bone": 1, "nucleus": 2, "csf": 3, "cord": 4, "sacrum": 5}
    model = write_tiny_model(tmp_path / "model", labels=foreign)
    with pytest.raises(BadStudy, match="bone, csf, nucleus"):
        import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")
    label_map = {"bone": "disc", "nucleus": "disc", "csf": "canal"}
    manifest = import_segmenter(
        model, tmp_path / "out", trust=True, orientation="RAS", label_map=label_map
    )
    labels = load_segmenter(str(tmp_path / "out")).segment(blob((8, 32, 64))).voxels_RAS
    raw = predicted_by_nnunet(model, blob((8, 32, 64)))
    table = np.array([0, SEMANTIC["disc"], SEMANTIC["disc"], SEMANTIC["canal"], 4, 5])
    assert manifest["schema"] == "semantic"
    assert (labels == table[raw]).mean() >= 0.9999


def test_a_model_of_levels_is_told_from_a_model_of_tissues(tmp_path):
    model = write_tiny_model(
        tmp_path / "model", labels={"background": 0, "C2": 1, "disc_below_C2": 2}
    )
    assert (
        import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")["schema"]
        == "levels"
    )
    labels = load_segmenter(str(tmp_path / "out")).segment(blob((8, 32, 64))).voxels_RAS
    assert set(np.unique(labels)) <= {0, LEVELS["C2"], LEVELS["disc_below_C2"]}


@pytest.mark.parametrize(
    ("changes", "dataset", "sentence"),
    [
        ({"previous_stage": "3d_lowres"}, {}, "second stage of a cascade"),
        ({"normalization_schemes": ["ZScoreNormalization"] * 2}, {}, "1 input channels"),
        ({"use_mask_for_norm": [False, True]}, {}, "1 input channels"),
        ({"resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 3}}, {}, "linear"),
        ({"preprocessor_name": "CTPreprocessor"}, {}, "CTPreprocessor.* as preprocessor_name"),
        ({}, {"labels": {"background": 0, **{f"part {i}": i for i in range(1, 301)}}}, "label 300"),
    ],
)
def test_a_model_of_an_unsupported_kind_is_refused_in_one_sentence(changes, dataset, sentence):
    settings = tiny_plans()
    settings["configurations"]["tiny"].update(changes)
    dataset = {"channel_names": {"0": "T2"}, "labels": LABELS, **dataset}
    with pytest.raises(BadStudy, match=sentence):
        refuse_unsupported(PlansManager(settings), dataset, "tiny")


@pytest.mark.parametrize("orientation", ["RAR", "XYZ", "RA", ""])
def test_an_orientation_must_name_three_different_axes(model, tmp_path, orientation):
    with pytest.raises(BadStudy, match="three axis codes"):
        import_segmenter(model, tmp_path / "out", trust=True, orientation=orientation)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7.0])
def test_a_scan_without_an_image_in_it_is_a_fault(imported, value):
    volume = blob((8, 32, 64))
    voxels = np.full_like(volume.voxels_RAS, 7.0)
    voxels[2, 2, 2] = value
    with pytest.raises(BadScan) as fault:
        load_segmenter(str(imported)).segment(Volume(voxels, volume.affine_RAS))
    assert fault.value.code == "bad_values"


def test_a_read_only_volume_is_segmented_and_left_alone(imported):
    volume = blob((8, 32, 64))
    before = volume.voxels_RAS.copy()
    volume.voxels_RAS.setflags(write=False)
    load_segmenter(str(imported)).segment(volume)
    assert np.array_equal(volume.voxels_RAS, before)


def test_a_gpu_that_is_not_there_is_one_sentence(imported):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(BadStudy, match="no GPU"):
        load_segmenter(str(imported), device="cuda")


def test_mirroring_needs_the_axes_that_the_model_was_trained_with(imported, tmp_path):
    for file in imported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest.pop("mirror_axes") == [0, 1, 2], "as the checkpoint says"
    with_axes(tmp_path, manifest)
    with pytest.raises(BadStudy, match="mirror_axes"):
        load_segmenter(str(tmp_path), mirror=True)
    with_axes(tmp_path, {**manifest, "mirror_axes": [0]})
    volume = blob((8, 32, 64))
    once = load_segmenter(str(tmp_path)).segment(volume).voxels_RAS
    assert not np.array_equal(
        once, load_segmenter(str(tmp_path), mirror=True).segment(volume).voxels_RAS
    )


def test_mirror_axes_changed_after_the_import_are_noticed(imported, tmp_path):
    for file in imported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    write_manifest(tmp_path, {**manifest, "mirror_axes": [2]})
    with pytest.raises(BadStudy, match="changed after the import"):
        load_segmenter(str(tmp_path))


def with_axes(folder, manifest):
    write_manifest(folder, {**manifest, "digest": digest_of(folder, manifest)})


@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_the_images_of_a_scan_are_as_many_as_the_model_has_channels_and_on_one_grid(imported, mode):
    segmenter = load_segmenter(str(imported))
    with pytest.raises(BadStudy, match="was given 2"):
        segmenter.segment([blob((8, 32, 64))] * 2, mode)
