"""What is one series is not always what a SeriesInstanceUID says: archives pool stations or contrasts under
one, and scanners or anonymisers give each slice one of its own.

Only headers are looked at, all of an exam together, so that no answer hangs on names or order of files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from spineage.science.scan.series import DIXON_PARTS, Header
from spineage.science.scan.slices import Frame, orientations

MIN_STATION: Final = 5
"""Slices at one place that are a station; fewer are planning slices, or repeats of some."""
APART_MM: Final = 40.0
"""Between the middles of two stations; slices of one lie along their normal, and hardly beside it."""
ID_LENGTH: Final = 16
LOOSE_NOTE: Final = (
    "; its slices, each of which had a series UID of its own or none, were put together"
)


def regroup(headers: Sequence[Header], min_repetition_ms: float) -> list[Header]:
    """The headers, with the `series_id` of what they are part of. min_repetition_ms: of a T2."""
    together = _stack_loose([part for header in headers for part in _frames_apart(header)])
    by_contrast = _split(together, lambda group: _contrasts(group, min_repetition_ms))
    return _split(by_contrast, _places)


def _stack_loose(headers: Sequence[Header]) -> list[Header]:
    """Slices that are series by themselves and alike in all but their place become one."""
    num_files = Counter(header.series_id for header in headers)
    alike: dict[Hashable, list[Header]] = {}
    for header in headers:
        if num_files[header.series_id] == 1 and len(header.frames) == 1:
            alike.setdefault(_likeness(header), []).append(header)
    series_of: dict[str, str] = {}
    for group in alike.values():
        places = {header.frames[0].position_mm for header in group}
        if MIN_STATION <= len(group) == len(places) and None not in places:
            series_id = _derived("loose", *sorted(header.series_id for header in group))
            series_of |= dict.fromkeys((header.series_id for header in group), series_id)
    return [
        replace(header, series_id=series_of[header.series_id], note=LOOSE_NOTE)
        if header.series_id in series_of
        else header
        for header in headers
    ]


def _likeness(header: Header) -> Hashable:
    frame, about = header.frames[0], header.about
    axes = np.round([*(frame.across or ()), *(frame.down or ())], 3)
    pixel = np.round(frame.pixel_mm or (), 3)
    return (
        about.person_id, about.exam_id, about.study_day, header.physics, header.words, header.body_part,
        frame.rows, frame.columns, frame.echo_ms, frame.is_magnitude, frame.acquisition,
        tuple(axes.tolist()), tuple(pixel.tolist()),
    )  # fmt: skip


Parts = Callable[[list[Header]], list[str]]
"""Of the headers of one series: which part of it each is, "" for all of a series that is one."""


def _split(headers: Sequence[Header], parts: Parts) -> list[Header]:
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(header.series_id, []).append(header)
    part_of = {
        header.file_id: part
        for group in groups.values()
        for header, part in zip(group, parts(group), strict=True)
        if part
    }
    return [
        replace(header, series_id=_derived(header.series_id, part_of[header.file_id]))
        if header.file_id in part_of
        else header
        for header in headers
    ]


def _contrasts(group: list[Header], min_repetition_ms: float) -> list[str]:
    """A T1 and a T2 under one UID: their repetition times lie on both sides of a T2's least."""
    times_ms = [header.physics.repetition_ms for header in group]
    known = [time_ms for time_ms in times_ms if time_ms]
    if len(known) < len(times_ms) or not min(known) < min_repetition_ms <= max(known):
        return [""] * len(group)
    return ["short TR" if time_ms < min_repetition_ms else "long TR" for time_ms in known]


def _frames_apart(header: Header) -> list[Header]:
    """Of one multi-frame object that holds several images of a Dixon acquisition, or several stations, each
    by itself."""
    if len(header.frames) < 2:
        return [header]
    images: dict[str, list[Frame]] = {}
    for frame in header.frames:
        images.setdefault(frame.dixon, []).append(frame)
    groups = [
        (
            dixon,
            station,
            [frame for frame, s in zip(frames, _stations(frames), strict=True) if s == station],
        )
        for dixon, frames in images.items()
        for station in sorted(set(_stations(frames)))
    ]
    if len(groups) == 1:
        return [header]
    return [
        replace(
            header,
            series_id=_derived(header.series_id, "frames", dixon, station),
            frames=tuple(frames),
            echo_ms=frames[0].echo_ms,
            physics=replace(header.physics, image_type=header.physics.image_type | _terms(dixon)),
        )
        for dixon, station, frames in groups
    ]


def _terms(dixon: str) -> frozenset[str]:
    """By which term of ImageType the image is known from here on."""
    terms = [term for term, part in DIXON_PARTS.items() if part == dixon]
    return frozenset(terms[:1])


def _places(group: list[Header]) -> list[str]:
    """Several stations under one UID: slices whose middles lie apart across their normal."""
    frames = [header.frames[0] for header in group if len(header.frames) == 1]
    return [""] * len(group) if len(frames) < len(group) else _stations(frames)


def _stations(frames: Sequence[Frame]) -> list[str]:
    """Which station each slice is of, "" for all of one."""
    whole = [""] * len(frames)
    if not all(frame.has_geometry for frame in frames) or len(orientations([*frames])) != 1:
        return whole
    heights = np.array([_along_the_body_mm(frame) for frame in frames])
    order = np.argsort(heights, kind="stable")
    ends = np.flatnonzero(np.diff(heights[order]) > APART_MM) + 1
    stations = np.split(order, ends)
    if len(stations) < 2 or min(map(len, stations)) < MIN_STATION:
        return whole
    parts = list(whole)
    for number, station in enumerate(stations):
        for i in station:
            parts[i] = f"station {number}"
    return parts


def _along_the_body_mm(frame: Frame) -> float:
    """S of a slice's middle, but for what the slice's own place along its normal makes of it."""
    across, down, (between_rows, between_columns) = frame.in_place
    assert frame.position_mm is not None
    middle = (
        np.array(frame.position_mm)
        + np.array(across) * between_columns * (frame.columns - 1) / 2
        + np.array(down) * between_rows * (frame.rows - 1) / 2
    )
    normal = frame.normal
    return float((middle - (middle @ normal) * normal)[2])


def _derived(*parts: str) -> str:
    """An id of the form of the others, of ids that are hashes already."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:ID_LENGTH]
