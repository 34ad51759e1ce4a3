"""Who is normal: planted normals are found, people without findings never lost; what each rule does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_rand_score, homogeneity_score

from spineage.science.cohort.burden import burden_percentile, expected_of, is_heavy, with_burdens
from spineage.science.cohort.decide import Decision, audited, can_be_judged, decide
from spineage.science.cohort.rules import RULES, judge_people
from tests.made.planted_cohort import FEATURES, population, study_rule

ISLANDS = (0.05, 0.10, 0.20)


@pytest.fixture(scope="module")
def decided() -> dict[float, Decision]:
    return {
        share: decide(*population(share)[:2], FEATURES, study_rule(), seed=0) for share in ISLANDS
    }


@pytest.mark.parametrize("island", ISLANDS)
def test_planted_normals_are_recovered_and_nobody_without_findings_is_abnormal(
    decided: dict[float, Decision], island: float
) -> None:
    people, _, is_normal = population(island)
    status = decided[island].people.status
    assert adjusted_rand_score(is_normal, status == "normal") >= 0.9
    assert set(status[people.num_findings == 0]) == {"normal"}
    audit = audited(decided[island], population(island)[1], FEATURES, study_rule())
    ours = next(one for one in audit["alternatives"] if one["rule"] == "clusters")
    assert (ours["num_gained"], ours["num_lost"]) == (0, 0)
    assert ours["num_without_findings_not_normal"] == 0


@pytest.mark.parametrize("island", [0.05, 0.10])
def test_the_papers_rule_without_the_guard_calls_the_healthiest_abnormal(
    decided: dict[float, Decision], island: float
) -> None:
    """The same clusters, judged literally: this is what the guard is for. (An island of 20 % is above the
    15 % rule, a cluster of its own and light for its age: it needs no guard.)"""
    people, matrix, is_normal = population(island)
    literal = decided[island].others["paper"]
    bare = people.num_findings == 0
    assert (literal[bare] == "not_normal").mean() > 0.9
    assert adjusted_rand_score(is_normal, literal == "normal") < 0.9
    audit = audited(decided[island], matrix, FEATURES, study_rule())
    told = next(one for one in audit["alternatives"] if one["rule"] == "paper")
    assert told["num_without_findings_not_normal"] == (literal[bare] == "not_normal").sum()


@pytest.mark.parametrize("seed", range(6))
def test_no_group_holds_two_planted_archetypes(seed: int) -> None:
    """Otherwise the tests above would pass or fail for reasons of their own. An archetype may be several
    groups: of the young, those with four of their five findings are one. Left out is the group of people
    without findings, which those join who carry next to none."""
    people, matrix, is_normal = population(0.10)
    found = decide(people, matrix, FEATURES, study_rule(), seed).people
    burdens = [matrix[:, low:high].sum(axis=1) for low, high in ((0, 5), (5, 15), (15, 25))]
    kind, worn = np.argmax(burdens, axis=0), np.max(burdens, axis=0) > 2
    bare = found.cluster[people.num_findings == 0].mode()[0]
    grouped = is_normal & worn & (found.cluster >= 0) & (found.cluster != bare)
    assert grouped.sum() > 0.8 * (is_normal & worn).sum()  # 0.885 with the worst seed
    assert homogeneity_score(kind[grouped], found.cluster[grouped]) > 0.99


def test_every_rule_is_told_and_the_studys_own_is_among_them(
    decided: dict[float, Decision],
) -> None:
    found = decided[0.10]
    assert set(found.others) == set(RULES)
    assert found.others["clusters"].equals(found.people.status)
    assert set(found.others["everyone"]) == {"normal"}
    shares = {rule: (found.others[rule] == "normal").mean() for rule in RULES}
    assert shares["percentile"] == pytest.approx(0.75, abs=0.1)


def test_a_percentile_is_of_training_people_of_that_age_and_sex() -> None:
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "age_years": rng.uniform(30, 80, 500),
            "sex": rng.choice(["F", "M"], 500),
            "burden": rng.poisson(5, 500).astype(float),
        }
    )
    fitted = rng.random(500) < 0.7
    found = burden_percentile(people, fitted, 8.0)
    for i in (0, 100, 499):
        peers = people[
            fitted
            & (people.sex == people.sex[i])
            & (np.abs(people.age_years - people.age_years[i]) <= 8)
        ].burden
        own = people.burden[i]
        assert found[i] == pytest.approx((peers < own).mean() + (peers == own).mean() / 2)


def test_the_noise_policy_is_what_the_study_says() -> None:
    people, matrix, _ = population(0.10)
    people = with_burdens(people, matrix, FEATURES, ())
    people = people.assign(cluster=np.where(people.num_findings == 0, 0, -1))
    usable, fitted = can_be_judged(people)
    noise = (
        (people.cluster == -1) & (people.burden > people.burden[fitted].quantile(0.25))
    ).to_numpy()
    policies = ("one_by_one", "not_normal", "unknown")
    judged = {p: judge_people(people, usable, fitted, 1, study_rule(noise=p)) for p in policies}
    told = {policy: verdict.groups[-1][1] for policy, (_, verdict) in judged.items()}
    assert told == {"one_by_one": None, "not_normal": False, "unknown": None}
    found = {policy: status[noise].value_counts() for policy, (status, _) in judged.items()}
    assert set(found["not_normal"].index) == {"not_normal"}
    assert found["one_by_one"]["normal"] > 100
    assert found["unknown"]["unknown"] == found["one_by_one"]["normal"]
    alone, _ = judge_people(people, usable, fitted, 1, study_rule(kind="burden"))
    assert (alone[noise] == judged["one_by_one"][0][noise]).all()


def people_with(burdens: list[float], **columns: Any) -> pd.DataFrame:
    """Training people of one age, who carry that much in the lumbar region."""
    matrix = np.zeros((len(burdens), len(FEATURES)))
    matrix[:, 2] = burdens  # f0, lumbar
    people = pd.DataFrame(
        {"age_years": 50.0, "sex": "F", "split": "train", "is_coded": True, "cluster": 0},
        index=range(len(burdens)),
    )
    return with_burdens(people, matrix, FEATURES, ()).assign(**columns)


@pytest.mark.parametrize(("num_ill", "is_judged"), [(29, False), (30, True)])
def test_a_group_of_fewer_than_thirty_training_people_is_not_judged(
    num_ill: int, is_judged: bool
) -> None:
    """Its people are judged one by one: 6 is 3.6 times what is expected, but less than 7 more."""
    people = people_with([1.0] * 150 + [6.0] * num_ill)
    people["cluster"] = np.where(people.burden > 1, 1, 0)
    everybody = np.ones(len(people), dtype=bool)
    rule = study_rule(low_burden_quantile=0.0, min_people=0)
    status, verdict = judge_people(people, everybody, everybody, 2, rule)
    assert verdict.groups[1][1] is (False if is_judged else None)
    assert set(status[people.cluster == 1]) == {"not_normal" if is_judged else "normal"}
    assert set(status[people.cluster == 0]) == {"normal"}


def test_with_too_few_people_each_is_judged_alone_and_the_verdict_says_so() -> None:
    people, matrix, _ = population(0.10)
    few = decide(people, matrix, FEATURES, study_rule(min_people=301), seed=0)
    enough = decide(people, matrix, FEATURES, study_rule(min_people=300), seed=0)
    alone = decide(people, matrix, FEATURES, study_rule(kind="burden"), seed=0)
    assert (few.verdict.outcome, enough.verdict.outcome) == ("few_people", "clustered")
    assert few.people.status.equals(alone.people.status)
    assert few.others["clusters"].equals(few.people.status)
    assert few.people.cluster.equals(enough.people.cluster)


def test_a_region_far_above_its_age_is_not_normal_though_the_whole_spine_is_not() -> None:
    rng = np.random.default_rng(0)
    matrix = np.where(rng.random((200, len(FEATURES))) < 0.3, 1.0, 0.0)
    lumbar = np.array([f.region == "lumbar" for f in FEATURES])
    matrix[0] = np.where(lumbar, 1.0, 0.0)  # 20 where 6 are expected, and nothing elsewhere
    people = pd.DataFrame(
        {"age_years": rng.uniform(30, 80, 200), "sex": "F", "split": "train", "is_coded": True}
    )
    people = with_burdens(people, matrix, FEATURES, ())
    fitted = np.arange(200) >= 1
    assert people.burden[0] < 1.5 * expected_of(people, fitted, "burden")[0]
    assert np.flatnonzero(is_heavy(people, fitted, 2.0, 7.0)).tolist() == [0]


def test_one_finding_that_no_age_explains_is_not_normal_and_the_guard_does_not_hold() -> None:
    people, matrix, _ = population(0.10)
    matrix[0, 0] = 0.0
    bare = int(np.flatnonzero(matrix.sum(axis=1) == 0)[0])
    matrix[bare, 59] = 1.0  # f19, lumbar
    for kind in ("clusters", "burden", "percentile"):
        rule = study_rule(kind=kind, disease_findings=("f19",))
        found = decide(people, matrix, FEATURES, rule, seed=0)
        assert found.people.status[bare] == "not_normal"
        without = decide(people, matrix, FEATURES, study_rule(kind=kind), seed=0)
        assert without.people.status[bare] == "normal"
    assert found.verdict.num_not_normal_by_disease == (matrix[:, 57:60] > 0).any(axis=1).sum()
