"""The grid and the search as stages: what they train, what they keep, whom they never ask."""

from __future__ import annotations

import json

import numpy as np
import pytest

from spineage.errors import BadStudy
from spineage.io.storage.index import part_name
from spineage.io.storage.parquet import write_part
from spineage.run.counts import Counts
from spineage.stages import ablate, sweep
from spineage.stages.train import stage as train
from spineage.stages.train import trials
from spineage.tables import COHORT, TENSORS
from tests.made.toy_spine import SMALL
from tests.made.toy_study import pin_upstream, toy_study

GRID = {"regions": ["whole", "lumbar"], "losses": ["l1"], "fractions": [1.0], "seeds": [0]}


def test_the_grid_is_every_combination(tmp_path):
    section = {
        "regions": ["whole", "cervical"],
        "losses": ["l1", "mse"],
        "fractions": [0.5, 1.0],
        "seeds": [0, 1],
    }
    arms = ablate.grid(toy_study(tmp_path, ablate=section))
    seen = {(a.train.region, a.train.loss, a.train.fraction, a.seed) for a in arms}
    assert len(arms) == len(seen) == 16
    assert {a.train.epochs for a in arms} == {3}


def client_of(context):
    import mlflow

    return mlflow.MlflowClient(f"sqlite:///{context.store.root}/mlflow.db")


def runs_of(context, stage):
    """The run of the stage, and those within it; all have ended well."""
    client = client_of(context)
    experiment = client.get_experiment_by_name(context.study.name).experiment_id
    runs = client.search_runs([experiment])
    assert {run.info.status for run in runs} == {"FINISHED"}
    (parent,) = [run for run in runs if run.info.run_name == stage]
    within = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return parent, client.search_runs([experiment], within)


def rules_of(context, **statuses):
    """The cohort's statuses by other rules, as the cohort stage leaves them."""
    cohort = context.read("cohort")
    table = cohort[["person_id"]].assign(**statuses)
    context.store.write(f"{context.folder('cohort')}/rules.csv", table.to_csv(index=False).encode())


def test_arms_of_other_rules_learn_from_other_people_and_are_read_on_the_same(tmp_path):
    section = {**GRID, "regions": ["whole"], "seeds": [0, 1], "rules": ["everyone"]}
    context = toy_study(tmp_path, ablate=section)
    rules_of(context, everyone="normal", paper="not_normal")
    everyone, choices = train.people(context), ablate.grid(context)
    assert [(c.rule, c.seed) for c in choices] == [
        ("study", 0), ("study", 1), ("everyone", 0), ("everyone", 1)
    ]  # fmt: skip
    own, other = (ablate._trial(context, everyone, choices[i]) for i in (0, 2))
    ill = np.flatnonzero(everyone["status"] == "not_normal")
    assert not set(ill) & set(own["loop"]["train_numbers"])
    ill_in_training = set(ill) & set(np.flatnonzero(everyone["split"] == "train"))
    assert ill_in_training
    assert ill_in_training <= set(other["loop"]["train_numbers"])
    assert other["loop"]["predict_numbers"] == own["loop"]["predict_numbers"]
    assert not set(ill) & set(own["loop"]["predict_numbers"])
    assert own["digest"] != other["digest"]
    assert (own["row"]["rule"], other["row"]["rule"]) == ("study", "everyone")
    assert other["row"]["arm"].endswith("rule everyone")


def test_the_studys_own_recipe_stands_beside_other_rules_though_the_grid_lacks_it(tmp_path):
    section = {**GRID, "regions": ["lumbar"], "seeds": [4], "rules": ["everyone"]}
    arms = ablate.grid(toy_study(tmp_path, ablate=section))
    assert [(a.train.region, a.rule, a.seed) for a in arms] == [
        ("lumbar", "study", 4), ("whole", "study", 4), ("whole", "everyone", 4)
    ]  # fmt: skip


@pytest.mark.parametrize("stage", [ablate, sweep], ids=["ablate", "sweep"])
def test_a_stage_whose_numbers_change_has_another_address(tmp_path, monkeypatch, stage):
    name = stage.__name__.split(".")[-1]
    context = toy_study(tmp_path, ablate=GRID)
    everyone, arm = train.people(context), ablate.grid(context)[0]
    address, digest = context.fingerprint(name), ablate._trial(context, everyone, arm)["digest"]
    monkeypatch.setattr(stage, "SCHEMA", stage.SCHEMA + 1)
    context.forget()
    pin_upstream(context)
    assert context.fingerprint(name) != address
    is_other = ablate._trial(context, everyone, arm)["digest"] != digest
    assert is_other == (stage is ablate)


def test_a_rule_by_which_nobody_was_judged_is_named(tmp_path):
    context = toy_study(tmp_path, ablate={**GRID, "rules": ["percentile"]})
    rules_of(context, everyone="normal", burden="normal")
    with pytest.raises(BadStudy, match=r"cannot be judged .* it can be by everyone, burden"):
        ablate.run(context)


