"""A real MLflow server on loopback that keeps files itself, with its records in sqlite or in PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.io.models.tracking import check
from tests.made.clusters import free_port
from tests.made.processes import daemon

POSTGRES = max(Path("/usr/lib/postgresql").glob("*/bin/postgres"), default=None)
USER = "postgres"
"""PostgreSQL refuses to be root."""
ANSWERS_WITHIN_S = 180


@contextmanager
def mlflow_server(folder: Path, records: str) -> Iterator[str]:
    """Its address. records: `sqlite` or `postgresql`."""
    with ExitStack() as stack:
        store = f"sqlite:///{folder}/server.db"
        if records == "postgresql":
            store = stack.enter_context(_postgresql())
        port = free_port()
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
            "--workers", "1", "--backend-store-uri", store, "--artifacts-destination", str(folder / "files"),
        ]  # fmt: skip
        server = stack.enter_context(daemon(command, folder / "log", cwd=folder))
        uri = f"http://127.0.0.1:{port}"
        _wait_for(uri, server, folder / "log")
        yield uri


@contextmanager
def _postgresql() -> Iterator[str]:
    """A database of nobody else's: the URI that MLflow takes."""
    if POSTGRES is None or os.getuid() != 0 or not shutil.which("setpriv"):
        pytest.skip("PostgreSQL (Debian's package), root and setpriv are needed for such a server")
    pytest.importorskip(
        "psycopg", reason="what SQLAlchemy talks to PostgreSQL with is not installed"
    )
    folder = Path("/tmp") / f"postgres-{os.getpid()}-{free_port()}"  # a socket's path is short
    folder.mkdir()
    shutil.chown(folder, USER, USER)
    as_user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
    programs, port = POSTGRES.parent, free_port()
    try:
        subprocess.run(
            [*as_user, str(programs / "initdb"), "-D", str(folder / "data"), "--auth=trust", "-N"],
            cwd=folder, check=True, capture_output=True,
        )  # fmt: skip
        serve = [
            *as_user, str(POSTGRES), "-D", str(folder / "data"), "-p", str(port), "-k", str(folder),
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off",
        ]  # fmt: skip
        with daemon(serve, folder / "log", cwd=folder):
            ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
            until = time.monotonic() + 60
            while subprocess.run(ready, capture_output=True, check=False).returncode:
                assert time.monotonic() < until, "PostgreSQL did not start"
                time.sleep(0.2)
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + ANSWERS_WITHIN_S
    while True:
        try:
            return check(uri)
        except BadStudy:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.5)
