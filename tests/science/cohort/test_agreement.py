"""What many draws say together: probabilities, limits, and agreement worked out by hand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from spineage.science.cohort.agreement import Tally, agree, consensus
from spineage.science.cohort.stability import NOT_JUDGED, Cell, DrawGrid, Outcome, draw, seed_of

GRID = DrawGrid((15,), (5,), (0.08,), (5,), num_seeds=2, num_bootstraps=2)
REFERENCE = np.array([0, 0, 0, 1, 1, -1, -2])
DRAWS = [
    # who trained, their groups, who is normal
    ("1111100", [0, 0, 0, 1, 1, -1, -2], [1, 1, 1, 0, 0, 1, -1]),
    ("1111100", [1, 1, 1, 0, 0, -1, -2], [1, 1, 1, 0, 1, 1, -1]),
    ("1101100", [0, 0, 0, 1, 1, -1, -2], [1, 1, 0, 0, 0, 0, -1]),
    ("1111000", [0, 0, 1, 1, 1, -1, -2], [1, 1, 0, 0, 0, 0, -1]),
]


def outcomes() -> Iterator[tuple[Cell, Outcome]]:
    for cell, (drawn, cluster, normal) in zip(GRID.cells(GRID.draws), DRAWS, strict=True):
        yield (
            cell,
            Outcome(
                np.array(list(drawn)) == "1",
                np.array([cluster], dtype=np.int8),
                np.array([normal], dtype=np.int8),
            ),
        )


def test_a_probability_is_the_share_of_draws_and_nobody_judged_has_none() -> None:
    found = agree(GRID, GRID.draws, outcomes(), REFERENCE).normal_probability_P
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
    found = agree(GRID, GRID.draws, draws, REFERENCE).normal_probability_P
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
    found = agree(GRID, GRID.draws, outcomes(), REFERENCE)
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

    found = agree(GRID, GRID.draws, with_a_failure(), REFERENCE)
    assert (found.num_draws, found.num_not_clustered) == (4, 2)
    assert found.normal_probability_P[:3].tolist() == [1, 1, 0.5]


def test_bootstraps_draw_two_thirds_of_the_training_people_and_seeds_all() -> None:
    fitted = np.arange(3000) % 3 > 0
    seeds = [cell for cell in GRID.cells(GRID.draws) if cell.kind == "seed"]
    boots = [cell for cell in GRID.cells(GRID.draws) if cell.kind == "bootstrap"]
    assert all((draw(cell, fitted, 1) == fitted).all() for cell in seeds)
    drawn = [draw(cell, fitted, 1) for cell in boots]
    assert all(not (some & ~fitted).any() for some in drawn)
    assert all(some.sum() / 2000 == pytest.approx(1 - np.exp(-1), abs=0.03) for some in drawn)
    assert (drawn[0] != drawn[1]).any()
    assert len({seed_of(cell, 1) for cell in GRID.cells(GRID.draws)}) == 4
    other = Cell(10, 5, "bootstrap", boots[0].number)
    assert (draw(other, fitted, 1) != drawn[0]).any(), "each layout draws its own people"
    assert seed_of(other, 1) != seed_of(boots[0], 1)
    assert seed_of(seeds[0], 1) == 1


def a_draw(normal: list[int]) -> Outcome:
    """One setting; who is normal (-1: not judged)."""
    status = np.array([normal], dtype=np.int8)
    return Outcome(np.ones(len(normal), dtype=bool), np.zeros_like(status), status)


def unsettled_after(shares: list[float], num: int, within: float = 0.05, num_looks: int = 1) -> int:
    """People who are normal in these shares of `num` draws."""
    tally = Tally(np.ones(len(shares), dtype=bool), num_looks)
    for i in range(num):
        tally.add(a_draw([int(i < round(share * num)) for share in shares]))
    return tally.num_unsettled(0.8, 0.2, within)


def test_a_probability_far_from_both_limits_settles_soon_and_one_at_a_limit_late() -> None:
    assert unsettled_after([1.0, 0.0], 12) == 2
    assert unsettled_after([1.0, 0.0], 36) == 0
    assert unsettled_after([0.5], 36) == 0
    assert unsettled_after([0.82], 200) == 1
    assert unsettled_after([0.82], 500) == 0, "0.05 on either side, though a limit lies within"
    assert unsettled_after([0.82], 500, within=0.01) == 1
    assert unsettled_after([1.0], 36, num_looks=20) == 1, "looked at twenty times"
    assert unsettled_after([1.0], 72, num_looks=20) == 0


def test_the_interval_is_wilsons() -> None:
    from statsmodels.stats.proportion import proportion_confint

    for share, num in ((1.0, 20), (0.9, 40), (0.75, 64), (0.3, 100)):
        low, high = proportion_confint(share * num, num, alpha=0.01, method="wilson")
        half = (high - low) / 2
        assert unsettled_after([share], num, within=half * 1.001) == 0
        straddles = any(low < limit < high for limit in (0.2, 0.8))
        assert unsettled_after([share], num, within=half * 0.999) == int(straddles)


def test_who_cannot_be_judged_keeps_nobody_waiting() -> None:
    tally = Tally(np.array([True, False, True, True]), 1)
    for i in range(60):
        seldom = int(i % 2 == 0) if i < 20 else NOT_JUDGED
        tally.add(a_draw([1, i % 2, NOT_JUDGED, seldom]))
    assert tally.num_unsettled(0.8, 0.2, 0.05) == 0


def test_rounds_hold_every_draw_once_and_seeds_and_bootstraps_alike() -> None:
    grid = DrawGrid((10, 15), (2,), (0.08,), (5,), num_seeds=20, num_bootstraps=100)
    rounds = grid.rounds
    assert sorted(draw for some in rounds for draw in some) == sorted(grid.draws)
    assert {sum(kind == "seed" for kind, _ in some) for some in rounds} == {1}
    assert len(rounds) == 20
    assert len(grid.cells(rounds[0])) == 12
    assert DrawGrid((10,), (2,), (0.08,), (5,), 1, 0).rounds == [[("seed", 0)]]
