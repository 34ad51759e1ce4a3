"""Sweep: search learning rate, weight decay and dropout by validation MAE. Test people are never asked.

Its table tells what to write into the study's `train` section; it changes nothing by itself. Each trial
trains in one process.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from spineage.engine.training.sweep import Hear, Outcome, search
from spineage.errors import BadStudy
from spineage.io.models.nested import Nested
from spineage.io.models.tracking import open_tracking
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.run.progress import plain_progress
from spineage.stages.ablate import OWN_RULE
from spineage.stages.train.loop import config_of
from spineage.stages.train.stage import people, roles_of
from spineage.stages.train.stage import recipe as train_recipe
from spineage.stages.train.stage import size as train_size
from spineage.stages.train.trials import figures_of, train_trial

SCHEMA = 4
IS_LOGARITHMIC = {"learning_rate": True, "weight_decay": True, "dropout": False}


def recipe(context: Context) -> dict[str, Any]:
    """The search and everything one training depends on."""
    return {**train_recipe(context), **context.study.recipe("sweep"), "sweep_schema": SCHEMA}


def run(context: Context) -> Counts:
    """Search once; a search that was killed goes on."""
    section = context.study.sweep
    if not context.is_done("sweep"):
        outcomes = _search(context)
        context.publish("sweep", {"ablations": table_of(context, outcomes)})
    found = context.read("ablations", stage="sweep").sort_values("validate_mae_years")
    best = found.iloc[0]
    context.say(f"  best: validation MAE {best.validate_mae_years:.2f} y with {best.parameters}")
    return Counts({"trials": len(found), "asked": section.num_trials})


def size(context: Context) -> float:
    """Scans seen in all epochs, if no trial ends early."""
    return train_size(context) * context.study.sweep.num_trials


def _search(context: Context) -> list[Outcome]:
    study = context.study
    everyone = people(context)
    roles = roles_of(everyone, study.train, study.seed)
    if not (roles == "validate").any():
        raise BadStudy(
            "no normal person of the validation split has a tensor and an age: a search has nothing to "
            "compare by; widen cohort.validate"
        )
    config = config_of(context, everyone, roles, study.train, study.seed)
    config["predict_numbers"] = []
    context.connect()
    tracking = open_tracking(study.cluster.mlflow, context.store, study.name)
    folder, tags = context.folder("sweep"), context.identity("sweep")
    params = {"seed": study.seed, **study.recipe("sweep", "train")}
    with (
        tracking.running("sweep", folder, params=params, tags=tags) as parent,
        Nested(tracking, parent, context.say) as runs,
    ):

        def hear(trial: str, drawn: Mapping[str, Any], metrics: Mapping[str, Any]) -> None:
            address = f"{folder}/{trial}"
            if metrics:
                figures = figures_of(metrics)
                runs.tell(address, f"trial {trial}", drawn, figures, int(metrics["epoch"]))
            else:
                runs.end(address)

        return _searched(context, config, hear)


def _searched(context: Context, config: dict[str, Any], hear: Hear) -> list[Outcome]:
    study, section = context.study, context.study.sweep
    return search(
        train_trial,
        {"loop": config, "gpus_per_worker": study.cluster.gpus_per_worker},
        {name: (*getattr(section, name), is_log) for name, is_log in IS_LOGARITHMIC.items()},
        num_trials=section.num_trials,
        max_epochs=study.train.epochs,
        grace_epochs=section.grace_epochs,
        seed=study.seed,
        storage=context.store.uri(context.folder("sweep")),
        name="search",
        gpus=study.cluster.gpus_per_worker,
        at_once=study.cluster.predict_workers,
        say=plain_progress("sweep"),
        hear=hear,
    )


def table_of(context: Context, outcomes: list[Outcome]) -> pd.DataFrame:
    """The `ablations` table: a row a trial, best first; what test people would say is left unknown."""
    study = context.study
    everyone = people(context)
    roles = roles_of(everyone, study.train, study.seed)
    ranked = sorted(outcomes, key=lambda o: o.metrics["smooth_mae_years"])
    return pd.DataFrame(
        [
            {
                "arm": f"trial {place}",
                "region": study.train.region,
                "loss": study.train.loss,
                "fraction": study.train.fraction,
                "seed": study.seed,
                "rule": OWN_RULE,
                "parameters": json.dumps(
                    {**outcome.parameters, "epochs_run": int(outcome.metrics["epoch"])},
                    sort_keys=True,
                ),
                "num_train": int(everyone["person_id"][roles == "train"].nunique()),
                "validate_mae_years": outcome.metrics["smooth_mae_years"],
                "test_mae_years": None,
                "test_r2": None,
            }
            for place, outcome in enumerate(ranked, start=1)
        ]
    )
