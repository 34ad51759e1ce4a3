"""Training and accuracy: raw predictions first; what uses the age is named so and stands lower
down.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from spineage.report import numbers
from spineage.report.evidence import Evidence, Tables
from spineage.report.figures.accuracy import (
    bias_by_age,
    coverage_by_age,
    coverage_table,
    error_by_sex_and_age,
    learning_curve,
    predicted_vs_age,
)
from spineage.report.figures.style import age_brackets, bracket_names, bracket_of
from spineage.report.page import Block, Chapter, Heading, Text, drawing, table
from spineage.report.words import DASH, counted, limits, number, percent, years
from spineage.science.frames import column_of, rows_of
from spineage.science.gap.bias import one_scan_a_person
from spineage.science.gap.metrics import corrected_metrics

TABLE_DRAWS = 400
SPLIT_NAMES = {
    "train": "normal, train (seen in training)",
    "validate": "normal, validate",
    "calibrate": "normal, calibrate",
    "test": "normal, test",
}


def training(evidence: Evidence) -> Chapter:
    """The learning curve and which epoch was kept."""
    history, train = evidence.tables.history.sort_values("epoch"), evidence.study.train
    best = evidence.best_epoch or int(history["epoch"].max())
    kept = next(rows_of(history[history["epoch"] == best]))
    words = (
        f"{counted(len(history), 'epoch')} with {train.loss} loss on normal spines of the training "
        f"split. The weights of epoch {best} were kept, by the error on validation people smoothed "
        f"over epochs: there it is {years(kept.validate_mae_years, 2)}, and "
        f"{years(kept.train_mae_years, 2)} on training scans, with augmentation and dropout on. "
        "Test people choose nothing."
    )
    picture = drawing(
        learning_curve(history, best),
        "Raw error by epoch, and the epoch that was kept.",
        "Training curve",
    )
    return Chapter("training", "Training", (Text((words,)), picture))


def accuracy(evidence: Evidence) -> Chapter:
    """Raw accuracy by sex, age and site, then intervals, then the correction."""
    tables, seed = evidence.tables, evidence.study.seed
    unseen = tables.predictions[
        (tables.predictions["split"] == "test") & tables.predictions["age_years"].notna()
    ]
    scans = numbers.test_scans(tables)
    if not len(scans):
        return Chapter(
            "accuracy",
            "Accuracy",
            (Text(("There is no held-out normal person with an age.",), "warning"),),
        )
    blocks: list[Block] = [
        Heading("Raw error"),
        Text(
            (
                "Predictions here are raw. Normal spines are where accuracy is measured; other "
                "spines are expected to look older.",
            )
        ),
        drawing(
            predicted_vs_age(unseen),
            "Raw prediction against age on test people; dashed: identity; line: least squares.",
            "Scatter of raw prediction against age",
        ),
        drawing(
            error_by_sex_and_age(scans),
            "Absolute raw error of normal test people by age bracket and sex. Bars are means, "
            "dots are scans, numbers count them.",
            "Absolute error by age bracket and sex",
        ),
        _by_group(tables, seed),
        *_intervals(tables),
        *_correction(tables),
    ]
    return Chapter("accuracy", "Accuracy", tuple(blocks))


def _by_group(tables: Tables, seed: int) -> Block:
    """Raw figures of each split, then of the test split by sex, site and status."""
    known = tables.predictions[tables.predictions["age_years"].notna()]
    normal, test = known[known["status"] == "normal"], numbers.test_scans(tables)
    groups = [(SPLIT_NAMES[split], normal[normal["split"] == split])
              for split in SPLIT_NAMES]  # fmt: skip
    groups += [(f"test, sex {sex}", some) for sex, some in test.groupby("sex")]
    groups += [(f"test, {site}", some) for site, some in test.groupby("site")]
    groups.append(
        (
            "test split, not normal",
            known[(known["split"] == "test") & (known["status"] == "not_normal")],
        )
    )
    rows = [_figures(name, some, seed) for name, some in groups if len(some)]
    columns = ("group", "people", "scans", "MAE", "95 % CI", "RMSE", "R²", "r", "slope", "mean gap")
    return table(
        "Raw figures by group, in years; a dash where a figure does not exist.", columns, rows
    )


def _figures(name: str, scans: pd.DataFrame, seed: int) -> tuple[str, ...]:
    found = numbers.accuracy_of(scans, seed, TABLE_DRAWS)
    ci = limits(found.limits["mae_years"]) if found.num_people > 2 else DASH
    raw = [
        number(found.figures[key]) for key in ("rmse_years", "r2", "r", "slope", "mean_gap_years")
    ]
    counts = f"{found.num_people:,}", f"{found.num_scans:,}"
    return (name, *counts, number(found.figures["mae_years"]), ci, *raw)


def scored_test(tables: Tables) -> pd.DataFrame:
    """Scores of test people with a normal spine and an age: who intervals and correction are judged
    on.
    """
    scores = tables.scores
    return scores[
        (scores["role"] == "test") & (scores["status"] == "normal") & scores["age_years"].notna()
    ]


def _intervals(tables: Tables) -> list[Block]:
    scans = one_scan_a_person(scored_test(tables))
    if not len(scans):
        return []
    age = column_of(scans, "age_years")
    edges = age_brackets(age)
    names = [*bracket_names(edges), "all ages"]
    by_age = coverage_table(scans, bracket_of(age, edges), len(edges) - 1)
    overall = coverage_table(scans, np.zeros(len(scans), np.int64), 1)
    nominal = float(tables.calibration["nominal_coverage"])
    rows = [
        (
            name,
            f"{int(row.num)}",
            percent(row.coverage),
            DASH if not row.num else f"{percent(row.low)} to {percent(row.high)}",
        )
        for name, row in zip(names, rows_of(pd.concat([by_age, overall])), strict=True)
    ]
    width = float(
        np.mean(column_of(scans, "interval_high_years") - column_of(scans, "interval_low_years"))
    )
    words = (
        f"Intervals of age given the raw prediction aim at {percent(nominal)}. They are "
        "conformal, with widths by bins of the prediction, from calibration people only. On "
        f"{counted(len(scans), 'test person', 'test people')} they hold the age in "
        f"{percent(next(rows_of(overall)).coverage)} and are {years(width)} wide on average. "
        "With few people in a bracket, coverage is known poorly: the limits say how poorly."
    )
    return [
        Heading("Intervals"),
        Text((words,)),
        drawing(
            coverage_by_age(scans, nominal),
            "Left: share of normal test people whose age lies inside the interval, by age "
            "bracket, with Wilson 95 % limits. Right: how wide the intervals are.",
            "Interval coverage and width by age bracket",
        ),
        table(
            "Coverage by age bracket, one scan a person.",
            ("age, years", "people", "coverage", "95 % limits"),
            rows,
        ),
    ]


def _polynomial(coefficients: Sequence[float], centre_years: float) -> str:
    """`0.40 − 0.200 (age − 54.0)`: lowest power first."""
    powers = [
        "",
        f" (age − {centre_years:.1f})",
        *(f" (age − {centre_years:.1f})^{i}" for i in range(2, len(coefficients))),
    ]
    words = number(coefficients[0], 2)
    for c, power in zip(coefficients[1:], powers[1:], strict=False):
        words += f" {'−' if c < 0 else '+'} {abs(c):.3g}{power}"
    return words


def _correction(tables: Tables) -> list[Block]:
    scans = scored_test(tables)
    scans = scans[scans["sag_years"].notna()]
    if len(scans) < 3:
        return []
    calibration = tables.calibration
    terms = _polynomial(calibration["coefficients"], calibration["centre_years"])
    corrected = corrected_metrics(
        column_of(scans, "age_years"), column_of(scans, "spine_age_years")
    )
    words = (
        f"A regression pulls towards the mean age. The bias in years, {terms}, was fitted on "
        f"{counted(int(calibration['num_people']), 'calibration person', 'calibration people')} "
        f"whom the network never saw, aged {calibration['age_low_years']:.0f} to "
        f"{calibration['age_high_years']:.0f}; cross-validation chose degree "
        f"{int(calibration['degree'])}. It is taken off to give the spine age.",
        "Corrected, uses age: Spearman(SAG, age) is "
        f"{number(corrected['spearman_gap_age_corrected_uses_age'])} on "
        f"{counted(len(scans), 'test scan')} (accepted under 0.10; with so many scans its own "
        f"limits are about ± {1.96 / np.sqrt(max(len(scans) - 1, 1)):.2f}). The corrected MAE, "
        f"{years(corrected['mae_years_corrected_uses_age'], 2)}, is not an accuracy: the age went "
        "into it.",
    )
    return [
        Heading("The correction, which uses the age"),
        Text(words),
        drawing(
            bias_by_age(scans),
            "Gap of normal test people against age, before the correction and after it "
            "(corrected, uses age). Large dots: means of age brackets with 95 % limits, where "
            "three scans or more.",
            "Raw and corrected gap against age",
        ),
    ]
