"""A plan says what is done, what remains and how long that takes, from what was measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spineage.engine.tally import Pace, StepPace
from spineage.errors import BadStudy
from spineage.io.storage.store import Store
from spineage.run.context import Shard, read_shard
from spineage.run.plan import Plan
from spineage.run.rates import MOST_KEPT, Rate, Work, keep_rate, rates_of, scaled_s, seconds_for

MEASURED = Rate(
    "score", "score/a", "2026-11-01T00:00:00+00:00", seconds=60.0, size=40,
    pace=Pace(40, 10.0, 44.0, cores=2.0, steps={
        "draw": StepPace(40, 40.0, 1), "predict": StepPace(40, 4.0, 1),
    }),
)  # fmt: skip
WORK = {"draw": Work(40, 1), "predict": Work(40, 1)}


def test_the_same_run_again_takes_as_long() -> None:
    assert seconds_for(WORK, 2.0, [MEASURED]) == pytest.approx(60.0)


@given(st.integers(1, 100_000))
def test_rows_count_and_the_start_stays(num: int) -> None:
    work = {"draw": Work(num, 1), "predict": Work(num, 1)}
    assert seconds_for(work, 2.0, [MEASURED]) == pytest.approx(16.0 + 1.1 * num)


def test_more_workers_help_until_the_cores_are_used_up() -> None:
    many = {"draw": Work(4000, 16), "predict": Work(4000, 1)}
    few_cores = seconds_for(many, 2.0, [MEASURED])
    many_cores = seconds_for(many, 64.0, [MEASURED])
    assert few_cores == pytest.approx(16 + 1.1 * 4400 / 2)
    assert many_cores == pytest.approx(16 + 1.1 * 400), "now predicting is the slowest"


def test_work_on_devices_takes_no_cores() -> None:
    on_gpu = {"draw": Work(4000, 8, is_on_cores=False), "predict": Work(0, 1)}
    assert seconds_for(on_gpu, 1.0, [MEASURED]) == pytest.approx(16 + 1.1 * 500)


def test_without_ray_one_thing_comes_after_another() -> None:
    assert seconds_for(WORK, 0.0, [MEASURED]) == pytest.approx(44.0)


def test_what_was_never_measured_is_not_guessed() -> None:
    assert seconds_for({**WORK, "read": Work(1, 1)}, 2.0, [MEASURED]) is None
    assert seconds_for(WORK, 2.0, []) is None
    assert seconds_for({**WORK, "read": Work(0, 1)}, 2.0, [MEASURED]) is not None, "no row needs it"
    plan = Plan("score", 1, 2)
    assert "how long is not known" in plan.line()
    assert "how long" not in replace(plan, remaining=0).line()


def test_rates_are_kept_the_newest_first_and_not_for_ever(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for size in range(1, MOST_KEPT + 4):
        keep_rate(store, replace(MEASURED, size=float(size)))
    found = rates_of(store, ["score", "segment"])
    assert [rate.size for rate in found] == list(range(MOST_KEPT + 3, 3, -1))
    assert found[0].pace == MEASURED.pace
    assert scaled_s(46.0, found) == pytest.approx(60.0 * 46 / (MOST_KEPT + 3))
    assert scaled_s(46.0, []) is None


def test_a_rate_that_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    keep_rate(store, MEASURED)
    for i, damaged in enumerate((b"{", b"[]", b'{"stage": "score"}', b'{"stage": 1, "pace": 3}')):
        store.write(f"rates/score/3000-{i}.json", damaged)
    assert rates_of(store, ["score"]) == [MEASURED]


@given(st.integers(1, 40), st.text(min_size=1))
def test_every_scan_is_in_one_shard(of: int, scan_id: str) -> None:
    assert sum(Shard(n, of).has(scan_id) for n in range(1, of + 1)) == 1


def test_a_shard_that_is_none_is_refused() -> None:
    assert read_shard("3/16") == Shard(3, 16)
    for text in ("0/4", "5/4", "3", "3/0", "a/b", "-1/3", "3/16/2"):
        with pytest.raises(BadStudy, match="3/16 for the third of 16"):
            read_shard(text)
