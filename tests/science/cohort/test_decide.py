"""Who is normal: groups found and placed, the 15 % rule, the guard, and what is not enough to decide."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import umap.distances
from scipy.spatial.distance import canberra
from sklearn.metrics import adjusted_rand_score

from spineage.io.people.tables import read_codebook
from spineage.science.cohort import clusters
from spineage.science.cohort.audit import name_groups
from spineage.science.cohort.burden import expected_burden
from spineage.science.cohort.coding import code
from spineage.science.cohort.conditions import Feature, aligned
from spineage.science.cohort.decide import audited, first_scans
from spineage.science.cohort.decide import decide as decision
from spineage.science.cohort.neighbours import find_neighbours
from spineage.science.cohort.rules import Rule
from spineage.science.phantom.findings import read_findings
from spineage.science.phantom.population import draw_population
from spineage.science.phantom.recipe import PhantomRecipe

Floats = npt.NDArray[np.float64]

PHANTOM = PhantomRecipe(num_people=240, seed=5)

FEATURES = tuple(
    Feature(f"f{i}", region, "disc")
    for i in range(10)
    for region in ("cervical", "thoracic", "lumbar")
)
RECIPE = clusters.ClusterRecipe(
    num_neighbors=15,
    num_components=5,
    min_dist=0.0,
    min_cluster_share=0.08,
    min_samples=5,
    selection="eom",
)


def rule(**changes: Any) -> Rule:
    defaults: dict[str, Any] = {
        "kind": "clusters", "min_share": 0.15, "low_burden_quantile": 0.05,
        "max_burden_ratio": 1.25, "max_person_ratio": 2.5, "min_person_excess": 4.0, "recipe": RECIPE,
    }  # fmt: skip
    return Rule(**(defaults | changes))


def profiles(
    *groups: tuple[int, int, int, float], seed: int = 0
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """(people, first feature, features, severity) of each group: every feature present in 9 of 10."""
    rng = np.random.default_rng(seed)
    rows, labels = [], []
    for label, (num, first, width, severity) in enumerate(groups):
        block = np.zeros((num, len(FEATURES)))
        present = rng.random((num, width)) < 0.9
        block[:, first : first + width] = present * severity * rng.choice([1.0, 1.5], (num, width))
        rows.append(block)
        labels += [label] * num
    return np.vstack(rows), np.array(labels)


def people_of(matrix: Floats, **columns: Any) -> pd.DataFrame:
    num = len(matrix)
    rng = np.random.default_rng(9)
    frame = pd.DataFrame(
        {
            "person_id": [f"p{i:04d}" for i in range(num)],
            "split": np.where(np.arange(num) % 4 < 3, "train", "test"),
            "age_years": rng.uniform(25, 84, num),
            "sex": rng.choice(["F", "M"], num),
            "num_findings": (matrix > 0).sum(axis=1),
            "burden": matrix.sum(axis=1),
            "is_coded": True,
        }
    )
    return frame.assign(**columns)


def decide(
    people: pd.DataFrame, matrix: Floats, features: tuple[Feature, ...], rule: Rule, seed: int
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The people with their status, and the audit."""
    decided = decision(people, matrix, features, rule, seed)
    return decided.people, audited(decided, matrix, features, rule)


def group(audit: dict[str, Any], cluster: int) -> dict[str, Any]:
    return next(g for g in audit["groups"] if g["cluster"] == cluster)


# distance and the 15 % rule


def test_umaps_canberra_is_scipys_and_absence_of_both_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        u, v = rng.choice([0.0, 0.0, 1.0, 3.0], (2, 40))
        with np.errstate(invalid="ignore"):
            assert umap.distances.canberra(u, v) == pytest.approx(canberra(u, v))
    assert umap.distances.canberra(np.array([0.0, 1.0]), np.array([0.0, 3.0])) == 0.5


def test_groups_above_the_share_are_kept_largest_first_and_the_rest_are_one() -> None:
    labels = np.repeat([0, 1, 2, 3, -1], [20, 15, 40, 10, 15])
    assert clusters.keep_large(labels, 0.15) == {-1: -1, 2: 0, 0: 1, 1: 2, 3: 2}


def test_noise_counts_as_people_when_shares_are_taken() -> None:
    assert clusters.keep_large(np.repeat([0, -1], [14, 86]), 0.15) == {-1: -1, 0: 0}
    kept = clusters.keep_large(np.repeat([0, 1, -1], [16, 14, 70]), 0.15)
    assert kept == {-1: -1, 0: 0, 1: 1}


# fitting and placing

