"""Train: the DCNN's regression of age on normal spines, on several workers; raw predictions of everyone.

Learns from normal people of the training split, chooses the best epoch by normal people of the validation
split, and never looks at the others until it is done.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd

from spineage.engine.training.ddp import Fitted, fit
from spineage.errors import BadStudy
from spineage.io.models.tracking import open_tracking
from spineage.run.context import Context, digest_of
from spineage.run.counts import Counts
from spineage.science.gap.familiar import fit_familiar
from spineage.science.network.network import build_network, describe, save_weights
from spineage.science.seeds import Stream, rng_of
from spineage.stages.train.loop import config_of, train_loop
from spineage.study import Train
from spineage.tables import KEY

SCHEMA = 7  # raise it when the same people and sections give another network
MIN_TRAIN = 8
"""Fewer people than this do not span ages; 8 is a smoke test, not a study."""


def recipe(context: Context) -> dict[str, Any]:
    """The sections, the seed, the cohort, and which of its scans have tensors."""
    return {
        "schema": SCHEMA,
        "seed": context.study.seed,
        **context.study.recipe("train"),
        "prepare": context.fingerprint("prepare"),
        "cohort": context.fingerprint("cohort"),
        "tensors": digest_of(
            [f"{row.scan_id}:{row.source_digest}" for row in people(context).itertuples()]
        ),
    }


def run(context: Context) -> Counts:
    """Train once; a run that was killed goes on from its last checkpoint."""
    everyone = people(context)
    roles = roles_of(everyone, context.study.train, context.study.seed)
    if not context.is_done("train"):
        _train(context, everyone, roles)
    return Counts(
        {
            "training_scans": int((roles == "train").sum()),
            "validation_scans": int((roles == "validate").sum()),
            "predicted": len(everyone),
        }
    )


def size(context: Context) -> float:
    """Scans seen in all epochs."""
    roles = roles_of(people(context), context.study.train, context.study.seed)
    return float((roles == "train").sum() * context.study.train.epochs)


def people(context: Context) -> pd.DataFrame:
    """The cohort's scans that have a tensor and an age, in the order of their keys.

    Raises BadStudy when a person is in two splits: the network would be judged on people it has seen.
    """
    cohort = context.read("cohort")
    torn = cohort.groupby("person_id")["split"].nunique()
    if (torn > 1).any():
        raise BadStudy(
            f"{(torn > 1).sum()} people are in more than one split; splits go by person: run cohort again"
        )
    found = context.having("tensors", cohort).dropna(subset=["age_years"]).drop(columns="part")
    return found.sort_values(KEY, ignore_index=True)


def roles_of(everyone: pd.DataFrame, train: Train, seed: int) -> pd.Series:
    """What training does with each scan: train, validate or nothing ("").

    A `fraction` below 1 keeps that share of the training people; a smaller share is part of a larger one, so
    arms of an ablation differ by people added. Raises BadStudy when too few are left to learn from.
    """
    normal = everyone["status"] == "normal"
    roles = everyone["split"].where(normal & everyone["split"].isin(["train", "validate"]), "")
    candidates = np.sort(everyone["person_id"][roles == "train"].unique())
    kept = rng_of(Stream.TRAINING_SHARE, seed).permutation(candidates)
    kept = kept[: int(np.ceil(train.fraction * len(kept)))]
    roles[(roles == "train") & ~everyone["person_id"].isin(kept)] = ""
    num_ages = everyone["age_years"][roles == "train"].nunique()
    if len(kept) < MIN_TRAIN or num_ages < 2:
        raise BadStudy(
            f"{len(kept)} normal people of the training split have a tensor and an age, {MIN_TRAIN} or more "
            "are needed: add scans, widen cohort.train, or set cohort.rule to everyone"
        )
    return roles


def _train(context: Context, everyone: pd.DataFrame, roles: pd.Series) -> None:
    study = context.study
    folder = context.folder("train")
    config = config_of(context, everyone, roles, study.train, study.seed)
    context.connect()
    tracking = open_tracking(study.cluster.mlflow, context.store, study.name)
    params = {"seed": study.seed, **study.recipe("train", "prepare")}
    with tracking.running("train", folder, params=params, tags=context.identity("train")) as run_id:
        logged: set[int] = set()

        def tell(metrics: dict[str, float]) -> None:
            if "epoch" in metrics:
                context.say(epoch_line(metrics, study.train.epochs))
                epoch = int(metrics["epoch"])
                if tracking.log_while_it_runs(run_id, metrics, epoch):
                    logged.add(epoch)

        fitted = fit(
            train_loop,
            config,
            workers=study.cluster.train_worker_range,
            gpus_per_worker=study.cluster.gpus_per_worker,
            labels=study.cluster.labels_of("train"),
            storage=context.store.uri(folder),
            name="run",
            report_to=tell,
            tell=lambda text: context.say(f"  {text}"),
        )
        rows = [(int(row["epoch"]), row) for row in fitted.state["history"]]
        _publish(context, everyone, roles, config, fitted, history_of(fitted))
        tracking.log_missing(run_id, [row for row in rows if row[0] not in logged])


def epoch_line(metrics: dict[str, float], epochs: int) -> str:
    """One line of a log."""
    return (
        f"  epoch {metrics['epoch']:.0f}/{epochs}: training MAE {metrics['train_mae_years']:.2f} y, "
        f"validation MAE {metrics['validate_mae_years']:.2f} y"
    )


def history_of(fitted: Fitted) -> pd.DataFrame:
    """The `history` table."""
    return pd.DataFrame(fitted.state["history"]).astype({"epoch": "int64"})


def predictions_of(everyone: pd.DataFrame, fitted: Fitted) -> pd.DataFrame:
    """The `predictions` table: raw, everyone with a tensor and an age."""
    columns = [*KEY, "person_id", "split", "status", "age_years"]
    return everyone[columns].assign(predicted_years=fitted.state["predicted_years"].numpy())


def _publish(
    context: Context,
    everyone: pd.DataFrame,
    roles: pd.Series,
    config: dict[str, Any],
    fitted: Fitted,
    history: pd.DataFrame,
) -> None:
    study = context.study
    model = build_network(
        study.train,
        study.prepare,
        age_mean_years=config["age_mean_years"],
        age_sd_years=config["age_sd_years"],
        seed=study.seed,
    )
    model.load_state_dict(fitted.state["weights"])
    features = fitted.state["features"].numpy()[(roles == "train").to_numpy()]
    told = {
        **describe(study.train, study.prepare),
        "age_mean_years": config["age_mean_years"],
        "age_sd_years": config["age_sd_years"],
        "best_epoch": int(fitted.state["best_epoch"]),
        "fingerprint": context.fingerprint("train"),
        "familiarity": fit_familiar(features),
    }
    context.publish(
        "train",
        {"history": history, "predictions": predictions_of(everyone, fitted)},
        {
            "network.safetensors": save_weights(model),
            "network.json": (json.dumps(told, indent=1) + "\n").encode(),
        },
    )
