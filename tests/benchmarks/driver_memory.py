"""The driver's resident memory while scoring 500 and 18,070 scans: it holds what is to do, never voxels.

    python -m tests.benchmarks.driver_memory [--model WORKSPACE_OF_A_DEMO]

Prints one JSON line. Without --model a small demo is made first. The scans are one of its scans under many
names, whose tensor is there; the driver's peak (VmHWM) is read from /proc while `spineage score` runs.

- 2026-11-26: 590 MiB while 200 scans were scored, 800 while 2,000 were, before keys came from names.
- 2026-11-27, a demo of an eighth of the voxels: 573 and 913 MiB (1.59). Rows packed as bytes instead of dicts
  did not help (576 and 920): resident memory stands at 593 MiB while 6,000 scans are scored, and the peak is
  the merging of their parts at the end. Merged without dicts, 18,000 parts take 87 MiB instead of some 330;
  not measured whole since.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from spineage.run.context import Context
from spineage.study import read_study
from tests.benchmarks.resume_many import multiply
from tests.made import processes
from tests.made.demo_workspace import Demo, environment

SMALL, LARGE, TARGET = 500, 18_070, 1.2


def spineage(*args: str, cwd: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "spineage.cli", *args]
    return subprocess.Popen(command, cwd=cwd, env=environment(), stdout=subprocess.DEVNULL)


def must(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        sys.exit(f"{process.args} ended with {process.returncode}")


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The highest resident memory the process itself reached; its workers are processes of their own."""
    peak = 0.0
    while process.poll() is None:
        with suppress(OSError):
            peak = max(peak, processes.peak_mib(process.pid))
        time.sleep(0.2)
    must(process)
    return peak


def scored(folder: Path, model: Path, num: int) -> tuple[float, float]:
    """Peak MiB and seconds of scoring so many scans whose tensors are there."""
    Demo(model, {}, "").copy(folder, without=("report", "explain", "associate"))
    context = Context(read_study(folder / "study.yaml"), say=lambda text: None)
    multiply(context, num, readable=True)
    shutil.rmtree(folder / "score")
    started = time.monotonic()
    return peak_mib(spineage("score", cwd=folder)), time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="workspace of a finished demo")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workspace = Path(options.model) if options.model else folder / "demo"
        if not options.model:
            must(spineage("demo", "--people", "24", "--workspace", str(workspace), cwd=folder))
        small, small_s = scored(folder / "small", workspace, SMALL)
        large, large_s = scored(folder / "large", workspace, LARGE)
    print(
        json.dumps(
            {
                "name": "driver_memory",
                "scans": [SMALL, LARGE],
                "peak_mib": [round(small, 1), round(large, 1)],
                "ratio": round(large / small, 3),
                "seconds": [round(small_s, 1), round(large_s, 1)],
                "target": TARGET,
                "met": large / small <= TARGET,
            }
        )
    )


if __name__ == "__main__":
    main()
