"""Rows without Ray end as they do with it: the same faults, counts and rows, one after another."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from spineage.engine.alone import run_rows_alone
from spineage.engine.rows import Step, run_rows
from spineage.engine.tally import Pace, StopRule
from spineage.errors import BadStudy, StoppedEarly
from tests.made.fakes import Buggy, Double, FullDisk, NeverMade, TimesOut, Wait, WriteLines


def manifest(*names: str) -> list[dict[str, Any]]:
    return [{"scan_id": n, "source_digest": "d", "value": i} for i, n in enumerate(names)]


def steps(folder: Path, deadline_s: float = 2.0) -> list[Step]:
    (folder / "marks").mkdir(parents=True, exist_ok=True)
    made = {"marks": str(folder / "marks")}
    return [Step(Double, made, "double", num_cpus=0.5, deadline_s=deadline_s)]


def sink(folder: Path) -> Step:
    (folder / "out").mkdir(parents=True, exist_ok=True)
    return Step(WriteLines, {"folder": str(folder / "out")}, "write", num_cpus=0.25)


def written(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}


@pytest.mark.usefixtures("ray_session")
def test_rows_end_as_they_do_on_ray(tmp_path: Path) -> None:
    names = ["a", "bad1", "b", "broken1", "c", "bad2"]
    ours, rays = tmp_path / "ours", tmp_path / "rays"
    alone = run_rows_alone(manifest(*names), steps(ours), sink(ours))
    assert alone == run_rows(manifest(*names), steps(rays), sink(rays))
    assert alone == {"ok": 3, "bad_values": 2, "device_failed": 1}
    assert written(ours) == written(rays)


def test_a_scan_that_hangs_is_a_fault_and_its_neighbours_are_served(tmp_path: Path) -> None:
    counts = run_rows_alone(manifest("a", "hang1", "b"), steps(tmp_path, 0.5), sink(tmp_path))
    assert counts == {"ok": 2, "deadline": 1}


def test_many_that_hang_end_the_run_with_a_sentence(tmp_path: Path) -> None:
    names = ["hang1", "hang2", "a", "hang3", "b"]
    with pytest.raises(StoppedEarly, match="3 scans took longer than their deadline"):
        run_rows_alone(manifest(*names), steps(tmp_path, 0.2), sink(tmp_path))
    assert written(tmp_path)["a"] == ":4"


def test_a_bug_keeps_its_type_and_place_and_an_ill_step_is_made_anew(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    counts = run_rows_alone(
        manifest("a", "bug1", "b"), [Step(Buggy, name="buggy")], sink(tmp_path),
        hear=lambda key, code, message: heard.append((code, message)),
    )  # fmt: skip
    assert counts == {"ok": 2, "bug": 1}
    assert written(tmp_path)["b"] == ":2", "served by a step that is well"
    assert heard[0][0] == "bug"
    assert "RuntimeError in buggy" in heard[0][1]


def test_a_server_that_does_not_answer_is_tried_again_next_time(tmp_path: Path) -> None:
    counts = run_rows_alone(manifest("a", "bad", "b"), [Step(TimesOut)], sink(tmp_path))
    assert counts == {"ok": 2, "unavailable": 1}


def test_a_study_that_is_at_fault_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(BadStudy):
        run_rows_alone(manifest("a"), [Step(NeverMade)], sink(tmp_path))
    full = Step(FullDisk, {"folder": str(tmp_path)}, "write")
    with pytest.raises(BadStudy):
        run_rows_alone(manifest("a"), steps(tmp_path), full)


def test_it_stops_early_when_too_many_fail_alike(tmp_path: Path) -> None:
    names = [f"bad{i}" for i in range(9)]
    with pytest.raises(StoppedEarly, match="3 of 3 scans ended as bad_values"):
        run_rows_alone(
            manifest(*names), steps(tmp_path), sink(tmp_path), stop_rule=StopRule(0.5, min_scans=3)
        )


@pytest.mark.usefixtures("ray_session")
def test_both_measure_what_each_kind_of_work_took(tmp_path: Path) -> None:
    waits = [Step(Wait, {"seconds": 0.2}, does="wait", num_cpus=0.5)]
    found: list[Pace] = []
    told: list[Counter[str]] = []
    rows = manifest("a", "b", "c")
    run_rows_alone(rows, waits, sink(tmp_path / "a"), measure=found.append)
    run_rows(
        rows, waits, sink(tmp_path / "b"), measure=found.append,
        say=lambda counts, total: told.append(Counter(counts)),
    )  # fmt: skip
    for pace in found:
        step = pace.steps["wait"]
        assert (pace.rows, step.rows, step.workers, step.is_on_cores) == (3, 3, 1, True)
        assert 0.6 <= step.seconds < 1.5
        assert 0.3 < pace.seconds < 5
    assert told[-1] == {"ok": 3}
