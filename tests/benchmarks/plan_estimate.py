"""What `--plan` says a job will take, against what it then takes: two kinds of job, each after a smaller one.

    python -m tests.benchmarks.plan_estimate [--model WORKSPACE_OF_A_DEMO]

Prints one JSON line. Without --model a demo is made first. Of each kind a quarter of the scans is done, by
which it is measured, then the plan of the rest is asked for and the rest is done. The time is that of the
stage, as the run says it: Ray's start is in it, the start of Python is not.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from spineage.run.context import Context
from spineage.run.plan import plan_stage
from spineage.study import read_study
from tests.made.demo_workspace import Demo, environment

TARGET = 0.25


def spineage(*args: str, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "spineage.cli", *args], cwd=cwd, env=environment(), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout


def lose(folder: Path, tables: tuple[str, ...], scans: list[str]) -> None:
    """The parts of these scans, one each."""
    for table in tables:
        for part in folder.rglob(f"{table}/*.parquet"):
            if part.name.startswith(tuple(scans)):
                part.unlink()


def lose_scores(folder: Path, scans: list[str]) -> None:
    """Scores and refusals are merged: all of them go, which a plan of more scans makes up for."""
    shutil.rmtree(folder / "score", ignore_errors=True)


def measured(
    verb: str, stage: str, folder: Path, scans: list[str], drop: Callable[[list[str]], None]
) -> dict[str, float]:
    """Seconds that were planned and that it took, and how far they are apart."""
    for some in (scans[::4], [s for i, s in enumerate(scans) if i % 4]):
        drop(some)
        context = Context(read_study(folder / "study.yaml"), say=lambda text: None)
        plan = plan_stage(context, stage)
        told = spineage(verb, "--study", str(folder / "study.yaml"), cwd=folder)
    took = re.findall(rf"{stage}: .*\(([0-9.]+) s\)$", told, re.MULTILINE)
    seconds = float(took[-1])
    assert plan.seconds is not None
    return {
        "scans": plan.remaining,
        "planned_s": round(plan.seconds, 1),
        "took_s": seconds,
        "off": round(plan.seconds / seconds - 1, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="workspace of a finished demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        workspace = Path(options.model) if options.model else Path(name) / "demo"
        if not options.model:
            spineage("demo", "--workspace", str(workspace), cwd=Path(name))
        folder = Demo(workspace, {}, "").copy(Path(name) / "w")
        context = Context(read_study(folder / "study.yaml"), say=lambda text: None)
        scans = sorted(context.read("scans", ["scan_id"])["scan_id"])

        def unsegmented(some: list[str]) -> None:
            lose(folder, ("masks", "tensors", "faults"), some)
            lose_scores(folder, some)

        kinds = {
            "prepare": measured(
                "prepare", "prepare", folder, scans, lambda some: lose(folder, ("tensors",), some)
            ),
            "rescore": measured("rescore", "score", folder, scans, unsegmented),
        }
    off = [abs(kind["off"]) for kind in kinds.values()]
    print(
        json.dumps({"name": "plan_estimate", **kinds, "target": TARGET, "met": max(off) <= TARGET})
    )


if __name__ == "__main__":
    main()
