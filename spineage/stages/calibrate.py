"""calibrate: age-bias correction and intervals from held-out people; the model bundle, published.

Reads raw predictions of normal people of the calibration split, and of no others. Writes the calibration
table, `metrics.json` and `bundle/`, and registers the bundle in MLflow as a version of the study's model,
the new champion.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import Any

import numpy as np
import pandas as pd

from spineage.errors import BadStudy, NotYet
from spineage.io.models.bundle import (
    BUNDLE_FILES,
    DIGEST,
    Bundle,
    bundle_files,
    digest_of_files,
    mark_of,
)
from spineage.io.models.tracking import MODEL, model_of, open_tracking, tracking_uri
from spineage.io.storage import pointers
from spineage.io.storage.pointers import read_object
from spineage.run.context import Context, digest_of
from spineage.run.counts import Counts
from spineage.science.gap.appraise import appraise
from spineage.science.gap.bias import AgeBias, calibration_people, fit_age_bias
from spineage.science.gap.conformal import Intervals, fit_intervals
from spineage.science.gap.score import Familiarity, domain_of, self_test
from spineage.science.network.network import load_network
from spineage.science.seeds import Stream, rng_of
from spineage.segmenter.folder import segmenter_of
from spineage.tables import KEY
from spineage.uris import digest_of_place

SCHEMA = 2
BUNDLE_FOLDER = re.compile(r"calibrate/[\w-]+/bundle")


def recipe(context: Context) -> dict[str, Any]:
    """The trained network, the segmenter before it, and how both are judged."""
    return {
        "schema": SCHEMA,
        "seed": context.study.seed,
        **context.study.recipe("calibrate"),
        "train": context.fingerprint("train"),
    }


def run(context: Context) -> Counts:
    """Calibrate once; register the bundle wherever this study's registry is, once."""
    if not context.is_done("calibrate"):
        _publish(context)
    _register(context)
    _point(context)
    row = context.read("calibration").iloc[0]
    asked = context.study.calibrate.coverage
    if row.nominal_coverage < asked:
        context.say(
            f"  intervals promise {row.nominal_coverage:.0%}, not {asked:.0%}: "
            f"{row.num_people} people to calibrate on can promise no more"
        )
    return Counts({"calibration_people": int(row.num_people), "degree": int(row.degree)})


def _publish(context: Context) -> None:
    predictions = context.read("predictions")
    people = calibration_people(predictions)
    section = context.study.calibrate
    bias = fit_age_bias(people, max_degree=section.max_degree)
    intervals = fit_intervals(
        people["age_years"].to_numpy(float),
        people["predicted_years"].to_numpy(float),
        coverage=section.coverage,
        num_bins=section.num_bins,
    )
    files = bundle_files(_bundle(context, predictions, bias, intervals))
    rng = rng_of(Stream.LIMITS, context.study.seed)
    metrics = appraise(predictions, bias, intervals, rng=rng)
    context.publish(
        "calibrate",
        {"calibration": pd.DataFrame([_row(bias, intervals, digest_of_files(files))])},
        {
            "metrics.json": (json.dumps(metrics, indent=1) + "\n").encode(),
            **{f"bundle/{name}": content for name, content in files.items()},
        },
    )


def _row(bias: AgeBias, intervals: Intervals, digest: str) -> dict[str, Any]:
    return {
        "bundle_digest": digest,
        "degree": bias.degree,
        "coefficients": list(bias.coefficients),
        "covariance": [value for row in bias.covariance for value in row],
        "centre_years": bias.centre_years,
        "num_people": bias.num_people,
        "age_low_years": bias.age_low_years,
        "age_high_years": bias.age_high_years,
        "bin_edges_years": list(intervals.edges_years),
        "half_width_years": list(intervals.half_width_years),
        "nominal_coverage": intervals.coverage,
    }


def _bundle(
    context: Context, predictions: pd.DataFrame, bias: AgeBias, intervals: Intervals
) -> Bundle:
    """Everything a scan needs to become a score, from the training stage's files and the fits."""
    weights = context.asset("train", "network.safetensors")
    network = json.loads(context.asset("train", "network.json"))
    familiarity = _familiarity(context, network.pop("familiarity"))
    used = predictions[predictions["status"] == "normal"]
    trained_on = used[used["split"] == "train"]
    scans = context.read("scans", [*KEY, "is_phantom"]).merge(trained_on[KEY], on=KEY)
    segmenter = segmenter_of(context.study.segment)
    cohort = context.fingerprint("cohort")
    return Bundle(
        weights=weights,
        network={name: network[name] for name in ("channels", "pools", "dropout")},
        region=context.study.train.region,
        prepare=context.study.recipe("prepare")["prepare"],
        segmenter={
            **{name: segmenter[name] for name in ("digest", "schema", "labels", "domain")},
            "mode": context.study.segment.mode,
            "mirror": context.study.segment.mirror,
        },
        domain=domain_of(scans["is_phantom"].to_numpy()),
        train_age_years=(
            float(trained_on["age_years"].min()),
            float(trained_on["age_years"].max()),
        ),
        cohort=cohort,
        bias=bias,
        intervals=intervals,
        familiarity=familiarity,
        roles={
            mark_of(person, cohort): split
            for person, split in zip(used["person_id"], used["split"], strict=True)
        },
        self_test_years=self_test(load_network(weights, network), context.study.prepare.shape),
    )


