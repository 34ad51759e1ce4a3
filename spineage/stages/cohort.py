"""cohort: who is normal, and who is used for what; one row a scan.

Splits and status belong to the person (settled at the first exam with a known age) and hold for every scan
of that person; num_findings and burden are those of the scan's own exam. A scan without an age has a split
and a group, and status unknown.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.engine.solo import run_alone
from spineage.errors import BadStudy
from spineage.io.findings import read_codebook
from spineage.science import clusters
from spineage.science.cohort import UNKNOWN, Rule, decide, first_scans
from spineage.science.conditions import Feature, aligned
from spineage.science.folds import draw_splits
from spineage.stages.context import Context
from spineage.tables import COHORT

SCHEMA = 1


def recipe(context: Context) -> dict[str, Any]:
    """The rule, the seed, the conditions and which scans there are."""
    return {
        "schema": SCHEMA,
        "seed": context.study.seed,
        **context.study.recipe("cohort"),
        "conditions": context.fingerprint("conditions"),
        "scans": context.table_digest(
            "scans", columns=["person_id", "exam_id", "age_years", "sex", "site"]
        ),
    }


def run(context: Context) -> dict[str, int]:
    """Decide, once. Raises BadStudy when there are no scans, or findings of none of them."""
    if not context.is_done("cohort"):
        _publish(context)
    audit = json.loads(context.asset("cohort", "audit.json"))
    if audit["outcome"] == "too_alike":
        context.say(
            f"  no groups can be told among {audit['splits_people']['train']} training people: "
            "only people of the lowest burden are normal, the others unknown"
        )
    for group in audit["groups"] if audit["outcome"] == "clustered" else []:
        verdict = "normal" if group["is_normal"] else "not normal"
        context.say(f"  {group['share']:.0%} {group['name']}: {verdict}")
    if audit["num_not_normal_by_person"]:
        context.say(
            f"  {audit['num_not_normal_by_person']} people of normal groups carry more than age explains"
        )
    return {
        "people": audit["population"]["num_people"],
        **{f"people_{name}": n for name, n in audit["status"].items()},
        **{f"people_to_{name}": n for name, n in audit["splits_people"].items()},
        "exams_without_findings_rows": audit["exams_without_findings_rows"],
    }


def _publish(context: Context) -> None:
    study = context.study
    scans = context.read("scans")
    if scans.empty:
        raise BadStudy("there are no scans to draw a cohort from: ingest accepted none")
    conditions = context.read("conditions")
    _require_match(scans, conditions, has_findings=study.inputs.findings is not None)
    features = read_codebook()[0].features
    people, matrix_PF = _people(scans, conditions, features)
    shares = {"train": study.cohort.train, "validate": study.cohort.validate_,
              "calibrate": study.cohort.calibrate, "test": study.cohort.test}  # fmt: skip
    people["split"] = people.person_id.map(draw_splits(people, shares, study.seed))
    context.connect()
    people, audit = run_alone(decide, people, matrix_PF, features, _rule(context), study.seed)
    exams = set(zip(conditions.person_id, conditions.exam_id, strict=True))
    seen = scans[["person_id", "exam_id"]].drop_duplicates()
    audit["exams_without_findings_rows"] = sum(
        key not in exams for key in zip(seen.person_id, seen.exam_id, strict=True)
    )
    audit["splits_people"] = {
        str(k): int(v) for k, v in people.split.value_counts().sort_index().items()
    }
    table = _by_scan(
        scans, people, conditions, len(features), has_findings=study.inputs.findings is not None
    )
    context.publish(
        "cohort", {"cohort": table}, {"audit.json": json.dumps(audit, indent=1).encode()}
    )


def _require_match(scans: pd.DataFrame, conditions: pd.DataFrame, *, has_findings: bool) -> None:
    """A findings table of other ids would make everybody healthy: it is refused."""
    listed = set(zip(conditions.person_id, conditions.exam_id, strict=True))
    scanned = set(zip(scans.person_id, scans.exam_id, strict=True))
    if has_findings and not listed & scanned:
        raise BadStudy(
            f"none of the {len(listed)} exams of the findings table is among the {len(scanned)} exams "
            "scanned: check its person and exam columns, inputs.exam_key and the key"
        )


def _people(
    scans: pd.DataFrame, conditions: pd.DataFrame, features: tuple[Feature, ...]
) -> tuple[pd.DataFrame, npt.NDArray[np.float64]]:
    """One row a person, at the exam that settles the status, and the condition vectors."""
    people = first_scans(scans)
    matrix_PF, about = aligned(people, conditions, len(features))
    return pd.concat([people[["person_id", "age_years", "sex", "site"]], about], axis=1), matrix_PF


def _rule(context: Context) -> Rule:
    c = context.study.cohort
    recipe = clusters.Recipe(
        num_neighbors=c.num_neighbors,
        num_components=c.num_components,
        min_dist=c.min_dist,
        min_cluster_share=c.min_cluster_share,
        min_samples=c.min_samples,
        selection=c.selection,
    )
    return Rule(
        c.rule, c.min_share, c.low_burden_quantile, c.max_burden_ratio, c.max_person_ratio, recipe
    )


def _by_scan(
    scans: pd.DataFrame,
    people: pd.DataFrame,
    conditions: pd.DataFrame,
    num_features: int,
    *,
    has_findings: bool,
) -> pd.DataFrame:
    """The person's split, group and status on every scan, sorted by scan; unknown status without an age."""
    scans = scans.sort_values(["scan_id", "source_digest"]).reset_index(drop=True)
    settled = people[
        ["person_id", "split", "cluster", "cluster_name", "status", "umap_x", "umap_y"]
    ]
    table = scans.merge(settled, on="person_id", how="left", validate="many_to_one")
    table.loc[table.age_years.isna(), "status"] = UNKNOWN
    _, about = aligned(scans, conditions, num_features)
    is_read = about.is_coded & has_findings
    table["num_findings"] = about.num_findings.astype("Int64").where(is_read)
    table["burden"] = about.burden.where(is_read)
    return table[COHORT.schema.names]
