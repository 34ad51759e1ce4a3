"""The order of tiles: nnU-Net's for every voxel, though rows are given up as soon as they are final."""

from __future__ import annotations

import itertools

import pytest

from spineage.io.nnunet_tiles import Tiling, Window, tiling

CASES = [
    ((20, 470, 900), (16, 128, 256), 0.5),
    ((20, 900, 470), (16, 256, 128), 0.5),
    ((40, 40, 40), (16, 16, 16), 0.5),
    ((30, 64, 33), (16, 16, 32), 0.8),
    ((16, 32, 64), (16, 32, 64), 0.5),
    ((7, 60, 140), (64, 32), 0.5),
]


@pytest.fixture(params=CASES, ids=str)
def tiles(request: pytest.FixtureRequest) -> Tiling:
    shape, patch, step = request.param
    return tiling(
        tuple(max(n, p) for n, p in zip(shape, (1, *patch)[-3:], strict=True)), Window(patch, step)
    )


def touch(one: tuple[int, ...], other: tuple[int, ...], patch: tuple[int, ...]) -> bool:
    return all(abs(a - b) < size for a, b, size in zip(one, other, patch, strict=True))


def test_of_two_tiles_that_share_voxels_nnunets_first_comes_first(tiles: Tiling) -> None:
    order = [corner for group in tiles.groups for corner in group.corners]
    assert sorted(order) == list(itertools.product(*tiles.starts_xyz))
    for first, second in itertools.combinations(order, 2):
        assert first < second or not touch(first, second, tiles.patch_xyz)


def test_no_tile_touches_rows_that_were_said_to_be_final(tiles: Tiling) -> None:
    final = 0
    for group in tiles.groups:
        assert all(corner[tiles.axis] >= final for corner in group.corners)
        assert group.final >= final
        final = group.final
    assert final == tiles.shape_xyz[tiles.axis]


def test_a_long_scan_keeps_about_half_of_its_rows_and_a_longer_one_no_more() -> None:
    tiles = tiling((20, 900, 470), Window((16, 256, 128), 0.5))
    assert tiles.num_open_voxels() < 0.55 * 20 * 900 * 470
    longer = tiling((20, 1800, 470), Window((16, 256, 128), 0.5))
    assert longer.num_open_voxels() <= 1.1 * tiles.num_open_voxels()
