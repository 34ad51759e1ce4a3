"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# logs of errors that tests provoke lie with the tests' other files
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="spineage-tests-")
# epochs of tests are shorter than the usual 2 s, and nobody takes their machine away
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.made.demo_workspace import Demo

TOGETHER = {
    "tests/chaos/test_kill.py": "demo",
    "tests/verbs/test_demo.py": "demo",
    "tests/verbs/test_doctor.py": "demo",
    "tests/verbs/test_job.py": "demo",
    "tests/verbs/test_submit.py": "demo",
    "tests/cluster/test_slurm.py": "demo",
    "tests/stages/test_cohort.py": "cohort",
    "tests/stages/test_cohort_stability.py": "cohort",
    "tests/report/test_report.py": "report",
    "tests/browser/test_report_page.py": "report",
}
"""Files that share what is made once a process."""
DEMO_TIMEOUT_S = 1500
"""Six minutes beside another process on two cores; twice that on a busy machine."""

FREE_WITHIN_S = 30.0
"""Ray keeps an idle worker's core for a moment, and hears of a killed one a moment later."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The demo takes longest to make: with several processes it must not come last, and may take its time."""
    for item in items:
        if "demo" in getattr(item, "fixturenames", ()):
            assert _is_of_demo(item), f"{item.nodeid} would make a demo of its own: see TOGETHER"
        if _is_of_demo(item):
            item.add_marker(pytest.mark.timeout(DEMO_TIMEOUT_S))
    items.sort(key=lambda item: not _is_of_demo(item))


def _is_of_demo(item: pytest.Item) -> bool:
    return TOGETHER.get(item.nodeid.split("::")[0]) == "demo"


class ByFile(LoadScopeScheduling):
    """Where tests run in several processes, those of one file stay together, and those of TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return TOGETHER.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole test session: it takes seconds to start. It has this machine's cores, as
    its users' sessions have theirs."""
    from spineage.engine import session

    session.connect()
    yield
    session.disconnect()


@pytest.fixture(scope="module", autouse=True)
def leaves_no_worker() -> Iterator[None]:
    """What one file leaves behind holds a core that the next file's runs wait for, and for ever."""
    yield
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    until = time.monotonic() + FREE_WITHIN_S
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources().get("CPU", 0):
        assert time.monotonic() < until, (
            f"a core of the session is held: {ray.available_resources()}"
        )
        time.sleep(0.2)


@pytest.fixture(scope="module")
def kept_worker(leaves_no_worker: None, ray_session: None) -> Iterator[type]:
    from tests.made.lasting_crew import LastingCrew

    yield LastingCrew
    LastingCrew.dismiss()


@pytest.fixture
def lasting_crew(kept_worker: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cohorts of such tests are fitted by one worker, which the file's next one finds warm."""
    monkeypatch.setattr("spineage.stages.cohort.stage.Crew", kept_worker)


@pytest.fixture(autouse=True)
def ray_outlives_verbs(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that a test runs in this process ends with leaving Ray; other tests share that session."""
    if request.path.name != "test_session.py":
        monkeypatch.setattr("spineage.engine.session.disconnect", lambda: None)


@pytest.fixture
def s3_server() -> Iterator[Any]:
    """A real S3 server on loopback."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of it, found through the standard variables, as on a cluster."""
    file_system = pytest.importorskip("s3fs").S3FileSystem
    host, port = s3_server.get_host_and_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    file_system.clear_instance_cache()
    bucket = f"archive-{uuid.uuid4().hex[:8]}"  # all servers of a process have one state
    file_system().mkdir(bucket)
    yield f"s3://{bucket}"
    file_system.clear_instance_cache()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A finished demo study: some minutes, once; SPINEAGE_TEST_DEMO names a folder to keep it in."""
    from tests.made import demo_workspace

    kept = os.environ.get("SPINEAGE_TEST_DEMO")
    return demo_workspace.make(Path(kept) if kept else tmp_path_factory.mktemp("demo"))
