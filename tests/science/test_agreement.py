"""What many draws say together: probabilities, limits, and agreement worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from spineage.science.agreement import agree, consensus
from spineage.science.stability import NOT_JUDGED, Cell, Grid, Outcome, draw, seed_of

GRID = Grid((15,), (5,), (0.08,), (5,), num_seeds=2, num_bootstraps=2)
REFERENCE = np.array([0, 0, 0, 1, 1, -1, -2])
DRAWS = [
    # who trained, their groups, who is normal
    ("1111100", [0, 0, 0, 1, 1, -1, -2], [1, 1, 1, 0, 0, 1, -1]),
    ("1111100", [1, 1, 1, 0, 0, -1, -2], [1, 1, 1, 0, 1, 1, -1]),
    ("1101100", [0, 0, 0, 1, 1, -1, -2], [1, 1, 0, 0, 0, 0, -1]),
    ("1111000", [0, 0, 1, 1, 1, -1, -2], [1, 1, 0, 0, 0, 0, -1]),
]


def outcomes() -> Iterator[tuple[Cell, Outcome]]:
    for cell, (drawn, cluster, normal) in zip(GRID.cells, DRAWS, strict=True):
        yield (
            cell,
            Outcome(
                np.array(list(drawn)) == "1",
                np.array([cluster], dtype=np.int8),
                np.array([normal], dtype=np.int8),
            ),
        )


def test_a_probability_is_the_share_of_draws_and_nobody_judged_has_none() -> None:
    found = agree(GRID, outcomes(), REFERENCE).normal_probability_P
    assert found[:6].tolist() == [1, 1, 0.5, 0, 0.25, 0.5]
    assert np.isnan(found[6])


def test_who_is_judged_in_fewer_than_half_of_the_draws_is_called_nothing() -> None:
    """Noise that the study does not judge: one draw that calls a person normal is no probability of 1."""
    draws = [
        (cell, Outcome(drawn.is_drawn_P, drawn.cluster_SP, drawn.is_normal_SP.copy()))
        for cell, drawn in outcomes()
    ]
    for number, (_, outcome) in enumerate(draws):
        outcome.is_normal_SP[0, 5] = 1 if number == 0 else NOT_JUDGED
        outcome.is_normal_SP[0, 4] = 1 if number < 2 else NOT_JUDGED
    found = agree(GRID, draws, REFERENCE).normal_probability_P
    assert np.isnan(found[5])
    assert found[4] == 1


def test_the_limits_themselves_belong_to_normal_and_not_normal() -> None:
    found = consensus(
        np.array([0.8, 0.79, 0.21, 0.2, 1.0, np.nan]),
        np.array([True, True, True, True, False, True]), 0.8, 0.2,
    )  # fmt: skip
    assert found.tolist() == [
        "normal", "uncertain", "uncertain", "not_normal", "unknown", "unknown"
    ]  # fmt: skip


def test_agreement_is_what_it_is_by_hand() -> None:
    found = agree(GRID, outcomes(), REFERENCE)
    (row,) = found.rows
    assert (row["seed_ari"], row["seed_ami"]) == (1.0, 1.0), (
        "labels are names: 0 and 1 may change places"
    )
    assert row["normal_share_low"] == pytest.approx(2 / 6, abs=1e-4)
    assert row["normal_share_high"] == pytest.approx(5 / 6, abs=1e-4)
    assert row["median_groups"] == 2
    # group 0: its drawn people are 0, 1 (the same two), then 0, 1, 2 of which 0, 1 stay together: 2/3
    assert found.jaccard[0] == [pytest.approx((1 + 2 / 3) / 2)]
    # group 1: 3, 4 stay together; then 3 alone of it is drawn and shares a group with 2: 1/2
    assert found.jaccard[1] == [pytest.approx((1 + 1 / 2) / 2)]
    assert (found.num_draws, found.num_not_clustered) == (4, 0)


def test_a_draw_without_groups_is_counted_and_changes_no_probability() -> None:
    def with_a_failure() -> Iterator[tuple[Cell, Outcome]]:
        for cell, outcome in outcomes():
            blank = np.full_like(outcome.is_normal_SP, -1)
            yield (
                cell,
                outcome
                if cell.number == 0
                else Outcome(outcome.is_drawn_P, blank - np.int8(1), blank),
            )

    found = agree(GRID, with_a_failure(), REFERENCE)
    assert (found.num_draws, found.num_not_clustered) == (4, 2)
    assert found.normal_probability_P[:3].tolist() == [1, 1, 0.5]


def test_bootstraps_draw_two_thirds_of_the_training_people_and_seeds_all() -> None:
    fitted = np.arange(3000) % 3 > 0
    seeds = [cell for cell in GRID.cells if cell.kind == "seed"]
    boots = [cell for cell in GRID.cells if cell.kind == "bootstrap"]
    assert all((draw(cell, fitted, 1) == fitted).all() for cell in seeds)
    drawn = [draw(cell, fitted, 1) for cell in boots]
    assert all(not (some & ~fitted).any() for some in drawn)
    assert all(some.sum() / 2000 == pytest.approx(1 - np.exp(-1), abs=0.03) for some in drawn)
    assert (drawn[0] != drawn[1]).any()
    assert len({seed_of(cell, 1) for cell in GRID.cells}) == 4
    assert seed_of(seeds[0], 1) == 1
