"""A run has a place for all of its workers before they start, or says what it waits for."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spineage.engine import places
from spineage.engine.places import Need, Place, cores, on_gpus
from spineage.errors import BadStudy

ROOT = Path(__file__).parent.parent.parent
GPUS = Need("segment", 4, 0.0, 1.0)


def on_nodes(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[float, float]) -> None:
    """The cluster has nodes of so many (CPU, GPU)."""
    found = [Place({"CPU": cpu, "GPU": gpu}) for cpu, gpu in nodes]
    monkeypatch.setattr(places, "_nodes", lambda: found)


def test_a_share_is_never_rounded_upwards() -> None:
    assert [cores(1.0, share) for share in (1 / 3, 2 / 3, 0.02)] == [0.3333, 0.6666, 0.02]
    assert 3 * cores(1.0, 1 / 3) <= 1


def test_workers_are_as_many_as_the_gpus_hold_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_nodes(monkeypatch, (8, 2), (8, 1))
    told: list[str] = []
    (fitting,) = on_gpus([GPUS], told.append)
    assert fitting.workers == 3
    assert told == ["segment: 3 workers, not 4: the cluster has 16 CPU and 3 GPU"]


def test_every_step_on_a_gpu_gets_one_before_any_gets_two(monkeypatch: pytest.MonkeyPatch) -> None:
    on_nodes(monkeypatch, (8, 1), (8, 1))
    both = on_gpus([GPUS, Need("predict", 4, 0.0, 1.0)], lambda text: None)
    assert [need.workers for need in both] == [1, 1]


def test_no_gpu_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    on_nodes(monkeypatch, (8, 0), (8, 0))
    with pytest.raises(BadStudy, match=r"^segment take 1 GPU at once and the cluster has 16 CPU"):
        on_gpus([GPUS])


@pytest.mark.parametrize(
    ("gpus", "workers", "fitting"),
    [(0.6, 3, 2), (0.5, 5, 4), (0.4, 9, 4), (2.0, 3, 1), (1.0, 3, 2)],
)
def test_a_part_of_a_gpu_lies_on_one_device(
    gpus: float, workers: int, fitting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_nodes(monkeypatch, (8, 2))
    (found,) = on_gpus([Need("segment", workers, 0.0, gpus)], lambda text: None)
    assert found.workers == fitting


def test_what_can_never_fit_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    on_nodes(monkeypatch, (2, 0))
    monkeypatch.setattr(places, "_free", lambda kind: 2.0)
    with pytest.raises(
        BadStudy, match=r"^name take 4 CPU at least and the cluster has 2 CPU on 1 nodes"
    ):
        places.share_of_cores([Need("name", 200, 1.0)])


def test_steps_on_processors_keep_their_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    on_nodes(monkeypatch, (1, 0))
    assert on_gpus([Need("name", 7, 1.0)]) == [Need("name", 7, 1.0)]


def test_what_the_whole_cluster_does_not_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on_nodes(monkeypatch, (2, 0), (1, 0))
    with pytest.raises(
        BadStudy,
        match=r"^training takes 4 CPU at once and the cluster has 3 CPU on 2 nodes: train with",
    ):
        places.wait_for([Need("training", 4, 1.0)], "train with fewer workers")


def run_on(folder: Path, num_rows: int, *nodes: int, held_s: float = 0) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.made.small_cluster", str(folder), str(num_rows)]
    done = subprocess.run(
        [*command, *map(str, nodes), "--held", str(held_s)],
        cwd=ROOT, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [(1,), (2,), (3,), (6,), (2, 2, 2), (1, 1, 1)], ids=str)
def test_a_chain_runs_on_whatever_there_is(nodes: tuple[int, ...], tmp_path: Path) -> None:
    """Five workers that would each like a core. Two seconds of work; processes start for the rest."""
    ended = run_on(tmp_path, 5, *nodes)
    assert ended["counts"] == {"ok": 5}
    assert ended["told"] == []
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.slow
def test_a_full_cluster_is_waited_for_aloud(tmp_path: Path) -> None:
    ended = run_on(tmp_path, 3, 1, 1, held_s=15)
    assert ended["counts"] == {"ok": 3}
    assert ended["told"][0] == (
        "waiting for room on the cluster: step 0, step 1, step 2, step 3, write take 0.11 CPU, free are "
        "0 of 2 CPU; other work holds the rest"
    )