PLANTED = profiles((40, 0, 8, 1), (40, 10, 8, 1), (40, 20, 8, 1))
OTHERS = profiles((20, 0, 8, 1), (20, 10, 8, 1), (20, 20, 8, 1), seed=5)
MATRIX, LABELS = np.vstack([PLANTED[0], OTHERS[0]]), np.concatenate([PLANTED[1], OTHERS[1]])
DRAWN = np.arange(len(MATRIX)) < len(PLANTED[0])


def fit(
    matrix: Floats, drawn: npt.NDArray[np.bool_], seed: int, **changes: Any
) -> clusters.Clusters:
    """Groups of those drawn, the others placed among them."""
    neighbours = find_neighbours(matrix, drawn, 15)
    return clusters.fit(matrix, drawn, neighbours, dataclasses.replace(RECIPE, **changes), seed)


@pytest.fixture(scope="module")
def fitted() -> clusters.Clusters:
    return fit(MATRIX, DRAWN, seed=1)


def test_planted_groups_are_found(fitted: clusters.Clusters) -> None:
    assert adjusted_rand_score(PLANTED[1], fitted.labels_P[DRAWN]) > 0.95


def test_people_it_was_not_fitted_on_are_placed_with_their_like(fitted: clusters.Clusters) -> None:
    assert adjusted_rand_score(LABELS[~DRAWN], fitted.labels_P[~DRAWN]) > 0.9
    homes = np.array([fitted.map_PM[DRAWN & (k == LABELS)].mean(axis=0) for k in range(3)])
    nearest = np.linalg.norm(fitted.map_PM[~DRAWN, None] - homes, axis=-1).argmin(axis=1)
    assert (nearest == LABELS[~DRAWN]).mean() > 0.9


def test_people_placed_are_no_more_often_noise_than_those_fitted() -> None:
    """UMAP's own transform lays them beside the dense groups: half to all of 80 phantoms were noise."""
    matrix, _ = profiles((30, 0, 8, 1), (30, 10, 8, 1), (30, 12, 12, 2), seed=3)
    drawn = np.arange(len(matrix)) % 2 == 0
    for seed in range(4):
        noise = fit(matrix, drawn, seed).labels_P == clusters.NOISE
        assert noise[~drawn].mean() <= noise[drawn].mean() + 0.1


def test_the_same_seed_gives_the_same_bits_and_another_seed_another_map(
    fitted: clusters.Clusters,
) -> None:
    again, other = fit(MATRIX, DRAWN, seed=1), fit(MATRIX, DRAWN, seed=2)
    assert np.array_equal(fitted.map_PM, again.map_PM)
    assert np.array_equal(fitted.labels_P, again.labels_P)
    assert not np.array_equal(fitted.map_PM, other.map_PM)


def test_nobody_to_place_is_fine() -> None:
    found = fit(PLANTED[0], np.ones(len(PLANTED[0]), dtype=bool), seed=1)
    assert found.labels_P.shape == (120,)
    assert found.map_PM.shape == (120, 2)


@pytest.mark.parametrize("num_different", [3, 4, 6])
@pytest.mark.parametrize("num_people", [15, 60])
def test_many_identical_people_do_not_break_it(num_different: int, num_people: int) -> None:
    matrix = np.zeros((num_people + 3, len(FEATURES)))
    for i in range(len(matrix)):
        matrix[i, : i % num_different] = 1.0
    matrix[num_people:] *= 3
    found = fit(matrix, np.arange(len(matrix)) < num_people, seed=0)
    assert np.isfinite(found.map_PM).all()


@pytest.mark.parametrize("seed", range(4))
def test_leaf_selection_gives_no_fewer_groups_than_excess_of_mass(seed: int) -> None:
    """Leaves are the finest groups of the same tree, so each group of the other is split or is one itself."""
    eom, leaf = (fit(MATRIX, DRAWN, seed, selection=name) for name in ("eom", "leaf"))
    assert np.array_equal(leaf.map_PM, eom.map_PM)
    assert leaf.labels_P.max() >= eom.labels_P.max()
    for label in range(leaf.labels_P.max() + 1):
        parents = eom.labels_P[DRAWN & (leaf.labels_P == label)]
        assert len(np.unique(parents)) == 1


# who is normal


def test_a_group_that_carries_more_than_its_age_explains_is_not_normal() -> None:
    matrix, labels = profiles((60, 0, 4, 1), (60, 10, 10, 2))
    people, audit = decide(people_of(matrix), matrix, FEATURES, rule(), seed=0)
    assert audit["outcome"] == "clustered"
    assert set(people.status[labels == 0]) == {"normal"}
    assert (people.status[labels == 1] == "not_normal").mean() > 0.95
    assert sum(audit["status"].values()) == 120


