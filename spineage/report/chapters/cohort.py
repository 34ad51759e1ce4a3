"""Who counts as normal: the map, the groups against the source, how firm it is, what others would say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from spineage.report.chapters.cohort_stability import alternatives, stability
from spineage.report.figures.cohort import (
    burden_by_cluster,
    cluster_shares,
    cohort_map,
    one_row_a_person,
)
from spineage.report.figures.cohort_audit import ages_by_group, findings_by_group
from spineage.report.page import Block, Chapter, Heading, Text, drawing, table
from spineage.report.words import DASH, counted, number, percent, readable
from spineage.science.frames import rows_of
from spineage.study import Cohort, Study

RULES = {
    "clusters": (
        "A cluster of {group} training people or more is normal when its people together carry at most "
        "{ratio} times the burden of findings expected at their ages. {alone} Whoever else carries as little "
        "as the lowest {guard} is normal whatever the cluster. With fewer than {people} training people no "
        "cluster decides, and each person is judged alone."
    ),
    "paper": (
        "What is known of the paper, taken literally: clusters above {share} that carry at most {ratio} "
        "times the burden expected at their ages are normal, everybody else is not, and nothing guards "
        "people without findings."
    ),
    "burden": (
        "Each person is judged alone. {alone} Whoever else carries as little as the lowest {guard} is normal."
    ),
    "percentile": (
        "Each person is judged alone: normal up to the {percentile} percentile of burden among training "
        "people of that age (within {window} years) and sex, and with as little as the lowest {guard}; not "
        "normal with a finding that no age explains, whatever the burden."
    ),
    "everyone": "Everybody with a known age is normal: nobody was left out for their findings.",
}


OUTCOMES = {
    "few_people": "too few people train for groups to decide, so each person is judged by burden for the age",
}
ALONE = (
    "A person is not normal who carries more than {person} times the burden expected at that age, and "
    "{excess} more, over the whole spine or in one region, or who has a finding that no age explains, such "
    "as a fracture."
)


def chapter(cohort: pd.DataFrame, audit: Mapping[str, Any], study: Study) -> Chapter:
    """Everything about the normal cohort; the same in the report and on the page of its own."""
    people = one_row_a_person(cohort)
    blocks: list[Block] = [Text(_words(people, study))]
    if people["umap_x"].notna().sum() > 1:
        blocks += _maps(cohort)
    else:
        blocks.append(Text(("No map is drawn: nobody was clustered in this study.",), "note"))
    if audit:
        blocks += _audit(cohort, audit)
        blocks += stability(cohort, audit, study)
        blocks += alternatives(audit, study.cohort.rule)
    return Chapter("cohort", "Who is normal", tuple(blocks))


def _words(people: pd.DataFrame, study: Study) -> tuple[str, ...]:
    c = study.cohort
    num_normal = int((people["status"] == "normal").sum())
    num_uncertain = int((people["status"] == "uncertain").sum())
    found = (
        f"{num_normal:,} of {counted(len(people), 'person', 'people')} have a normal spine"
        + (f", {num_uncertain:,} are uncertain" if num_uncertain else "")
        + "."
    )
    mapped = (
        "Radiology findings place each person among others (Canberra distance, UMAP); HDBSCAN finds the "
        f"clusters. Those above {percent(c.min_share)} of the population are kept, the rest are merged. "
    )
    return (f"{mapped if people['umap_x'].notna().any() else ''}{found}", rule_words(c))


def rule_words(c: Cohort) -> str:
    """The study's rule in a sentence, with its limits."""
    alone = ALONE.format(person=f"{c.max_person_ratio:g}", excess=f"{c.min_person_excess:g}")
    said = RULES[c.rule].format(
        alone=alone,
        group=c.min_group_people,
        people=f"{c.min_people:,}",
        ratio=f"{c.max_burden_ratio:g}",
        guard=percent(c.low_burden_quantile),
        share=percent(c.min_share),
        percentile=percent(c.max_percentile),
        window=f"{c.percentile_window_years:g}",
    )
    return (
        f"Rule “{c.rule}”. {said} Which clusters count as normal is our documented rule; the paper gives "
        "none."
    )


