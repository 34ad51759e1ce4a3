"""The engine's `exact` mode against nnunetv2's own predictor, for every kind of model that is handled."""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from spineage.errors import BadScan
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.segmenter.predict.predictor import load_segmenter
from tests.made.taught_nnunet import Taught, image

pytestmark = pytest.mark.slow

PLAN_MM = (4.0, 1.6, 1.6)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def plain():
    return Taught(folds=2)


@pytest.fixture(scope="module")
def models(plain):
    one = plain.networks[:1]
    two_channels = Taught(channels=2)
    regions = Taught(regions=True)
    flat = Taught(patch=(64, 32))
    return {
        "plain": Taught(networks=one),
        "two folds": plain,
        "an ignore label": Taught(networks=one, ignore=True),
        "regions": regions,
        "two channels": two_channels,
        "axes as read": Taught(networks=one, transpose=(0, 1, 2)),
        "other axes": Taught(networks=one, transpose=(1, 2, 0), patch=(32, 8, 64)),
        "isotropic": Taught(networks=one, spacing=(1.6, 1.6, 1.6), patch=(16, 32, 32)),
        "logits by torch": Taught(networks=one, by_torch=True),
        "2d": flat,
        "2d, logits by torch": Taught(networks=flat.networks, patch=(64, 32), by_torch=True),
    }


CASES = [
    ("plain", (8, 32, 64), PLAN_MM, "one tile"),
    ("plain", (9, 60, 140), PLAN_MM, "many tiles, no resampling"),
    ("plain", (5, 24, 50), PLAN_MM, "smaller than the patch"),
    ("plain", (5, 24, 150), PLAN_MM, "smaller than the patch in two axes"),
    ("plain", (9, 56, 140), (4.0, 1.1, 1.1), "more voxels than the plan's grid"),
    ("plain", (9, 40, 90), (4.0, 2.3, 2.3), "fewer voxels than the plan's grid"),
    ("plain", (11, 50, 90), (3.1, 1.6, 1.9), "another slice distance: nearest across slices"),
    ("two folds", (9, 40, 100), (4.0, 1.3, 1.3), ""),
    ("an ignore label", (9, 40, 100), PLAN_MM, ""),
    ("regions", (9, 60, 140), PLAN_MM, ""),
    ("regions", (9, 56, 140), (4.0, 1.1, 1.1), "resampled"),
    ("two channels", (9, 60, 140), (4.0, 1.3, 1.3), ""),
    ("axes as read", (9, 40, 100), (4.0, 1.3, 1.3), "S, A, R"),
    ("other axes", (9, 40, 100), (4.0, 1.3, 1.3), "A, R, S"),
    ("isotropic", (24, 50, 90), (2.0, 1.2, 1.2), "linear in 3D"),
    ("isotropic", (12, 50, 90), (5.0, 1.2, 1.2), "slices 5 mm apart: nearest across slices"),
    ("logits by torch", (9, 56, 140), (4.0, 1.1, 1.1), ""),
    ("2d", (7, 60, 140), (4.4, 1.3, 1.3), ""),
    ("2d, logits by torch", (7, 60, 90), (4.4, 2.2, 2.2), ""),
]


@pytest.mark.parametrize(
    ("model", "shape", "spacing_mm", "what"), CASES, ids=[f"{c[0]}: {c[3]}" for c in CASES]
)
def test_labels_are_those_of_nnunets_own_predictor(models, model, shape, spacing_mm, what):
    taught = models[model]
    volumes = image(shape, spacing_mm, channels=taught.segmenter().num_channels)
    ours = taught.segmenter().segment(volumes)
    reference = taught.by_nnunet(volumes)
    assert len(np.unique(reference)) >= 4  # it has learnt to draw
    assert ours.voxels_RAS.shape == shape
    assert_agree(ours.voxels_RAS, reference)


