"""The demo from nothing to the report: 80 people with three stations each, training included, in ten minutes.

    python tests/benchmarks/demo_time.py [--people 80]

Prints one JSON line. The wall is that of the whole process: imports, Ray's start and the report included.
Also checked, since a fast demo that learns nothing would be worthless: raw MAE at most 60 % of
predict-the-mean's, and r(SAG, planted gap) at least 0.4.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

TARGET_SECONDS = 600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=80)
    parser.add_argument("--seed", type=int, default=2511)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        result = subprocess.run(
            [
                sys.executable, "-m", "spineage.cli", "demo", "--json", "--workspace", folder,
                "--people", str(options.people), "--seed", str(options.seed),
            ],
            capture_output=True, text=True, env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        )  # fmt: skip
        seconds = time.monotonic() - started
    if result.returncode:
        sys.exit(result.stderr[-3000:])
    told = json.loads(result.stdout.strip().splitlines()[-1])
    ratio = told["raw_mae_years"] / told["mean_mae_years"]
    figures = {k: v for k, v in told.items() if k != "report"}
    print(
        json.dumps(
            {
                "name": "demo_time",
                **figures,
                "wall_s": round(seconds, 1),
                "raw_over_mean": round(ratio, 3),
                "cores": os.cpu_count(),
                "met": seconds <= TARGET_SECONDS and ratio <= 0.6 and told["r_sag_gap"] >= 0.4,
            }
        )
    )


if __name__ == "__main__":
    main()
