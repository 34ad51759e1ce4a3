"""MLflow as log and registry, on sqlite and on a server."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.io.models.bundle import BUNDLE_FILES, bundle_files, digest_of_files
from spineage.io.models.tracking import CHAMPION, DIGEST_TAG, MODEL, Tracking, check, open_tracking
from spineage.io.storage.store import Store
from spineage.run.context import Context
from spineage.stages.score.stage import choose
from spineage.study import study_from
from tests.io.models.test_bundle import some_bundle


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


def test_files_of_a_database_that_is_named_lie_beside_it(tmp_path, monkeypatch, workspace):
    """As they would for a workspace on object storage, whose database lies elsewhere."""
    here, place = tmp_path / "here", tmp_path / "registry"
    here.mkdir()
    monkeypatch.chdir(here)
    named = open_tracking(f"sqlite:///{place}/ml.db", workspace, "a study")
    named.log_files(named.open_run("train", "train/0"), {"figures.json": b"{}"})
    assert {path.name for path in place.iterdir()} == {"ml.db", "mlartifacts"}
    assert not list(here.iterdir())


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
    assert tracking.fetch(champion, BUNDLE_FILES) == files


def test_a_new_bundle_is_a_new_version_and_the_champion(tracking):
    one, two = ({"bundle.json": text} for text in (b"1", b"2"))
    run = tracking.open_run("calibrate", "calibrate/1")
    first = tracking.register(run, one, "1" * 64)
    other = tracking.open_run("calibrate", "calibrate/2")
    second = tracking.register(other, two, "2" * 64)
    assert int(second) == int(first) + 1
    assert tracking.resolve(f"models:/{MODEL}@{CHAMPION}") == (second, "2" * 64)
    assert tracking.register(run, one, "1" * 64) == first
    assert tracking.resolve(f"models:/{MODEL}@{CHAMPION}") == (first, "1" * 64)


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


class Listener:
    """A web server that answers anything with the same JSON and keeps what it was asked."""

    def __init__(self, answer: bytes) -> None:
        import http.server

        asked = self.asked = []

        class Answers(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.path, self.headers.get("Authorization")))
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_POST = do_PUT = do_GET

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def listener(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "anna")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    found = Listener(b'{"files": []}')
    yield found
    found.server.shutdown()
    found.server.server_close()


def version_at(tracking: Tracking, place: str, run: str | None) -> str:
    made = tracking._client.create_model_version(
        MODEL, place, run_id=run, tags={DIGEST_TAG: "5" * 64}
    )
    return f"models:/{MODEL}/{made.version}"


@pytest.mark.parametrize(
    "place",
    [
        "http://{}/evil/api/2.0/mlflow-artifacts/artifacts/m",
        "http://{}/m",
        "http://anna:s3cret@{}/api/2.0/mlflow-artifacts/artifacts/m",
        "mlflow-artifacts://{}/m",
        "mlflow-artifacts:/m",
        "HTTP://{}/mlflow-artifacts/artifacts/m",
        "file:///etc",
        "/etc",
        "s3://somebody/else",
    ],
)
def test_nothing_is_fetched_from_a_place_that_is_not_the_tracking_servers(
    tracking, listener, place
):
    run = tracking.open_run("calibrate", "calibrate/5")
    tracking.register(run, {"bundle.json": b"5"}, "5" * 64)
    name = version_at(tracking, place.format(listener.address), run)
    with pytest.raises(BadStudy, match="nothing is fetched from there") as told:
        tracking.fetch(name, ["bundle.json"])
    assert "s3cret" not in str(told.value)
    assert listener.asked == []


def test_files_are_fetched_from_within_the_versions_run_alone(tracking):
    run = tracking.open_run("calibrate", "calibrate/6")
    tracking.register(run, {"bundle.json": b"6"}, "6" * 64)
    place = tracking._client.get_run(run).info.artifact_uri
    for good in (f"{place}/bundle", f"runs:/{run}/bundle"):
        assert tracking.fetch(version_at(tracking, good, run), ["bundle.json"]) == {
            "bundle.json": b"6"
        }
    bad = [f"{place}/../../../..", f"{place}/%2e%2e/%2e%2e/..", f"{place}x", "runs:/0/bundle"]
    for name in [version_at(tracking, p, run) for p in bad] + [
        version_at(tracking, f"{place}/bundle", None)
    ]:
        with pytest.raises(BadStudy):
            tracking.fetch(name, ["bundle.json"])


def test_files_are_not_sent_to_a_place_that_somebody_else_named(tracking, workspace, listener):
    """Whoever makes the experiment of a name first says where its runs keep their files."""
    there = f"http://{listener.address}/api/2.0/mlflow-artifacts/artifacts/m"
    study = Tracking(tracking.uri, "a study of somebody", there)
    run = study.open_run("train", "train/0")
    with pytest.raises(BadStudy, match="nothing is sent there"):
        study.log_files(run, {"a.json": b"{}"})
    assert listener.asked == []


def test_a_huge_file_is_refused_before_it_is_copied(tracking, monkeypatch):
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    run = tracking.open_run("calibrate", "calibrate/7")
    tracking.register(run, {"bundle.json": b"seven"}, "7" * 64)
    monkeypatch.setattr("spineage.io.models.tracking.MAX_FILE_BYTES", 4)
    monkeypatch.delattr(LocalArtifactRepository, "download_artifacts")
    with pytest.raises(BadStudy, match="larger than 4 bytes"):
        tracking.fetch(f"models:/{MODEL}@{CHAMPION}", ["bundle.json"])


@pytest.mark.parametrize(
    "answer", [b'{"experiments": 5}', b'{"experiments": [{"name": []}]}', b"[]"]
)
def test_an_answer_that_is_no_mlflow_is_one_sentence(answer):
    listener = Listener(answer)
    try:
        with pytest.raises(BadStudy, match="MLflow at"):
            check(f"http://{listener.address}")
    finally:
        listener.server.shutdown()
        listener.server.server_close()


def test_files_that_are_gone_are_one_sentence(tracking):
    run = tracking.open_run("calibrate", "calibrate/3")
    tracking.register(run, {"bundle.json": b"3"}, "3" * 64)
    place = tracking._client.get_run(run).info.artifact_uri.removeprefix("file://")
    shutil.rmtree(place)
    with pytest.raises(BadStudy, match="refuses"):
        tracking.fetch(f"models:/{MODEL}@{CHAMPION}", ["bundle.json"])


def test_object_storage_needs_a_server():
    with pytest.raises(BadStudy, match=r"cluster\.mlflow"):
        open_tracking(None, Store("memory://study"), "a study")


def test_mlflow_is_imported_only_when_asked_for():
    code = "import sys, spineage.io.models.tracking, spineage.io.models.bundle; "
    code += "sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=dict(os.environ)).returncode == 0


@pytest.mark.parametrize("tag", ["../../x", "x", "A" * 64, "a" * 63, "a" * 65, "a" * 64 + "\n"])
def test_a_tag_that_is_no_digest_is_one_sentence_and_writes_nothing(tracking, workspace, tag):
    """The tag becomes a folder of the workspace: `../../x` once wrote five files outside it."""
    run = tracking.open_run("calibrate", "calibrate/4")
    tracking.register(run, {"bundle.json": b"4"}, "4" * 64)
    version = tracking.resolve(f"models:/{MODEL}@{CHAMPION}")[0]
    tracking._client.set_model_version_tag(MODEL, version, DIGEST_TAG, tag)
    study = study_from({
        "name": "a study", "workspace": workspace.root,
        "score": {"model": f"models:/{MODEL}@{CHAMPION}"},
    })  # fmt: skip
    above = sorted(tracking_parent(workspace).rglob("*"))
    with pytest.raises(BadStudy, match="no digest of 64 hex digits"):
        choose(Context(study))
    assert sorted(tracking_parent(workspace).rglob("*")) == above
    tracking._client.set_model_version_tag(MODEL, version, DIGEST_TAG, "4" * 64)


def tracking_parent(workspace: Store) -> Path:
    return Path(workspace.root).parent
