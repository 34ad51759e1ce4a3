"""associate as a stage: planted effects come out of the files, and what is missing is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.storage.parquet import write_part
from spineage.run.context import Context
from spineage.stages import associate, conditions
from spineage.study import study_from
from spineage.tables import COHORT, SCORES

NUM = 400


class Planted(Context):
    """A workspace in which the stages before have run already: their tables are written by the test."""

    def recipe(self, stage: str) -> dict[str, Any]:
        return (
            {"planted": stage} if stage in ("ingest", "cohort", "score") else super().recipe(stage)
        )


def people() -> pd.DataFrame:
    """Smoking adds 3 years, a fracture 4; coffee and a bulge, which grow with age, add nothing."""
    rng = np.random.default_rng(2)
    age = rng.uniform(25, 84, NUM)
    table = pd.DataFrame(
        {
            "person": [f"PAT{i:03d}" for i in range(NUM)],
            "exam": [f"1.2.{i}" for i in range(NUM)],
            "age_years": age,
            "sex": rng.choice(["F", "M"], NUM),
            "site": rng.choice(["hill", "harbour"], NUM),
            "role": np.resize(["train", "test", "unseen", "calibrate", "test"], NUM),
            "status": np.resize(["normal", "normal", "not_normal"], NUM),
            "smoking": rng.random(NUM) < 0.3,
            "coffee": rng.random(NUM) < (age - 20) / 70,
            "fracture": rng.random(NUM) < 0.25,
            "bulge": rng.random(NUM) < (age - 20) / 70,
        }
    )
    gap = (
        3.0 * table.smoking
        + 4.0 * table.fracture
        + 0.003 * (age - 55) ** 2
        + rng.normal(0, 2.5, NUM)
    )
    return table.assign(sag_years=gap)


def workspace(folder: Path, table: pd.DataFrame, lifestyle: str = "smoking coffee") -> Planted:
    folder.mkdir(exist_ok=True)
    inputs = {name: str(folder / f"{name}.csv") for name in ("findings", "lifestyle")}
    inputs["key_file"] = str(folder / "key")
    (folder / "key").write_text("not a secret, only for tests")
    factors = lifestyle.split()
    table[["person", *factors]].astype(dict.fromkeys(factors, int)).to_csv(
        inputs["lifestyle"], index=False
    )
    rows = [
        (e.person, e.exam, "fracture", "L1", "mild") for e in table[table.fracture].itertuples()
    ]
    rows += [
        (e.person, e.exam, "disc_bulge", "C5/6", "mild") for e in table[table.bulge].itertuples()
    ]
    columns = ["person", "exam", "finding", "level", "severity"]
    pd.DataFrame(rows, columns=columns).to_csv(inputs["findings"], index=False)
    study = study_from({"workspace": str(folder / "workspace"), "inputs": inputs})
    context = Planted(study, say=lambda text: None)
    key = Keyed(load_key(study))
    base = table.assign(
        scan_id=table.exam.map(key.scan), source_digest="d", person_id=table.person.map(key.person),
        exam_id=table.exam.map(key.exam), predicted_years=table.age_years + table.sag_years,
        interval_low_years=0.0, interval_high_years=99.0, spine_age_years=table.age_years + table.sag_years,
        correction_se_years=0.1, distance=0.1, flags=[[]] * len(table), bundle_digest="b", split="test",
        cluster=0, cluster_name="worn", fit_status=table.status, consensus="unknown",
        normal_probability=None, umap_x=0.0, umap_y=0.0, num_findings=1, burden=1.0,
    )  # fmt: skip
    write_part(context.store, context.folder("score"), SCORES, base[SCORES.schema.names], "part-0")
    write_part(context.store, context.folder("cohort"), COHORT, base[COHORT.schema.names], "part-0")
    return context


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Planted:
    context = workspace(tmp_path_factory.mktemp("associate"), people())
    conditions.run(context)
    associate.run(context)
    return context


def all_sag(context: Context) -> pd.DataFrame:
    table = context.read("associations")
    return table[(table.population == "all") & (table.outcome == "sag")].set_index("exposure")


def test_planted_effects_are_recovered_within_their_limits(done: Planted) -> None:
    table = all_sag(done)
    for exposure, years in (("smoking", 3.0), ("fracture", 4.0)):
        row = table.loc[exposure]
        assert row.low_years <= years <= row.high_years
        assert row.q < 0.01


def test_exposures_that_only_grow_with_age_are_null_and_listed(done: Planted) -> None:
    table = all_sag(done)
    assert (table.loc[["coffee", "disc bulge"], "q"] > 0.05).all()


def test_only_people_the_network_did_not_see_take_part(done: Planted) -> None:
    sample = json.loads(done.asset("associate", "sample.json"))
    assert sample["roles"] == {"test": 160, "unseen": 80}
    table = all_sag(done)
    assert set(table.num_exposed + table.num_unexposed) == {240}


def test_families_are_controlled_apart_and_small_groups_flagged(done: Planted) -> None:
    table = done.read("associations")
    assert set(table.family) == {"conditions", "lifestyle"}
    assert set(table.population) == {"all", "normal", "not_normal"}
    assert set(table.outcome) == {"sag", "raw_gap"}
    assert (table.is_small == (table.num_exposed < 20)).all()


def test_what_was_not_tested_is_published_with_its_reason(done: Planted) -> None:
    entries = json.loads(done.asset("associate", "not_tested.json"))
    by_name = {e["exposure"]: e["reason"] for e in entries}
    assert by_name["disc extrusion"].startswith("0 exposed")
    assert by_name["disc bulge, cervical"] == "the same people as disc bulge"


def test_a_second_run_recomputes_nothing(done: Planted) -> None:
    before = done.store.list("associate")
    assert associate.run(done).done["tested"] == len(done.read("associations"))
    assert done.store.list("associate") == before


def test_scores_of_training_people_alone_are_refused(tmp_path: Path) -> None:
    context = workspace(tmp_path, people().assign(role="train"))
    conditions.run(context)
    with pytest.raises(BadStudy, match="no scan outside training and validation"):
        associate.run(context)
    assert context.store.list("associate") == []


def test_a_named_factor_that_is_not_in_the_table_is_refused(tmp_path: Path) -> None:
    context = workspace(tmp_path, people())
    context.study = context.study.model_copy(
        update={"associate": context.study.associate.model_copy(update={"lifestyle": ("smokin",)})}
    )
    conditions.run(context)
    with pytest.raises(BadStudy, match="is it column 1"):
        associate.run(context)
