"""What pinning the arithmetic of a cohort costs, and what is left to differ: the system's libm.

    python -m tests.benchmarks.cohort_bits [--people 1200]

Prints one JSON line. Phantoms are fitted in processes of their own, three fits each after one that compiles:
as this machine computes, pinned, pinned as on the machines of tests/other_machines.py, and pinned with the
variants of libm that do without FMA (GLIBC_TUNABLES), as on another glibc. `libm_values` says in how many of
a million values exp, log and pow of those variants differ at all: 0 would mean that nothing was changed.
Targets: the same bits wherever it is pinned; at most 1.25 x the time of this machine's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from typing import Any

import numpy as np

from spineage.science.cohort.decide import can_be_judged, decide, neighbours_of
from spineage.stages.cohort.stage import rule_of
from spineage.study import Cohort
from tests.made.phantom_people import coded_population
from tests.made.pinned import called, pinned
from tests.other_machines import LIBM_WITHOUT_FMA, OTHER_MACHINES

TARGET_RATIO = 1.25
COLUMNS = ["status", "cluster", "umap_x", "umap_y"]


def fitted(num_people: int) -> dict[str, Any]:
    """A digest of the table, and seconds a fit."""
    people, matrix, features = coded_population(num_people, seed=1)
    rule = rule_of(Cohort())
    near = neighbours_of(matrix, can_be_judged(people)[1], rule.recipe)
    found = decide(people, matrix, features, rule, 0, near).people[COLUMNS]
    started = time.monotonic()
    for seed in range(3):
        decide(people, matrix, features, rule, seed, near)
    seconds = (time.monotonic() - started) / 3
    return {
        "digest": hashlib.sha256(found.to_csv().encode()).hexdigest()[:16],
        "status": found.status.tolist(),
        "seconds": seconds,
    }


def libm_values() -> list[tuple[float, float, float]]:
    """exp, log and pow of a million values, as libm gives them."""
    drawn = np.random.default_rng(0).uniform(0.01, 20, 1_000_000).tolist()
    return [(math.exp(x), math.log(x), math.pow(x, 0.79)) for x in drawn]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=1200)
    options = parser.parse_args()
    native = called(fitted, options.people, environment={})
    ours = pinned(fitted, options.people)
    elsewhere = {
        name: pinned(fitted, options.people, machine=machine)
        for name, machine in {**OTHER_MACHINES, "libm without FMA": LIBM_WITHOUT_FMA}.items()
    }
    here = called(libm_values, environment={})
    there = called(libm_values, environment=LIBM_WITHOUT_FMA)
    again = pinned(fitted, options.people)
    seconds = (ours["seconds"] + again["seconds"]) / 2
    ratio = seconds / native["seconds"]
    same = {name: one["digest"] == ours["digest"] for name, one in elsewhere.items()}
    print(
        json.dumps(
            {
                "name": "cohort_bits",
                "people": options.people,
                "seconds_a_fit": {
                    "native": round(native["seconds"], 2), "pinned": round(seconds, 2)
                },
                "ratio": round(ratio, 3),
                "native_has_the_same_bits": native["digest"] == ours["digest"],
                "native_same_status": round(
                    float(np.mean([a == b for a, b in zip(native["status"], ours["status"], strict=True)])), 4
                ),
                "pinned_has_the_same_bits": same,
                "libm_values": sum(a != b for a, b in zip(here, there, strict=True)),
                "target": TARGET_RATIO,
                "met": all(same.values()) and ratio <= TARGET_RATIO,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    main()
