"""MLflow as log and registry, on sqlite and on a server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

import pytest

from spineage.errors import BadStudy
from spineage.io.bundle import bundle_files, digest_of_files
from spineage.io.store import Store
from spineage.io.tracking import CHAMPION, MODEL, Tracking, check, open_tracking
from tests.stages.test_bundle import some_bundle


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Store:
    """One sqlite database for the module: creating it takes seconds."""
    return Store(str(tmp_path_factory.mktemp("workspace")))


@pytest.fixture(scope="module")
def tracking(workspace) -> Tracking:
    return open_tracking(None, workspace, "a study")


def test_everything_lies_in_the_workspace(tracking, workspace, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = tracking.open_run("train", "train/0")
    tracking.log_files(run, {"a/figures.json": b"{}"}, "kept")
    assert (tmp_path.__class__(workspace.root) / "mlflow.db").exists()
    kept = [path for path in workspace.list("mlartifacts") if path.endswith("kept/a/figures.json")]
    assert len(kept) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_restart_finds_the_same_run(tracking, workspace):
    first = tracking.open_run("train", "train/1")
    tracking.log_params(first, {"train": {"epochs": 3}})
    tracking.close_run(first)
    again = open_tracking(None, workspace, "a study")
    assert again.open_run("train", "train/1") == first
    assert again.open_run("train", "train/2") != first
    again.log_params(first, {"train": {"epochs": 3}, "seed": 1})
    run = again._client.get_run(first)
    assert run.data.params == {"train.epochs": "3", "seed": "1"}
    assert run.info.status == "RUNNING"


def test_figures_that_do_not_exist_are_left_out(tracking):
    run = tracking.open_run("train", "train/3")
    tracking.log_metrics(run, {"mae_years": 4.5, "r2": float("nan")})
    tracking.log_history(run, [(1, {"loss": 2.0}), (2, {"loss": 1.0})])
    assert tracking._client.get_run(run).data.metrics == {"mae_years": 4.5, "loss": 1.0}
    assert [m.value for m in tracking._client.get_metric_history(run, "loss")] == [2.0, 1.0]


def test_a_bundle_is_registered_once_and_fetched_whole(tracking):
    files = bundle_files(some_bundle())
    digest = digest_of_files(files)
    run = tracking.open_run("calibrate", "calibrate/0")
    version = tracking.register(run, files, digest)
    assert tracking.register(run, files, digest) == version
    champion = f"models:/{MODEL}@{CHAMPION}"
    assert tracking.resolve(champion) == (version, digest)
    assert tracking.resolve(f"models:/{MODEL}/{version}") == (version, digest)
    assert tracking.fetch(champion) == files


def test_a_new_bundle_is_a_new_version_and_the_champion(tracking):
    one, two = ({"bundle.json": text} for text in (b"1", b"2"))
    run = tracking.open_run("calibrate", "calibrate/1")
    first = tracking.register(run, one, "digest-1")
    other = tracking.open_run("calibrate", "calibrate/2")
    second = tracking.register(other, two, "digest-2")
    assert int(second) == int(first) + 1
    assert tracking.resolve(f"models:/{MODEL}@{CHAMPION}") == (second, "digest-2")
    assert tracking.register(run, one, "digest-1") == first
    assert tracking.resolve(f"models:/{MODEL}@{CHAMPION}") == (first, "digest-1")


@pytest.mark.parametrize(
    "name", ["models:/spine-age@nobody", "models:/else@champion", "models:/spine-age/99"]
)
def test_a_model_that_is_not_there_is_one_sentence(tracking, name):
    with pytest.raises(BadStudy, match="not in the registry"):
        tracking.resolve(name)


@pytest.mark.parametrize("name", ["models:/", "models:/spine-age", "models:/spine-age@"])
def test_a_name_that_names_no_model_is_refused(tracking, name):
    with pytest.raises(BadStudy, match="names no model"):
        tracking.resolve(name)


def test_a_server_that_is_not_there_is_said_within_seconds(workspace):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(BadStudy, match="no MLflow server answers") as caught:
        open_tracking(f"http://reader:secret@127.0.0.1:{port}", workspace, "a study")
    assert time.monotonic() - started < 5
    assert "secret" not in str(caught.value)


def test_a_server_that_accepts_and_never_answers_is_given_up():
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        started = time.monotonic()
        with pytest.raises(BadStudy, match="no MLflow server answers"):
            check(f"http://127.0.0.1:{mute.getsockname()[1]}")
        assert time.monotonic() - started < 8


def test_something_that_answers_and_is_not_mlflow_is_refused():
    import http.server

    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        do_POST = do_GET

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(BadStudy, match="refuses"):
            check(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_files_that_are_gone_are_one_sentence(tracking):
    run = tracking.open_run("calibrate", "calibrate/3")
    tracking.register(run, {"bundle.json": b"3"}, "digest-3")
    place = tracking._client.get_run(run).info.artifact_uri.removeprefix("file://")
    shutil.rmtree(place)
    with pytest.raises(BadStudy, match="refuses"):
        tracking.fetch(f"models:/{MODEL}@{CHAMPION}")


def test_object_storage_needs_a_server():
    with pytest.raises(BadStudy, match=r"cluster\.mlflow"):
        open_tracking(None, Store("memory://study"), "a study")


def test_mlflow_is_imported_only_when_asked_for():
    code = "import sys, spineage.io.tracking, spineage.io.bundle; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0