@pytest.mark.parametrize("model", ["plain", "2d"])
def test_mirroring_averages_over_the_flips_that_nnunet_averages_over(models, model):
    volumes = image((5, 24, 90), PLAN_MM)
    taught = models[model]
    mirrored = taught.segmenter(mirror=True).segment(volumes).voxels_RAS
    assert_agree(mirrored, taught.by_nnunet(volumes, mirror=True))
    assert not np.array_equal(mirrored, taught.segmenter().segment(volumes).voxels_RAS)


def test_a_border_of_zeros_is_cropped_away(models):
    (volume,) = image((12, 46, 100), PLAN_MM)
    voxels = np.zeros_like(volume.voxels_RAS)
    inner = (slice(2, -3), slice(1, -4), slice(5, -2))
    voxels[inner] = volume.voxels_RAS[inner]
    volumes = [volume.with_voxels(voxels)]
    ours = models["plain"].segmenter().segment(volumes).voxels_RAS
    assert_agree(ours, models["plain"].by_nnunet(volumes))
    assert not ours[:2].any()


def test_values_outside_the_mask_are_left_out_of_the_mean_where_the_plans_say_so(models):
    taught = Taught(networks=models["plain"].networks)
    taught.configuration.configuration["use_mask_for_norm"] = [True]
    (volume,) = image((8, 40, 90), PLAN_MM)
    voxels = volume.voxels_RAS.copy()
    voxels[:, :12, :30] = 0
    volumes = [volume.with_voxels(voxels)]
    assert_agree(taught.segmenter().segment(volumes).voxels_RAS, taught.by_nnunet(volumes))


def test_how_many_tiles_are_predicted_at_once_changes_no_label(models):
    volumes = image((9, 60, 140), (4.0, 1.3, 1.3))
    labels = []
    for number in (1, 2, 7):
        segmenter = models["two folds"].segmenter()
        segmenter.engine.tiles_at_once = number
        labels.append(segmenter.segment(volumes).voxels_RAS)
    assert (labels[0] == labels[1]).mean() >= 0.9999
    assert (labels[0] == labels[2]).mean() >= 0.9999


class Loud(torch.nn.Module):
    """A network whose answers are ten thousandfold: their sums pass half precision."""

    def __init__(self, network):
        super().__init__()
        self._network = network

    def forward(self, x):
        return 1e4 * self._network(x)


def test_an_answer_beyond_half_precision_is_a_fault_and_no_mask(plain):
    segmenter = Taught(networks=[Loud(plain.networks[0])]).segmenter()
    with pytest.raises(BadScan) as fault:
        segmenter.segment(image((9, 60, 140), PLAN_MM))
    assert fault.value.code == "bad_logits"


def test_a_really_trained_model_agrees_with_nnunet_as_its_users_run_it():
    """The demo segmenter on a phantom at a scanner's resolution."""
    recipe = PhantomRecipe(num_people=1, seed=11, in_plane_mm=1.2)
    volume = render(draw_population(recipe)[0], recipe).image
    segmenter = load_segmenter("demo", threads=1)
    predictor = nnUNetPredictor(
        use_mirroring=False, device=torch.device("cpu"), allow_tqdm=False,
        perform_everything_on_device=False,
    )  # fmt: skip
    (network,) = segmenter.engine.ensemble.networks
    with redirect_stdout(StringIO()):
        predictor.manual_initialization(
            network,
            segmenter.engine.plans,
            segmenter.engine.configuration,
            [network.state_dict()],
            segmenter.engine.dataset,
            "nnUNetTrainer",
            None,
        )
        reference = predictor.predict_single_npy_array(
            volume.voxels_RAS.transpose(2, 1, 0)[None], {"spacing": volume.spacing_mm[::-1]}
        ).transpose(2, 1, 0)
    assert_agree(segmenter.segment(volume).voxels_RAS, reference)


def assert_agree(ours, reference):
    """99.99 % of voxels, and Dice 0.999 in every class."""
    assert (ours == reference).mean() >= 0.9999
    for label in np.unique(reference):
        a, b = ours == label, reference == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= 0.999, label
