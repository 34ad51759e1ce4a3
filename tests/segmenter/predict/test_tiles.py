"""The order of tiles: nnU-Net's for every voxel, though rows are given up as soon as they are final."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spineage.segmenter.predict.coarse import STRETCH, stretched
from spineage.segmenter.predict.tiles import Tiling, Window, num_tiles, tiling

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
    order = [corner for turn in tiles.turns for corner in turn.corners]
    assert sorted(order) == list(itertools.product(*tiles.starts_xyz))
    for first, second in itertools.combinations(order, 2):
        assert first < second or not touch(first, second, tiles.patch_xyz)


def test_no_tile_touches_rows_that_were_said_to_be_final(tiles: Tiling) -> None:
    final = 0
    for turn in tiles.turns:
        assert all(corner[tiles.axis] >= final for corner in turn.corners)
        assert turn.final >= final
        final = turn.final
    assert final == tiles.shape_xyz[tiles.axis]


def test_a_long_scan_keeps_about_half_of_its_rows_and_a_longer_one_no_more() -> None:
    tiles = tiling((20, 900, 470), Window((16, 256, 128), 0.5))
    assert tiles.num_open_voxels() < 0.55 * 20 * 900 * 470
    longer = tiling((20, 1800, 470), Window((16, 256, 128), 0.5))
    assert longer.num_open_voxels() <= 1.1 * tiles.num_open_voxels()


@given(
    grid=st.tuples(st.integers(4, 40), st.integers(30, 700), st.integers(20, 400)),
    patch=st.sampled_from([(16, 256, 128), (8, 64, 32), (64, 32)]),
)
def test_longer_tiles_are_fewer_fit_the_network_and_are_little_longer(
    grid: tuple[int, int, int], patch: tuple[int, ...]
) -> None:
    window, multiples = Window(patch, 0.8), (2, 8, 8)[-len(patch) :]
    longer = stretched(window, grid, multiples)
    for own, new, multiple in zip(patch, longer.patch, multiples, strict=True):
        assert own <= new <= STRETCH * own
        assert new % multiple == 0
    fewer = num_tiles(grid, longer) < num_tiles(grid, window)
    assert fewer == (longer != window)


def test_a_grid_a_little_longer_than_two_tiles_is_seen_in_two() -> None:
    window = Window((16, 256, 128), 0.8)
    assert num_tiles((16, 470, 128), window) == 3
    longer = stretched(window, (16, 470, 128), (2, 8, 8))
    assert longer.patch == (16, 264, 128)
    assert num_tiles((16, 470, 128), longer) == 2
