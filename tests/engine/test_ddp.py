"""A loop on several workers: it adds up, is heard, survives a death, and once finished trains nothing."""

from __future__ import annotations

import pytest
import torch

from spineage.engine.training import ddp
from tests.made.loops import count_epochs


def epochs_of(log, rank):
    return [int(line) for line in (log / f"rank{rank}").read_text().split()]


def test_without_workers_the_loop_runs_here(tmp_path):
    heard = []
    fitted = ddp.fit(
        count_epochs,
        {"epochs": 3, "log": str(tmp_path)},
        workers=(0, 0),
        storage="",
        name="",
        report_to=heard.append,
    )
    assert fitted.metrics == {"epoch": 3, "workers": 1}
    assert fitted.state["sum"].item() == 3
    assert [m["epoch"] for m in heard] == [1, 2, 3]


def test_a_state_kept_alone_does_not_change_afterwards():
    alone = ddp.Alone()
    weights = torch.zeros(2)
    alone.report({}, {"weights": weights})
    weights += 1
    assert alone.resume()["weights"].tolist() == [0, 0]


def test_a_report_without_state_keeps_the_last_one():
    alone = ddp.Alone()
    alone.report({"epoch": 1}, {"epoch": 1})
    alone.report({"epoch": 2})
    assert alone.state == {"epoch": 1}
    assert alone.metrics == {"epoch": 2}


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_two_workers_add_up_survive_a_death_and_are_not_trained_twice(tmp_path):
    heard = []
    config = {"epochs": 4, "log": str(tmp_path), "die_at": 3}
    options = {"workers": (2, 2), "storage": str(tmp_path / "runs"), "name": "abc"}
    fitted = ddp.fit(count_epochs, config, report_to=heard.append, **options)
    assert fitted.metrics == {"epoch": 4, "workers": 2}
    assert fitted.state["sum"].item() == 4 * (1 + 2)
    assert epochs_of(tmp_path, 0) == [1, 2, 3, 3, 4]  # epochs 1 and 2 came from the checkpoint
    assert [m["epoch"] for m in heard] == [1, 2, 3, 4]
    again = ddp.fit(count_epochs, config, **options)
    assert again.state["sum"].item() == fitted.state["sum"].item()
    assert again.metrics == fitted.metrics
    assert epochs_of(tmp_path, 0) == [1, 2, 3, 3, 4]


def test_a_worker_takes_as_much_of_a_gpu_as_the_study_says() -> None:
    assert ddp._scaling((2, 2), 0.5, {}).total_resources == {"CPU": 2.0, "GPU": 1.0}
    assert "GPU" not in ddp._scaling((2, 2), 0.0, {}).total_resources
