"""The whole demo as other machines compute it: are the same people normal, how far apart are the headlines?

    python -m tests.benchmarks.demo_settings [--machines native nehalem haswell] [--workspace FOLDER]

Prints one JSON line: by machine the raw MAE and its 95 % limits; over pairs of machines the share of people
whose status agrees, and how far the raw predictions of scans that did not train lie apart (median, largest).
The settings are those of tests/other_machines.py, for every process of the demo. Target: the same people are
normal, and each headline lies within the limits of the others.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from spineage.run.context import Context
from spineage.study import read_study
from tests.other_machines import OTHER_MACHINES


def demo_on(machine: str, folder: Path) -> dict[str, Any]:
    """The demo's own JSON."""
    environment = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    environment |= OTHER_MACHINES[machine]
    command = [sys.executable, "-m", "spineage.cli", "demo", "--workspace", str(folder), "--json"]
    said = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return found


def tables_of(folder: Path) -> tuple[pd.Series, pd.Series]:
    """The status of each scan, and the raw prediction of each that did not train."""
    context = Context(read_study(folder / "study.yaml"))
    cohort = context.read("cohort").set_index("scan_id")
    predictions = context.read("predictions").set_index("scan_id")
    unseen = predictions[predictions.split.isin(["calibrate", "test"])]
    return cohort.status, unseen.predicted_years


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--machines", nargs="+", default=["native", "nehalem", "haswell"])
    parser.add_argument("--workspace", type=Path)
    options = parser.parse_args()
    root = options.workspace or Path(tempfile.mkdtemp(prefix="spineage-demos-"))
    printed = {name: demo_on(name, root / name) for name in options.machines}
    tables = {name: tables_of(root / name) for name in options.machines}
    pairs = {}
    for a, b in combinations(options.machines, 2):
        apart = (tables[a][1] - tables[b][1]).abs()
        pairs[f"{a} {b}"] = {
            "same_status": round(float((tables[a][0] == tables[b][0]).mean()), 4),
            "median_apart_years": round(float(apart.median()), 2),
            "largest_apart_years": round(float(apart.max()), 2),
        }
    headlines = {
        name: [one["raw_mae_years"], one["raw_mae_low_years"], one["raw_mae_high_years"]]
        for name, one in printed.items()
    }
    within = all(
        low <= mae <= high
        for _, low, high in headlines.values()
        for mae, _, _ in headlines.values()
    )
    print(
        json.dumps(
            {
                "name": "demo_settings",
                "raw_mae_low_high_years": headlines,
                "test_people": {name: one["test_people"] for name, one in printed.items()},
                "r_sag_gap": {name: one["r_sag_gap"] for name, one in printed.items()},
                "seconds": {name: one["seconds"] for name, one in printed.items()},
                "pairs": pairs,
                "met": within and all(pair["same_status"] == 1 for pair in pairs.values()),
            }
        )
    )


if __name__ == "__main__":
    main()
