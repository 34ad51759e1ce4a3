"""The cohort drawn again and again: kept cell by cell, the same in one process as in two, and told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from spineage.errors import BadStudy
from spineage.io.findings import read_codebook
from spineage.science.agreement import agree
from spineage.science.cohort import decide
from spineage.science.stability import Cell, Outcome, Sample, run_cell
from spineage.stages import cohort, cohort_stability, conditions
from spineage.study import Cohort, Stability
from tests.stages.cohort_world import FEW_DRAWS, Planted, exams, findings_of, made, workspace


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
    settings = tuple(cohort_stability.grid_of(done).settings)
    return Sample(people, matrix, cohort._rule(done), settings, done.study.seed)


def test_one_worker_gives_the_bits_that_two_gave(done: Planted, sample: Sample) -> None:
    """The fixture drew on two Ray workers; here this process draws alone, in another order."""
    grid = cohort_stability.grid_of(done)
    outcomes = {cell: run_cell(cell, sample) for cell in reversed(grid.cells)}
    features = read_codebook()[0].features
    fit = decide(sample.people, sample.matrix_PF, features, sample.rule, sample.seed)
    found = agree(
        grid, ((cell, outcomes[cell]) for cell in grid.cells), fit.people.cluster.to_numpy()
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
    told = json.loads(done.asset("cohort", "audit.json"))["stability"]
    assert [row["num_draws"] for row in told["rows"]] == [5, 5]
    assert all(0 <= row["seed_ari"] <= 1 for row in told["rows"])
    assert all(0.5 < group["mean"] <= 1 for group in told["jaccard"])
    assert sum(one["num_people"] for one in told["against_the_fit"]) == 90
    train = done.read("cohort").drop_duplicates("person_id").split.eq("train").sum()
    assert told["without_umap"]["num_people"] == train
    assert told["without_umap"]["share_same_status"] > 0.8


class Hands:
    """A crew in this process that falls over after some cells."""

    def __init__(self, num_cells: int) -> None:
        self.left, self.asked = num_cells, [""]

    def each(
        self, function: Any, cells: list[Cell], shared: Sample
    ) -> Iterator[tuple[Cell, Outcome]]:
        self.asked = [cell.name for cell in cells]
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
    names = [cell.name for cell in grid.cells]
    with pytest.raises(RuntimeError, match="power"):
        cohort_stability._run_missing(context, Hands(2), grid, sample, "cells")  # type: ignore[arg-type]
    second = Hands(9)
    cohort_stability._run_missing(context, second, grid, sample, "cells")  # type: ignore[arg-type]
    assert second.asked == names[2:]
    kept = cohort_stability._read(context, "cells", grid.cells[0])
    again = run_cell(grid.cells[0], sample)
    assert all(np.array_equal(getattr(kept, name), value) for name, value in vars(again).items())


def test_a_larger_grid_keeps_the_cells_there_are(tmp_path: Path, done: Planted) -> None:
    """The address of the cells knows the people and the rule, not how many draws there are."""
    table, more = exams(), FEW_DRAWS | {"num_seeds": 3, "num_bootstraps": 9}
    context = workspace(tmp_path, table, findings_of(table), stability=more)
    conditions.run(context)
    assert context.fingerprint("cohort") != done.fingerprint("cohort")
    assert cohort._base_recipe(context) == cohort._base_recipe(done)


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
