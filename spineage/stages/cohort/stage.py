"""cohort: who is normal, and who is used for what; one row a scan.

Splits and status belong to the person (settled at the first exam with a known age) and hold for every scan
of that person; num_findings and burden are those of the scan's own exam. A scan without an age has a split
and a group, and status unknown.

`status` is what training uses: the consensus of the stability run, or the single fit when the study says so
(stability.decides) or nothing is drawn again. The audit is published as JSON and as a page of its own.
"""

from __future__ import annotations

import difflib
import io
import json
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.engine.crew import Crew
from spineage.errors import BadStudy
from spineage.io.people.tables import digest_of_file, read_codebook, read_splits
from spineage.io.storage.spreadsheet import csv_of
from spineage.report.chapters.cohort_page import page
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.science.cohort import clusters
from spineage.science.cohort.arithmetic import arithmetic_in_use, pinned_environment
from spineage.science.cohort.burden import with_burdens
from spineage.science.cohort.conditions import Feature, aligned
from spineage.science.cohort.decide import Decision, audited, can_be_judged, decide, first_scans
from spineage.science.cohort.rules import Rule
from spineage.science.cohort.splits import bracket, draw_splits
from spineage.science.cohort.stability import Sample
from spineage.science.cohort.status import UNKNOWN
from spineage.stages.cohort.stability import (
    Stability,
    draw_again,
    find_all_neighbours,
    folder_of,
    grid_of,
)
from spineage.study import Cohort
from spineage.tables import COHORT, KEY

SCHEMA = 5
PAGE, SPLITS_FILE, RULES_FILE = "audit.html", "splits.csv", "rules.csv"
OF_PERSON = ["person_id", "split", "cluster", "cluster_name", "status", "fit_status", "consensus",
             "normal_probability", "umap_x", "umap_y"]  # fmt: skip


def recipe(context: Context) -> dict[str, Any]:
    """The rule, how it is drawn again, the seed, the conditions, and which scans there are."""
    return {**_base_recipe(context), **context.study.recipe("stability")}


def _base_recipe(context: Context) -> dict[str, Any]:
    splits = context.study.inputs.splits
    return {
        "schema": SCHEMA,
        "seed": context.study.seed,
        **context.study.recipe("cohort"),
        "conditions": context.fingerprint("conditions"),
        "scans": context.table_digest(
            "scans", columns=["person_id", "exam_id", "age_years", "sex", "site"]
        ),
        "splits": digest_of_file(splits, "splits") if splits else None,
    }


def run(context: Context) -> Counts:
    """Decide, once. Raises BadStudy when there are no scans, or findings of none of them."""
    if not context.is_done("cohort"):
        _publish(context)
    audit = json.loads(context.asset("cohort", "audit.json"))
    _say(context, audit)
    return Counts(
        {
            "people": audit["population"]["num_people"],
            **{f"people_{name}": n for name, n in audit["status"].items()},
            **{f"people_to_{name}": n for name, n in audit["splits_people"].items()},
            "exams_without_findings_rows": audit["exams_without_findings_rows"],
        }
    )


def _say(context: Context, audit: dict[str, Any]) -> None:
    if audit["outcome"] == "too_alike":
        context.say(
            f"  no groups can be told among {audit['splits_people'].get('train', 0)} training people: "
            + (
                "all are unknown, as the paper's rule has no guard"
                if audit["rule"]["kind"] == "paper"
                else "only people of the lowest burden are normal, the others unknown"
            )
        )
    for group in audit["groups"] if audit["outcome"] == "clustered" else []:
        verdict = {True: "normal", False: "not normal", None: "not judged"}[group["is_normal"]]
        context.say(f"  {group['share']:.0%} {group['name']}: {verdict}")
    if audit["outcome"] == "few_people":
        context.say(
            f"  {audit['splits_people'].get('train', 0)} training people are too few for groups to decide "
            f"(cohort.min_people is {audit['rule']['min_people']}): each person is judged by burden for "
            "their age"
        )
    noise = audit["noise_share"]
    if audit["is_placed_noise_high"]:
        context.say(
            f"  {noise['placed']:.0%} of the people placed among the groups are of none, of those fitted "
            f"{noise['fitted']:.0%}: those who train say little about them"
        )
    if audit["num_not_normal_by_disease"]:
        context.say(
            f"  {audit['num_not_normal_by_disease']} people not normal by a finding that no age explains"
        )
    if audit["num_not_normal_by_person"]:
        context.say(
            f"  {audit['num_not_normal_by_person']} people not normal by the rule for one person alone"
        )
    if drawn := audit["stability"]:
        context.say(
            f"  drawn {drawn['num_draws']} times: {audit['status']['uncertain']} people are uncertain"
        )
    context.say(f"  audit: {context.store.uri(context.folder('cohort'), PAGE)}")


