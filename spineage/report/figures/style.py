"""One look for all figures: quiet axes, few colours, words instead of legends where possible.

The look applies while a figure is made *and* while it is saved, so both go through `look()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, MUTED, RULE = "#1c2733", "#5d6b79", "#dfe4e9"
BLUE, RUST, TEAL, PLUM, SAND = "#2c5f8a", "#b9552b", "#2b7f77", "#7b4b86", "#b98a2e"
SEX_COLOURS = {"F": PLUM, "M": TEAL, "O": SAND}
STATUS_COLOURS = {
    "normal": BLUE,
    "uncertain": SAND,
    "not_normal": RUST,
    "unknown": "#98a3ad",
}
STATUS_NAMES = {
    "normal": "normal spine",
    "uncertain": "uncertain",
    "not_normal": "not normal",
    "unknown": "no findings known",
}
CLUSTER_COLOURS = (
    BLUE,
    RUST,
    TEAL,
    PLUM,
    SAND,
    "#5b7f3a",
    "#a34561",
    "#4a6fb0",
    "#7a6a55",
    "#3f8fa6",
)
NOISE_COLOUR = "#a9b3bc"

_LOOK: dict[str, object] = {
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.facecolor": "none",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "text.color": INK,
    "font.size": 9.5,
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "spineage",
}


def look() -> AbstractContextManager[None]:
    """The project's matplotlib settings, for the length of a `with` block."""
    return mpl.rc_context(_LOOK)  # type: ignore[arg-type]


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure that belongs to nobody (pyplot keeps a global list: not here)."""
    return Figure(figsize=(width_in, height_in), layout="constrained")


def age_brackets(ages_years: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of ten-year brackets that hold every age, in years; the last edge is exclusive."""
    low, high = np.floor(np.nanmin(ages_years) / 10) * 10, np.floor(np.nanmax(ages_years) / 10) * 10
    return np.arange(low, high + 10.1, 10.0)


def bracket_names(edges_years: Sequence[float] | NDArray[np.float64]) -> list[str]:
    """`40-49` for the bracket from 40 to 50 years."""
    return [f"{low:.0f}–{high - 1:.0f}" for low, high in pairwise(edges_years)]


def bracket_of(
    ages_years: NDArray[np.float64], edges_years: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Index of the bracket of each age."""
    found = np.digitize(ages_years, edges_years) - 1
    return np.clip(found, 0, len(edges_years) - 2).astype(np.int64)


def note(axes: Axes, text: str) -> None:
    """A short remark in the upper left corner of a panel."""
    axes.text(
        0.02, 0.98, text, transform=axes.transAxes, va="top", ha="left", fontsize=8.5, color=MUTED
    )


def jitter(num: int, seed: int, width: float) -> NDArray[np.float64]:
    """Sideways offsets so that points on one category do not hide each other."""
    return np.random.default_rng(seed).uniform(-width, width, num)
