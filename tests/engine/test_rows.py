"""Rows through actors: faults are rows, crashes cost one scan, hangs are bounded."""

from __future__ import annotations

import pathlib
import re
from collections import Counter
from dataclasses import replace

import pytest

from spineage.engine import rows
from spineage.engine.rows import ORDINARY_VOXELS, Step, StopRule, run_rows
from spineage.errors import BadStudy, StoppedEarly
from tests.made.fakes import Double, FullDisk, LongMade, TimesOut, WriteLines

pytestmark = pytest.mark.usefixtures("ray_session")


def manifest(*names: str) -> list[dict[str, object]]:
    return [{"scan_id": n, "source_digest": "d", "value": i} for i, n in enumerate(names)]


def run(
    names: list[str], folder: pathlib.Path, sizes: tuple[int, ...] = (), **options: object
) -> Counter[str]:
    marks = folder / "marks"
    marks.mkdir()
    (folder / "out").mkdir()
    step = Step(
        Double, {"marks": str(marks)}, "double", num_cpus=0.5, deadline_s=2.0, is_measured=True
    )
    sink = Step(WriteLines, {"folder": str(folder / "out")}, "write", num_cpus=0.25)
    rows = manifest(*names)
    for row, size in zip(rows, sizes, strict=False):
        row["num_voxels"] = size
    return run_rows(rows, [step], sink, **options)  # type: ignore[arg-type]


def order(folder: pathlib.Path) -> list[tuple[str, str]]:
    """Scans and the processes that served them, as they were written."""
    return [tuple(line.split()) for line in (folder / "order").read_text().splitlines()]  # type: ignore[misc]


def written(folder: pathlib.Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}


def test_a_fault_is_a_row_and_its_neighbours_are_served(tmp_path: pathlib.Path) -> None:
    counts = run(["a", "bad1", "b", "bad2", "c"], tmp_path, rows_per_block=5, rows_per_part=2)
    assert counts == {"ok": 3, "bad_values": 2}
    assert written(tmp_path) == {
        "a": ":0", "bad1": "bad_values:", "b": ":4", "bad2": "bad_values:", "c": ":8",
    }  # fmt: skip


@pytest.mark.slow
def test_a_scan_that_kills_its_process_is_counted_and_all_others_are_served(
    tmp_path: pathlib.Path,
) -> None:
    names = ["kill", "once", *(f"good{i}" for i in range(10))]
    counts = run(names, tmp_path)
    assert counts == {"ok": 11, "crashed": 1}
    assert written(tmp_path)["kill"] == "crashed:"
    assert written(tmp_path)["once"] == ":2"


@pytest.mark.slow
def test_a_scan_that_hangs_ends_at_its_deadline_and_its_worker_is_replaced(
    tmp_path: pathlib.Path,
) -> None:
    counts = run(["a", "hang", "b", "c"], tmp_path)
    assert counts == {"ok": 3, "deadline": 1}
    assert written(tmp_path)["hang"] == "deadline:"


@pytest.mark.slow
def test_a_worker_whose_device_failed_serves_no_other_scan(tmp_path: pathlib.Path) -> None:
    """Ray may serve the first two scans in either order."""
    counts = run(["a", "broken", "b", "c"], tmp_path, sizes=(40, 30, 20, 10))
    assert counts == {"ok": 3, "device_failed": 1}
    failed = (tmp_path / "marks" / "broken").read_text()
    served = [line.split() for line in (tmp_path / "marks" / "served").read_text().splitlines()]
    served_after = [pid for _, pid in served[served.index(["broken", failed]) + 1 :]]
    assert len(served_after) >= 2
    assert failed not in served_after


def test_large_scans_go_first_and_have_longer(tmp_path: pathlib.Path) -> None:
    """The slow scan takes 3 s and an ordinary one may take 2. Of the two scans that are on their way to an
    actor at a time Ray may serve either first."""
    large = 4 * ORDINARY_VOXELS
    counts = run(["a", "b", "c", "d", "e", "slow"], tmp_path, sizes=(1, 2, 3, 4, 5, large))
    assert counts == {"ok": 6}
    served = [scan for scan, _ in order(tmp_path)]
    assert "slow" in served[:2]
    assert "a" in served[-2:]
    largest_first = ["slow", "e", "d", "c", "b", "a"]
    assert all(abs(served.index(scan) - largest_first.index(scan)) <= 2 for scan in served)


def test_a_run_tells_how_busy_its_device_was(tmp_path: pathlib.Path) -> None:
    told: list[str] = []
    run(["slow", "a", "b"], tmp_path, sizes=(2 * ORDINARY_VOXELS, 2, 1), tell=told.append)
    (line,) = told
    found = re.fullmatch(r"double: 1 workers busy (\d+)% of the time", line)
    assert found
    assert 80 <= int(found[1]) <= 100


def test_a_run_in_which_most_scans_fail_alike_stops_early(tmp_path: pathlib.Path) -> None:
    names = [f"bad{i}" for i in range(30)]
    with pytest.raises(StoppedEarly, match="bad_values"):
        run(names, tmp_path, stop_rule=StopRule(0.2, min_scans=5))
    assert len(written(tmp_path)) < 30


@pytest.mark.parametrize("where", ["a step", "the sink"])
def test_a_disk_that_is_full_stops_the_run_with_one_sentence(
    where: str, tmp_path: pathlib.Path
) -> None:
    for name in ("tried", "out"):
        (tmp_path / name).mkdir()
    full = Step(FullDisk, {"folder": str(tmp_path / "tried")}, "full", num_cpus=0.5)
    step = full if where == "a step" else Step(Double, {"marks": ""}, "double", num_cpus=0.5)
    lines = Step(WriteLines, {"folder": str(tmp_path / "out")}, "write", num_cpus=0.25)
    names = [f"s{i}" for i in range(200)]
    with pytest.raises(BadStudy, match=r"^the workspace cannot be written: No space left"):
        run_rows(manifest(*names), [step], full if where == "the sink" else lines)
    assert len(list((tmp_path / "tried").iterdir())) < 150, "not every scan was worked on"
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.slow
def test_a_clients_own_time_out_is_no_deadline_of_ours(tmp_path: pathlib.Path) -> None:
    (tmp_path / "out").mkdir()
    sink = Step(WriteLines, {"folder": str(tmp_path / "out")}, num_cpus=0.25)
    counts = run_rows(manifest("a", "bad", "b"), [Step(TimesOut, num_cpus=0.5)], sink)
    assert counts == {"ok": 2, "unavailable": 1}


@pytest.mark.slow
def test_a_chain_in_which_nothing_ends_stops_with_a_sentence(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that takes longer to start than anything may take."""
    monkeypatch.setattr(rows, "START_S", 3.0)
    sink = Step(WriteLines, {"folder": str(tmp_path)}, num_cpus=0.25)
    stuck = Step(LongMade, num_cpus=0.5, deadline_s=2.0)
    with pytest.raises(StoppedEarly, match=r"^no scan has ended for 5 s"):
        run_rows(manifest("a"), [stuck], replace(sink, deadline_s=2.0))
