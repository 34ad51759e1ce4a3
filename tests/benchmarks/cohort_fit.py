"""One fit of the cohort on 18,000 people x 215 features, against umap-learn and hdbscan called directly.

    python tests/benchmarks/cohort_fit.py [--people 18000]

Prints one JSON line. Each is a process of its own, with the same seed and parameters, one after the other;
what numba compiles is compiled before the clock starts, on 5000 people. Memory is VmHWM of our process.
Targets: at most 1.1 x the wall, at most 4 GiB.

2026-11-26: it was compiled on 300 people before, which left twenty seconds of compiling in both. Neighbours
are exact now.
2026-11-24, two cores shared with others: directly 71.6 and 52.9 s, ours 60.1 and 59.4 s, 0.68 GiB. The map is
the embedding's two principal axes: before, it was a UMAP of its own, which is as much work again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from spineage.science.cohort import clusters
from spineage.science.cohort.neighbours import find_neighbours

TARGET_RATIO, TARGET_GIB = 1.1, 4.0
NUM_FEATURES, SEED = 215, 7
RECIPE = clusters.ClusterRecipe(
    num_neighbors=15,
    num_components=5,
    min_dist=0.0,
    min_cluster_share=0.08,
    min_samples=5,
    selection="eom",
)


def people(num: int) -> npt.NDArray[np.float64]:
    """Findings like those of a screening population: wear that grows with age, and rarer illness."""
    rng = np.random.default_rng(SEED)
    age = rng.uniform(25, 84, num)
    onset = rng.uniform(30, 140, NUM_FEATURES)
    present = rng.random((num, NUM_FEATURES)) < 0.5 / (1 + np.exp(-(age[:, None] - onset) / 8))
    ill = rng.random(num) < 0.15
    own = rng.choice(NUM_FEATURES, 20, replace=False)
    present[np.ix_(ill, own)] |= rng.random((ill.sum(), 20)) < 0.5
    return np.where(present, rng.choice([1.0, 1.0, 2.0, 3.0], present.shape), 0.0)


def ours(matrix_PF: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    everybody = np.ones(len(matrix_PF), dtype=bool)
    near = find_neighbours(matrix_PF, everybody, RECIPE.num_neighbors)
    return clusters.fit(matrix_PF, everybody, near, RECIPE, SEED).labels_P


def directly(matrix_PF: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    import hdbscan
    import umap

    points = umap.UMAP(
        n_neighbors=15, n_components=5, min_dist=0.0, metric="canberra", random_state=SEED, n_jobs=1
    ).fit_transform(matrix_PF)
    found = hdbscan.HDBSCAN(
        min_cluster_size=round(0.08 * len(points)), min_samples=5, approx_min_span_tree=False,
        prediction_data=True, core_dist_n_jobs=1,
    ).fit(points.astype(np.float64))  # fmt: skip
    return np.asarray(found.labels_)


def measured(name: str, num: int) -> dict[str, float]:
    """In this process: seconds, peak GiB and how many groups."""
    fit = {"ours": ours, "directly": directly}[name]
    fit(people(5000))  # of fewer UMAP computes all distances, and does not compile its descent
    matrix_PF = people(num)
    started = time.monotonic()
    labels = fit(matrix_PF)
    seconds = time.monotonic() - started
    status = Path("/proc/self/status").read_text().splitlines()
    [peak] = [int(line.split()[1]) for line in status if line.startswith("VmHWM")]
    return {"seconds": seconds, "gib": peak / 2**20, "groups": int(labels.max() + 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=18_000)
    parser.add_argument("--only", choices=("ours", "directly"))
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measured(options.only, options.people)))
        return
    found: dict[str, list[dict[str, float]]] = {"directly": [], "ours": []}
    for name in ("directly", "ours", "ours", "directly"):  # both orders: a shared machine drifts
        command = [sys.executable, __file__, "--people", str(options.people), "--only", name]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name].append(json.loads(said.splitlines()[-1]))
    wall = {name: sum(run["seconds"] for run in runs) / 2 for name, runs in found.items()}
    peak = max(run["gib"] for run in found["ours"])
    ratio = wall["ours"] / wall["directly"]
    print(
        json.dumps(
            {
                "name": "cohort_fit",
                "people": options.people,
                "features": NUM_FEATURES,
                "seconds": {
                    name: [round(run["seconds"], 1) for run in runs] for name, runs in found.items()
                },
                "ratio": round(ratio, 3),
                "peak_gib": round(peak, 2),
                "groups": {name: runs[0]["groups"] for name, runs in found.items()},
                "targets": [TARGET_RATIO, TARGET_GIB],
                "met": ratio <= TARGET_RATIO and peak <= TARGET_GIB,
            }
        )
    )


if __name__ == "__main__":
    main()