def test_old_people_with_the_burden_of_their_age_are_normal() -> None:
    matrix, labels = profiles((60, 0, 4, 1), (60, 10, 10, 2))
    ages = np.where(labels == 0, 30.0, 70.0) + np.linspace(-5, 5, 120)
    people, audit = decide(people_of(matrix, age_years=ages), matrix, FEATURES, rule(), seed=0)
    assert set(people.status) == {"normal"}
    assert group(audit, 0)["observed_over_expected"] == pytest.approx(1, abs=0.15)


def test_people_without_findings_are_normal_though_their_island_is_under_the_share() -> None:
    matrix, labels = profiles((20, 0, 0, 0), (80, 0, 8, 1), (80, 10, 8, 1), (20, 20, 10, 3))
    people, audit = decide(people_of(matrix), matrix, FEATURES, rule(), seed=0)
    healthy, heavy = labels == 0, labels == 3
    merged = people.cluster[heavy & (people.split == "train")].mode()[0]
    assert (people.cluster[healthy] == merged).mean() > 0.8, (
        "the trap is not set: adjust the population"
    )
    assert group(audit, merged)["is_normal"] is False
    assert set(people.status[healthy]) == {"normal"}
    assert (people.status[heavy] == "not_normal").mean() > 0.9
    assert audit["num_normal_by_guard"] == int((healthy & (people.cluster == merged)).sum())


def test_a_person_far_above_the_burden_of_the_age_is_not_normal_in_a_normal_group() -> None:
    matrix, _ = profiles((60, 0, 4, 1), (60, 10, 4, 1))
    matrix[7, :4] = 4.0
    people, audit = decide(people_of(matrix), matrix, FEATURES, rule(), seed=0)
    assert group(audit, people.cluster[7])["is_normal"] is True
    assert people.status[7] == "not_normal"
    assert audit["num_not_normal_by_person"] == int((people.status == "not_normal").sum())
    wide, _ = decide(people_of(matrix), matrix, FEATURES, rule(max_person_ratio=20.0), seed=0)
    assert wide.status[7] == "normal"


def test_a_group_is_named_by_the_conditions_that_set_it_apart() -> None:
    matrix, labels = profiles((60, 0, 8, 1), (60, 10, 8, 1))
    matrix[labels == 1, 15] = 2.0
    people, audit = decide(people_of(matrix), matrix, FEATURES, rule(), seed=0)
    name = people.cluster_name[labels == 1].mode()[0]
    assert name.split(" + ")[0] == "f5, cervical"
    described = next(g for g in audit["groups"] if g["name"] == name)
    assert described["num_people"] == int((people.cluster_name == name).sum())
    first = described["dominant"][0]
    assert first["condition"] == "f5, cervical"
    assert first["share"] > 0.9
    assert first["population_share"] == 0.5


def test_no_two_groups_share_a_name() -> None:
    """Groups as they might come out: of two kinds of people two groups each, and one of those without."""
    matrix, labels = profiles((60, 0, 2, 1), (60, 10, 1, 1), (30, 0, 0, 1))
    people = people_of(matrix, cluster=np.where(labels == 2, 4, 2 * labels + np.arange(150) % 2))
    names = name_groups(people, matrix, FEATURES, np.ones(150, dtype=bool))
    assert len({names[cluster] for cluster in range(5)}) == 5
    assert names[1] == f"{names[0]} (2)"
    assert names[3] == f"{names[2]} (2)"


def test_groups_do_not_depend_on_people_outside_the_training_split() -> None:
    matrix, _ = profiles((60, 0, 4, 1), (60, 10, 10, 2))
    people = people_of(matrix)
    other = matrix.copy()
    other[people.split == "test"] = 0.0
    first, _ = decide(people, matrix, FEATURES, rule(), seed=0)
    second, _ = decide(people_of(other), other, FEATURES, rule(), seed=0)
    train = (people.split == "train").to_numpy()
    columns = ["cluster", "status", "umap_x", "umap_y"]
    pd.testing.assert_frame_equal(first.loc[train, columns], second.loc[train, columns])
    assert not first.cluster[~train].equals(second.cluster[~train])


def test_people_without_age_or_readable_findings_are_unknown_and_do_not_train_the_groups() -> None:
    matrix, _ = profiles((60, 0, 4, 1), (60, 10, 10, 2))
    people = people_of(matrix)
    people.loc[3, "age_years"] = np.nan
    people.loc[5, "is_coded"] = False
    decided, audit = decide(people, matrix, FEATURES, rule(), seed=0)
    assert decided.status[[3, 5]].tolist() == ["unknown", "unknown"]
    assert decided.cluster[3] >= 0
    assert decided.cluster[5] == -2
    assert np.isnan(decided.umap_x[5])
    assert audit["status"]["unknown"] == 2


