"""Which accepted series of one exam make its scan: one composed series, or the stations along the spine.

The order of preference is documented and total, so that the answer never depends on the order of files:
more coverage along the body, finer pixels, more slices, acquired later (a repeat replaces what was moved),
then the series id. A series is a further station when most of what it covers is not covered yet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spineage.science.scan.accept import Series

MAX_COVERED = (
    0.5  # stations overlap by a tenth to a third; a second series of a station by nearly all
)


@dataclass(frozen=True)
class Choice:
    """The stations of one scan, head first, and why the others were left: series_id -> (code, message)."""

    stations: tuple[Series, ...]
    left: dict[str, tuple[str, str]]

    @property
    def extent_mm(self) -> float:
        """Length along the body that is covered at least once."""
        return union_mm([station.span_mm for station in self.stations])


def choose_stations(accepted: Sequence[Series], composed_extent_mm: float) -> Choice:
    """Choose among the accepted series of one exam (at least one)."""
    frames: dict[str, list[Series]] = {}
    for series in sorted(accepted, key=preference):
        # those of an exam that name none are taken to share the scanner's; stitching sees who moved
        frames.setdefault(series.frame_of_reference or "", []).append(series)
    choices = [_choose_in_one_frame(group, composed_extent_mm) for group in frames.values()]
    best = min(choices, key=lambda c: (-round(c.extent_mm, 1), preference(c.stations[0])))
    left = dict(best.left)
    is_whole = best.extent_mm >= composed_extent_mm
    for choice in choices:
        if choice is best:
            continue
        for series_id in [*choice.left, *(s.series_id for s in choice.stations)]:
            left[series_id] = (
                ("not_chosen", "the exam's scan is complete without it")
                if is_whole
                else (
                    "stations_disagree",
                    "it lies in another frame of reference than the scan's stations",
                )
            )
    return Choice(best.stations, left)


@dataclass(frozen=True)
class Covered:
    """What one station covers: S of its ends along the middle of its field of view, and how much of that
    another station covers too."""

    series_id: str
    low_mm: float
    high_mm: float
    shared_mm: float


def coverage_of(choice: Choice) -> list[Covered]:
    """An honest record of the scan, head first, from the headers alone.

    A tilted station's corners reach further than its middle: they are not counted.
    """
    spans = [_middle_mm(station) for station in choice.stations]
    covered = []
    for i, (station, (low, high)) in enumerate(zip(choice.stations, spans, strict=True)):
        others = [span for j, span in enumerate(spans) if j != i]
        alone_mm = union_mm([*others, (low, high)]) - union_mm(others)
        covered.append(Covered(station.series_id, low, high, high - low - alone_mm))
    return covered


def _middle_mm(series: Series) -> tuple[float, float]:
    """Lowest and highest S along the middle of the field of view, to the outer faces of its voxels."""
    grid = series.view.grid
    assert grid is not None
    centre = grid.affine_RAS @ [*((n - 1) / 2 for n in grid.shape), 1]
    half = np.abs(grid.affine_RAS[2, :3] * grid.shape).max() / 2
    return float(centre[2] - half), float(centre[2] + half)


def preference(series: Series) -> tuple[float, float, int, float, str]:
    """Smaller is better; see the head of this file."""
    low, high = series.span_mm
    view = series.view
    about = view.first.about
    when = (about.study_day or 0) * 86_400.0 + about.acquired_s
    length = round(high - low)  # millimetres; rounding errors must not decide
    return (-length, round(view.in_plane_mm or 0.0, 3), -view.num_slices, -when, series.series_id)


def _choose_in_one_frame(group: Sequence[Series], composed_extent_mm: float) -> Choice:
    """`group` is in order of preference and shares a frame of reference."""
    first, *others = group
    low, high = first.span_mm
    if high - low >= composed_extent_mm:
        why = "a composed series shows the whole spine"
        return Choice((first,), {other.series_id: ("not_chosen", why) for other in others})
    taken, left = [first], {}
    for series in others:
        low, high = series.span_mm
        spans = [station.span_mm for station in taken]
        new_mm = union_mm([*spans, (low, high)]) - union_mm(spans)
        if new_mm > (1 - MAX_COVERED) * (high - low):
            taken.append(series)
        else:
            left[series.series_id] = ("not_chosen", "another series covers the same station better")
    return Choice(tuple(sorted(taken, key=lambda s: -s.span_mm[1])), left)


def union_mm(spans: Sequence[tuple[float, float]]) -> float:
    """Length covered by at least one span."""
    total, reached = 0.0, float("-inf")
    for low, high in sorted(spans):
        total += max(high - max(low, reached), 0.0)
        reached = max(reached, high)
    return total
