"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from tests.demo_workspace import Demo


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
