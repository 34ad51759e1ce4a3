"""Who is in the study: the paper's Fig. 2 (people by split, sex and age) and Fig. 3 (the map of
findings).
"""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spineage.report.figures.style import (
    CLUSTER_COLOURS,
    MUTED,
    NOISE_COLOUR,
    SEX_COLOURS,
    age_brackets,
    bracket_names,
    bracket_of,
    jitter,
    look,
    new_figure,
)
from spineage.science.frames import column_of, rows_of

SPLITS = ("train", "validate", "calibrate", "test")


def one_row_a_person(cohort: pd.DataFrame) -> pd.DataFrame:
    """The youngest scan of each person: histograms count people, not scans."""
    return cohort.sort_values(["age_years", "scan_id"]).drop_duplicates("person_id")


def split_histograms(cohort: pd.DataFrame) -> Figure:
    """People of each split by age bracket and sex; solid bars are normal spines, pale ones all
    others.
    """
    people = one_row_a_person(cohort).dropna(subset=["age_years"])
    edges = age_brackets(column_of(people, "age_years"))
    splits = [split for split in SPLITS if (people["split"] == split).any()]
    with look():
        figure = new_figure(9.2, 2.9)
        panels = figure.subplots(1, len(splits), squeeze=False, sharey=True)[0]
        for panel, split in zip(panels, splits, strict=True):
            _histogram(panel, people[people["split"] == split], edges)
            panel.set_title(f"{split}, {(people['split'] == split).sum()} people")
        panels[0].set_ylabel("people")
        panels[0].yaxis.get_major_locator().set_params(integer=True)
        handles = [_swatch(panels[0], SEX_COLOURS[sex], sex) for sex in sexes_of(people)]
        panels[-1].legend(handles=handles, loc="upper right", handlelength=1)
    return figure


def sexes_of(people: pd.DataFrame) -> list[str]:
    """The recorded sexes that occur, in a fixed order."""
    return [sex for sex in SEX_COLOURS if (people["sex"] == sex).any()]


def _swatch(panel: Axes, colour: str, name: str):  # type: ignore[no-untyped-def]
    return panel.bar([0], [0], color=colour, label=name)


def _histogram(panel: Axes, people: pd.DataFrame, edges: np.ndarray) -> None:
    bracket = bracket_of(column_of(people, "age_years"), edges)
    sexes = sexes_of(people) or ["O"]
    width = 0.8 / len(sexes)
    for i, sex in enumerate(sexes):
        at = np.arange(len(edges) - 1) + (i - (len(sexes) - 1) / 2) * width
        is_sex = (people["sex"] == sex).to_numpy()
        is_normal = (people["status"] == "normal").to_numpy()
        everyone = np.bincount(bracket[is_sex], minlength=len(edges) - 1)
        normal = np.bincount(bracket[is_sex & is_normal], minlength=len(edges) - 1)
        panel.bar(at, everyone, width * 0.92, color=SEX_COLOURS[sex], alpha=0.3)
        panel.bar(at, normal, width * 0.92, color=SEX_COLOURS[sex])
    panel.set_xticks(range(len(edges) - 1), bracket_names(edges), rotation=45, ha="right")
    panel.grid(axis="x", visible=False)


def cluster_colour(cluster: int) -> str:
    """The colour of a cluster, the same in every figure; grey for noise and for people without
    findings rows.
    """
    return NOISE_COLOUR if cluster < 0 else CLUSTER_COLOURS[cluster % len(CLUSTER_COLOURS)]