def test_most_phantoms_with_planted_degeneration_are_not_normal_and_the_others_are() -> None:
    exams = [exam for exam in draw_population(PHANTOM) if exam.visit == 0]
    names = [f"p{exam.index:04d}" for exam in exams]
    rows = [
        (name, name, found.finding, found.level, found.severity)
        for name, exam in zip(names, exams, strict=True)
        for found in read_findings(exam, PHANTOM)
    ]
    columns = ["person_id", "exam_id", "finding", "level", "severity"]
    book = read_codebook()[0]
    coded, missed = code(pd.DataFrame(rows, columns=columns).assign(row=0, side=""), book)
    assert missed == []
    people = pd.DataFrame({"person_id": names, "exam_id": names})
    matrix, about = aligned(people, coded, len(book.features))
    people = people_of(matrix, person_id=names, age_years=[exam.age_years for exam in exams])
    people = people.assign(num_findings=about.num_findings, burden=about.burden)
    study_rule = rule(low_burden_quantile=0.25, max_person_ratio=1.5)
    decided, _ = decide(people, matrix, book.features, study_rule, seed=0)
    worn = np.array(["degenerative" in exam.person.archetype.name for exam in exams])
    assert worn.sum() > 30
    assert (decided.status[worn] == "not_normal").mean() > 0.5
    assert (decided.status[~worn] == "normal").mean() > 0.92


# no groups to be told


def test_under_the_rule_everyone_all_people_with_an_age_are_normal() -> None:
    matrix = np.zeros((6, len(FEATURES)))
    people = people_of(matrix, num_findings=pd.NA, burden=np.nan)
    people.loc[2, "age_years"] = np.nan
    decided, audit = decide(people, matrix, FEATURES, rule(kind="everyone"), seed=0)
    assert decided.status.tolist() == ["normal"] * 2 + ["unknown"] + ["normal"] * 3
    assert set(decided.cluster) == {-2}
    assert audit["outcome"] == "everyone"


def test_when_nobody_has_findings_everybody_is_normal() -> None:
    matrix = np.zeros((60, len(FEATURES)))
    decided, audit = decide(people_of(matrix), matrix, FEATURES, rule(), seed=0)
    assert set(decided.status) == {"normal"}
    assert audit["outcome"] == "too_alike"


def test_with_too_few_people_only_low_burden_is_normal_and_the_rest_unknown() -> None:
    matrix, _ = profiles((3, 0, 1, 0), (9, 0, 8, 2))
    decided, audit = decide(
        people_of(matrix), matrix, FEATURES, rule(low_burden_quantile=0.25), seed=0
    )
    assert decided.status.tolist() == ["normal"] * 3 + ["unknown"] * 9
    assert audit["outcome"] == "too_alike"
    assert audit["status"] == {"normal": 3, "uncertain": 0, "not_normal": 0, "unknown": 9}


def test_the_papers_rule_has_no_guard_where_too_few_can_be_clustered_either() -> None:
    matrix, _ = profiles((3, 0, 1, 0), (9, 0, 8, 2))
    decided, audit = decide(people_of(matrix), matrix, FEATURES, rule(kind="paper"), seed=0)
    assert set(decided.status) == {"unknown"}
    assert audit["outcome"] == "too_alike"


def test_nobody_in_training_is_no_crash() -> None:
    matrix, _ = profiles((4, 0, 8, 1))
    decided, _ = decide(people_of(matrix, split="test"), matrix, FEATURES, rule(), seed=0)
    assert set(decided.status) == {"unknown"}


# the pieces


def test_expected_burden_never_falls_with_age_and_keeps_the_total() -> None:
    rng = np.random.default_rng(0)
    age = rng.uniform(25, 84, 200)
    burden = rng.poisson(np.maximum(0, (age - 30) / 10)).astype(float)
    expected = expected_burden(age, burden).predict(np.sort(age))
    assert (np.diff(expected) >= 0).all()
    assert expected.sum() == pytest.approx(burden.sum())


def test_a_person_is_judged_at_the_earliest_scan_with_an_age() -> None:
    scans = pd.DataFrame(
        {
            "scan_id": ["a", "b", "c", "d", "e"],
            "person_id": ["p1", "p1", "p1", "p2", "p3"],
            "exam_id": ["x1", "x2", "x3", "x4", "x5"],
            "age_years": [np.nan, 51.0, 50.0, np.nan, 30.0],
            "days_since_first": [0, 700, 365, 0, None],
        }
    )
    assert first_scans(scans).scan_id.tolist() == ["c", "d", "e"]
    assert first_scans(scans[::-1]).scan_id.tolist() == ["c", "d", "e"]
