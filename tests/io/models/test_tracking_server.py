"""The registry on a real MLflow server: what a cluster uses, where the workspace is on object storage."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.io.models.bundle import BUNDLE_FILES, bundle_files, digest_of_files
from spineage.io.models.tracking import CHAMPION, check, open_tracking
from spineage.io.storage.store import Store
from tests.io.models.test_bundle import some_bundle


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = ["--backend-store-uri", f"sqlite:///{folder}/server.db"]
    files = ["--artifacts-destination", str(folder / "files")]
    place = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *place, *store, *files],
        cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    uri = f"http://127.0.0.1:{port}"
    try:
        _wait_for(uri, process)
        yield uri
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _wait_for(uri: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 180
    while True:
        try:
            return check(uri)
        except BadStudy:
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)


@pytest.mark.slow
def test_a_bundle_goes_through_a_server_unchanged(server: str, tmp_path: Path) -> None:
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
    assert (
        open_tracking(server, Store("memory://here"), "a study").open_run(
            "calibrate", "calibrate/0"
        )
        == run
    )
