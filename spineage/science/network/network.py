"""The DCNN: blocks of 3D convolution, batch normalisation, ReLU and max pooling; one linear layer last.

Letters: B batch, C channel, R left->right, A posterior->anterior, S inferior->superior.

The paper names these parts and keeps the layer table: channels, pooling and head are our documented default.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed, nn

from spineage.errors import BadStudy
from spineage.science.network.tensor import keep_region
from spineage.study import Prepare, Train

MIN_VOXELS = 4
"""An axis of fewer voxels is pooled no further."""


SPREAD = (0, 2, 3, 4)
"""Axes of a batch over which a channel is normalised."""
_AGAIN = "fetch the model again, or train again"


class _Normalise(torch.autograd.Function):
    """Batch normalisation with mean and variance over all workers' parts, and its gradient.

    The gradient of a scan depends on everyone's: the sums of dy and of dy * normalised x go round as well.
    Written out as sums and elementwise passes: torch's own statistics took four times as long (43 ms by
    `var_mean`, 39 by `batch_norm_update_stats`, 9 so, of 4 x 4 x 16 x 80 x 320 on one thread), and those of
    its fused kernel are off by 0.1 % where channels lie last (2026-11-24).
    """

    @staticmethod
    def forward(
        ctx: Any, x_BCRAS: Tensor, weight_C: Tensor, bias_C: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        count = _count(x_BCRAS)
        shared = (
            _over_workers(torch.stack([x_BCRAS.sum(SPREAD), (x_BCRAS * x_BCRAS).sum(SPREAD)]))
            / count
        )
        mean_C, variance_C = shared[0], (shared[1] - shared[0] ** 2).clamp_min(0)
        y_BCRAS = torch.native_batch_norm(
            x_BCRAS, weight_C, bias_C, mean_C, variance_C, False, 0.0, eps
        )[0]
        ctx.save_for_backward(x_BCRAS, weight_C, mean_C, variance_C)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean_C, variance_C)
        return y_BCRAS, mean_C, variance_C

    @staticmethod
    def backward(ctx: Any, dy_BCRAS: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x_BCRAS, weight_C, mean_C, variance_C = ctx.saved_tensors
        sd_C = torch.rsqrt(variance_C + ctx.eps)
        dbias_C = dy_BCRAS.sum(SPREAD)
        dweight_C = ((dy_BCRAS * x_BCRAS).sum(SPREAD) - mean_C * dbias_C) * sd_C
        shared = _over_workers(torch.stack([dweight_C, dbias_C])) / ctx.count
        by_dy_C = weight_C * sd_C
        by_x_C = -by_dy_C * sd_C * shared[0]
        rest_C = -by_dy_C * shared[1] - by_x_C * mean_C
        dx_BCRAS = torch.addcmul(_per_channel(rest_C), x_BCRAS, _per_channel(by_x_C))
        dx_BCRAS.addcmul_(dy_BCRAS, _per_channel(by_dy_C))
        return dx_BCRAS, dweight_C, dbias_C, None


def _num_workers() -> int:
    return distributed.get_world_size() if distributed.is_initialized() else 1


def _over_workers(sums: Tensor) -> Tensor:
    if _num_workers() > 1:
        distributed.all_reduce(sums)
    return sums


def _count(x_BCRAS: Tensor) -> int:
    """Values of a channel in all workers' parts."""
    num_scans = int(_over_workers(torch.tensor([len(x_BCRAS)], device=x_BCRAS.device)))
    return num_scans * x_BCRAS[0, 0].numel()


def _per_channel(value_C: Tensor) -> Tensor:
    return value_C.view(1, -1, 1, 1, 1)


_normalise: Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor, Tensor]] = (
    _Normalise.apply
)


