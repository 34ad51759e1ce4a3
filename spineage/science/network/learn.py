"""How the network learns: a loop that yields after each epoch; saving, logging and stopping are the caller's.

Letters: B batch, C channel, R left->right, A posterior->anterior, S inferior->superior.

Everything drawn comes from (seed, epoch, place in the epoch): a run stopped after any epoch and taken up
again gives the same network as one that never stopped. Optimiser, schedule and losses are unknown in the
paper.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from spineage.science.network.augment import Augment
from spineage.science.network.network import SpineAgeNet, network_input, predict, settle_norms
from spineage.science.seeds import Stream, int_of, rng_of

WARM_UP_SHARE = 0.1
MAX_GRADIENT = 1.0
NORM_BATCHES = 64
"""Batches of plain scans that the normalisation's statistics are taken over, after every epoch."""
SMOOTH_EPOCHS = 5
"""The best epoch is the best mean of this many: a single epoch's MAE on few people is a lottery."""

LOSSES: dict[str, Callable[[], nn.Module]] = {
    "l1": nn.L1Loss,
    "mse": nn.MSELoss,
    "huber": nn.HuberLoss,
}
"""On residuals in standard deviations of age: Huber turns linear at one of them."""


class Examples(Protocol):
    """Scans with a known age, by number."""

    def __len__(self) -> int: ...

    def tensor(self, i: int) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Voxels and levels [R, A, S]."""

    def age_years(self, i: int) -> float: ...


@dataclass(frozen=True)
class Batch:
    scan_BCRAS: Tensor
    age_years_B: Tensor


@dataclass(frozen=True)
class Batches:
    """The batches of one epoch for one of `size` workers: the same people for any number of workers, each of
    which has a scan of every batch at least.

    Every epoch shuffles; the last batch is filled up with people from the start of that epoch's order, so
    that nobody is left out and no batch is too small for batch normalisation.
    """

    examples: Examples
    batch_size: int
    seed: int
    region: str = "whole"
    augment: Augment | None = None
    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.size <= self.batch_size

    def __len__(self) -> int:
        return math.ceil(len(self.examples) / self.batch_size)

    @property
    def part(self) -> slice:
        """Of a batch: this worker's."""
        return slice(self.rank, None, self.size)

    def __call__(self, epoch: int) -> Iterator[Batch]:
        rng = rng_of(Stream.EPOCH, self.seed, epoch)
        num_places = len(self) * self.batch_size
        order = np.resize(rng.permutation(len(self.examples)), num_places)
        seeds = rng.integers(2**31, size=num_places)
        for first in range(0, num_places, self.batch_size):
            mine = range(first, first + self.batch_size)[self.part]
            yield Batch(
                torch.stack([self._input(int(order[k]), int(seeds[k])) for k in mine]),
                torch.tensor([self.examples.age_years(int(order[k])) for k in mine]),
            )

    def _input(self, i: int, seed: int) -> Tensor:
        scan_CRAS = network_input(*self.examples.tensor(i), self.region)
        return self.augment(scan_CRAS, seed) if self.augment else scan_CRAS


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training people gave. A resumed run needs `optimiser` beside the weights."""

    number: int
    train_loss: float
    train_mae_years: float
    learning_rate: float
    optimiser: dict[str, Any]


def learn(
    model: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    sd_years: float,
    loss: Literal["l1", "mse", "huber"] = "l1",
    learning_rate: float,
    weight_decay: float,
    done: Epoch | None = None,
    total: Callable[[Tensor], Tensor] = lambda sums: sums,
) -> Iterator[Epoch]:
    """Train in place and yield after every epoch from 1 to `epochs`, with the network ready to predict.

    AdamW (no decay on biases and normalisation); the rate warms up over a tenth and falls on a cosine to 0.
    model: the network, or it wrapped for several workers. done: the epoch that a killed run had finished.
    total: adds a small tensor up over all workers.
    """
    device = next(model.parameters()).device
    bare = cast("SpineAgeNet", getattr(model, "module", model))
    plain = replace(batches, augment=None)
    optimiser = torch.optim.AdamW(_groups(model, weight_decay), lr=learning_rate)
    if done:
        optimiser.load_state_dict(done.optimiser)
    criterion = LOSSES[loss]()
    for number in range(done.number + 1 if done else 1, epochs + 1):
        model.train()
        sums = torch.zeros(3, dtype=torch.float64)
        for step, batch in enumerate(batches(number)):
            progress = (number - 1 + (step + 0.5) / len(batches)) / epochs
            rate = _set_rate(optimiser, learning_rate * schedule(progress))
            age_years = batch.age_years_B.to(device)
            drawn = int_of(Stream.DROPOUT, batches.seed, number, step)
            bare.dropout.draw(drawn, batches.batch_size, bare.linear.in_features, batches.part)
            predicted_years = model(batch.scan_BCRAS.to(device))
            value = criterion((predicted_years - age_years) / sd_years, torch.zeros_like(age_years))
            optimiser.zero_grad()
            # gradients are averaged over workers, whose parts may differ by a scan
            (value * (len(age_years) * batches.size / batches.batch_size)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT)
            optimiser.step()
            error_years = (predicted_years.detach() - age_years).abs().sum().item()
            sums += torch.tensor([value.item() * len(age_years), error_years, len(age_years)])
        settle_norms(
            bare, (batch.scan_BCRAS.to(device) for batch in islice(plain(0), NORM_BATCHES))
        )
        loss_sum, error_sum, count = total(sums).tolist()
        yield Epoch(number, loss_sum / count, error_sum / count, rate, optimiser.state_dict())


def schedule(progress: float) -> float:
    """Learning rate as a share of its peak: up a line for a tenth of the run, then down a cosine to 0."""
    if progress < WARM_UP_SHARE:
        return progress / WARM_UP_SHARE
    return 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP_SHARE) / (1 - WARM_UP_SHARE)))


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> float:
    for group in optimiser.param_groups:
        group["lr"] = rate
    return rate


@dataclass(frozen=True)
class Answers:
    """What a trained network says of some scans: raw predictions [N] in years, features [N, C]."""

    predicted_years: NDArray[np.float64]
    features: NDArray[np.float64]


def answer(
    model: SpineAgeNet, examples: Examples, numbers: Sequence[int], region: str, batch_size: int = 8
) -> Answers:
    """Predict the numbered examples, no augmentation, in the order asked."""
    model.eval()
    parts = [
        predict(
            model,
            torch.stack(
                [network_input(*examples.tensor(i), region) for i in numbers[k : k + batch_size]]
            ),
        )
        for k in range(0, len(numbers), batch_size)
    ]
    width = model.linear.in_features
    return Answers(
        np.concatenate([np.empty(0), *(years for years, _ in parts)]),
        np.concatenate([np.empty((0, width)), *(features for _, features in parts)]),
    )


def smooth_mae(maes_years: Sequence[float], epochs: int) -> float:
    """The mean of the last SMOOTH_EPOCHS validation MAEs: what the best epoch is chosen by.

    Infinite until there are as many, or as many as the run has epochs; NaN never wins.
    """
    window = min(SMOOTH_EPOCHS, epochs)
    if len(maes_years) < window:
        return math.inf
    mean = float(np.mean(maes_years[-window:]))
    return mean if math.isfinite(mean) else math.inf
