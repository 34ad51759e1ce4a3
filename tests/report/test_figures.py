"""Figures say what their data say: counts, marks, words and orientation, read back from the figure itself."""

from __future__ import annotations

import ast
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from spineage.report.figures import accuracy, anatomy, cohort, effects, style
from spineage.science.spine.labels import LEVELS, VERTEBRAE
from tests.made.report_data import make_tables
from tests.made.report_rows import SPACING_MM, cartoon

TABLES = make_tables(30)


def words_of(figure: Figure) -> str:
    """Everything written in a figure."""
    texts = [text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text"))]
    return "\n".join(filter(None, texts))


def heights(panel: object) -> list[float]:
    return [bar.get_height() for bar in panel.patches if bar.get_width() > 0]  # type: ignore[attr-defined]


# people


def test_histograms_count_people_and_not_their_repeats() -> None:
    figure = cohort.split_histograms(TABLES["cohort"])
    people = TABLES["cohort"].drop_duplicates("person_id")
    assert len(TABLES["cohort"]) > len(people)
    for split, panel in zip(cohort.SPLITS, figure.axes, strict=True):
        num = int((people["split"] == split).sum())
        assert panel.get_title(loc="left") == f"{split}, {num} people"
        pale = [bar.get_height() for bar in panel.patches if bar.get_alpha() == 0.3]
        assert sum(pale) == num


def test_solid_bars_of_the_histograms_are_the_normal_spines() -> None:
    people = TABLES["cohort"].drop_duplicates("person_id")
    figure = cohort.split_histograms(TABLES["cohort"])
    solid = sum(
        bar.get_height()
        for panel in figure.axes
        for bar in panel.patches
        if bar.get_alpha() is None
    )
    assert solid == (people["status"] == "normal").sum()


def test_the_map_names_every_cluster_with_its_share_of_the_clustered_people() -> None:
    table = TABLES["cohort"].copy()
    table.loc[table["person_id"] == table["person_id"].iat[0], "cluster"] = -2
    people = table.drop_duplicates("person_id")
    known = people[people["cluster"] != -2]
    words = words_of(cohort.cohort_map(table))
    for cluster, group in known.groupby("cluster"):
        assert f"{100 * len(group) / len(known):.0f} %" in words, cluster
    assert "disc bulge, lumbar" in words


def test_a_cluster_has_the_same_colour_in_every_figure() -> None:
    figure = cohort.burden_by_cluster(TABLES["cohort"])
    medians = {to_hex(line.get_color()) for line in figure.axes[0].lines}
    assert medians == {
        to_hex(cohort.cluster_colour(c)) for c in TABLES["cohort"]["cluster"].unique()
    }


# brackets


@given(st.lists(st.floats(0, 119), min_size=1, max_size=30))
@settings(max_examples=100, deadline=None)
def test_every_age_lies_in_its_bracket(ages: list[float]) -> None:
    values = np.array(ages)
    edges = style.age_brackets(values)
    bracket = style.bracket_of(values, edges)
    assert (edges[bracket] <= values).all()
    assert (values < edges[bracket + 1]).all()
    assert len(style.bracket_names(edges)) == len(edges) - 1


# accuracy


def test_coverage_limits_are_wilsons() -> None:
    scans = pd.DataFrame(
        {
            "age_years": [50.0] * 10,
            "interval_low_years": 40.0,
            "interval_high_years": [60.0] * 8 + [45.0] * 2,
        }
    )
    row = accuracy.coverage_table(scans, np.zeros(10, np.int64), 1).iloc[0]
    share, n, z = 0.8, 10, 1.959964
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    assert row["coverage"] == 0.8
    assert row["low"] == pytest.approx(centre - half, abs=1e-6)
    assert row["high"] == pytest.approx(centre + half, abs=1e-6)


def test_coverage_of_nobody_is_unknown_and_not_zero() -> None:
    scans = pd.DataFrame(
        {"age_years": [50.0], "interval_low_years": 40.0, "interval_high_years": 60.0}
    )
    table = accuracy.coverage_table(scans, np.array([1]), 2)
    assert table["num"].tolist() == [0, 1]
    assert np.isnan(table["coverage"].iat[0])


def test_error_bars_are_means_of_the_absolute_raw_error() -> None:
    scans = pd.DataFrame(
        {
            "age_years": [41.0, 42.0, 61.0],
            "predicted_years": [45.0, 40.0, 70.0],
            "sex": ["F", "F", "M"],
        }
    )
    axes = accuracy.error_by_sex_and_age(scans).axes[0]
    assert sorted(h for h in heights(axes) if h > 0) == [pytest.approx(3.0), pytest.approx(9.0)]


def test_the_kept_epoch_is_marked_on_the_learning_curve() -> None:
    figure = accuracy.learning_curve(TABLES["history"], 17)
    assert any(list(line.get_xdata()) == [17, 17] for line in figure.axes[0].lines)
    assert "kept: epoch 17" in words_of(figure)


def test_the_bias_figure_says_which_panel_uses_the_age() -> None:
    scores = TABLES["scores"]
    raw, corrected = accuracy.bias_by_age(scores).axes
    assert raw.get_title(loc="left") == "raw gap"
    assert corrected.get_title(loc="left") == "corrected, uses age"
    drawn = corrected.collections[0].get_offsets()[:, 1]
    assert np.allclose(np.asarray(drawn), scores["sag_years"])


# effects


def test_the_forest_lists_nulls_too_and_leaves_them_grey() -> None:
    rows = TABLES["associations"].query(
        "family == 'conditions' and population == 'all' and outcome == 'sag'"
    )
    axes = effects.forest(rows).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == rows.sort_values("p")[
        "exposure"
    ].str.replace("_", " ").tolist()
    squares = [line for line in axes.lines if line.get_marker() == "s"]
    is_grey = [line.get_color() == style.MUTED for line in squares]
    assert is_grey == (rows.sort_values("p")["q"] >= 0.05).tolist()
    assert [line.get_xdata()[0] for line in squares] == pytest.approx(
        rows.sort_values("p")["effect_years"].tolist()
    )


def test_the_planted_gap_figure_prints_the_correlation_it_shows() -> None:
    rng = np.random.default_rng(1)
    gap = rng.normal(0, 5, 50)
    scores = pd.DataFrame(
        {"gap_years": gap, "sag_years": gap * 0.5 + rng.normal(0, 2, 50), "status": "normal"}
    )
    expected = np.corrcoef(scores["gap_years"], scores["sag_years"])[0, 1]
    assert f"r {expected:.2f}" in words_of(effects.planted_gap_vs_sag(scores))


# anatomy


def test_head_is_up_and_the_front_of_the_body_left() -> None:
    slice_AS = np.zeros((5, 9))
    slice_AS[4, 8] = 1  # most anterior, most superior
    assert anatomy.for_display(slice_AS)[0, 0] == 1


def test_the_mid_sagittal_slice_is_the_one_with_most_canal() -> None:
    levels = np.zeros((7, 10, 10), np.uint8)
    levels[2, :3] = LEVELS["canal"]
    levels[5, :5] = LEVELS["cord"]
    assert anatomy.mid_sagittal_index(levels) == 5
    assert anatomy.mid_sagittal_index(np.zeros((7, 3, 3), np.uint8)) == 3


def test_every_label_has_a_colour_and_neighbours_differ() -> None:
    colours = anatomy.level_colours()
    assert all(colours[value].any() for name, value in LEVELS.items() if name != "background")
    neighbours = [(colours[LEVELS[a]], colours[LEVELS[b]]) for a, b in pairwise(VERTEBRAE)]
    assert all((a != b).any() for a, b in neighbours)


def test_cropping_keeps_the_spine_and_the_size_of_a_pixel() -> None:
    picture = anatomy.mid_sagittal(*cartoon(np.random.default_rng(0)), SPACING_MM)
    small = anatomy.cropped(picture, anatomy.box_of_spine(picture, 10.0))
    assert small.image_YX.size < picture.image_YX.size
    assert (small.levels_YX > 0).sum() == (picture.levels_YX > 0).sum()
    rows, columns = small.image_YX.shape
    assert small.height_mm / rows == pytest.approx(SPACING_MM[2])
    assert small.width_mm / columns == pytest.approx(SPACING_MM[1])


@given(st.floats(0, 1))
@settings(deadline=None)
def test_the_display_transform_is_the_papers(x: float) -> None:
    expected = 1.0 if x == 0 else max(math.log(288 * x), 1.0)
    assert anatomy.paper_transform(np.array([x]))[0] == pytest.approx(expected)


def test_the_gradcam_legend_prints_the_transform_and_keeps_the_linear_map() -> None:
    picture = anatomy.mid_sagittal(*cartoon(np.random.default_rng(0)), SPACING_MM)
    cam = np.full(picture.image_YX.shape, 0.5)
    figure = anatomy.gradcam([("54 y, F", picture, cam)])
    words = words_of(figure)
    assert "f(x) = max(ln(288 x), 1)" in words
    assert "linear: 0 to 1" in words
    shown = [panel.images[-1].get_array() for panel in figure.axes[1:3]]
    assert np.nanmax(shown[0]) == 0.5
    assert np.nanmax(shown[1]) == pytest.approx(math.log(144))


def test_levels_are_named_in_order_down_the_picture() -> None:
    picture = anatomy.mid_sagittal(*cartoon(np.random.default_rng(0)), SPACING_MM)
    panel = anatomy.levels_on_slices([("54 y, F", picture)]).axes[0]
    names = [(text.get_position()[1], text.get_text()) for text in panel.texts]
    ordered = [name for _, name in sorted(names)]
    assert ordered[0] == "C1"
    assert ordered[-2:] == ["L5", "S1"]


def test_a_name_stands_before_the_body_and_not_half_way_to_the_spinous_process() -> None:
    levels = np.zeros((60, 40), np.uint8)
    levels[:, 20:24] = LEVELS["canal"]
    levels[10:20, 8:20] = LEVELS["T9"]
    levels[25:45, 26:36] = LEVELS["T9"]
    picture = anatomy.SagittalSlice(
        (levels > 0).astype(float), levels, height_mm=60.0, width_mm=40.0
    )
    [text] = anatomy.levels_on_slices([("", picture)]).axes[0].texts
    x_mm, y_mm = text.get_position()
    assert x_mm < 8
    assert 10 <= y_mm <= 20


def test_a_stretched_map_covers_the_picture_and_stays_in_its_range() -> None:
    small = np.random.default_rng(0).random((10, 4))
    large = anatomy.to_picture_grid(small, (83, 37))
    assert large.shape == (83, 37)
    assert small.min() <= large.min() <= large.max() <= small.max()


def test_occlusion_bars_are_means_over_scans() -> None:
    rows = pd.DataFrame(
        {"regions": [["cervical", "lumbar"]] * 2, "occlusion_years": [[1.0, 4.0], [3.0, 6.0]]}
    )
    axes = anatomy.occlusion(rows).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [2.0, 5.0]


def test_no_figure_keeps_global_state() -> None:
    for path in Path(style.__file__).parent.glob("*.py"):
        imported = [
            n
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        assert "pyplot" not in " ".join(ast.unparse(node) for node in imported), path.name
