"""The spine age gap: its distribution, its relation to age and to the planted truth, and what goes
with it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from spineage.report.figures.style import (
    BLUE,
    MUTED,
    RUST,
    STATUS_COLOURS,
    STATUS_NAMES,
    look,
    new_figure,
    note,
)
from spineage.science.frames import column_of, rows_of


def sag_distribution(scores: pd.DataFrame) -> Figure:
    """Histogram of SAG (left; by status of the spine) and SAG against age (right)."""
    known = scores.dropna(subset=["sag_years", "age_years"])
    sag = column_of(known, "sag_years")
    edge = float(np.ceil(np.abs(sag).max() / 2) * 2)
    bins = np.linspace(-edge, edge, 21)
    statuses = [status for status in STATUS_COLOURS if (known["status"] == status).any()]
    with look():
        figure = new_figure(8.6, 3.3)
        left, right = figure.subplots(1, 2, sharey=True)
        groups = [known.loc[known["status"] == status, "sag_years"] for status in statuses]
        left.hist(
            groups, bins=list(bins), stacked=True, orientation="horizontal", rwidth=0.92,
            color=[STATUS_COLOURS[status] for status in statuses],
        )  # fmt: skip
        left.set(title="distribution", xlabel="scans", ylabel="SAG, years (corrected, uses age)")
        for status in statuses:
            some = known[known["status"] == status]
            right.scatter(
                some["age_years"], some["sag_years"], s=15, alpha=0.7, linewidths=0,
                color=STATUS_COLOURS[status], label=f"{STATUS_NAMES[status]}, n = {len(some)}",
            )  # fmt: skip
        right.set(title="against age", xlabel="age, years")
        right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3, handletextpad=0.2)
        for panel in (left, right):
            panel.axhline(0, color=MUTED, lw=1)
    return figure


def planted_gap_vs_sag(scores: pd.DataFrame) -> Figure:
    """SAG against the planted gap of a phantom population: what the instrument recovers of the
    truth.
    """
    with look():
        figure = new_figure(4.8, 4.2)
        axes = figure.subplots()
        for status, some in scores.groupby("status"):
            axes.scatter(
                some["gap_years"], some["sag_years"], s=18, alpha=0.75, linewidths=0,
                color=STATUS_COLOURS[str(status)], label=STATUS_NAMES[str(status)],
            )  # fmt: skip
        edge = float(np.abs(scores[["gap_years", "sag_years"]].to_numpy(float)).max()) * 1.05
        axes.plot([-edge, edge], [-edge, edge], ls=(0, (4, 3)), color=MUTED, lw=1)
        fit = stats.linregress(scores["gap_years"], scores["sag_years"])
        ends = np.array([scores["gap_years"].min(), scores["gap_years"].max()])
        axes.plot(ends, fit.intercept + fit.slope * ends, color=MUTED, lw=1.3)
        note(axes, f"r {fit.rvalue:.2f}, slope {fit.slope:.2f}, n = {len(scores)}")
        axes.set(xlabel="planted gap, years", ylabel="SAG, years (corrected, uses age)")
        axes.set(xlim=(-edge, edge), ylim=(-edge, edge))
        axes.legend(loc="lower right", handletextpad=0.2)
    return figure


def forest(associations: pd.DataFrame) -> Figure:
    """Effects with 95 % limits, strongest evidence first; pale rows have few exposed people."""
    rows = associations.sort_values(["p", "exposure"]).reset_index(drop=True)
    with look():
        figure = new_figure(8.6, 0.9 + 0.27 * len(rows))
        axes = figure.subplots()
        axes.axvline(0, color=MUTED, lw=1)
        for i, row in enumerate(rows_of(rows)):
            _effect(axes, i, row)
        axes.set_yticks(range(len(rows)), [_readable(name) for name in rows["exposure"]])
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_xlabel("difference in SAG, years (95 % confidence interval)")
        axes.grid(axis="y", visible=False)
        _numbers_beside(axes, rows)
    return figure


def _effect(axes: Axes, at: int, row: Any) -> None:
    is_null = not row.q < 0.05
    colour = MUTED if is_null else RUST if row.effect_years > 0 else BLUE
    alpha = 0.45 if row.is_small else 1.0
    axes.plot([row.low_years, row.high_years], [at, at], color=colour, lw=1.6, alpha=alpha)
    axes.plot(row.effect_years, at, "s", color=colour, ms=5, alpha=alpha)


def _numbers_beside(axes: Axes, rows: pd.DataFrame) -> None:
    """Effect, q and counts in three columns right of the plot."""
    _write_beside(axes, -0.95, "years", "q", "exposed / not")
    for i, row in enumerate(rows_of(rows)):
        counts = (
            f"{row.num_exposed} / {row.num_unexposed}"
            if row.num_unexposed
            else f"{row.num_exposed}"
        )
        effect = f"{row.effect_years:+.1f}".replace("-", "−")
        q = "<0.001" if row.q < 0.001 else f"{row.q:.3f}"
        _write_beside(axes, i, effect, q, f"{counts} few" if row.is_small else counts)


def _write_beside(axes: Axes, at: float, effect: str, q: str, counts: str) -> None:
    for x, text in ((1.08, effect), (1.17, q), (1.32, counts)):
        axes.annotate(
            text, (x, at), xycoords=("axes fraction", "data"), va="center", ha="right", fontsize=8,
            color=MUTED, annotation_clip=False,
        )  # fmt: skip


def _readable(name: str) -> str:
    return name.replace("_", " ")