def _maps(cohort: pd.DataFrame) -> list[Block]:
    shares = cluster_shares(cohort)
    named = "; ".join(f"{row.cluster_name} {percent(row.share)}" for row in rows_of(shares))
    return [
        drawing(
            cohort_map(cohort),
            "The map of findings: one mark per person, coloured by cluster, with the cluster's "
            "dominant conditions and its share of the people who were clustered. Circles are normal "
            "spines, crosses are not, triangles are uncertain. The axes are the two widest directions of "
            "the UMAP embedding that was clustered; distances far apart mean little.",
            f"Map of clusters: {named}",
        ),
        drawing(
            burden_by_cluster(cohort),
            "Findings burden of each person by cluster.",
            "Findings burden of each person by cluster",
        ),
    ]


def _audit(cohort: pd.DataFrame, audit: Mapping[str, Any]) -> list[Block]:
    rows = [_group("source population", audit["population"], None, None)]
    rows += [
        _group(g["name"], g, g["observed_over_expected"], g["is_normal"]) for g in audit["groups"]
    ]
    columns = (
        "group", "people", "share", "median age", "women", "median findings", "median burden",
        "burden / expected", "normal",
    )  # fmt: skip
    blocks: list[Block] = [
        Heading("The groups against the people they came from"),
        table(
            "Audit of the groups against the population; burden / expected compares with others "
            "of the same age.",
            columns,
            rows,
        ),
    ]
    if audit["findings"]["conditions"]:
        blocks.append(
            drawing(
                findings_by_group(audit),
                "How many have each condition, in per cent: the source population first, then each "
                "group. Listed are the conditions that set some group apart most.",
                "Table of shades: share of each group with each condition, beside the population's",
            )
        )
    if (cohort["cluster"] != -2).any() and cohort["age_years"].notna().any():
        blocks.append(
            drawing(
                ages_by_group(cohort),
                "Age and sex of each group (bars, stacked by sex) against the source population (line). A "
                "group that is only young or only old is a matter of age and not of illness.",
                "Histograms of age by sex for each group, with the population's outline",
            )
        )
    blocks.append(Text(_verdict_words(audit), "note"))
    return blocks


def _verdict_words(audit: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        f"Outcome of the clustering: {OUTCOMES.get(audit['outcome'], readable(audit['outcome']))}. "
        f"{counted(audit['num_normal_by_guard'], 'person is', 'people are')} normal by the guard "
        f"for low burden (at most {audit['low_burden_limit']:g}): people without findings are "
        "alike, form an island of their own, and a small island would otherwise be called "
        f"abnormal. {counted(audit['num_not_normal_by_person'], 'person is', 'people are')} not normal by "
        "the rule for one person alone, "
        f"{audit['num_not_normal_by_disease']:,} of all by a finding that no age explains.",
        f"Noise: {audit['noise']}. {_noise_words(audit)}",
        _arithmetic_words(audit["arithmetic"]),
    )


def _noise_words(audit: Mapping[str, Any]) -> str:
    share = audit["noise_share"]
    if share["fitted"] is None or share["placed"] is None:
        return "Nobody was placed among groups."
    told = (
        f"Of the people who trained the groups {percent(share['fitted'])} are of none, of those placed among "
        f"them {percent(share['placed'])}."
    )
    if audit["is_placed_noise_high"]:
        told += " Far more: those who train say little about the people placed."
    return told


def _arithmetic_words(in_use: Mapping[str, Any]) -> str:
    return (
        f"Computed with the arithmetic of {in_use['arithmetic']} on whatever machine; what is not pinned is "
        f"the system's libm ({', '.join(in_use['libc'])})."
    )


def _group(
    name: str, group: Mapping[str, object], ratio: float | None, is_normal: bool | None
) -> tuple[str, ...]:
    def shown(key: str, digits: int) -> str:
        value = group[key]
        return DASH if value is None else number(float(str(value)), digits)

    share = group["share_female"]
    return (
        name,
        f"{group['num_people']:,}",
        percent(float(str(group["share"]))),
        shown("median_age_years", 0),
        DASH if share is None else percent(float(str(share))),
        shown("median_findings", 0),
        shown("median_burden", 1),
        number(ratio),
        DASH if is_normal is None else "yes" if is_normal else "no",
    )