def _publish(context: Context) -> None:
    study = context.study
    scans = context.read("scans")
    if scans.empty:
        raise BadStudy("there are no scans to draw a cohort from: ingest accepted none")
    conditions = context.read("conditions")
    has_findings = study.inputs.findings is not None
    _require_match(scans, conditions, has_findings=has_findings)
    features = read_codebook()[0].features
    people, matrix_PF = _people(scans, conditions, features)
    people["split"] = people.person_id.map(_splits(context, scans, people))
    rule = rule_of(study.cohort)
    _require_known(rule.disease_findings, {feature.finding for feature in features})
    context.connect()
    folder = folder_of(context, _base_recipe(context))
    arithmetic = study.cohort.arithmetic
    with Crew(
        study.cluster.cohort_workers,
        pinned_environment(arithmetic),
        partial(arithmetic_in_use, arithmetic),
    ) as crew:
        fitted = can_be_judged(people)[1]
        near = find_all_neighbours(context, crew, matrix_PF, fitted, rule, folder)
        decision = crew.alone(decide, people, matrix_PF, features, rule, study.seed, near)
        stability = None
        if near:
            people = with_burdens(people, matrix_PF, features, rule.disease_findings)
            settings = tuple(grid_of(context).settings)
            sample = Sample(people, matrix_PF, near, rule, settings, study.seed)
            stability = draw_again(context, crew, decision, sample, folder)
    decision = _settled(decision, stability, decides=study.stability.decides)
    audit = audited(decision, matrix_PF, features, rule)
    audit["arithmetic"] = {
        "arithmetic": arithmetic,
        "libc": sorted({said["libc"] for said in crew.answers}),
    }
    audit["stability"] = stability.audit if stability else None
    audit["exams_without_findings_rows"] = _num_not_listed(scans, conditions)
    audit["splits_people"] = {
        str(k): int(v) for k, v in people.split.value_counts().sort_index().items()
    }
    table = _by_scan(scans, decision.people, conditions, len(features), has_findings=has_findings)
    context.publish(
        "cohort",
        {"cohort": table},
        {
            "audit.json": json.dumps(audit, indent=1, allow_nan=False).encode(),
            SPLITS_FILE: _splits_file(decision.people),
            RULES_FILE: _rules_file(decision),
            PAGE: page(study, table, scans, audit).encode(),
        },
    )


def _splits(context: Context, scans: pd.DataFrame, people: pd.DataFrame) -> pd.Series:
    c = context.study.cohort
    shares = {"train": c.train, "validate": c.validate_, "calibrate": c.calibrate, "test": c.test}
    sites = sorted(set(scans.site.dropna()))
    for site in c.test_sites:
        if site not in sites:
            near = difflib.get_close_matches(site, sites, n=1, cutoff=0.0)
            raise BadStudy(
                f"cohort.test_sites names {site!r}, where nobody was scanned"
                + (f": did you mean {near[0]!r}?" if near else "")
            )
    held_out = frozenset(scans.person_id[scans.site.isin(c.test_sites)])
    location = context.study.inputs.splits
    kept = read_splits(location) if location else {}
    if kept:
        num_kept = int(people.person_id.isin(kept).sum())
        if not num_kept:
            raise BadStudy(
                "inputs.splits lists none of this study's people: it is of others, or their ids were hashed "
                "with another key; people who were in test would be drawn anew, into training too"
            )
        context.say(
            f"  splits kept of {num_kept} people, drawn of {len(people) - num_kept}; "
            f"{len(kept) - num_kept} of the list are not here"
        )
    return draw_splits(people, shares, context.study.seed, held_out=held_out, kept=kept)


