"""Batch normalisation over workers: two processes with half a batch each do what one does with all of it."""

from __future__ import annotations

import torch
from torch import distributed, multiprocessing, nn

from spineage.science.network.network import SharedBatchNorm3d

SHAPE = (4, 3, 4, 5, 6)
NAMES = ["output", "input gradient", "weight gradient", "bias gradient", "mean", "variance"]


def norm_and_batch():
    draws = torch.Generator().manual_seed(7)
    norm = SharedBatchNorm3d(SHAPE[1])
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    batch = 3 + 2 * torch.randn(SHAPE, generator=draws)
    return norm.train(), batch, torch.randn(SHAPE, generator=draws)


def there_and_back(norm, scans, pull):
    scans = scans.clone().requires_grad_()
    out = norm(scans)
    (out * pull).sum().backward()
    return [
        out.detach(), scans.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var
    ]  # fmt: skip


def one_of_two(rank, folder):
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2
    )
    norm, batch, pull = norm_and_batch()
    torch.save(there_and_back(norm, batch[rank::2], pull[rank::2]), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


def test_two_workers_normalise_as_one_does(tmp_path):
    norm, batch, pull = norm_and_batch()
    plain = nn.BatchNorm3d(SHAPE[1])
    plain.load_state_dict(norm.state_dict())
    whole = dict(zip(NAMES, there_and_back(plain, batch, pull), strict=True))
    multiprocessing.spawn(one_of_two, args=(str(tmp_path),), nprocs=2)
    halves = [
        dict(zip(NAMES, torch.load(tmp_path / f"{rank}.pt", weights_only=True), strict=True))
        for rank in (0, 1)
    ]
    for rank, half in enumerate(halves):
        for name in ("output", "input gradient"):
            torch.testing.assert_close(half[name], whole[name][rank::2], rtol=1e-4, atol=1e-5)
        for name in ("mean", "variance"):
            torch.testing.assert_close(half[name], whole[name], rtol=1e-4, atol=1e-5)
    for name in ("weight gradient", "bias gradient"):  # the averaging of gradients adds these up
        both = halves[0][name] + halves[1][name]
        torch.testing.assert_close(both, whole[name], rtol=1e-4, atol=1e-4)
    local = plain(batch[0::2]).detach()
    assert (halves[0]["output"] - local).abs().max() > 0.01, "half a batch alone must differ"


def test_a_lone_worker_normalises_as_torch_does():
    norm, batch, pull = norm_and_batch()
    plain = nn.BatchNorm3d(SHAPE[1])
    plain.load_state_dict(norm.state_dict())
    for mine, theirs in zip(
        there_and_back(norm, batch, pull), there_and_back(plain, batch, pull), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