def cluster_shares(cohort: pd.DataFrame) -> pd.DataFrame:
    """One row per cluster: name, people, share of people with findings rows, share normal, median
    age and burden.
    """
    people = one_row_a_person(cohort)
    known = people[people["cluster"] != -2]
    rows = []
    for cluster, group in known.groupby("cluster"):
        rows.append(
            {
                "cluster": int(str(cluster)),
                "cluster_name": group["cluster_name"].mode().iat[0],
                "num_people": len(group),
                "share": len(group) / len(known),
                "share_normal": float((group["status"] == "normal").mean()),
                "median_age_years": float(group["age_years"].median()),
                "share_female": float((group["sex"] == "F").mean()),
                "median_burden": float(group["burden"].median()),
                "median_findings": float(group["num_findings"].median()),
            }
        )
    return pd.DataFrame(rows)


def cohort_map(cohort: pd.DataFrame) -> Figure:
    """The UMAP of findings; each cluster carries its name and its share of the population (the
    paper's Fig. 3).
    """
    people = one_row_a_person(cohort).dropna(subset=["umap_x", "umap_y"])
    with look():
        figure = new_figure(9.2, 4.8)
        axes = figure.subplots()
        for row in rows_of(cluster_shares(people)):
            group = people[people["cluster"] == row.cluster]
            for status, marker, alpha in (
                ("normal", "o", 0.9),
                ("uncertain", "^", 0.7),
                ("not_normal", "x", 0.8),
                ("unknown", ".", 0.5),
            ):
                some = group[group["status"] == status]
                axes.scatter(
                    some["umap_x"], some["umap_y"], s=18, marker=marker, alpha=alpha, linewidths=1,
                    color=cluster_colour(int(row.cluster)),
                )  # fmt: skip
        _name_clusters(axes, people)
        axes.set(xticks=[], yticks=[], xlabel="UMAP 1", ylabel="UMAP 2")
        axes.margins(0.06, 0.06)
    return figure


def _name_clusters(axes: Axes, people: pd.DataFrame) -> None:
    """Names beside the map from top to bottom as their people lie, each with a line to the middle of them."""
    rows = rows_of(cluster_shares(people))
    middles = {
        row: people.loc[people["cluster"] == row.cluster, ["umap_x", "umap_y"]].median()
        for row in rows
    }
    from_the_top = sorted(middles, key=lambda row: -float(middles[row]["umap_y"]))
    heights = np.linspace(0.97, 0.06, len(from_the_top)) if len(from_the_top) > 1 else [0.5]
    for row, height in zip(from_the_top, heights, strict=True):
        colour = cluster_colour(int(row.cluster)) if row.cluster >= 0 else MUTED
        name = textwrap.fill(str(row.cluster_name), 34)
        axes.annotate(
            f"{name}\n{100 * row.share:.0f} %",
            xy=tuple(middles[row]), xytext=(1.04, height), textcoords="axes fraction",
            ha="left", va="center", fontsize=8.5, color=colour, fontweight="bold", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "alpha": 0.6},
        )  # fmt: skip


def burden_by_cluster(cohort: pd.DataFrame) -> Figure:
    """Findings burden of each person by cluster, with the median: what the clusters are made of."""
    people = one_row_a_person(cohort).dropna(subset=["burden"])
    shares = cluster_shares(people).sort_values("median_burden").reset_index(drop=True)
    with look():
        figure = new_figure(7.0, 0.9 + 0.62 * len(shares))
        axes = figure.subplots()
        for i, row in enumerate(rows_of(shares)):
            burden = column_of(people[people["cluster"] == row.cluster], "burden")
            colour = cluster_colour(int(row.cluster))
            axes.scatter(
                burden,
                i + jitter(len(burden), i, 0.22),
                s=12,
                alpha=0.55,
                color=colour,
                linewidths=0,
            )
            axes.plot([np.median(burden)] * 2, [i - 0.36, i + 0.36], color=colour, lw=2.5)
        names = [
            textwrap.fill(f"{row.cluster_name} (n = {row.num_people})", 34)
            for row in rows_of(shares)
        ]
        axes.set_yticks(range(len(shares)), names)
        axes.set_xlabel("findings burden: sum of severities (bar: median)")
        axes.grid(axis="y", visible=False)
    return figure
