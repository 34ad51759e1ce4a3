"""What a reviewer looks at: the groups against the people they came from, and how firm "normal" is."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spineage.report.figures.cohort import (
    cluster_shares,
    one_row_a_person,
    sexes_of,
)
from spineage.report.figures.style import (
    CLUSTER_COLOURS,
    INK,
    MUTED,
    SEX_COLOURS,
    STATUS_COLOURS,
    STATUS_NAMES,
    age_brackets,
    bracket_names,
    bracket_of,
    look,
    new_figure,
)
from spineage.science.frames import column_of, rows_of

PANELS_A_ROW = 4
RULE_NAMES = {
    "clusters": "clusters",
    "paper": "paper, literal",
    "burden": "burden",
    "percentile": "percentile",
    "everyone": "everyone",
}


def findings_by_group(audit: Mapping[str, Any]) -> Figure:
    """A table of shades: how many of each group have a condition, beside how many of the source do."""
    found = audit["findings"]
    names = {str(g["cluster"]): g["name"] for g in audit["groups"]}
    keys = list(found["groups"])
    share_CG = np.array([found["population"], *(found["groups"][k] for k in keys)]).T
    heads = ["source population", *(names[k] for k in keys)]
    with look():
        figure = new_figure(2.6 + 1.15 * len(heads), 1.3 + 0.3 * len(share_CG))
        axes = figure.subplots()
        rows, columns = (np.arange(n + 1) - 0.5 for n in share_CG.shape)
        axes.pcolormesh(
            columns, rows, share_CG, cmap="Blues", vmin=0, vmax=1, edgecolors="white", lw=1
        )
        axes.invert_yaxis()
        for row, column in np.ndindex(share_CG.shape):
            value = share_CG[row, column]
            axes.text(
                column, row, f"{100 * value:.0f}", ha="center", va="center", fontsize=8,
                color="white" if value > 0.6 else INK,
            )  # fmt: skip
        axes.set_yticks(range(len(share_CG)), found["conditions"])
        axes.set_xticks(
            range(len(heads)), [textwrap.fill(name, 18) for name in heads], fontsize=7.5
        )
        axes.xaxis.tick_top()
        axes.axvline(0.5, color="white", lw=4)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def ages_by_group(cohort: pd.DataFrame) -> Figure:
    """Age and sex of each group: bars are the group, the line is the population it came from."""
    people = one_row_a_person(cohort).dropna(subset=["age_years"])
    people = people[people["cluster"] != -2]
    groups = list(rows_of(cluster_shares(people)))
    edges = age_brackets(column_of(people, "age_years"))
    num_rows = -(-len(groups) // PANELS_A_ROW)
    with look():
        figure = new_figure(9.2, 0.4 + 2.2 * num_rows)
        panels = figure.subplots(
            num_rows, min(PANELS_A_ROW, len(groups)), squeeze=False, sharex=True, sharey=True
        )
        for panel, row in zip(panels.flat, groups, strict=False):
            own = people[people["cluster"] == row.cluster]
            _ages(panel, own, people, edges)
            panel.set_title(
                textwrap.fill(f"{row.cluster_name}, n = {row.num_people}", 30), fontsize=8
            )
        for panel in panels.flat[len(groups) :]:
            panel.set_visible(False)
        for panel in panels[:, 0]:
            panel.set_ylabel("share of group")
        handles = [
            panels[0, 0].bar([0], [0], color=SEX_COLOURS[s], label=s) for s in sexes_of(people)
        ]
        handles.append(panels[0, 0].plot([], [], color=INK, lw=1.2, label="source")[0])
        figure.legend(handles=handles, loc="outside lower right", ncols=4, handlelength=1)
    return figure


def _ages(panel: Axes, own: pd.DataFrame, source: pd.DataFrame, edges: np.ndarray) -> None:
    num = len(edges) - 1
    at, below = np.arange(num), np.zeros(num)
    bracket = bracket_of(column_of(own, "age_years"), edges)
    for sex in sexes_of(source):
        counted = np.bincount(bracket[(own["sex"] == sex).to_numpy()], minlength=num) / len(own)
        panel.bar(at, counted, 0.82, bottom=below, color=SEX_COLOURS[sex])
        below += counted
    overall = np.bincount(bracket_of(column_of(source, "age_years"), edges), minlength=num)
    panel.stairs(overall / len(source), np.arange(num + 1) - 0.5, color=INK, lw=1.2)
    panel.set_xticks(at, bracket_names(edges), rotation=60, ha="right", fontsize=7)
    panel.tick_params(labelbottom=True)
    panel.grid(axis="x", visible=False)


def normal_probability(
    cohort: pd.DataFrame, normal_at: float, not_normal_at: float, rows: Sequence[Mapping[str, Any]]
) -> Figure:
    """Left: in which share of the draws each person is normal. Right: the share of people that is normal
    in each cell of the grid, from the lowest to the highest draw."""
    people = one_row_a_person(cohort).dropna(subset=["normal_probability"])
    rows = [row for row in rows if row["normal_share"] is not None]
    with look():
        figure = new_figure(9.2, max(2.8, 0.8 + 0.17 * len(rows)))
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
        statuses = ("not_normal", "uncertain", "normal")
        some = [people.loc[people["consensus"] == s, "normal_probability"] for s in statuses]
        left.hist(
            some, np.linspace(0, 1, 21), stacked=True, color=[STATUS_COLOURS[s] for s in statuses],
            label=[f"{STATUS_NAMES[s]}, n = {len(p)}" for s, p in zip(statuses, some, strict=True)],
        )  # fmt: skip
        for limit in (not_normal_at, normal_at):
            left.axvline(limit, color=INK, lw=0.9, ls=":")
        left.set(xlabel="share of draws that call the person normal", ylabel="people (log)")
        left.set_yscale("symlog", linthresh=1)
        left.legend(loc="upper center", handlelength=1)
        _grid_panel(right, rows)
    return figure


def _grid_panel(panel: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    for i, row in enumerate(rows):
        low, high = row["normal_share_low"], row["normal_share_high"]
        panel.plot([100 * low, 100 * high], [i, i], color=MUTED, lw=1.6)
        panel.plot(100 * row["normal_share"], i, "o", color=STATUS_COLOURS["normal"], ms=4.5)
    panel.set_yticks(
        range(len(rows)),
        [
            f"{r['num_neighbors']} · {r['num_components']} · "
            f"{100 * r['min_cluster_share']:g} % · {r['min_samples']}"
            for r in rows
        ],
        fontsize=7.5,
    )
    panel.invert_yaxis()
    panel.set_xlim(0, 100)
    panel.set_xlabel("people who are normal, % (dot: mean of draws)")
    panel.set_title("neighbours · dimensions · min. cluster · min. samples", fontsize=8)


def alternatives_by_age(compared: Sequence[Mapping[str, Any]], own: str) -> Figure:
    """The share of each decade that is normal, under each rule; the study's own is the thick line."""
    with look():
        figure = new_figure(7.0, 3.2)
        axes = figure.subplots()
        for i, one in enumerate(compared):
            decades = [int(age) for age in one["normal_by_decade"]]
            shares = [100 * share for share in one["normal_by_decade"].values()]
            is_own = one["rule"] == own
            axes.plot(
                decades, shares, color=CLUSTER_COLOURS[i], lw=3 if is_own else 1.5, marker="o",
                ms=5 if is_own else 3.5, ls="-" if is_own else (0, (4, 1 + i)),
                label=RULE_NAMES[one["rule"]] + (" (this study, one fit)" if is_own else ""),
            )  # fmt: skip
        ticks = sorted({int(age) for one in compared for age in one["normal_by_decade"]})
        axes.set_xticks(ticks, [f"{age}–{age + 9}" for age in ticks])
        axes.set(xlabel="age, years", ylabel="normal, %", ylim=(-3, 105))
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), handlelength=2.5)
    return figure
