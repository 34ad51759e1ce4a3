"""The command, called in the tests' own process: what shares its session of Ray costs no new one."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from unittest import mock

from typer.testing import CliRunner

from spineage.cli import app

Ended = subprocess.CompletedProcess[str]


def spineage(*args: str, cwd: Path, **env: str) -> Ended:
    """`spineage ...` as it ends; an exception that it lets through is raised."""
    with contextlib.chdir(cwd), mock.patch.dict(os.environ, env):
        result = CliRunner().invoke(app, args, catch_exceptions=False)
    return subprocess.CompletedProcess(args, result.exit_code, result.stdout, result.stderr)
