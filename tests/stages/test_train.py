"""Training as a stage: who is learned from, what is published, that it repeats and can be taken up again."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from spineage.engine.training import ddp
from spineage.errors import BadStudy
from spineage.io.storage.parquet import write_part
from spineage.science.network.learn import answer
from spineage.science.network.network import load_network
from spineage.stages.train import loop as train_loop
from spineage.stages.train import stage as train
from spineage.study import Train
from spineage.tables import COHORT
from tests.made.toy_study import cohort_of, pin_upstream, toy_study


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    context = toy_study(tmp_path_factory.mktemp("trained"), train={"epochs": 12})
    return context, train.run(context)


def test_everyone_gets_a_raw_prediction_and_keeps_their_split(trained):
    context, counts = trained
    told = context.read("predictions")
    assert counts.done["predicted"] == len(told) == 18
    cohort = context.read("cohort").set_index("scan_id")
    assert (told.set_index("scan_id")["split"] == cohort["split"]).all()


def test_the_history_has_a_row_an_epoch(trained):
    history = trained[0].read("history")
    assert list(history["epoch"]) == list(range(1, 13))
    assert history["validate_mae_years"].notna().all()


def test_the_published_network_gives_the_published_predictions(trained):
    context, _ = trained
    told = json.loads(context.asset("train", "network.json"))
    model = load_network(context.asset("train", "network.safetensors"), told)
    everyone = train.people(context)
    config = train_loop.config_of(context, everyone, pd.Series("train", everyone.index), Train(), 0)
    again = answer(
        model, train_loop._everyone(config), range(len(everyone)), told["region"], batch_size=1
    )
    assert context.read("predictions")["predicted_years"].to_numpy() == pytest.approx(
        again.predicted_years, abs=1e-3
    )


def test_the_description_carries_what_calibration_reads(trained):
    told = json.loads(trained[0].asset("train", "network.json"))
    assert {"channels", "pools", "dropout", "region", "prepare", "fingerprint"} <= set(told)
    familiarity = told["familiarity"]
    assert len(familiarity["mean"]) == len(familiarity["precision"]) == 8
    assert len(familiarity["train_distances"]) == trained[1].done["training_scans"]


def test_a_second_run_trains_nothing(trained, monkeypatch):
    context, counts = trained
    monkeypatch.setattr(train, "fit", lambda *a, **k: pytest.fail("trained again"))
    assert train.run(context) == counts


def test_one_seed_gives_the_same_predictions_to_the_bit(tmp_path):
    told = []
    for name in ("a", "b"):
        context = toy_study(tmp_path / name)
        train.run(context)
        told.append(context.read("predictions")["predicted_years"].to_numpy())
    assert np.array_equal(*told)


def test_another_seed_or_recipe_has_another_address(tmp_path):
    addresses = {
        toy_study(tmp_path, **change).fingerprint("train")
        for change in ({}, {"seed": 1}, {"train": {"epochs": 4}}, {"train": {"loss": "mse"}})
    }
    assert len(addresses) == 4
    assert toy_study(tmp_path).fingerprint("train") in addresses


def test_where_it_runs_is_not_part_of_the_address(tmp_path):
    elsewhere = toy_study(tmp_path, cluster={"cpu_workers": 3})
    assert elsewhere.fingerprint("train") == toy_study(tmp_path).fingerprint("train")


def test_training_never_looks_at_people_it_is_not_meant_for(tmp_path, monkeypatch):
    seen: set[float] = set()
    asked = train_loop.Subset.age_years
    monkeypatch.setattr(
        train_loop.Subset, "age_years", lambda self, i: seen.add(asked(self, i)) or asked(self, i)
    )
    context = toy_study(tmp_path)
    train.run(context)
    cohort = context.read("cohort")
    meant = cohort[(cohort["split"] == "train") & (cohort["status"] == "normal")]
    assert seen == set(meant["age_years"])


def test_the_network_does_not_depend_on_people_it_is_not_trained_or_chosen_on(tmp_path):
    weights = []
    for name, shift in (("a", 0.0), ("b", 20.0)):
        context = toy_study(tmp_path / name)
        cohort = context.read("cohort")
        other = cohort["split"].isin(["test", "calibrate"]) | (cohort["status"] != "normal")
        cohort.loc[other, "age_years"] += shift
        write_part(context.store, context.folder("cohort"), COHORT, cohort, "part-0")
        train.run(context)
        weights.append(context.asset("train", "network.safetensors"))
    assert weights[0] == weights[1]


def test_a_person_in_two_splits_stops_the_study(tmp_path):
    context = toy_study(tmp_path)
    cohort = context.read("cohort")
    cohort.loc[[0, 3], "person_id"] = "person000"
    write_part(context.store, context.folder("cohort"), COHORT, cohort, "part-0")
    with pytest.raises(BadStudy, match="1 people are in more than one split"):
        train.run(context)


def test_too_few_normal_people_stop_the_study_with_a_sentence(tmp_path):
    context = toy_study(tmp_path, num_people=6)
    with pytest.raises(BadStudy, match=r"normal people of the training split.*cohort.rule"):
        train.run(context)
    assert not context.is_done("train")


def test_a_smaller_fraction_is_part_of_a_larger_one():
    everyone = cohort_of(60)
    chosen = [
        set(everyone["person_id"][train.roles_of(everyone, Train(fraction=f), 3) == "train"])
        for f in (0.4, 0.7, 1.0)
    ]
    assert chosen[0] < chosen[1] < chosen[2]
    assert len(chosen[0]) == pytest.approx(0.4 * len(chosen[2]), abs=1)


def test_all_scans_of_a_person_share_their_role():
    everyone = cohort_of(60)
    everyone["person_id"] = [f"person{i // 12}-{i % 6}" for i in range(60)]
    roles = train.roles_of(everyone, Train(fraction=0.6), 3)
    normal = everyone["status"] == "normal"
    assert (roles[normal].groupby(everyone["person_id"][normal]).nunique() == 1).all()


class Killed(Exception):
    pass


class Interrupted(ddp.Alone):
    """A worker that is killed when it reports epoch 7, after the checkpoint of epoch 5."""

    def report(self, metrics, state=None):
        super().report(metrics, state)
        if metrics.get("epoch") == 7:
            raise Killed


def test_a_killed_training_goes_on_from_its_checkpoint_and_ends_the_same(tmp_path):
    context = toy_study(tmp_path, train={"epochs": 10})
    everyone = train.people(context)
    roles = train.roles_of(everyone, context.study.train, context.study.seed)
    config = train_loop.config_of(context, everyone, roles, context.study.train, context.study.seed)
    whole = ddp.fit(train_loop.train_loop, config, workers=(0, 0), storage="", name="")
    first = Interrupted()
    with pytest.raises(Killed):
        train_loop.train_loop(first, config)
    assert first.state["epoch"] == 5
    second = ddp.Alone(state=first.state)
    train_loop.train_loop(second, config)
    assert second.state["history"] == whole.state["history"]
    assert np.array_equal(second.state["predicted_years"], whole.state["predicted_years"])


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_two_workers_on_ray_repeat_each_other_to_the_bit(tmp_path):
    told = []
    for name in ("a", "b"):
        context = toy_study(tmp_path / name, cluster={"train_workers": 2})
        train.run(context)
        told.append(context.read("predictions")["predicted_years"].to_numpy())
    assert np.array_equal(*told)
    assert np.isfinite(told[0]).all()


def test_the_run_is_logged_under_the_studys_experiment(trained):
    import mlflow

    context, _ = trained
    client = mlflow.MlflowClient(f"sqlite:///{context.store.root}/mlflow.db")
    experiment = client.get_experiment_by_name(context.study.name)
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["train.epochs"] == "12"
    assert len(client.get_metric_history(run.info.run_id, "validate_mae_years")) == 12


def test_a_study_file_with_other_upstream_addresses_trains_anew(tmp_path):
    context = toy_study(tmp_path)
    before = context.fingerprint("train")
    context.forget()
    pin_upstream(context)
    context._fingerprints["prepare"] = "other-masks"
    with pytest.raises(BadStudy, match="run `spineage prepare` first"):
        context.fingerprint("train")
    assert before == toy_study(tmp_path).fingerprint("train")
