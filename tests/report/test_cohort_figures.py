"""The audit's figures show the numbers they are given."""

from __future__ import annotations

import matplotlib.text
import numpy as np
import pandas as pd
from matplotlib.container import BarContainer
from matplotlib.patches import StepPatch

from spineage.report.figures.cohort_audit import (
    ages_by_group,
    alternatives_by_age,
    findings_by_group,
    normal_probability,
)

AUDIT = {
    "groups": [{"cluster": 0, "name": "few"}, {"cluster": 1, "name": "worn"}],
    "findings": {
        "conditions": ["disc bulge, lumbar", "fracture, thoracic"], "population": [0.31, 0.07],
        "groups": {"0": [0.12, 0.03], "1": [0.93, 0.18]},
    },
}  # fmt: skip


def cohort(num: int = 60) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    p = np.resize([1.0, 0.5, 0.1], num)
    return pd.DataFrame(
        {
            "scan_id": [f"s{i}" for i in range(num)],
            "person_id": [f"p{i}" for i in range(num)],
            "age_years": rng.uniform(25, 84, num),
            "sex": rng.choice(["F", "M"], num),
            "cluster": np.resize([0, 0, 1], num),
            "cluster_name": np.resize(["few", "few", "worn"], num),
            "status": "normal",
            "consensus": np.resize(["normal", "uncertain", "not_normal"], num),
            "normal_probability": p,
            "burden": 1.0,
            "num_findings": 1,
        }
    )


def test_every_share_of_a_finding_is_printed_beside_the_source_population() -> None:
    (axes,) = findings_by_group(AUDIT).axes
    printed = [t.get_text() for t in axes.texts]
    assert printed == ["31", "12", "93", "7", "3", "18"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["source population", "few", "worn"]


def test_the_bars_of_a_group_sum_to_one_and_the_line_is_the_source() -> None:
    figure = ages_by_group(cohort())
    for panel in figure.axes:
        heights = [bar.get_height() for bars in panel.containers if isinstance(bars, BarContainer)
                   for bar in bars]  # fmt: skip
        assert np.isclose(sum(heights), 1)
        [steps] = [p.get_data().values for p in panel.patches if isinstance(p, StepPatch)]
        assert np.isclose(steps.sum(), 1)


def test_people_are_counted_by_probability_and_grid_cells_span_their_draws() -> None:
    row = {"num_neighbors": 15, "num_components": 5, "min_cluster_share": 0.08, "min_samples": 5,
           "normal_share": 0.6, "normal_share_low": 0.5, "normal_share_high": 0.7}  # fmt: skip
    blank = row | {"normal_share": None}
    left, right = normal_probability(cohort(), 0.8, 0.2, [row, blank]).axes
    words = [t.get_text() for t in left.get_legend().findobj(matplotlib.text.Text)]
    assert {"normal spine, n = 20", "uncertain, n = 20", "not normal, n = 20"} <= set(words)
    spans = [line.get_xdata() for line in right.lines]
    assert [list(np.ravel(x)) for x in spans] == [[50.0, 70.0], [60.0]]


def test_each_rule_is_a_line_and_the_studys_own_is_the_thick_one() -> None:
    compared = [
        {"rule": "clusters", "normal_by_decade": {"20": 0.9, "30": 0.8}},
        {"rule": "paper", "normal_by_decade": {"20": 0.1, "30": 0.8}},
    ]
    (axes,) = alternatives_by_age(compared, "clusters").axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[90.0, 80.0], [10.0, 80.0]]
    assert axes.lines[0].get_linewidth() > axes.lines[1].get_linewidth()
