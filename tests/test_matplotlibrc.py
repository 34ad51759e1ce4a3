"""A file `matplotlibrc` in the folder that a verb is called in changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from spineage.privacy import keep_private
keep_private()
import os, matplotlib
print(matplotlib.rcParams["text.usetex"], matplotlib.rcParams["lines.linewidth"], os.getcwd())
"""
ROOT = Path(__file__).parent.parent


def drawn_with(folder: Path, **more: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
    )  # fmt: skip
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00garbage", b"text.usetex: True"])
def test_settings_of_figures_are_not_read_where_the_call_stands(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "matplotlibrc").write_bytes(content)
    assert drawn_with(tmp_path) == ["False", "1.5", str(tmp_path)]


def test_those_that_the_user_names_are(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True")
    (tmp_path / "mine").write_text("lines.linewidth: 4.0")
    told = drawn_with(tmp_path, MATPLOTLIBRC=str(tmp_path / "mine"))
    assert told == ["False", "4.0", str(tmp_path)]
