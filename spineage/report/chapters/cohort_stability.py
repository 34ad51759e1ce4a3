"""How firm "normal" is: over seeds, samples and parameters, and under other rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from spineage.report.figures.cohort_audit import (
    RULE_NAMES,
    alternatives_by_age,
    normal_probability,
)
from spineage.report.page import Block, Heading, Text, drawing, table
from spineage.report.words import DASH, counted, number, percent, readable
from spineage.study import Study


def stability(cohort: pd.DataFrame, audit: Mapping[str, Any], study: Study) -> list[Block]:
    """Probabilities, the grid, and how far the clusters agree."""
    drawn = audit["stability"]
    if not drawn:
        why = (
            "The cohort was drawn once: the study asks for no draws, its rule has no clusters, or too few "
            "people train for clusters to decide."
        )
        return [Heading("How firm it is"), Text((why,), "note")]
    s = study.stability
    training = (
        "Training uses the consensus."
        if s.decides
        else "Training uses the single fit; the consensus only informs."
    )
    missed, unsettled = drawn["num_not_clustered"], drawn["num_unsettled"]
    ended = (
        "Draws ended when everybody's probability had settled"
        if not unsettled
        else f"The probability of {counted(unsettled, 'person', 'people')} had not settled when the "
        "draws that the study allows were done"
    )
    words = (
        f"The cohort was drawn {drawn['num_draws']:,} times: {counted(len(drawn['rows']), 'grid cell')}, "
        f"each with {counted(drawn['num_seeds'], 'seed')} on all training people and "
        f"{counted(drawn['num_bootstraps'], 'bootstrap')} of them. {ended} (99 % interval within "
        f"{percent(drawn['settled_within'])}, or on one side of both limits). A person who is normal in "
        f"{percent(s.normal_at)} of the draws or more is normal, in {percent(s.not_normal_at)} or fewer "
        f"not normal, and uncertain between. {training} "
        f"{counted(missed, 'draw')} could not be clustered.",
        _without_umap(drawn["without_umap"]),
        "Agreement is not correctness: in simulation a cohort that called its healthiest people abnormal had "
        "a seed-to-seed ARI of 0.985. Read the groups above first.",
    )
    return [
        Heading("How firm it is"),
        Text(words),
        drawing(
            normal_probability(cohort, s.normal_at, s.not_normal_at, drawn["rows"]),
            "Left: people by the share of draws that call them normal. Right: the share of people who are "
            "normal in each grid cell, from the lowest to the highest draw.",
            "Histogram of the probability of being normal, and the share of normal people by grid cell",
        ),
        _against_the_fit(drawn),
        _clusters(drawn),
        _grid(drawn),
    ]


def _without_umap(checked: Mapping[str, Any]) -> str:
    share = checked["share_same_status"]
    return (
        "Clustering the Canberra distances themselves, without UMAP "
        f"({counted(checked['num_people'], 'training person', 'training people')}, "
        f"{counted(checked['num_groups'], 'group')}): "
        f"{DASH if share is None else percent(share)} have the same status, ARI {number(checked['ari'])}, "
        f"AMI {number(checked['ami'])}."
    )


def _against_the_fit(drawn: Mapping[str, Any]) -> Block:
    rows = [
        (readable(one["fit"]), readable(one["consensus"]), f"{one['num_people']:,}")
        for one in drawn["against_the_fit"]
    ]
    return table(
        "The single fit against the consensus, in people.",
        ("single fit", "consensus", "people"),
        rows,
        text_columns=2,
    )


def _clusters(drawn: Mapping[str, Any]) -> Block:
    rows = [(one["name"], number(one["mean"]), number(one["low"])) for one in drawn["jaccard"]]
    return table(
        "Does each group come back? Jaccard of its best match over the bootstraps: the mean over all grid "
        "cells and the worst cell. From 0.75 a group is stable, under 0.6 it should not be trusted.",
        ("group", "mean Jaccard", "worst grid cell"),
        rows,
    )


def _grid(drawn: Mapping[str, Any]) -> Block:
    rows = [
        (
            str(r["num_neighbors"]), str(r["num_components"]), percent(r["min_cluster_share"]),
            str(r["min_samples"]), number(r["median_groups"], 0), _percent(r["normal_share"]),
            f"{_percent(r['normal_share_low'])} to {_percent(r['normal_share_high'])}",
            number(r["seed_ari"]), number(r["seed_ari_low"]), number(r["seed_ami"]),
        )
        for r in drawn["rows"]
    ]  # fmt: skip
    columns = (
        "neighbours", "dimensions", "min. cluster", "min. samples", "groups", "normal", "range",
        "ARI", "lowest ARI", "AMI",
    )  # fmt: skip
    return table(
        "Every grid cell: the share of people who are normal, and agreement from seed to seed.",
        columns,
        rows,
        text_columns=0,
    )


def _percent(value: float | None) -> str:
    return DASH if value is None else percent(value)


def alternatives(audit: Mapping[str, Any], own: str) -> list[Block]:
    """What would change under the other rules."""
    compared = audit["alternatives"]
    if len(compared) < 2:
        return []
    rows = [
        (
            RULE_NAMES[one["rule"]] + (" (this study)" if one["rule"] == own else ""),
            f"{one['num_normal']:,}", f"{one['num_train_normal']:,}", f"{one['num_not_normal']:,}",
            f"+{one['num_gained']:,} / −{one['num_lost']:,}", number(one["median_age_years"], 0),
            _percent(one["share_female"]), f"{one['num_without_findings_not_normal']:,}",
        )
        for one in compared
    ]  # fmt: skip
    columns = (
        "rule", "normal", "of them training", "not normal", "gained / lost", "median age of normals",
        "women", "without findings, yet not normal",
    )  # fmt: skip
    return [
        Heading("What other rules would say"),
        Text(
            (
                "The same people and the same single fit under each rule that cohort.rule can name. Set "
                "it and run again: every later stage has another address, so both stay and can be compared.",
            )
        ),
        table(
            "The cohort under each rule, in people. Gained and lost are against the statuses used here.",
            columns,
            rows,
        ),
        drawing(
            alternatives_by_age(compared, own),
            "The share of each decade that is normal, by rule. A rule that falls with age trains on the "
            "young; one that starts low calls healthy young people abnormal.",
            "Lines of the share of normal people by decade of age, one for each rule",
        ),
    ]