class SharedBatchNorm3d(nn.BatchNorm3d):
    """Batch normalisation over the whole batch, also when several workers hold a part of it each.

    A worker's part is a few scans, whose own mean hides how bright these people's discs are, which is the
    signal: with two workers of four scans each a network hardly learned from phantoms (held-out MAE 0.73 of
    predict-the-mean). torch.nn.SyncBatchNorm does this on GPUs only.
    """

    def forward(self, deep_BCRAS: Tensor) -> Tensor:
        """[B, C, R, A, S] to the same, normalised per channel."""
        if not self.training or (deep_BCRAS.is_cuda and _num_workers() == 1):
            return super().forward(deep_BCRAS)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        normal_BCRAS, mean_C, variance_C = _normalise(deep_BCRAS, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked += 1
            count = _count(deep_BCRAS)
            share = self.momentum or 1 / int(self.num_batches_tracked)
            self.running_mean.lerp_(mean_C, share)
            self.running_var.lerp_(variance_C * count / (count - 1), share)
        return normal_BCRAS


def settle_norms(model: nn.Module, scans: Iterable[Tensor]) -> None:
    """Replace the running statistics by those of the present weights, averaged over batches [B, 1, R, A, S].

    Running statistics trail behind weights that still move and describe augmented scans: a network whose
    training MAE was 7 years answered 13 years too young in evaluation. "Precise BN": Wu and Johnson,
    "Rethinking 'Batch' in BatchNorm", 2021. With several workers each brings its part of every batch.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm3d)]
    momenta = [norm.momentum for norm in norms]
    model.eval()  # no dropout
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for scan_BCRAS in scans:
            model(scan_BCRAS)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    model.eval()


class SharedDropout(nn.Module):
    """Dropout whose draw is of a whole batch, so that a scan loses the same whichever worker has it."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self._share = share
        self._keep_BC: Tensor | None = None

    def draw(self, seed: int, batch_size: int, num_channels: int, part: slice) -> None:
        """For the next forward pass, of that part of the batch."""
        rng = torch.Generator().manual_seed(seed)  # of the CPU: a GPU draws the same
        keep_BC = torch.rand(batch_size, num_channels, generator=rng) >= self._share
        self._keep_BC = keep_BC[part] / (1 - self._share)

    def forward(self, features_BC: Tensor) -> Tensor:
        """[B, C] to the same; unchanged unless it trains."""
        if not self.training:
            return features_BC
        assert self._keep_BC is not None, "draw first"
        return features_BC * self._keep_BC.to(features_BC.device)


class SpineAgeNet(nn.Module):
    """Age in years from a prepared tensor.

    The convolutions answer in standard deviations from the training people's mean age; `mean_years` and
    `sd_years` are buffers, so that whoever holds the weights gets years.
    """

    mean_years: Tensor
    sd_years: Tensor

    def __init__(
        self,
        channels: tuple[int, ...],
        pools: tuple[tuple[int, int, int], ...],
        dropout: float,
        age_mean_years: float,
        age_sd_years: float,
    ) -> None:
        super().__init__()
        assert len(channels) == len(pools)
        assert age_sd_years > 0
        widths = (1, *channels)
        self.blocks = nn.Sequential(
            *(_block(widths[i], widths[i + 1], pools[i]) for i in range(len(channels)))
        )
        self.dropout = SharedDropout(dropout)
        self.linear = nn.Linear(channels[-1], 1)
        self.register_buffer("mean_years", torch.tensor(float(age_mean_years)))
        self.register_buffer("sd_years", torch.tensor(float(age_sd_years)))

    def features(self, scan_BCRAS: Tensor) -> Tensor:
        """[B, 1, R, A, S] to [B, C]: what the linear layer sees, each channel's mean over the spine.

        Over the cells that hold some of it, that is: averaged over the whole grid, features would tell the
        spine's size, and those of a small region would drown in empty cells.
        """
        deep_BCRAS: Tensor = self.blocks(
            scan_BCRAS.contiguous(memory_format=torch.channels_last_3d)
        )
        spine_BCRAS = nn.functional.adaptive_max_pool3d(
            (scan_BCRAS != 0).float(), deep_BCRAS.shape[2:]
        )
        num_cells_BC = spine_BCRAS.sum(dim=(2, 3, 4)).clamp_min(1)
        return (deep_BCRAS * spine_BCRAS).sum(dim=(2, 3, 4)) / num_cells_BC

    def forward(self, scan_BCRAS: Tensor) -> Tensor:
        """[B, 1, R, A, S] to [B] years."""
        standardised: Tensor = self.linear(self.dropout(self.features(scan_BCRAS)))
        return self.mean_years + self.sd_years * standardised.squeeze(1)


def _block(num_in: int, num_out: int, pool: tuple[int, int, int]) -> nn.Sequential:
    """Pooling before the ReLU is the same function as after it (both keep order), on fewer voxels."""
    return nn.Sequential(
        nn.Conv3d(num_in, num_out, 3, padding=1, bias=False),
        SharedBatchNorm3d(num_out),
        nn.MaxPool3d(pool),
        nn.ReLU(),
    )


def pools_for(
    num_blocks: int, shape: tuple[int, int, int], spacing_mm: tuple[float, float, float]
) -> tuple[tuple[int, int, int], ...]:
    """How each block pools: the finest axes first, until voxels are about cubic, then all of them.

    An axis is halved when its voxels are at most 1.5 times as long as the shortest and MIN_VOXELS or more
    would be left. At 4.0 x 2.2 x 2.2 mm the first block keeps R.
    """
    size, edge_mm = np.array(shape), np.array(spacing_mm)
    pools = []
    for _ in range(num_blocks):
        halve = (edge_mm <= 1.5 * edge_mm.min()) & (size // 2 >= MIN_VOXELS)
        factor = np.where(halve, 2, 1)
        size, edge_mm = size // factor, edge_mm * factor
        pools.append((int(factor[0]), int(factor[1]), int(factor[2])))
    return tuple(pools)


def build_network(
    train: Train, prepare: Prepare, *, age_mean_years: float, age_sd_years: float, seed: int
) -> SpineAgeNet:
    """A fresh network for this study; the same seed gives the same weights, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = SpineAgeNet(
            tuple(train.channels),
            pools_for(len(train.channels), prepare.shape, prepare.spacing_mm),
            train.dropout,
            age_mean_years,
            age_sd_years,
        )
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model


def describe(train: Train, prepare: Prepare) -> dict[str, Any]:
    """What `load_network` must know beside the weights; plain JSON values."""
    return {
        "channels": list(train.channels),
        "pools": [
            list(p) for p in pools_for(len(train.channels), prepare.shape, prepare.spacing_mm)
        ],
        "dropout": train.dropout,
        "region": train.region,
        "prepare": prepare.model_dump(mode="json"),
    }


def save_weights(model: SpineAgeNet) -> bytes:
    """The network's weights and buffers as safetensors."""
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    return bytes(safetensors.torch.save(state))


def load_network(weights: bytes, description: bytes | dict[str, Any]) -> SpineAgeNet:
    """The network of `network.safetensors` and `network.json`, ready to predict; nothing is unpickled.

    Raises BadStudy when the weights are not those of this architecture; nothing large is built before that
    is known.
    """
    architecture = json.loads(description) if isinstance(description, bytes) else description
    try:
        state = safetensors.torch.load(weights)
    except safetensors.SafetensorError:
        raise BadStudy(f"the network's weights are not safetensors: {_AGAIN}") from None
    with torch.device("meta"):  # shapes without memory
        expected = {
            name: tensor.shape for name, tensor in _network_of(architecture).state_dict().items()
        }
    if {name: tensor.shape for name, tensor in state.items()} != expected:
        raise BadStudy(f"the network's weights are of another architecture than it says: {_AGAIN}")
    mean, sd = float(state["mean_years"]), float(state["sd_years"])
    if not (0 <= mean <= 150 and 0 < sd <= 150):
        raise BadStudy(f"the network was trained on no human ages ({mean:g}, SD {sd:g}): {_AGAIN}")
    model = _network_of(architecture)
    model.load_state_dict(state)
    model.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return model.eval()


def _network_of(architecture: dict[str, Any]) -> SpineAgeNet:
    pools = tuple(tuple(p) for p in architecture["pools"])
    return SpineAgeNet(tuple(architecture["channels"]), pools, architecture["dropout"], 0.0, 1.0)


def network_input(voxels: NDArray[np.float16], levels: NDArray[np.uint8], region: str) -> Tensor:
    """A prepared tensor [R, A, S] as the network takes it: [1, R, A, S] float32, the region alone."""
    return torch.from_numpy(keep_region(voxels, levels, region).astype(np.float32))[None]


@torch.inference_mode()
def predict(
    model: SpineAgeNet, scan_BCRAS: Tensor
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Raw predictions [B] in years and features [B, C] of a batch; the model is in evaluation mode."""
    assert not model.training
    device = model.mean_years.device
    features = model.features(scan_BCRAS.to(device))
    years = model.mean_years + model.sd_years * model.linear(features).squeeze(1)
    return years.double().cpu().numpy(), features.double().cpu().numpy()
