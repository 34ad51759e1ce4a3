"""How long a phantom population takes: 200 people, three stations each, under 60 s on two cores.

    python tests/benchmarks/phantom_population.py [--people 200]

Prints one JSON line. Ray's start is included: a user waits for it too.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

from spineage.verbs import phantom

TARGET_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        made = phantom.make(f"{folder}/population", num_people=options.people)
        seconds = time.monotonic() - started
    print(
        json.dumps(
            {
                "name": "phantom_population",
                "seconds": round(seconds, 1),
                **made,
                "cores": os.cpu_count(),
                "met": seconds <= TARGET_SECONDS,
            }
        )
    )


if __name__ == "__main__":
    main()
