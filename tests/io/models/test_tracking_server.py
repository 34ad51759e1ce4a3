"""MLflow on a real server, as a cluster has it: what is looked for there is read back by its client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from spineage.io.models.bundle import BUNDLE_FILES, bundle_files, digest_of_files
from spineage.io.models.tracking import CHAMPION, open_tracking
from spineage.io.storage.store import Store
from spineage.stages import ablate, calibrate, sweep
from tests.io.models.test_bundle import some_bundle
from tests.made.mlflow_server import mlflow_server
from tests.made.planted_study import SEGMENTER, Planted, plant, planted_study
from tests.made.toy_study import toy_study

pytestmark = pytest.mark.slow

GRID = {"regions": ["whole", "lumbar"], "losses": ["l1"], "fractions": [1.0], "seeds": [0]}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("server"), request.param) as uri:
        yield uri


def runs_of(server: str, study: str) -> tuple[mlflow.MlflowClient, list[Any]]:
    """All runs of a study's experiment."""
    client = mlflow.MlflowClient(server)
    experiment = client.get_experiment_by_name(study)
    assert experiment.artifact_location.startswith("mlflow-artifacts:"), "by the server's proxy"
    return client, client.search_runs([experiment.experiment_id])


def test_a_bundle_goes_through_a_server_unchanged(server: str) -> None:
    """From one workspace to another that has nothing in common with it but the server's address."""
    files = bundle_files(some_bundle())
    digest = digest_of_files(files)
    here = open_tracking(server, Store("memory://here"), "a study")
    run = here.open_run("calibrate", "calibrate/0")
    here.log_metrics(run, {"mae_years": 4.5})
    version = here.register(run, files, digest)
    assert here.register(run, files, digest) == version
    there = open_tracking(server, Store("memory://there"), "another study")
    assert there.resolve(f"models:/{here.model}@{CHAMPION}") == (version, digest)
    assert there.fetch(f"models:/{here.model}@{CHAMPION}", BUNDLE_FILES) == files
    again = open_tracking(server, Store("memory://here"), "a study")
    assert again.open_run("calibrate", "calibrate/0") == run


@pytest.mark.usefixtures("ray_session")
def test_arms_and_trials_are_runs_within_a_run(server: str, tmp_path: Path) -> None:
    context = toy_study(
        tmp_path, name="nested", ablate=GRID, train={"epochs": 2}, cluster={"mlflow": server},
        sweep={"num_trials": 2, "grace_epochs": 1},
    )  # fmt: skip
    began_ms = time.time() * 1000
    ablate.run(context)
    sweep.run(context)
    client, runs = runs_of(server, "nested")
    assert {run.info.status for run in runs} == {"FINISHED"}
    for stage, num in (("ablate", 2), ("sweep", 2)):
        [parent] = [run for run in runs if run.info.run_name == stage]
        assert parent.data.params["seed"] == str(context.study.seed)
        assert parent.data.tags["spineage.seed"] == str(context.study.seed)
        for tag in ("recipe", "version", "program", "input.cohort", "input.prepare"):
            assert parent.data.tags[f"spineage.{tag}"], tag
        within = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert len(within) == num
        for child in within:
            history = client.get_metric_history(child.info.run_id, "train_mae_years")
            assert [metric.step for metric in history] == list(range(1, 1 + len(history)))
            times_ms = [metric.timestamp for metric in history]
            assert times_ms == sorted(times_ms)
            assert began_ms <= times_ms[0] < times_ms[-1] <= time.time() * 1000, "while it trained"
    assert not (tmp_path / "mlflow.db").exists()


def test_the_fitted_correction_stands_on_the_version_and_its_files_come_back(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
    study = planted_study(tmp_path, name="corrected", cluster={"mlflow": server})
    context = Planted(study, say=lambda text: None)
    plant(context)
    calibrate.run(context)
    row = context.read("calibration").iloc[0]
    client, [run] = runs_of(server, "corrected")
    version = client.get_model_version_by_alias("spine-age-corrected", CHAMPION)
    assert version.run_id == run.info.run_id
    assert int(version.tags["bias.degree"]) == row.degree
    assert int(version.tags["bias.num_people"]) == row.num_people
    assert json.loads(version.tags["bias.coefficients"]) == pytest.approx(list(row.coefficients))
    assert json.loads(version.tags["bias.half_width_years"]) == pytest.approx(
        list(row.half_width_years)
    )
    assert float(version.tags["bias.age_low_years"]) == row.age_low_years
    assert f"degree {row.degree}" in version.description
    copy = client.download_artifacts(run.info.run_id, "bundle", str(tmp_path))
    for name in BUNDLE_FILES:
        assert (Path(copy) / name).read_bytes() == context.asset("calibrate", f"bundle/{name}")


@pytest.mark.parametrize(
    ("raised", "status"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_how_a_run_ended_is_how_it_stands_there(
    server: str, raised: type[BaseException], status: str
) -> None:
    tracking = open_tracking(server, Store("memory://here"), "ended")
    with pytest.raises(raised), tracking.running("train", f"train/{status}"):
        raise raised
    _, runs = runs_of(server, "ended")
    assert [
        r.info.status for r in runs if r.data.tags["spineage.address"] == f"train/{status}"
    ] == [status]
