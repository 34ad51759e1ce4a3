"""The first chapter: the raw error on held-out people beside its yardsticks. Nothing corrected is
named here.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from spineage.report import numbers
from spineage.report.evidence import Evidence, Tables
from spineage.report.figures.accuracy import errors_beside_yardsticks
from spineage.report.page import Block, Chapter, Text, drawing, table
from spineage.report.words import counted, limits, number, percent, years


def lead(tables: Tables) -> str:
    """What this is, in one paragraph."""
    return (
        "How old does a spine look? From whole-spine sagittal T2 MRI a network that was trained "
        "on spines with only age-related wear predicts an age for every scan. The prediction "
        "minus the chronological age, after the network's own age bias is taken off, is the "
        "spine age gap (SAG): positive means older-looking. This report tells the whole study of "
        f"{counted(tables.scans['person_id'].nunique(), 'person', 'people')}, from the files to "
        "each person's answer, and what was refused on the way."
    )


def chapter(evidence: Evidence) -> Chapter:
    """The headline."""
    tables = evidence.tables
    scans = numbers.test_scans(tables)
    blocks: list[Block] = [_counts(tables)]
    if len(scans):
        blocks += _accuracy(tables, evidence.study.seed)
    else:
        blocks.append(
            Text(
                ("No held-out normal person has an age, so there is no accuracy to report.",),
                "warning",
            )
        )
    return Chapter("headline", "The answer first", tuple(blocks))


def _counts(tables: Tables) -> Text:
    num_left = numbers.num_left(tables)
    left = f" {counted(num_left, 'scan')} left for the next run." if num_left else ""
    return Text(
        (
            f"{counted(tables.scans['person_id'].nunique(), 'person', 'people')}, "
            f"{counted(len(tables.scans), 'scan')}: {len(tables.scores):,} scored, "
            f"{len(numbers.refused(tables)):,} refused with a reason.{left}",
        )
    )


def _accuracy(tables: Tables, seed: int) -> list[Block]:
    scans = numbers.test_scans(tables)
    raw = numbers.accuracy_of(scans, seed)
    mean, oracle = numbers.mean_mae(tables), numbers.oracle_mae(tables)
    low, high = raw.limits["mae_years"]
    rows = [
        ("network, raw prediction", raw.figures["mae_years"], low, high),
        ("predict the mean age", mean, np.nan, np.nan),
    ]
    if oracle is not None:
        rows.append(("oracle: an ideal observer", oracle, np.nan, np.nan))
    drawn = pd.DataFrame(rows, columns=["name", "mae_years", "low_years", "high_years"])
    oracle_words = (
        ""
        if oracle is None
        else " An ideal observer, who sees the planted anatomy without error, errs by "
        f"{years(oracle, 2)}: about the best that any network could do on these people."
    )
    words = Text(
        (
            f"On {counted(raw.num_people, 'held-out person', 'held-out people')} with a normal "
            f"spine ({counted(raw.num_scans, 'scan')}) the raw prediction errs by "
            f"{years(raw.figures['mae_years'], 2)} on average (95 % CI "
            f"{limits(raw.limits['mae_years'])}). Giving each of them the mean age of the "
            f"training people errs by {years(mean, 2)}, so the network removes "
            f"{percent(1 - raw.figures['mae_years'] / mean)} of it.{oracle_words}",
        )
    )
    names = {
        "R² (1 − SSE/SST)": "r2",
        "Pearson r": "r",
        "MAE, years": "mae_years",
        "RMSE, years": "rmse_years",
        "mean gap, years": "mean_gap_years",
        "slope of prediction on age": "slope",
    }
    grid = table(
        "Raw predictions of held-out normal people, before any correction; limits by person: "
        "Student's of means, BCa bootstrap of the others.",
        ("raw figure", "value", "95 % CI"),
        [(name, number(raw.figures[key]), limits(raw.limits[key])) for name, key in names.items()],
    )
    picture = drawing(
        errors_beside_yardsticks(drawn),
        "Raw error beside its yardsticks; the band is the 95 % confidence interval by person. "
        "Predictions corrected with the age are not shown here: knowing the age, any model looks "
        "accurate.",
        f"Mean absolute error: network {years(raw.figures['mae_years'], 2)}, predict the mean "
        f"{years(mean, 2)}",
    )
    few = numbers.too_few_words(raw.num_people)
    return [words, *([Text((few,), "warning")] if few else []), picture, grid]