def _familiarity(context: Context, training_scans: dict[str, Any]) -> Familiarity:
    section = context.study.calibrate
    usual = float(np.quantile(training_scans["train_distances"], section.max_distance_quantile))
    return Familiarity(
        np.array(training_scans["mean"], np.float64),
        np.array(training_scans["precision"], np.float64),
        usual * section.distance_slack,
    )


def note_of(context: Context) -> str:
    """Where it is noted that the bundle is in this study's registry."""
    uri = tracking_uri(context.study.cluster.mlflow, context.store)
    return f"{context.folder('calibrate')}/registered/{digest_of_place(uri)}.json"


def _register(context: Context) -> None:
    """Into the registry this study names, unless this bundle is known to be there already."""
    folder, note = context.folder("calibrate"), note_of(context)
    has_registry = bool(context.study.cluster.mlflow) or context.store.exists("mlflow.db")
    if has_registry and _noted(context) == model_of(context.study.name):
        return
    files = {name: context.asset("calibrate", f"bundle/{name}") for name in BUNDLE_FILES}
    metrics = context.asset("calibrate", "metrics.json")
    tracking = open_tracking(context.study.cluster.mlflow, context.store, context.study.name)
    params = {"seed": context.study.seed, **context.study.recipe("calibrate")}
    tags, fitted = context.identity("calibrate"), _fitted(context)
    with tracking.running("calibrate", folder, params=params, tags=tags) as run:
        headline = json.loads(metrics).get("headline", {})
        tracking.log_metrics(run, {k: v for k, v in headline.items() if isinstance(v, int | float)})
        tracking.log_files(run, {"metrics.json": metrics})
        version = tracking.register(
            run, files, digest_of_files(files), {**tags, **fitted}, _described(fitted)
        )
    noted = {"version": version, "model": tracking.model}
    context.store.write(note, json.dumps(noted).encode())
    context.say(f"  the bundle is version {version} of {tracking.model}, the champion")


def _noted(context: Context) -> str:
    """The model that the note says this bundle is a version of, "" where there is none. Older notes name
    none, when all models had one name."""
    with suppress(FileNotFoundError, BadStudy):
        return str(read_object(context.store, note_of(context), "remove it").get("model", MODEL))
    return ""


def _fitted(context: Context) -> dict[str, str]:
    """The correction and the intervals, as tags of a version of the model: lists as JSON."""
    row = context.read("calibration").iloc[0]
    lists = ("coefficients", "bin_edges_years", "half_width_years")
    plain = (
        "degree", "centre_years", "num_people", "age_low_years", "age_high_years", "nominal_coverage",
    )  # fmt: skip
    return {
        **{f"bias.{name}": str(row[name]) for name in plain},
        **{f"bias.{name}": json.dumps([float(v) for v in row[name]]) for name in lists},
    }


def _described(fitted: dict[str, str]) -> str:
    """A sentence for the model's page."""

    def listed(name: str) -> str:
        return ", ".join(f"{value:.3g}" for value in json.loads(fitted[f"bias.{name}"]))

    return (
        f"Age-bias correction of degree {fitted['bias.degree']}, coefficients "
        f"{listed('coefficients')} about {float(fitted['bias.centre_years']):.1f} years, fitted on "
        f"{fitted['bias.num_people']} people of {float(fitted['bias.age_low_years']):.0f} to "
        f"{float(fitted['bias.age_high_years']):.0f} years whom the network never saw; intervals of "
        f"{float(fitted['bias.nominal_coverage']):.0%}, half widths {listed('half_width_years')} years."
    )


def latest_bundle(context: Context) -> tuple[str, str]:
    """Folder and digest of the bundle that this study's sections published last.

    New exams make a new cohort, and with it new addresses for all that is trained on it; they are scored
    by the model there is, without training again. Raises BadStudy when the sections that make a model
    (cohort, train, calibrate, seed) have published none.
    """
    pointer, remedy = _pointer(context), "run `spineage calibrate` again, which writes it anew"
    try:
        pointed = pointers.read_object(context.store, pointer, remedy)
    except FileNotFoundError:
        raise NotYet(
            "no model has been published with this study's cohort, train and calibrate sections: run "
            "`spineage calibrate` first, or name a model in score.model"
        ) from None
    folder, digest = str(pointed.get("folder")), str(pointed.get("digest"))
    if not BUNDLE_FOLDER.fullmatch(folder) or not pointers.SHA256.fullmatch(digest):
        raise pointers.damaged(pointer, remedy)
    return folder, digest


def _point(context: Context) -> None:
    digest = context.asset("calibrate", f"bundle/{DIGEST}").decode().strip()
    target = {"folder": f"{context.folder('calibrate')}/bundle", "digest": digest}
    context.store.point(_pointer(context), json.dumps(target).encode())


def _pointer(context: Context) -> str:
    sections = {"seed": context.study.seed, **context.study.recipe("cohort", "train", "calibrate")}
    return f"calibrate/latest/{digest_of(sections)}.json"
