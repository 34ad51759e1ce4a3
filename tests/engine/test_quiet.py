"""What native code prints is kept in a file, and what Python prints is read by people."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SAYS = """
import os, signal, sys
from spineage.run.entry import guarded

def work():
    os.write(2, b"core_worker.cc: noise\\n")
    print("a sentence", file=sys.stderr)
    {then}

code = guarded(work)
os.write(2, b"as before\\n")
sys.exit(code)
"""


def run(then: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SAYS.format(then=then)],
        env={**os.environ, "XDG_STATE_HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_native_talk_is_in_a_private_file_and_pythons_on_the_console(tmp_path: Path) -> None:
    done = run("pass", tmp_path)
    assert (done.returncode, done.stderr) == (0, "a sentence\nas before\n")
    log = tmp_path / "spineage/logs/ray.log"
    assert log.read_text() == "core_worker.cc: noise\n"
    assert log.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("then", "code", "last"),
    [
        ("raise KeyError('x')", 1, "spineage: unexpected KeyError"),
        ("os.kill(os.getpid(), signal.SIGINT)", 130, "spineage: interrupted"),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, "spineage: stopped; what is done is kept"),
    ],
)
def test_every_end_is_said_on_the_console(then: str, code: int, last: str, tmp_path: Path) -> None:
    done = run(then, tmp_path)
    assert done.returncode == code
    assert done.stderr.splitlines()[1].startswith(last)


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "spineage").mkdir()
    (tmp_path / "spineage/logs").write_text("no folder")
    assert run("pass", tmp_path).stderr == "a sentence\nas before\n"


def test_the_log_does_not_grow_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "spineage/logs/ray.log"
    log.parent.mkdir(parents=True)
    log.write_bytes(bytes(1_500_000))
    run("pass", tmp_path)
    assert log.read_text() == "core_worker.cc: noise\n"
