"""Series that are not what their UIDs say: pooled stations, pooled contrasts, a UID for each slice."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest

from spineage.science.scan.accept import judge_series
from spineage.science.scan.choose import choose_stations
from spineage.science.scan.regroup import regroup
from spineage.science.scan.series import Header
from spineage.science.scan.slices import Frame
from tests.science.scan.test_series import (
    LIMITS,
    SOMEBODY,
    axial,
    good_stack,
    headers_of,
    physics,
    sagittal,
)

LEAST_MS = LIMITS.min_repetition_ms


def numbered(headers: list[Header]) -> list[Header]:
    return [
        replace(h, file_id=f"f{i:03d}", object_id=f"o{i}", digest=f"d{i}")
        for i, h in enumerate(headers)
    ]


def groups_of(headers: list[Header]) -> list[list[str]]:
    """File ids by series, in an order that hangs on neither."""
    regrouped = sorted(regroup(headers, LEAST_MS), key=lambda h: (h.series_id, h.file_id))
    groups = itertools.groupby(regrouped, key=lambda h: h.series_id)
    return sorted([h.file_id for h in group] for _, group in groups)


def three_stations() -> list[Header]:
    frames = [f for top_mm in (400.0, 150.0, -100.0) for f in good_stack(top_mm=top_mm)]
    return numbered(headers_of(frames))


def one_exam(*, apart: bool) -> list[Header]:
    """A T1 and a T2 at the same places, in one series."""
    short = headers_of(good_stack(echo_ms=10.0), physics=physics(repetition_ms=550.0))
    return numbered([*headers_of(good_stack()), *short]) if apart else []


@pytest.mark.parametrize(
    "headers",
    [headers_of(good_stack()), headers_of([axial(i) for i in range(11)])],
    ids=["sagittal", "axial"],
)
def test_an_ordinary_series_stays_as_it_is(headers: list[Header]) -> None:
    assert regroup(headers, LEAST_MS) == headers


def test_stations_of_one_series_are_told_apart_by_place_and_make_one_scan() -> None:
    found = regroup(three_stations(), LEAST_MS)
    assert groups_of(three_stations()) == [
        [f"f{i:03d}" for i in range(start, start + 11)] for start in (0, 11, 22)
    ]
    names = sorted({h.series_id for h in found})
    stations = [judge_series([h for h in found if h.series_id == n], LIMITS) for n in names]
    assert [s.code for s in stations] == ["", "", ""]
    assert len(choose_stations(stations, 450).stations) == 3


def test_a_few_planning_slices_elsewhere_are_no_station() -> None:
    frames = [*good_stack(), *(sagittal(i, top_mm=400.0) for i in range(3))]
    headers = numbered(headers_of(frames))
    assert regroup(headers, LEAST_MS) == headers


def test_a_tilted_stack_is_one_station() -> None:
    """Its slices lie along their normal, which has a part along the body."""
    down, across = (0.17365, 0.0, -0.98481), (0.0, 1.0, 0.0)
    frames = [
        replace(
            f, across=across, down=down,
            position_mm=(40.0 - 4.0 * 0.98481 * i, -120.0, 150.0 - 40.0 * 0.17365 * i),
        )
        for i, f in enumerate(good_stack())
    ]  # fmt: skip
    headers = numbered(headers_of(frames))
    assert regroup(headers, LEAST_MS) == headers


def test_a_t1_and_a_t2_of_one_series_are_told_apart_whatever_the_files_are_called() -> None:
    headers = one_exam(apart=True)
    for seed in range(4):
        names = [f"f{i:03d}" for i in range(len(headers))]
        random.Random(seed).shuffle(names)
        named = [replace(h, file_id=n) for h, n in zip(headers, names, strict=True)]
        found = regroup(named, LEAST_MS)
        groups = {h.series_id: [] for h in found}
        for h in found:
            groups[h.series_id].append(h)
        assert sorted(judge_series(group, LIMITS).code for group in groups.values()) == [
            "", "not_t2",
        ]  # fmt: skip


def loose(frames: list[Frame], **changes: object) -> list[Header]:
    """Each slice with a series UID of its own."""
    headers = numbered(headers_of(frames, **changes))
    return [replace(h, series_id=f"{i:016x}") for i, h in enumerate(headers)]


def test_slices_with_a_series_uid_each_are_one_series_which_is_said() -> None:
    found = regroup(loose(good_stack()), LEAST_MS)
    assert len({h.series_id for h in found}) == 1
    series = judge_series(found, LIMITS)
    assert (series.code, series.view.num_slices) == ("", 11)
    assert "were put together" in series.message


@pytest.mark.parametrize("change", ["exam", "physics", "size", "place"])
def test_slices_that_differ_in_more_than_their_place_are_not_put_together(change: str) -> None:
    headers = loose(good_stack()[:8])
    others = {
        "exam": lambda h: replace(h, about=replace(SOMEBODY, exam_id="another")),
        "physics": lambda h: replace(h, physics=physics(repetition_ms=4000.0)),
        "size": lambda h: replace(h, frames=(replace(h.frames[0], rows=200),)),
        "place": lambda h: replace(h, frames=headers[1].frames),
    }
    headers[:4] = [others[change](h) for h in headers[:4]]
    assert regroup(headers, LEAST_MS) == headers, "four and four, or slices at one place twice"


def test_stations_without_a_frame_of_reference_or_with_one_a_file_are_one_scan() -> None:
    for frames_of_reference in ([None] * 33, [f"frame {i}" for i in range(33)]):
        headers = [
            replace(h, about=replace(h.about, frame_of_reference=frame), series_id=f"s{i // 11}")
            for i, (h, frame) in enumerate(zip(three_stations(), frames_of_reference, strict=True))
        ]
        stations = [judge_series(headers[i : i + 11], LIMITS) for i in (0, 11, 22)]
        assert len(choose_stations(stations, 450).stations) == 3
