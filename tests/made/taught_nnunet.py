"""Small nnU-Net models of every kind, in memory, taught for seconds to draw bands of intensity.

A network with random weights is undecided in many voxels, and any rounding decides them; one that has learnt
something is sure almost everywhere, as those are that people use.
"""

from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from scipy import ndimage

from spineage.science.scan.geometry import Volume
from spineage.segmenter.predict.networks import build_network
from spineage.segmenter.predict.predictor import segmenter_of
from tests.made.tiny_nnunet import tiny_plans

BANDS = {"background": 0, "vertebra": 1, "disc": 2, "canal": 3, "cord": 4}
EDGES = (-0.8, 0.0, 0.5, 1.1)
REGIONS = {"background": 0, "disc": [1, 2, 3, 4], "canal": [2, 3, 4], "cord": [3, 4], "sacrum": 4}
ORDER = [1, 2, 3, 4]
"""Nested: what is drawn later lies within what is drawn before."""


class Taught:
    """One model: its plans, its networks, and nnU-Net's own predictor over them."""

    def __init__(self, *, channels=1, regions=False, folds=1, ignore=False, networks=None, **plans):
        """networks: taught already, by a model whose plans differ in nothing that a network sees."""
        labels = dict(REGIONS if regions else BANDS)
        self.dataset = {
            "channel_names": {str(k): "T2" for k in range(channels)},
            "labels": {**labels, "ignore": 5} if ignore else labels,
            "file_ending": ".nii.gz",
        }
        if regions:
            self.dataset["regions_class_order"] = ORDER
        self.plans = PlansManager(tiny_plans(channels=channels, **plans))
        self.configuration = self.plans.get_configuration("tiny")
        self.axes = tuple(range(len(self.configuration.patch_size)))
        self.networks = networks or [self._taught(channels, regions, n) for n in range(folds)]

    def _taught(self, channels, regions, seed):
        torch.manual_seed(seed)
        network = build_network(self.plans, self.dataset, "tiny")
        return teach(network, self.configuration.patch_size, channels, regions)

    def segmenter(self, mirror=False):
        names = ["background", "vertebra", "disc", "canal", "cord"]
        manifest = {
            "configuration": "tiny", "orientation": "RAS", "schema": "semantic", "digest": "",
            "labels": {str(k): name for k, name in enumerate(names)}, "mirror_axes": self.axes,
        }  # fmt: skip
        return segmenter_of(self.plans, self.dataset, manifest, self.networks, mirror=mirror)

    def by_nnunet(self, volumes, mirror=False):
        """nnU-Net's own in-memory prediction of the same volumes by the same networks."""
        with redirect_stdout(StringIO()):
            predictor = nnUNetPredictor(
                use_mirroring=mirror, device=torch.device("cpu"), allow_tqdm=False,
                perform_everything_on_device=False,
            )  # fmt: skip
            predictor.manual_initialization(
                build_network(self.plans, self.dataset, "tiny"),
                self.plans,
                self.configuration,
                [network.state_dict() for network in self.networks],
                self.dataset,
                "nnUNetTrainer",
                self.axes,
            )
            image = np.stack([volume.voxels_RAS.transpose(2, 1, 0) for volume in volumes])
            labels = predictor.predict_single_npy_array(
                image, {"spacing": list(volumes[0].spacing_mm[::-1])}
            )
        return labels.transpose(2, 1, 0)


def teach(network, patch, channels, regions, steps=25):
    """Learn BANDS of the channels' mean (brought to the deviation of one)."""
    batch = 2 if len(patch) == 3 else 12
    rng = np.random.default_rng(7)
    optimiser = torch.optim.Adam(network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.02, total_steps=steps)
    edges = torch.tensor(EDGES)
    network.train()
    for _ in range(steps):
        x = np.stack([[smooth(patch, rng) for _ in range(channels)] for _ in range(batch)])
        x = torch.from_numpy(x)
        truth = torch.bucketize(x.mean(1) * channels**0.5, edges)
        logits = network(x)
        if regions:
            wanted = torch.stack([truth >= k for k in range(1, 5)], 1).float()
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        else:
            loss = torch.nn.functional.cross_entropy(logits, truth)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def smooth(shape, rng):
    """A smooth random field of mean 0 and deviation 1."""
    sigma = [1.0, 5.0, 4.0][-len(shape) :] if len(shape) == 3 else [5.0, 4.0]
    field = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    field = (field - field.mean()) / field.std()
    return (field + 0.05 * rng.normal(size=shape)).astype(np.float32)


def image(shape, spacing_mm, seed=0, channels=1):
    """Volumes [R, A, S] of smooth fields whose scale in mm is that of the teaching at plan spacing."""
    rng = np.random.default_rng(seed)
    sigma = np.array([4.0, 1.6 * 4, 1.6 * 5]) / np.array(spacing_mm)
    volumes = []
    for _ in range(channels):
        field = ndimage.gaussian_filter(rng.normal(size=shape), sigma)
        voxels = 300 + 80 * (field - field.mean()) / field.std() + 4 * rng.normal(size=shape)
        volumes.append(Volume(voxels.astype(np.float32), np.diag([*spacing_mm, 1.0])))
    return volumes
