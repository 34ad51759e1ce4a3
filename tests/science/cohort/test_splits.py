"""Person-wise splits: everyone once, balanced, and independent of the order of rows."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineage.science.cohort.splits import SPLITS, bracket, draw_splits

SHARES = {"train": 0.55, "validate": 0.10, "calibrate": 0.15, "test": 0.20}


def people(num: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "person_id": [f"{i:016x}" for i in rng.permutation(num)],
            "age_years": rng.uniform(25, 84, num),
            "sex": rng.choice(["F", "M"], num),
            "site": rng.choice(["hill", "harbour", "meadow"], num),
        }
    )
    frame.loc[frame.index[::17], "age_years"] = np.nan
    frame.loc[frame.index[::19], ["sex", "site"]] = None
    return frame


@settings(max_examples=40, deadline=None)
@given(num=st.integers(1, 120), seed=st.integers(0, 10_000))
def test_every_person_is_in_one_split_and_shares_hold_within_two_people(
    num: int, seed: int
) -> None:
    table = people(num, seed)
    drawn = draw_splits(table, SHARES, seed)
    assert drawn.index.is_unique
    assert set(drawn.index) == set(table.person_id)
    assert set(drawn) <= set(SPLITS)
    for name, share in SHARES.items():
        assert abs((drawn == name).sum() - share * num) < 2


def test_every_decade_of_each_sex_holds_the_shares_within_three_people() -> None:
    table = people(600)
    table["split"] = table.person_id.map(draw_splits(table, SHARES, 1))
    for _, stratum in table.groupby([bracket(table.age_years), table.sex.fillna("unknown")]):
        for name, share in SHARES.items():
            assert abs((stratum.split == name).sum() - share * len(stratum)) < 3


def test_sites_are_balanced_better_than_by_lot() -> None:
    table = people(600)

    def worst(split: pd.Series) -> float:
        part = (
            table.assign(split=split.to_numpy()).groupby("site").split.value_counts(normalize=True)
        )
        return float((part.unstack() - pd.Series(SHARES)).abs().max().max())

    rng = np.random.default_rng(0)
    by_lot = [
        worst(pd.Series(rng.choice(list(SHARES), 600, p=list(SHARES.values())))) for _ in range(50)
    ]
    ours = [worst(table.person_id.map(draw_splits(table, SHARES, seed))) for seed in range(20)]
    assert np.median(ours) < 0.7 * np.median(by_lot)


def test_the_order_of_rows_does_not_matter_and_the_seed_does() -> None:
    table = people(80)
    drawn = draw_splits(table, SHARES, 3).sort_index()
    shuffled = draw_splits(table.sample(frac=1, random_state=5), SHARES, 3).sort_index()
    assert drawn.equals(shuffled)
    assert not drawn.equals(draw_splits(table, SHARES, 4).sort_index())


def test_the_youngest_person_is_not_always_in_the_same_split() -> None:
    table = people(80)
    youngest = table.person_id[table.age_years.idxmin()]
    assert {draw_splits(table, SHARES, seed)[youngest] for seed in range(60)} == set(SPLITS)


def test_people_of_unknown_age_have_a_split_too() -> None:
    table = people(100).assign(age_years=np.nan)
    assert draw_splits(table, SHARES, 0).value_counts().to_dict() == pytest.approx(
        {"train": 55, "test": 20, "calibrate": 15, "validate": 10}, abs=2
    )


def test_a_split_of_share_zero_stays_empty() -> None:
    drawn = draw_splits(people(50), {"train": 0.8, "test": 0.2, "validate": 0.0}, 0)
    assert set(drawn) == {"train", "test"}


def test_people_keep_their_split_when_others_are_added_and_strata_hold_their_shares() -> None:
    table = people(600)
    first = draw_splits(table[:400], SHARES, 1)
    again = draw_splits(table, SHARES, 1, kept=first.to_dict())
    assert (again[first.index] == first).all()
    redrawn = draw_splits(table, SHARES, 1)
    assert (redrawn[first.index] != first).mean() > 0.3, "without memory a draw would do as well"
    for name, share in SHARES.items():
        assert abs((again == name).sum() - share * 600) < 3
    table["split"] = table.person_id.map(again)
    for _, stratum in table.groupby([bracket(table.age_years), table.sex.fillna("unknown")]):
        for name, share in SHARES.items():
            assert abs((stratum.split == name).sum() - share * len(stratum)) < 5


def test_people_of_a_held_out_site_are_in_test_whatever_they_were_and_the_others_hold_the_shares() -> (
    None
):
    table = people(600)
    hill = table.person_id[table.site == "hill"]
    drawn = draw_splits(
        table, SHARES, 1, held_out=frozenset(hill), kept=dict.fromkeys(hill[:5], "train")
    )
    assert set(drawn[hill]) == {"test"}
    rest = drawn.drop(hill)
    for name, share in SHARES.items():
        assert abs((rest == name).sum() - share * len(rest)) < 2
