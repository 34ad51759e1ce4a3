"""One finished demo for all tests that need a whole study, made once a test session by the real command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from spineage.errors import BadStudy
from spineage.run.context import Context
from spineage.study import read_study
from spineage.verbs.demo import demo_study

PEOPLE = 40
SEED = 2511
COARSE = {"shape": [8, 40, 160], "spacing_mm": [8.0, 4.4, 4.4]}
"""An eighth of the demo's voxels: training takes 45 s instead of 200."""


@dataclass(frozen=True)
class Demo:
    """A workspace, and what the demo printed."""

    folder: Path
    printed: dict[str, Any]
    output: str

    def context(self, folder: Path | None = None) -> Context:
        return Context(read_study((folder or self.folder) / "study.yaml"), say=lambda text: None)

    def copy(self, folder: Path, *, without: tuple[str, ...] = ()) -> Path:
        """A copy that has lost the results of some stages; it reads the same population."""
        skipped = shutil.ignore_patterns("population", "study.resolved.yaml", *without)
        shutil.copytree(self.folder, folder, ignore=skipped)
        study = (folder / "study.yaml").read_text().replace(str(self.folder), str(folder))
        study = study.replace(": population/", f": {self.folder}/population/")
        (folder / "study.yaml").write_text(study)
        return folder


def run(*args: str, cwd: Path, timeout: float = 1400) -> subprocess.CompletedProcess[str]:
    """`spineage ...` in a process of its own, with the tests' short polls of Ray Train."""
    return subprocess.run(
        [sys.executable, "-m", "spineage.cli", *args],
        cwd=cwd, capture_output=True, text=True, timeout=timeout, env=environment(),
    )  # fmt: skip


def environment() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "OMP_NUM_THREADS")}
    return {**kept, "RAY_AUTH_MODE": "disabled"}


def make(folder: Path) -> Demo:
    """The demo as its command makes it, in a workspace whose study asks for COARSE."""
    demo_study(folder / "population", str(folder), SEED, PEOPLE)
    study = folder / "study.yaml"
    if "prepare" not in yaml.safe_load(study.read_text()):
        study.write_text(study.read_text() + yaml.safe_dump({"prepare": COARSE}))
    result = run("demo", "--people", str(PEOPLE), "--workspace", str(folder), "--json", cwd=folder)
    if result.returncode:
        raise BadStudy(f"the demo failed:\n{result.stdout[-3000:]}\n{result.stderr[-5000:]}")
    printed = json.loads(result.stdout.strip().splitlines()[-1])
    return Demo(folder, printed, result.stdout)


def scores_of(context: Context) -> pd.DataFrame:
    return context.read("scores").sort_values(["scan_id"], ignore_index=True)


def parts(folder: Path, table: str) -> dict[str, int]:
    """Every part of a table and when it was written (ns)."""
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob(f"{table}/*.parquet")}
