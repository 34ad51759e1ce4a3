"""MLflow as log and registry, on sqlite and on a server."""

from __future__ import annotations

import contextlib
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
from spineage.io.models.tracking import (
    CHAMPION,
    DIGEST_TAG,
    MODEL,
    Tracking,
    check,
    model_of,
    open_tracking,
)
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
    champion = f"models:/{tracking.model}@{CHAMPION}"
    assert tracking.resolve(champion) == (version, digest)
    assert tracking.resolve(f"models:/{tracking.model}/{version}") == (version, digest)
    assert tracking.fetch(champion, BUNDLE_FILES) == files


def test_a_new_bundle_is_a_new_version_and_the_champion(tracking):
    one, two = ({"bundle.json": text} for text in (b"1", b"2"))
    run = tracking.open_run("calibrate", "calibrate/1")
    first = tracking.register(run, one, "1" * 64)
    other = tracking.open_run("calibrate", "calibrate/2")
    second = tracking.register(other, two, "2" * 64)
    assert int(second) == int(first) + 1
    assert tracking.resolve(f"models:/{tracking.model}@{CHAMPION}") == (second, "2" * 64)
    assert tracking.register(run, one, "1" * 64) == first
    assert tracking.resolve(f"models:/{tracking.model}@{CHAMPION}") == (first, "1" * 64)


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
        tracking.model, place, run_id=run, tags={DIGEST_TAG: "5" * 64}
    )
    return f"models:/{tracking.model}/{made.version}"


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
        tracking.fetch(f"models:/{tracking.model}@{CHAMPION}", ["bundle.json"])


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
        tracking.fetch(f"models:/{tracking.model}@{CHAMPION}", ["bundle.json"])


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
    version = tracking.resolve(f"models:/{tracking.model}@{CHAMPION}")[0]
    tracking._client.set_model_version_tag(tracking.model, version, DIGEST_TAG, tag)
    study = study_from({
        "name": "a study", "workspace": workspace.root,
        "score": {"model": f"models:/{tracking.model}@{CHAMPION}"},
    })  # fmt: skip
    above = sorted(tracking_parent(workspace).rglob("*"))
    with pytest.raises(BadStudy, match="no digest of 64 hex digits"):
        choose(Context(study))
    assert sorted(tracking_parent(workspace).rglob("*")) == above
    tracking._client.set_model_version_tag(tracking.model, version, DIGEST_TAG, "4" * 64)


def tracking_parent(workspace: Store) -> Path:
    return Path(workspace.root).parent


def test_how_a_block_ends_is_how_its_run_ends(tracking):
    def ended(error: BaseException | None, address: str) -> str:
        kept = {"params": {"seed": 1}, "tags": {"spineage.seed": "1"}}
        expected = pytest.raises(type(error)) if error else contextlib.nullcontext()
        with expected, tracking.running("train", address, **kept) as run:
            if error:
                raise error
        found = tracking._client.get_run(run)
        assert found.data.params["seed"] == "1"
        assert found.data.tags["spineage.seed"] == "1"
        return found.info.status

    assert ended(None, "train/ends-0") == "FINISHED"
    assert ended(ValueError("a bug"), "train/ends-1") == "FAILED"
    assert ended(BadStudy("a full disk"), "train/ends-2") == "FAILED"
    assert ended(KeyboardInterrupt(), "train/ends-3") == "KILLED"
    assert ended(None, "train/ends-1") == "FINISHED", "the same run, begun again"


def test_a_run_within_a_run_names_its_parent(tracking):
    parent = tracking.open_run("sweep", "sweep/1")
    child = tracking.open_run("trial", "sweep/1/a", parent=parent)
    assert tracking._client.get_run(child).data.tags["mlflow.parentRunId"] == parent
    found = tracking._client.search_runs(
        [tracking._experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'"
    )
    assert [run.info.run_id for run in found] == [child]


def test_figures_have_the_time_when_they_were_logged(tracking):
    run = tracking.open_run("train", "train/times")
    before = time.time() * 1000
    assert tracking.log_while_it_runs(run, {"loss": 2.0}, 1)
    time.sleep(0.05)
    assert tracking.log_while_it_runs(run, {"loss": 1.0}, 2)
    tracking.log_missing(run, [(1, {"loss": 9.0}), (2, {"loss": 9.0}), (3, {"loss": 0.5})])
    found = sorted(tracking._client.get_metric_history(run, "loss"), key=lambda m: m.step)
    assert [m.value for m in found] == [2.0, 1.0, 0.5], "what is there is not logged again"
    assert before - 1 <= found[0].timestamp < found[1].timestamp <= time.time() * 1000 + 1


def test_a_server_that_goes_away_stops_no_training(tracking, monkeypatch):
    run = tracking.open_run("train", "train/away")

    def away(*args, **kwargs):
        raise ConnectionError("gone")

    monkeypatch.setattr(tracking._client, "log_batch", away)
    assert not tracking.log_while_it_runs(run, {"loss": 2.0}, 1)


def test_studies_that_share_a_registry_have_models_of_their_own(tracking, workspace):
    assert tracking.model == "spine-age-a-study"
    assert model_of("spineage") == MODEL
    other = open_tracking(None, workspace, "another study")
    run = other.open_run("calibrate", "calibrate/other")
    other.register(run, {"bundle.json": b"3"}, "3" * 64, {"bias.degree": "1"}, "Of degree 1.")
    name = f"models:/{other.model}@{CHAMPION}"
    assert other.resolve(name) == ("1", "3" * 64)
    version = other._client.get_model_version(other.model, "1")
    assert version.tags["bias.degree"] == "1"
    assert version.description == "Of degree 1."


def test_what_a_workspace_keeps_is_found_when_it_has_moved(tmp_path, workspace, tracking):
    before, after = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    here = open_tracking(None, Store(str(before)), "moved")
    run = here.open_run("calibrate", "calibrate/moved")
    here.register(run, {"bundle.json": b"4"}, "4" * 64)
    before.rename(after)
    there = open_tracking(None, Store(str(after)), "moved")
    name = f"models:/{there.model}@{CHAMPION}"
    assert there.fetch(name, ["bundle.json"]) == {"bundle.json": b"4"}
    there.log_files(there.open_run("train", "train/moved"), {"figures.json": b"{}"})
    assert not before.exists(), "nothing is written where it was"
    import mlflow

    mlflow.set_tracking_uri(there.uri)
    kept = mlflow.artifacts.download_artifacts(run_id=run, artifact_path="bundle/bundle.json")
    assert Path(kept).read_bytes() == b"4", "by MLflow's own client"
