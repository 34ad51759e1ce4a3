"""How good the predictions are: raw first, by sex and age (the paper's Fig. 4), bias, intervals,
training.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from spineage.report.figures.style import (
    BLUE,
    MUTED,
    RUST,
    SEX_COLOURS,
    STATUS_COLOURS,
    STATUS_NAMES,
    age_brackets,
    bracket_names,
    bracket_of,
    jitter,
    look,
    new_figure,
    note,
)
from spineage.science.frames import column_of, rows_of


def errors_beside_yardsticks(rows: pd.DataFrame) -> Figure:
    """MAE of the network beside its yardsticks: columns name, mae_years, low_years, high_years
    (NaN: no limits).
    """
    with look():
        figure = new_figure(7.4, 0.75 + 0.42 * len(rows))
        axes = figure.subplots()
        for i, row in enumerate(rows_of(rows)):
            colour = BLUE if i == 0 else MUTED
            axes.plot(
                [row.low_years, row.high_years],
                [i, i],
                color=colour,
                lw=4,
                alpha=0.35,
                solid_capstyle="butt",
            )
            axes.plot(row.mae_years, i, "o", color=colour, ms=8)
            axes.annotate(
                f"{row.mae_years:.2f} y", (row.mae_years, i), textcoords="offset points", xytext=(0, 8),
                ha="center", fontsize=9, color=colour, fontweight="bold",
            )  # fmt: skip
        axes.set_yticks(range(len(rows)), rows["name"])
        axes.tick_params(axis="y", labelsize=9.5, labelcolor="#1c2733", length=0)
        axes.set_ylim(len(rows) - 0.5, -0.75)
        axes.set_xlim(0, float(np.nanmax(rows[["mae_years", "high_years"]].to_numpy(float))) * 1.08)
        axes.set_xlabel("mean absolute error on held-out normal people, years")
        axes.grid(axis="y", visible=False)
        axes.spines["left"].set_visible(False)
    return figure


def learning_curve(history: pd.DataFrame, best_epoch: int) -> Figure:
    """Error by epoch on training scans (augmented, dropout on) and on validation people.

    best_epoch: the epoch whose weights were kept; it is marked.
    """
    history = history.sort_values("epoch")
    validated = history.dropna(subset=["validate_mae_years"])
    with look():
        figure = new_figure(7.0, 2.8)
        axes = figure.subplots()
        axes.plot(
            history["epoch"],
            history["train_mae_years"],
            color=MUTED,
            lw=1.4,
            label="training scans",
        )
        if len(validated):
            errors = validated["validate_mae_years"]
            axes.plot(validated["epoch"], errors, color=BLUE, lw=2, label="validation people")
        axes.axvline(
            best_epoch, color=RUST, lw=1.2, ls=(0, (4, 3)), label=f"kept: epoch {best_epoch}"
        )
        axes.set(xlabel="epoch", ylabel="raw MAE, years")
        axes.set_ylim(bottom=0)
        axes.legend(loc="upper right")
    return figure


def predicted_vs_age(predictions: pd.DataFrame) -> Figure:
    """Raw prediction against age on test people: normal spines left, all others right; dashed is
    identity.
    """
    with look():
        figure = new_figure(8.2, 4.1)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        low = float(predictions[["age_years", "predicted_years"]].min().min()) - 3
        high = float(predictions[["age_years", "predicted_years"]].max().max()) + 3
        is_normal = predictions["status"] == "normal"
        titles = (
            ("normal spines", predictions[is_normal]),
            ("all other spines", predictions[~is_normal]),
        )
        for panel, (title, group) in zip(panels, titles, strict=True):
            panel.plot([low, high], [low, high], ls=(0, (4, 3)), color=MUTED, lw=1)
            for status, some in group.groupby("status"):
                panel.scatter(
                    some["age_years"], some["predicted_years"], s=22, alpha=0.8, linewidths=0,
                    color=STATUS_COLOURS[str(status)], label=STATUS_NAMES[str(status)],
                )  # fmt: skip
            _line_of_fit(panel, group)
            panel.set(
                title=f"{title}, {len(group)} scans",
                xlabel="age, years",
                xlim=(low, high),
                ylim=(low, high),
            )
            panel.set_aspect("equal")
        panels[0].set_ylabel("raw prediction, years")
    return figure


def _line_of_fit(panel: Axes, group: pd.DataFrame) -> None:
    if len(group) < 3 or group["age_years"].nunique() < 2:
        return
    fit = stats.linregress(group["age_years"], group["predicted_years"])
    ends = np.array([group["age_years"].min(), group["age_years"].max()])
    panel.plot(ends, fit.intercept + fit.slope * ends, color=MUTED, lw=1.3)
    note(panel, f"slope {fit.slope:.2f}, r {fit.rvalue:.2f}")


def error_by_sex_and_age(scans: pd.DataFrame) -> Figure:
    """Absolute raw error by age bracket and sex (the paper's Fig. 4); bars are means, dots are
    scans, with their number.
    """
    edges = age_brackets(column_of(scans, "age_years"))
    bracket = bracket_of(column_of(scans, "age_years"), edges)
    error = np.abs(column_of(scans, "predicted_years") - column_of(scans, "age_years"))
    sexes = [sex for sex in SEX_COLOURS if (scans["sex"] == sex).any()]
    with look():
        figure = new_figure(7.6, 3.2)
        axes = figure.subplots()
        width = 0.8 / max(1, len(sexes))
        for i, sex in enumerate(sexes):
            centre = (i - (len(sexes) - 1) / 2) * width
            for b in range(len(edges) - 1):
                values = error[(bracket == b) & (scans["sex"] == sex).to_numpy()]
                _bar_with_dots(
                    axes, b + centre, values, width * 0.9, SEX_COLOURS[sex], seed=10 * i + b
                )
            axes.bar([0], [0], color=SEX_COLOURS[sex], alpha=0.45, label=sex)
        axes.set_xticks(range(len(edges) - 1), bracket_names(edges))
        axes.set(xlabel="age, years", ylabel="absolute raw error, years")
        axes.set_ylim(0, float(error.max()) * 1.12)
        axes.grid(axis="x", visible=False)
        axes.legend(loc="upper right", ncols=3, handlelength=1)
    return figure


def _bar_with_dots(
    axes: Axes, at: float, values: NDArray[np.float64], width: float, colour: str, seed: int
) -> None:
    if not len(values):
        return
    axes.bar(at, values.mean(), width, color=colour, alpha=0.4)
    axes.scatter(
        at + jitter(len(values), seed, width * 0.3),
        values,
        s=11,
        color=colour,
        alpha=0.8,
        linewidths=0,
    )
    axes.annotate(
        str(len(values)), (at, values.max()), textcoords="offset points", xytext=(0, 5),
        ha="center", fontsize=7.5, color=MUTED,
    )  # fmt: skip


def bias_by_age(scans: pd.DataFrame) -> Figure:
    """Gap against age before and after the correction, with the mean of each age bracket and its 95
    % CI.
    """
    edges = age_brackets(column_of(scans, "age_years"))
    bracket = bracket_of(column_of(scans, "age_years"), edges)
    raw = column_of(scans, "predicted_years") - column_of(scans, "age_years")
    panels_data = (
        ("raw gap", raw, BLUE),
        ("corrected, uses age", column_of(scans, "sag_years"), RUST),
    )
    with look():
        figure = new_figure(8.2, 3.2)
        panels = figure.subplots(1, 2, sharex=True, sharey=True)
        for panel, (title, gap, colour) in zip(panels, panels_data, strict=True):
            panel.axhline(0, color=MUTED, lw=1)
            panel.scatter(scans["age_years"], gap, s=13, alpha=0.35, color=colour, linewidths=0)
            for b in range(len(edges) - 1):
                _mean_with_ci(
                    panel,
                    (edges[b] + edges[b + 1]) / 2,
                    gap[(bracket == b) & np.isfinite(gap)],
                    colour,
                )
            panel.set(title=title, xlabel="age, years")
        panels[0].set_ylabel("gap, years")
    return figure


def _mean_with_ci(panel: Axes, at: float, values: NDArray[np.float64], colour: str) -> None:
    if len(values) < 3:
        return
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    panel.errorbar(
        at, values.mean(), half, fmt="o", color=colour, ms=6, lw=1.8, capsize=0, mec="white"
    )


def coverage_by_age(scans: pd.DataFrame, nominal: float) -> Figure:
    """Share of ages inside their interval, by age bracket, with Wilson 95 % limits; and how wide
    intervals are.
    """
    edges = age_brackets(column_of(scans, "age_years"))
    bracket = bracket_of(column_of(scans, "age_years"), edges)
    table = coverage_table(scans, bracket, len(edges) - 1)
    at = np.arange(len(edges) - 1)
    with look():
        figure = new_figure(8.2, 3.0)
        left, right = figure.subplots(1, 2)
        left.axhline(nominal, color=RUST, lw=1.2, ls=(0, (4, 3)))
        left.errorbar(
            at, table["coverage"], [table["coverage"] - table["low"], table["high"] - table["coverage"]],
            fmt="o", color=BLUE, lw=1.6, ms=6,
        )  # fmt: skip
        left.set(
            title=f"coverage (aim {100 * nominal:.0f} %)", ylabel="share inside", ylim=(0, 1.14)
        )
        left.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        for b, num in enumerate(table["num"]):
            left.annotate(f"n={num}", (b, 1.05), ha="center", fontsize=7.5, color=MUTED)
        width = column_of(scans, "interval_high_years") - column_of(scans, "interval_low_years")
        right.scatter(
            bracket + jitter(len(scans), 3, 0.2), width, s=13, alpha=0.5, color=BLUE, linewidths=0
        )
        right.set(title="width", ylabel="interval width, years", ylim=(0, float(width.max()) * 1.1))
        for panel in (left, right):
            panel.set_xticks(at, bracket_names(edges))
            panel.set_xlim(-0.6, len(at) - 0.4)
            panel.set_xlabel("age, years")
            panel.grid(axis="x", visible=False)
    return figure


def coverage_table(scans: pd.DataFrame, group: NDArray[np.int64], num_groups: int) -> pd.DataFrame:
    """Coverage of the intervals in each group with Wilson 95 % limits (Wilson 1927); NaN where a
    group is empty.
    """
    age = column_of(scans, "age_years")
    inside = (age >= column_of(scans, "interval_low_years")) & (
        age <= column_of(scans, "interval_high_years")
    )
    rows = []
    for g in range(num_groups):
        num, hits = int((group == g).sum()), int(inside[group == g].sum())
        if num == 0:
            rows.append((0, np.nan, np.nan, np.nan))
            continue
        limits = stats.binomtest(hits, num).proportion_ci(0.95, method="wilson")
        rows.append((num, hits / num, min(limits.low, hits / num), max(limits.high, hits / num)))
    return pd.DataFrame(rows, columns=["num", "coverage", "low", "high"])