def test_an_unknown_region_stops_with_a_sentence(tmp_path):
    with pytest.raises(BadStudy, match=r"ablate\.regions\.0.*'tail'"):
        ablate.grid(toy_study(tmp_path, ablate={**GRID, "regions": ["tail"]}))


@pytest.mark.usefixtures("ray_session")
def test_arms_are_trained_once_kept_and_reused_by_a_larger_grid(tmp_path):
    first = toy_study(tmp_path, ablate=GRID)
    assert ablate.run(first) == Counts({"arms": 2, "trained": 2})
    table = first.read("ablations")
    assert sorted(table["region"]) == ["lumbar", "whole"]
    assert table["test_mae_years"].between(0, 60).all()
    assert json.loads(table.set_index("region").loc["lumbar", "parameters"]) == {"region": "lumbar"}
    parent, children = runs_of(first, "ablate")
    assert parent.data.tags["spineage.recipe"]
    assert {run.info.run_name for run in children} == set(table["arm"])
    for run in children:
        row = table.set_index("arm").loc[run.info.run_name]
        assert run.data.params["region"] == row["region"]
        history = client_of(first).get_metric_history(run.info.run_id, "validate_mae_years")
        assert [metric.step for metric in history] == [1, 2, 3], "epoch by epoch"
        best = run.data.metrics["best_validate_mae_years"]
        assert best == pytest.approx(row["validate_mae_years"])
        assert run.data.metrics["test_mae_years"] == pytest.approx(row["test_mae_years"])
    assert ablate.run(first) == Counts({"arms": 2, "trained": 0})
    larger = toy_study(tmp_path, ablate={**GRID, "fractions": [1.0, 0.9]})
    counts = ablate.run(larger)
    assert counts == Counts({"arms": 4, "trained": 2})
    together = larger.read("ablations").set_index("arm")
    kept = table.set_index("arm")
    assert (together.loc[kept.index, "test_mae_years"] == kept["test_mae_years"]).all()


def test_the_studys_own_recipe_as_an_arm_repeats_its_network(tmp_path):
    context = toy_study(tmp_path)
    train.run(context)
    everyone = train.people(context)
    own = ablate.Arm(context.study.train, context.study.seed)
    arm = ablate._trial(context, everyone, own)
    trials.train_arm(arm, lambda metrics: None)
    row = json.loads(context.store.read(trials.file_of(arm)))
    told = context.read("predictions")
    test = told[(told["split"] == "test") & (told["status"] == "normal")]
    error_years = (test["predicted_years"] - test["age_years"]).abs().mean()
    assert row["test_mae_years"] == pytest.approx(error_years, abs=1e-4)
    assert row["num_train"] == train.run(context).done["training_scans"]


def test_r2_is_one_minus_squared_error_over_spread():
    ages, told = np.array([20.0, 40.0, 60.0]), np.array([25.0, 40.0, 55.0])
    assert trials.accuracy(told, ages) == {
        "test_mae_years": pytest.approx(10 / 3),
        "test_r2": pytest.approx(1 - 50 / 800),
    }
    assert trials.accuracy(np.empty(0), np.empty(0)) == {"test_mae_years": None, "test_r2": None}


SEARCH = {"num_trials": 2, "grace_epochs": 1}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_search_never_asks_test_people(tmp_path):
    context = toy_study(tmp_path, train={"epochs": 2}, sweep=SEARCH)
    cohort = context.read("cohort")
    for row in cohort[cohort["split"] == "test"].itertuples():
        broken = {
            "scan_id": row.scan_id,
            "source_digest": row.source_digest,
            "shape": list(SMALL.shape),
            "voxels_zstd": b"reading this crashes",
            "levels_zstd": b"",
        }
        name = part_name(row.scan_id, row.source_digest)
        write_part(context.store, context.folder("prepare"), TENSORS, [broken], name)
    counts = sweep.run(context)
    assert counts == Counts({"trials": 2, "asked": 2})
    table = context.read("ablations", stage="sweep")
    assert table["test_mae_years"].isna().all()
    assert table["test_r2"].isna().all()
    assert list(table["validate_mae_years"]) == sorted(table["validate_mae_years"])
    drawn = json.loads(table["parameters"].iloc[0])
    low, high = context.study.sweep.learning_rate
    assert low <= drawn["learning_rate"] <= high
    _, children = runs_of(context, "sweep")
    best = [r for r in children if float(r.data.params["learning_rate"]) == drawn["learning_rate"]]
    assert len(children) == 2
    assert best[0].data.metrics["smooth_mae_years"] == pytest.approx(table.validate_mae_years.min())
    history = client_of(context).get_metric_history(best[0].info.run_id, "train_mae_years")
    assert [metric.step for metric in history] == list(range(1, 1 + drawn["epochs_run"]))
    assert sweep.run(context) == counts


def test_a_search_without_validation_people_stops_before_work(tmp_path):
    context = toy_study(tmp_path, sweep=SEARCH)
    cohort = context.read("cohort")
    cohort["split"] = cohort["split"].replace("validate", "test")
    write_part(context.store, context.folder("cohort"), COHORT, cohort, "part-0")
    with pytest.raises(BadStudy, match="nothing to compare by"):
        sweep.run(context)