def _splits_file(people: pd.DataFrame) -> bytes:
    """What was drawn, to be named as inputs.splits when people are added; keyed ids only."""
    drawn = people.assign(decade=bracket(people.age_years))
    columns = ["person_id", "split", "decade", "sex", "site"]
    return csv_of(drawn.sort_values("person_id")[columns])


def _rules_file(decision: Decision) -> bytes:
    """The status of each person under every rule that these data answer to, for ablations."""
    by_rule = decision.others.assign(person_id=decision.people.person_id)
    ordered = by_rule[["person_id", *decision.others]].sort_values("person_id")
    return csv_of(ordered)


def status_by(context: Context, rule: str) -> pd.Series:
    """The status of each person, by person_id, under another rule than the study's.

    Raises BadStudy when the cohort could not be judged by it.
    """
    table = pd.read_csv(io.BytesIO(context.asset("cohort", RULES_FILE)), dtype=str)
    known = list(table.columns[1:])
    if rule not in known:
        raise BadStudy(
            f"ablate.rules names {rule}, by which this cohort cannot be judged (people may be too few to "
            f"cluster, or cohort.rule is everyone); it can be by {', '.join(known) or 'none'}"
        )
    return table.set_index("person_id")[rule]


def _settled(decision: Decision, stability: Stability | None, *, decides: bool) -> Decision:
    """The decision with what the stability run adds, and the status that training uses."""
    people = decision.people.assign(
        fit_status=decision.people.status, consensus=UNKNOWN, normal_probability=np.nan
    )
    if stability:
        people = people.assign(
            consensus=stability.consensus, normal_probability=stability.normal_probability
        )
        if decides:
            people = people.assign(status=people.consensus)
    return Decision(people, decision.verdict, decision.others)


def _num_not_listed(scans: pd.DataFrame, conditions: pd.DataFrame) -> int:
    exams = set(zip(conditions.person_id, conditions.exam_id, strict=True))
    seen = scans[["person_id", "exam_id"]].drop_duplicates()
    return sum(key not in exams for key in zip(seen.person_id, seen.exam_id, strict=True))


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
    matrix_PF, counts = aligned(people, conditions, len(features))
    return pd.concat([people[["person_id", "age_years", "sex", "site"]], counts], axis=1), matrix_PF


def rule_of(c: Cohort) -> Rule:
    """The rule that a study's section names."""
    recipe = clusters.ClusterRecipe(
        num_neighbors=c.num_neighbors,
        num_components=c.num_components,
        min_dist=c.min_dist,
        min_cluster_share=c.min_cluster_share,
        min_samples=c.min_samples,
        selection=c.selection,
    )
    return Rule(
        c.rule, c.min_share, c.low_burden_quantile, c.max_burden_ratio, c.max_person_ratio,
        c.min_person_excess, recipe, disease_findings=c.disease_findings, min_people=c.min_people,
        min_group_people=c.min_group_people, noise=c.noise, max_percentile=c.max_percentile,
        percentile_window_years=c.percentile_window_years,
    )  # fmt: skip


def _require_known(findings: tuple[str, ...], known: set[str]) -> None:
    for finding in findings:
        if finding not in known:
            [near] = difflib.get_close_matches(finding, sorted(known), n=1, cutoff=0.0)
            raise BadStudy(
                f"cohort.disease_findings names {finding!r}, which the codebook does not have: did you mean "
                f"{near!r}?"
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
    scans = scans.sort_values(KEY).reset_index(drop=True)
    table = scans.merge(people[OF_PERSON], on="person_id", how="left", validate="many_to_one")
    table.loc[table.age_years.isna(), ["status", "fit_status", "consensus"]] = UNKNOWN
    _, counts = aligned(scans, conditions, num_features)
    is_read = counts.is_coded & has_findings
    table["num_findings"] = counts.num_findings.astype("Int64").where(is_read)
    table["burden"] = counts.burden.where(is_read)
    return table[COHORT.schema.names]
