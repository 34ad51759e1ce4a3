"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# epochs of tests are shorter than the usual 2 s, and nobody takes their machine away
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

import pytest

from tests.demo_workspace import Demo

TOGETHER = {
    "stages/test_cohort_stability.py": "stages/test_cohort.py",
    "browser/test_report_page.py": "stages/test_report.py",
}
"""Files that share what is made once a process."""


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, those of one file stay together, and those of the demo."""
    for item in items:
        is_of_demo = "demo" in getattr(item, "fixturenames", ())
        file = f"{item.path.parent.name}/{item.path.name}"
        name = "demo" if is_of_demo else TOGETHER.get(file, file)
        item.add_marker(pytest.mark.xdist_group(name))


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
