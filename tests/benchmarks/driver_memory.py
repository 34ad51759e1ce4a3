"""The driver's resident memory while scoring 40 and 400 phantom scans: it holds counts, never rows.

    python tests/benchmarks/driver_memory.py [--model WORKSPACE_OF_A_DEMO]

Prints one JSON line. Without --model a small demo is made first for its model bundle. Each population
is ingested and scored by its own process; the driver's peak (VmHWM) is read from /proc while
`spineage score` runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

SMALL, LARGE, TARGET = 40, 400, 1.2


def spineage(*args: str, cwd: Path) -> subprocess.Popen[bytes]:
    env = {**os.environ, "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-m", "spineage.cli", *args]
    return subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL)


def must(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        sys.exit(f"{process.args} ended with {process.returncode}")


def peak_mib(process: subprocess.Popen[bytes]) -> float:
    """The highest resident memory the process itself reached; its workers are processes of their own."""
    peak_kib = 0
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text()
        except OSError:
            break
        found = [line for line in status.splitlines() if line.startswith("VmHWM")]
        peak_kib = max([peak_kib, *(int(line.split()[1]) for line in found)])
        time.sleep(0.2)
    must(process)
    return peak_kib / 1024


def scored(folder: Path, people: int, model: str) -> tuple[float, float]:
    """Peak MiB and seconds of scoring that many people from their DICOM."""
    folder.mkdir()
    must(spineage("phantom", "--out", "population", "--people", str(people), cwd=folder))
    study = {
        "inputs": {"scans": "population/dicom", "key_file": "population/phantom.key"},
        "score": {"model": model},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    must(spineage("ingest", cwd=folder))
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
        [bundle] = [
            str(p.parent.absolute()) for p in workspace.glob("calibrate/*/bundle/bundle.json")
        ]
        small, small_s = scored(folder / "small", SMALL, bundle)
        large, large_s = scored(folder / "large", LARGE, bundle)
    print(
        json.dumps(
            {
                "name": "driver_memory",
                "people": [SMALL, LARGE],
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
