"""The cohort drawn again and again: kept cell by cell, the same in one process as in two, and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import read_codebook
from spineage.science.cohort import neighbours
from spineage.science.cohort.agreement import agree
from spineage.science.cohort.burden import with_burdens
from spineage.science.cohort.decide import can_be_judged, decide
from spineage.science.cohort.neighbours import find_neighbours
from spineage.science.cohort.stability import Cell, Outcome, Sample, run_cell
from spineage.stages import conditions
from spineage.stages.cohort import stability as cohort_stability
from spineage.stages.cohort import stage as cohort
from spineage.study import Cohort, Stability
from tests.made.cohort_world import FEW_DRAWS, Planted, exams, findings_of, made, workspace
from tests.made.pinned import pinned


@pytest.fixture(scope="module")
def done(ray_session: None) -> Planted:
    return made()


@pytest.fixture(scope="module")
def sample(done: Planted) -> Sample:
    """What every cell starts from, made again from the tables."""
    features = read_codebook()[0].features
    people, matrix = cohort._people(done.read("scans"), done.read("conditions"), features)
    split = done.read("cohort").drop_duplicates("person_id").set_index("person_id").split
    people["split"] = people.person_id.map(split)
    grid, rule, fitted = (
        cohort_stability.grid_of(done),
        cohort.rule_of(done.study.cohort),
        can_be_judged(people)[1],
    )
    neighbours = find_neighbours(matrix, fitted, cohort_stability.num_to_find(grid, rule, fitted))
    people = with_burdens(people, matrix, features, rule.disease_findings)
    return Sample(people, matrix, neighbours, rule, tuple(grid.settings), done.study.seed)


def draw_all(cells: list[Cell], sample: Sample) -> dict[Cell, Outcome]:
    return {cell: run_cell(cell, sample) for cell in cells}


@pytest.mark.slow
def test_one_worker_gives_the_bits_that_two_gave(done: Planted, sample: Sample) -> None:
    """The fixture drew on two Ray workers; here one process draws alone, in another order."""
    grid = cohort_stability.grid_of(done)
    cells = grid.cells(grid.draws)
    outcomes = pinned(draw_all, cells[::-1], sample)
    features = read_codebook()[0].features
    fit = pinned(decide, sample.people, sample.matrix_PF, features, sample.rule, sample.seed)
    found = agree(
        grid,
        grid.draws,
        ((cell, outcomes[cell]) for cell in cells),
        fit.people.cluster.to_numpy(),
    )
    stored = done.read("cohort").drop_duplicates("person_id").set_index("person_id")
    stored = stored.loc[sample.people.person_id]
    assert np.array_equal(found.normal_probability_P, stored.normal_probability)
    told = json.loads(done.asset("cohort", "audit.json"))["stability"]
    assert told["rows"] == found.rows
    assert told["num_draws"] == 2 * 5


def test_the_status_is_the_consensus_and_the_table_says_what_the_fit_was(done: Planted) -> None:
    table = done.read("cohort")
    assert (table.status == table.consensus).all()
    assert set(table.fit_status) == {"normal", "not_normal"}
    p = table.normal_probability
    assert ((p >= 0.8) == (table.consensus == "normal")).all()
    assert ((p <= 0.2) == (table.consensus == "not_normal")).all()
    bare = exams().group[exams().group == "none"]
    assert (p == 1).sum() >= len(bare)


def test_the_audit_tells_of_the_draws_the_clusters_and_the_check_without_umap(
    done: Planted,
) -> None:
    audit = json.loads(done.asset("cohort", "audit.json"))
    told = audit["stability"]
    assert [row["num_draws"] for row in told["rows"]] == [5, 5]
    assert all(0 <= row["seed_ari"] <= 1 for row in told["rows"])
    num_train = {g["cluster"]: g["num_train"] for g in audit["groups"]}
    assert len(told["jaccard"]) == sum(cluster >= 0 for cluster in num_train)
    large = [group for group in told["jaccard"] if num_train[group["cluster"]] >= 10]
    assert len(large) >= 2, "a bootstrap of fewer is no group for HDBSCAN"
    assert all(0.5 < group["mean"] <= 1 for group in large)
    assert sum(one["num_people"] for one in told["against_the_fit"]) == 90
    train = done.read("cohort").drop_duplicates("person_id").split.eq("train").sum()
    assert told["without_umap"]["num_people"] == train
    assert told["without_umap"]["share_same_status"] > 0.8
    assert (told["num_seeds"], told["num_bootstraps"]) == (2, 3)
    assert told["num_unsettled"] == 90, "five draws say little"
    assert audit["arithmetic"]["libc"]


class Hands:
    """A crew in this process that falls over after some cells."""

    def __init__(self, num_cells: int) -> None:
        self.left, self.asked = num_cells, [""]

    def each(
        self, function: Any, cells: list[Cell], shared: Sample
    ) -> Iterator[tuple[Cell, Outcome]]:
        self.asked = [str(cell) for cell in cells]
        for cell in cells[: self.left]:
            yield cell, function(cell, shared)
        if len(cells) > self.left:
            raise RuntimeError("the power went off")


def test_a_stopped_run_goes_on_with_the_cells_that_are_missing(
    tmp_path: Path, done: Planted, sample: Sample
) -> None:
    table = exams()
    context = workspace(tmp_path, table, findings_of(table))
    grid = cohort_stability.grid_of(context)
    cells = grid.cells(grid.draws)
    names = [cell.name for cell in cells]
    with pytest.raises(RuntimeError, match="power"):
        cohort_stability._run_missing(context, Hands(2), cells, sample, "cells")  # type: ignore[arg-type]
    second = Hands(9)
    cohort_stability._run_missing(context, second, cells, sample, "cells")  # type: ignore[arg-type]
    assert second.asked == names[2:]
    kept = cohort_stability._read(context, "cells", cells[0])
    again = run_cell(cells[0], sample)
    assert all(np.array_equal(getattr(kept, name), value) for name, value in vars(again).items())


def test_a_larger_grid_keeps_the_cells_there_are(tmp_path: Path, done: Planted) -> None:
    """The address of the cells knows the people and the rule, not how many draws there are."""
    table, more = exams(), FEW_DRAWS | {"num_seeds": 3, "num_bootstraps": 9}
    context = workspace(tmp_path, table, findings_of(table), stability=more)
    conditions.run(context)
    assert context.fingerprint("cohort") != done.fingerprint("cohort")
    assert cohort._base_recipe(context) == cohort._base_recipe(done)


@pytest.mark.usefixtures("lasting_crew")
def test_draws_end_when_everybody_has_settled_and_the_cost_is_said_before(
    tmp_path: Path, done: Planted
) -> None:
    table = exams()
    draws = FEW_DRAWS | {"num_seeds": 2, "num_bootstraps": 10, "settled_within": 0.5}
    context = workspace(tmp_path, table, findings_of(table), stability=draws)
    said: list[str] = []
    context.say = said.append
    conditions.run(context)
    cohort.run(context)
    told = json.loads(context.asset("cohort", "audit.json"))["stability"]
    assert (told["num_seeds"], told["num_bootstraps"], told["num_unsettled"]) == (1, 5, 0)
    assert told["num_draws"] == 2 * 6
    cost = next(i for i, line in enumerate(said) if "12 draws at most" in line)
    assert "round 1 of at most 2: 0 people unsettled" in said[cost + 1]
    cells = [name for name in context.store.list("cohort/cells", ".npz") if "/near-" not in name]
    assert len(cells) == 6


def test_neighbours_are_found_once_block_by_block(
    tmp_path: Path, done: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = exams()
    context = workspace(tmp_path, table, findings_of(table))
    conditions.run(context)
    rule = cohort.rule_of(context.study.cohort)
    features = read_codebook()[0].features
    people, matrix = cohort._people(context.read("scans"), context.read("conditions"), features)
    fitted = np.arange(len(people)) % 2 == 0
    monkeypatch.setattr(neighbours, "BLOCK_PAIRS", 20 * int(fitted.sum()))
    first, second = Hands(2), Hands(9)
    arguments = matrix, fitted, rule, "cells"
    with pytest.raises(RuntimeError, match="power"):
        cohort_stability.find_all_neighbours(context, first, *arguments)  # type: ignore[arg-type]
    found = cohort_stability.find_all_neighbours(context, second, *arguments)  # type: ignore[arg-type]
    assert (len(first.asked), len(second.asked)) == (5, 3)
    whole = find_neighbours(matrix, fitted, found.index_PK.shape[1])
    assert np.array_equal(found.index_PK, whole.index_PK)


@pytest.mark.usefixtures("lasting_crew")
def test_nothing_is_drawn_again_where_there_are_no_clusters(tmp_path: Path, done: Planted) -> None:
    table = exams(20)
    context = workspace(tmp_path, table, findings_of(table), rule="percentile")
    conditions.run(context)
    cohort.run(context)
    read = context.read("cohort")
    assert set(read.consensus) == {"unknown"}
    assert read.normal_probability.isna().all()
    assert (read.status == read.fit_status).all()
    assert json.loads(context.asset("cohort", "audit.json"))["stability"] is None


# addresses

OTHER: dict[str, Any] = {
    "rule": "paper", "selection": "leaf", "noise": "unknown", "test_sites": ["hill"],
    "arithmetic": "armv8", "disease_findings": ["fracture"], "min_people": 10, "min_group_people": 9,
    "num_neighbors": 16, "num_components": 4, "min_samples": 6, "train": 0.5, "validate": 0.15,
    "calibrate": 0.2, "test": 0.25,
}  # fmt: skip
BALANCE = {"train": "test", "validate": "test", "calibrate": "test", "test": "train"}


def changed(name: str) -> dict[str, Any]:
    """A cohort section in which that key has another value."""
    default = Cohort().model_dump(by_alias=True)
    value = OTHER[name] if name in OTHER else default[name] * 1.1 + 0.01
    section = {name: value}
    if name in BALANCE:
        other = BALANCE[name]
        section[other] = default[other] + default[name] - value
    return section


@pytest.mark.parametrize(
    "name", [field.alias or name for name, field in Cohort.model_fields.items()]
)
def test_every_key_of_the_cohort_is_part_of_its_address(done: Planted, name: str) -> None:
    study = done.study.model_copy(update={"cohort": Cohort.model_validate(changed(name))})
    assert Planted(study).fingerprint("cohort") != done.fingerprint("cohort")


@pytest.mark.parametrize("name", Stability.model_fields)
def test_every_key_of_the_stability_run_is_part_of_the_address(done: Planted, name: str) -> None:
    value = getattr(done.study.stability, name)
    other = (
        (*value, 0.2 if name == "min_cluster_share" else 40) if isinstance(value, tuple)
        else not value if isinstance(value, bool)
        else value + 1 if isinstance(value, int)
        else value * 0.9
    )  # fmt: skip
    section = Stability.model_validate(done.study.stability.model_dump() | {name: other})
    study = done.study.model_copy(update={"stability": section})
    assert Planted(study).fingerprint("cohort") != done.fingerprint("cohort")


def test_how_many_work_at_it_is_not_part_of_the_address(done: Planted) -> None:
    cluster = done.study.cluster.model_copy(update={"cohort_workers": 7})
    study = done.study.model_copy(update={"cluster": cluster})
    assert Planted(study).fingerprint("cohort") == done.fingerprint("cohort")


# splits


@pytest.mark.usefixtures("lasting_crew")
def test_people_keep_the_split_of_an_earlier_cohort_when_others_are_added(
    tmp_path: Path, done: Planted
) -> None:
    drawn = done.store.local(f"{done.folder('cohort')}/splits.csv")
    before = done.read("cohort").drop_duplicates("person_id").set_index("person_id").split
    more = exams(140)
    none = {"num_seeds": 0, "num_bootstraps": 0}
    context = workspace(
        tmp_path,
        more,
        findings_of(more),
        stability=none,
        inputs={"splits": str(drawn)},
        rule="everyone",
    )
    conditions.run(context)
    cohort.run(context)
    after = context.read("cohort").drop_duplicates("person_id").set_index("person_id").split
    assert len(after) == 140
    assert (after[before.index] == before).all()
    assert after.value_counts().to_dict() == pytest.approx(
        {"train": 77, "validate": 14, "calibrate": 21, "test": 28}, abs=3
    )


def test_a_held_out_site_is_tested_on_and_one_that_is_nowhere_is_refused(tmp_path: Path) -> None:
    table = exams(40)
    (tmp_path / "a").mkdir()
    context = workspace(
        tmp_path / "a", table, findings_of(table), rule="burden", test_sites=["hill"]
    )
    conditions.run(context)
    scans = context.read("scans")
    people = cohort._people(scans, context.read("conditions"), read_codebook()[0].features)[0]
    split = cohort._splits(context, scans, people)
    hill = set(scans.person_id[scans.site == "hill"])
    assert {split[person] for person in hill} == {"test"}
    assert set(split.drop(list(hill))) == {"train", "validate", "calibrate", "test"}
    other = workspace(tmp_path / "b", table, findings_of(table), rule="burden", test_sites=["hil"])
    with pytest.raises(BadStudy, match="'hil', where nobody was scanned: did you mean 'hill'"):
        cohort._splits(other, scans, people)


def test_a_disease_that_the_codebook_does_not_have_is_refused(tmp_path: Path) -> None:
    table = exams(20)
    context = workspace(tmp_path, table, findings_of(table), disease_findings=["fractures"])
    conditions.run(context)
    with pytest.raises(BadStudy, match=r"disease_findings names 'fractures'.*mean 'fracture'\?"):
        cohort.run(context)


def test_the_default_diseases_are_in_the_codebook() -> None:
    known = {feature.finding for feature in read_codebook()[0].features}
    assert set(Cohort().disease_findings) <= known


@pytest.mark.usefixtures("lasting_crew")
def test_few_people_are_judged_alone_and_the_run_says_so(tmp_path: Path) -> None:
    table = exams(60)
    context = workspace(tmp_path, table, findings_of(table), min_people=300)
    said: list[str] = []
    context.say = said.append
    conditions.run(context)
    cohort.run(context)
    audit = json.loads(context.asset("cohort", "audit.json"))
    assert audit["outcome"] == "few_people"
    assert audit["stability"] is None
    assert any("too few for groups to decide (cohort.min_people is 300)" in line for line in said)
    assert "each person is judged by burden" in context.asset("cohort", "audit.html").decode()
    read = context.read("cohort")
    assert (read.cluster >= 0).any(), "the map is drawn all the same"
    exams_of = dict(zip(read.exam_id, read.status, strict=True))
    key = Keyed(load_key(context.study))
    for row in table.itertuples():
        assert exams_of[key.exam(str(row.exam))] == (
            "not_normal" if row.group == "ill" else "normal"
        )


def test_a_splits_file_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "splits.csv"
    path.write_text("person_id,split\na,train\nb,tset\n")
    table = exams(20)
    context = workspace(tmp_path, table, findings_of(table), inputs={"splits": str(path)})
    conditions.run(context)
    scans = context.read("scans")
    people = cohort._people(scans, context.read("conditions"), read_codebook()[0].features)[0]
    with pytest.raises(BadStudy, match="splits: row 3 holds no split"):
        cohort._splits(context, scans, people)
    path.write_text("person_id,split\na,train\nb,test\n")
    with pytest.raises(BadStudy, match="none of this study's people"):
        cohort._splits(context, scans, people)


# the page


def test_the_audit_page_stands_alone_and_shows_everything(done: Planted) -> None:
    page = done.asset("cohort", "audit.html").decode()
    for heading in ("Who is normal", "The groups against the people they came from", "How firm it is",
                    "What other rules would say"):  # fmt: skip
        assert heading in page
    assert page.count("<figure>") == 7
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "One section per person" not in page
