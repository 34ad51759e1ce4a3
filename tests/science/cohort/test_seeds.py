"""Who is normal is a property of the person: the same with every seed of UMAP, and right, however few.

The limits were measured over the settings of tests/other_machines.py; `tests.benchmarks.cohort_seeds` has
more people, and the figures.
"""

from __future__ import annotations

from itertools import combinations

import pandas as pd
import pytest

from spineage.science.cohort.decide import can_be_judged, decide, neighbours_of
from spineage.stages.cohort.stage import rule_of
from spineage.study import Cohort
from tests.made.phantom_people import coded_population

pytestmark = pytest.mark.slow

SEEDS = range(8)
AGREEMENT = {80: 0.95, 200: 0.95, 600: 0.98}


def statuses(num_people: int, min_people: int) -> pd.DataFrame:
    """One row a person who did not train: archetype, the status with each seed, and by burden alone."""
    people, matrix, features = coded_population(num_people, seed=1)
    _, fitted = can_be_judged(people)
    rule = rule_of(Cohort(min_people=min_people))
    near = neighbours_of(matrix, fitted, rule.recipe)
    found = [decide(people, matrix, features, rule, seed, near) for seed in SEEDS]
    table = pd.DataFrame({seed: one.people.status for seed, one in zip(SEEDS, found, strict=True)})
    table["burden"], table["archetype"] = found[0].others["burden"], people.archetype
    return table[~fitted]


@pytest.mark.parametrize("num_people", AGREEMENT)
def test_statuses_agree_between_seeds_and_are_no_worse_than_by_burden(num_people: int) -> None:
    """Groups decide here however few the people are (min_people 0); by default they do from 600 people on,
    and of fewer each is judged alone, which no seed touches."""
    table = statuses(num_people, min_people=0)
    pairs = [(table[a] == table[b]).mean() for a, b in combinations(SEEDS, 2)]
    assert min(pairs) >= AGREEMENT[num_people]
    ill = table.archetype != "normal"
    burden = table.burden
    for seed in SEEDS:
        assert (table[seed][ill] == "not_normal").mean() >= (burden[ill] == "not_normal").mean()
        assert (table[seed][~ill] == "normal").mean() >= (burden[~ill] == "normal").mean()


def test_the_ill_are_found_osteoporosis_among_them_and_the_others_are_normal() -> None:
    """Groups decide here. Of those who did not train: .81 and .99 are what 5,000 people gave before."""
    people, matrix, features = coded_population(1200, seed=1)
    found = decide(people, matrix, features, rule_of(Cohort()), seed=0)
    assert found.verdict.outcome == "clustered"
    is_new = (people.split != "train").to_numpy()
    status, archetype = found.people.status[is_new], people.archetype[is_new]
    ill = archetype != "normal"
    assert (status[ill] == "not_normal").mean() >= 0.81
    assert (status[~ill] == "normal").mean() >= 0.99
    assert (status[archetype == "osteoporotic"] == "not_normal").mean() >= 0.95
