"""Trials and arms as runs within a run, while MLflow answers and while it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spineage.errors import BadStudy
from spineage.io.models import nested
from spineage.io.models.nested import Nested
from spineage.io.models.tracking import Tracking, open_tracking
from spineage.io.storage.store import Store


@pytest.fixture
def tracking(tmp_path: Path) -> Tracking:
    return open_tracking(None, Store(str(tmp_path)), "a study")


def runs_of(tracking: Tracking) -> dict[str, Any]:
    """By name."""
    found = tracking._client.search_runs([tracking._experiment_id])
    return {run.info.run_name: run for run in found}


def history(tracking: Tracking, run: Any) -> list[tuple[int, float]]:
    told = tracking._client.get_metric_history(run.info.run_id, "loss")
    return sorted((metric.step, metric.value) for metric in told)


def test_each_is_told_with_its_parameters_and_ends_for_itself(tracking: Tracking) -> None:
    parent = tracking.open_run("sweep", "sweep/0")
    with Nested(tracking, parent) as runs:
        for step in (1, 2):
            for trial in ("a", "b"):
                runs.tell(f"sweep/0/{trial}", trial, {"rate": trial}, {"loss": 1 / step}, step)
        runs.end("sweep/0/a")
        assert runs_of(tracking)["a"].info.status == "FINISHED"
        assert runs_of(tracking)["b"].info.status == "RUNNING"
        runs.end("sweep/0/b")
    found = runs_of(tracking)
    for trial in ("a", "b"):
        assert found[trial].data.tags["mlflow.parentRunId"] == parent
        assert found[trial].data.params == {"rate": trial}
        assert history(tracking, found[trial]) == [(1, 1.0), (2, 0.5)]


@pytest.mark.parametrize(
    ("raised", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_those_that_had_not_ended_end_as_the_whole_does(
    tracking: Tracking, raised: type[BaseException], status: str
) -> None:
    def half() -> None:
        with Nested(tracking, tracking.open_run("sweep", "sweep/0")) as runs:
            for trial in ("done", "half"):
                runs.tell(trial, trial, {}, {"loss": 1.0}, 1)
            runs.end("done")
            raise raised

    with pytest.raises(raised):
        half()
    found = runs_of(tracking)
    assert (found["done"].info.status, found["half"].info.status) == ("FINISHED", status)


def test_a_run_of_before_goes_on(tracking: Tracking) -> None:
    parent = tracking.open_run("sweep", "sweep/0")
    for first in (1, 2):  # a killed training goes on some epochs before the last that it told
        with Nested(tracking, parent) as runs:
            for step in range(first, first + 3):
                runs.tell("sweep/0/a", "a", {}, {"loss": 1 / step}, step)
            runs.tell("sweep/0/a", "a", {}, {"test": 1.0}, first + 2)
    found = runs_of(tracking)["a"]
    assert history(tracking, found) == [(step, 1 / step) for step in (1, 2, 3, 4)]
    told = tracking._client.get_metric_history(found.info.run_id, "test")
    assert [metric.step for metric in told] == [3, 4]


def test_mlflow_that_is_away_is_not_asked_at_each_report_and_hears_all_when_it_is_back(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    now = [0.0]
    monkeypatch.setattr(nested.time, "monotonic", lambda: now[0])

    def away(run: str, params: Any) -> None:
        asked.append(run)
        raise BadStudy("it is away")

    parent = tracking.open_run("sweep", "sweep/0")
    with Nested(tracking, parent) as runs:
        with monkeypatch.context() as patch:
            patch.setattr(tracking, "log_params", away)
            patch.setattr(tracking, "answers", lambda: False)
            for step in range(1, 51):
                runs.tell("sweep/0/a", "a", {"rate": 1}, {"loss": 1 / step}, step)
            assert len(asked) == 1
            now[0] += nested.PAUSE_S + 1
            runs.end("sweep/0/a")
            assert len(asked) == 2
        runs.tell("sweep/0/b", "b", {}, {"loss": 1.0}, 1)
        assert "b" not in runs_of(tracking)
        now[0] += nested.PAUSE_S + 1
        runs.tell("sweep/0/b", "b", {}, {"loss": 2.0}, 2)
        found = runs_of(tracking)
        assert history(tracking, found["a"]) == [(s, 1 / s) for s in range(1, 51)]
        assert found["a"].info.status == "FINISHED"
        assert found["a"].data.params == {"rate": "1"}
        assert history(tracking, found["b"]) == [(1, 1.0), (2, 2.0)]
        runs.end("sweep/0/b")


def test_what_never_came_back_stops_nothing(
    tracking: Tracking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> str:
        raise BadStudy("it is away")

    parent = tracking.open_run("sweep", "sweep/0")
    monkeypatch.setattr(tracking, "open_run", away)
    said: list[str] = []
    with Nested(tracking, parent, said.append) as runs:
        runs.tell("sweep/0/a", "a", {}, {"loss": 1.0}, 1)
    assert said == ["  MLflow did not take what 1 runs within this one had to tell"]


def test_a_run_that_mlflow_refuses_keeps_no_other_back(tracking: Tracking) -> None:
    parent = tracking.open_run("sweep", "sweep/0")
    with Nested(tracking, parent) as runs:
        runs.tell("sweep/0/a", "a", {}, {"loss": 1.0}, 1)
        tracking._client.delete_run(runs_of(tracking)["a"].info.run_id)  # on its page
        runs.tell("sweep/0/a", "a", {}, {"loss": 1.0}, 2)
        runs.tell("sweep/0/b", "b", {}, {"loss": 1.0}, 1)
        runs.end("sweep/0/b")
    assert runs_of(tracking)["b"].info.status == "FINISHED"
