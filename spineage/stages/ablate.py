"""Ablate: how much data, which loss, which region, whose spines are normal; every arm is one training run,
repeated over seeds.

The paper ablates the first three and its numbers are not known. All arms are read on the same test people,
normal by the study's own status, so a grid is for describing the method: whoever picks an arm by its test MAE
has no test set left.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spineage.engine.places import Need
from spineage.engine.training.sweep import run_grid
from spineage.errors import BadStudy
from spineage.io.models.nested import Nested
from spineage.io.models.tracking import open_tracking
from spineage.io.storage.pointers import read_object
from spineage.run.context import Context, digest_of
from spineage.run.counts import Counts
from spineage.run.plan import Plan
from spineage.run.progress import plain_progress
from spineage.run.rates import measured_on, rates_of, scaled_s
from spineage.stages.cohort.stage import status_by
from spineage.stages.train.loop import config_of
from spineage.stages.train.stage import people, roles_of
from spineage.stages.train.stage import recipe as train_recipe
from spineage.stages.train.trials import figures_of, file_of, train_arm
from spineage.study import Train

SCHEMA = 3  # raise it when the same arm gives other numbers
OWN_RULE = "study"


@dataclass(frozen=True)
class Arm:
    """What is trained. The seed draws weights, order, and whom a fraction keeps; rule: see study.Ablate."""

    train: Train
    seed: int
    rule: str = OWN_RULE


def recipe(context: Context) -> dict[str, Any]:
    """The grid and everything one training depends on."""
    return {**train_recipe(context), **context.study.recipe("ablate"), "ablate_schema": SCHEMA}


def run(context: Context) -> Counts:
    """Train the arms that are not there yet, then publish the table of all."""
    everyone = people(context)
    arms = [_trial(context, everyone, arm) for arm in grid(context)]
    missing = [arm for arm in arms if not context.store.exists(file_of(arm))]
    if missing:
        context.work_done = _size(missing)
        _train_all(context, missing)
    if not context.is_done("ablate"):
        redo = "remove it and run `spineage ablate` again, which trains that arm anew"
        rows = [read_object(context.store, file_of(arm), redo) for arm in arms]
        context.publish("ablate", {"ablations": pd.DataFrame(rows)})
    return Counts({"arms": len(arms), "trained": len(missing)})


def _train_all(context: Context, arms: list[dict[str, Any]]) -> None:
    """Each arm as a run within the run of the grid."""
    study, cluster = context.study, context.study.cluster
    num_workers = cluster.train_worker_range[0]
    inside = Need(
        "a training", num_workers, 1.0, cluster.gpus_per_worker, cluster.labels_of("train")
    )
    context.connect()
    tracking = open_tracking(cluster.mlflow, context.store, study.name)
    params = {"seed": study.seed, **study.recipe("ablate", "train")}
    tags = context.identity("ablate")
    with (
        tracking.running("ablate", context.folder("ablate"), params=params, tags=tags) as parent,
        Nested(tracking, parent, context.say) as runs,
    ):

        def hear(trial: str, arm: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
            name, params = arm["row"]["arm"], {k: v for k, v in arm["row"].items() if k != "arm"}
            if metrics:
                figures, epoch = figures_of(metrics), int(metrics["epoch"])
                runs.tell(file_of(arm), name, params, figures, epoch)
                return
            with suppress(BadStudy, FileNotFoundError):  # what a table needs is asked for again
                row = read_object(context.store, file_of(arm), "remove it")
                told = {k: row[k] for k in ("test_mae_years", "test_r2") if row[k] is not None}
                told["best_validate_mae_years"] = row["validate_mae_years"]
                runs.tell(file_of(arm), name, params, told, arm["loop"]["train"]["epochs"])
            runs.end(file_of(arm))

        run_grid(
            train_arm,
            arms,
            storage=context.store.uri("ablate", "tune"),
            name=digest_of([arm["digest"] for arm in arms]),
            inside=inside if num_workers else None,
            say=plain_progress("ablate"),
            hear=hear,
        )


def plan(context: Context, before: Collection[str] = ()) -> Plan:
    """Of the arms of the grid."""
    everyone = people(context)
    arms = [_trial(context, everyone, arm) for arm in grid(context)]
    missing = [arm for arm in arms if not context.store.exists(file_of(arm))]
    rates = rates_of(context.store, ["ablate"])
    seconds, measured = scaled_s(_size(missing), rates), measured_on(rates)
    num = len(arms) - len(missing), len(missing)
    return Plan("ablate", *num, "arms", seconds=seconds, measured=measured)


def _size(arms: Sequence[Mapping[str, Any]]) -> float:
    """Scans seen in all epochs of all arms."""
    seen = (len(arm["loop"]["train_numbers"]) * arm["loop"]["train"]["epochs"] for arm in arms)
    return float(sum(seen))


def grid(context: Context) -> list[Arm]:
    """Every arm: the grid under the study's own rule, then the study's own recipe under each rule."""
    section, base = context.study.ablate, context.study.train
    axes = itertools.product(section.regions, section.losses, section.fractions, section.seeds)
    own = [
        Arm(
            Train.model_validate(
                {**base.model_dump(), "region": region, "loss": loss, "fraction": fraction}
            ),
            seed,
        )
        for region, loss, fraction, seed in axes
    ]
    others = [Arm(base, s, rule) for rule, s in itertools.product(section.rules, section.seeds)]
    beside = [Arm(base, seed) for seed in section.seeds] if section.rules else []
    return [*own, *(arm for arm in beside if arm not in own), *others]


def _trial(context: Context, everyone: pd.DataFrame, arm: Arm) -> dict[str, Any]:
    """What one trial needs: plain values."""
    train, seed = arm.train, arm.seed
    roles = roles_of(_judged(context, everyone, arm.rule), train, seed)
    config = config_of(context, everyone, roles, train, seed)
    is_test = (everyone["split"] == "test") & (everyone["status"] == "normal")
    config["predict_numbers"] = np.flatnonzero(is_test).tolist()
    row = {
        "arm": f"{train.region} {train.loss} {train.fraction:g} seed {seed}{_under(arm.rule)}",
        "region": train.region,
        "loss": train.loss,
        "fraction": train.fraction,
        "seed": seed,
        "rule": arm.rule,
        "parameters": json.dumps(_changes(context.study.train, train), sort_keys=True),
        "num_train": int(everyone["person_id"][roles == "train"].nunique()),
    }
    # the recipe of `train` covers the study's own section and seed: an arm has its own
    shared = {k: v for k, v in train_recipe(context).items() if k not in ("train", "seed")}
    told = {"train": config["train"], "seed": seed, "rule": arm.rule, "ablate_schema": SCHEMA}
    digest = digest_of({**shared, **told})
    return {
        "digest": digest,
        "root": context.store.root,
        "loop": config,
        "row": row,
        "num_workers": context.study.cluster.train_worker_range[0],
        "gpus_per_worker": context.study.cluster.gpus_per_worker,
        "labels": context.study.cluster.labels_of("train"),
    }


def _under(rule: str) -> str:
    return "" if rule == OWN_RULE else f" rule {rule}"


def _judged(context: Context, everyone: pd.DataFrame, rule: str) -> pd.DataFrame:
    """Everyone, with the status of another rule: for who trains and who selects, not for who is tested."""
    if rule == OWN_RULE:
        return everyone
    return everyone.assign(status=everyone["person_id"].map(status_by(context, rule)))


def _changes(base: Train, train: Train) -> dict[str, Any]:
    before, after = base.model_dump(mode="json"), train.model_dump(mode="json")
    return {name: value for name, value in after.items() if value != before[name]}
