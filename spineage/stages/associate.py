"""associate: SAG against conditions and lifestyle, in people the network was not trained on."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from spineage.engine.tasks import run_alone
from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import digest_of_file, read_codebook, read_lifestyle
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.science.cohort.conditions import aligned
from spineage.science.gap.associate import estimate_all
from spineage.science.gap.exposures import Exposure, of_conditions, of_lifestyle
from spineage.science.gap.sample import people_to_study

SCHEMA = 3


def recipe(context: Context) -> dict[str, Any]:
    """The models, the scores and which scans have one, the conditions, the cohort, the lifestyle table."""
    location = context.study.inputs.lifestyle
    return {
        "schema": SCHEMA,
        **context.study.recipe("associate"),
        "score": context.fingerprint("score"),
        "scores": context.table_digest("scores"),
        "cohort": context.fingerprint("cohort"),
        "conditions": context.fingerprint("conditions"),
        "lifestyle": digest_of_file(location, "lifestyle") if location else None,
    }


def run(context: Context) -> Counts:
    """Estimate, once. Raises BadStudy when nobody out of sample has a SAG."""
    if not context.is_done("associate"):
        _publish(context)
    table = context.read("associations", ["q", "is_small"])
    sample = json.loads(context.asset("associate", "sample.json"))
    not_tested = json.loads(context.asset("associate", "not_tested.json"))
    return Counts(
        {
            "people": sample["num_people"],
            "tested": len(table),
            "below_q_0.05": int((table.q < 0.05).sum()),
            "small": int(table.is_small.sum()),
            "not_tested": len(not_tested),
        }
    )


def _publish(context: Context) -> None:
    people = people_to_study(context.read("scores"))
    if people.empty:
        raise BadStudy(
            "no scan outside training and validation has a spine age gap: score more scans, or give ages"
        )
    status = context.read("cohort", ["person_id", "status"]).drop_duplicates("person_id")
    people = people.merge(status, on="person_id", how="left", validate="one_to_one")
    exposures, refused = _exposures(context, people)
    settings = context.study.associate
    context.connect()
    table, not_tested = run_alone(
        _estimate, people, exposures, settings.min_exposed, settings.spline_df
    )
    sample = {
        "num_people": len(people),
        "roles": people.role.value_counts().sort_index().to_dict(),
        "status": people.status.fillna("not in the cohort").value_counts().sort_index().to_dict(),
    }
    context.publish(
        "associate",
        {"associations": table},
        {"not_tested.json": _json(refused + not_tested), "sample.json": _json(sample)},
    )


def _estimate(
    people: pd.DataFrame, exposures: list[Exposure], min_exposed: int, spline_df: int
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    return estimate_all(people, exposures, min_exposed=min_exposed, spline_df=spline_df)


def _exposures(
    context: Context, people: pd.DataFrame
) -> tuple[list[Exposure], list[dict[str, str]]]:
    """Conditions of each person's scan and lifestyle factors of each person, aligned with people."""
    study = context.study
    found: list[Exposure] = []
    refused: list[dict[str, str]] = []
    if study.inputs.findings:
        features = read_codebook()[0].features
        matrix_PF, about = aligned(people, context.read("conditions"), len(features))
        found += of_conditions(matrix_PF, about.is_coded.to_numpy(), features)
    if study.inputs.lifestyle:
        keyed = Keyed(load_key(study))
        factors = read_lifestyle(study.inputs.lifestyle, keyed, study.associate.lifestyle)
        lifestyle, refused = of_lifestyle(
            factors.reindex(people.person_id).reset_index(drop=True),
            are_named=study.associate.lifestyle is not None,
        )
        found += lifestyle
    return found, refused


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
