"""The network and the scans of the segmentation benchmarks: trained for minutes, so that it finds spines.

Twenty of its 26 classes are never in the truth; they cost what any class costs.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import SEMANTIC
from spineage.segmenter.predict.networks import build_network
from tests.benchmarks.segment_plans import CONFIGURATION, dataset_of, plans_of

FIELD_MM = (360.0, 810.0)  # of a whole-spine scan along A and S; phantoms are drawn in 205 x 691
SMALL_PATCH = (16, 128, 64)
STEPS = 1000
WHOLE_PATCHES = 0.1
"""Share of the training, at its end, on patches of the size that will be seen."""


def widened(volume: Volume, mode: str) -> Volume:
    """The volume in a scanner's field of view, its edges carried on (or nothing, for labels)."""
    pads = [(0, 0)]
    for axis, field_mm in zip((1, 2), FIELD_MM, strict=True):
        num = round(field_mm / volume.spacing_mm[axis]) - volume.voxels_RAS.shape[axis]
        pads.append((num // 2, num - num // 2))
    return Volume(np.pad(volume.voxels_RAS, pads, mode=mode), volume.affine_RAS)  # type: ignore[call-overload]


def scans(number: int, seed: int, in_plane_mm: float) -> list[tuple[Volume, Volume]]:
    """Images and semantic truths of 20 slices, 4 mm apart."""
    recipe = PhantomRecipe(
        num_people=number, seed=seed, in_plane_mm=in_plane_mm, slice_mm=4.0, num_slices=20,
        repeat_share=0.0,
    )  # fmt: skip
    found = []
    for exam in draw_population(recipe):
        person = render(exam, recipe)
        found.append((widened(person.image, "edge"), widened(person.semantic, "constant")))
    return found


def trained(
    features: tuple[int, ...], in_plane_mm: float, device: str, kept: Path | None = None
) -> tuple[PlansManager, torch.nn.Module]:
    """The network after a training on other phantoms than are measured.

    On small patches, most of which hold some spine, and on whole ones at the end: so it learns more in a
    minute. kept: a file of its weights, which are read where it is there and written where it is not.
    """
    plans, dataset = plans_of(features, in_plane_mm), dataset_of()
    torch.manual_seed(0)
    network = build_network(plans, dataset, CONFIGURATION).to(device)
    if kept is None or not kept.exists():
        _train(network, plans, in_plane_mm, device)
        if kept is not None:
            torch.save(network.state_dict(), kept)
    else:
        network.load_state_dict(torch.load(kept, weights_only=True))
    return plans, network.eval()


def _train(network: torch.nn.Module, plans: PlansManager, in_plane_mm: float, device: str) -> None:
    network.train()
    rng = np.random.default_rng(0)
    started = time.monotonic()
    cases = [
        (_as_network_sees(image.voxels_RAS), _turned(truth.voxels_RAS))
        for image, truth in scans(6, 4321, in_plane_mm)
    ]
    optimiser = torch.optim.AdamW(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-2, total_steps=STEPS)
    whole = tuple(plans.get_configuration(CONFIGURATION).patch_size)
    for step in range(STEPS):
        image, truth = cases[rng.integers(len(cases))]
        patch = whole if step >= (1 - WHOLE_PATCHES) * STEPS else SMALL_PATCH
        here = _around_spine(truth, patch, rng)
        logits = network(torch.from_numpy(image[here].copy())[None, None].to(device))
        loss = _loss(logits, torch.from_numpy(truth[here].astype(np.int64))[None].to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        schedule.step()
        if step % 20 == 19:
            taken = time.monotonic() - started
            print(f"trained {step + 1} of {STEPS} steps, {taken:.0f} s", file=sys.stderr)


def _around_spine(
    truth: NDArray[np.generic], patch: tuple[int, ...], rng: np.random.Generator
) -> tuple[slice, ...]:
    """A patch with a voxel of the spine somewhere in it; one in four lies anywhere."""
    seen = np.argwhere(truth)[:: max(1, np.count_nonzero(truth) // 5000)]
    at = seen[rng.integers(len(seen))] if rng.random() > 0.25 else rng.integers(truth.shape)
    offset = [int(rng.integers(n)) for n in patch]
    low = [
        int(np.clip(a - o, 0, n - p))
        for a, o, n, p in zip(at, offset, truth.shape, patch, strict=True)
    ]
    return tuple(slice(a, a + p) for a, p in zip(low, patch, strict=True))


def _loss(logits_BCxyz: torch.Tensor, wanted_Bxyz: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, and soft Dice of the tissues that are there."""
    entropy = torch.nn.functional.cross_entropy(logits_BCxyz, wanted_Bxyz)
    p_BCxyz = logits_BCxyz.softmax(1)
    dice = []
    for value in range(1, len(SEMANTIC)):
        is_it, p = wanted_Bxyz == value, p_BCxyz[:, value]
        if is_it.any():
            dice.append(2 * p[is_it].sum() / (p.sum() + is_it.sum()))
    return entropy - torch.stack(dice).mean() if dice else entropy


def _turned(voxels_RAS: NDArray[np.generic]) -> NDArray[np.generic]:
    """R A S to the network's R S A."""
    return voxels_RAS.transpose(0, 2, 1)


def _as_network_sees(voxels_RAS: NDArray[np.generic]) -> NDArray[np.float32]:
    image = _turned(voxels_RAS).astype(np.float32)
    normalised: NDArray[np.float32] = (image - image.mean()) / image.std()
    return normalised
