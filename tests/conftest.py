"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# epochs of tests are shorter than the usual 2 s, and nobody takes their machine away
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.demo_workspace import Demo

TOGETHER = {
    "tests/chaos/test_kill.py": "demo",
    "tests/stages/test_demo.py": "demo",
    "tests/stages/test_job.py": "demo",
    "tests/stages/test_cohort.py": "cohort",
    "tests/stages/test_cohort_stability.py": "cohort",
    "tests/stages/test_report.py": "report",
    "tests/browser/test_report_page.py": "report",
}
"""Files that share what is made once a process."""


class ByFile(LoadScopeScheduling):
    """Where tests run in several processes, those of one file stay together, and those of TOGETHER."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return TOGETHER.get(file, file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for the whole test session: it takes seconds to start."""
    from spineage.engine import session

    session.connect(num_cpus=8)
    yield
    session.disconnect()


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A finished demo study: some minutes, once; SPINEAGE_TEST_DEMO names a folder to keep it in."""
    from tests import demo_workspace

    kept = os.environ.get("SPINEAGE_TEST_DEMO")
    return demo_workspace.make(Path(kept) if kept else tmp_path_factory.mktemp("demo"))
