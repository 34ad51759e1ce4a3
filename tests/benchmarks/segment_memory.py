"""Peak memory of `exact` against nnUNetPredictor: 25 classes, 20 x 900 x 470 voxels. One JSON line.

python tests/benchmarks/segment_memory.py

Each in a process of its own that does nothing else; random weights, for what is drawn takes no memory. The
peak is of the whole process, libraries included (`before`: what it was before the scan).

2026-11-24, resampled from 1.5 mm: exact 1196 MB, predictor 1963 MB, ratio 0.61; without resampling 1265 and
1749, 0.72. 629 MB of each are libraries; of the rest exact has 0.43 and 0.57. Goal missed. Two tiles at once
took 1358-1373 MB. What is left is the sums of one row of tiles, 25 classes x 20 x 257 x 470 in single
precision, 242 MB; half precision would cost the agreement with nnU-Net's labels (99.84-99.98 %).
"""

from __future__ import annotations

import json
import multiprocessing
import resource

import numpy as np
import torch

from spineage.io.nnunet_networks import build_network
from spineage.science.geometry import Volume
from tests.benchmarks.segment_network import (
    CONFIGURATION,
    SMALL,
    by_predictor,
    dataset_of,
    plans_of,
    predictor_of,
    segmenter,
)

SHAPE_RAS = (20, 470, 900)
NUM_CLASSES = 25
GOAL = 0.5


def main() -> None:
    line: dict[str, object] = {"name": "segment_memory", "num_classes": NUM_CLASSES}
    worst = 0.0
    for in_plane_mm, case in ((1.5, "resampled from 1.5 mm"), (0.9, "no resampling")):
        peaks = {way: peak_of(way, in_plane_mm) for way in ("predictor", "exact")}
        ratio = peaks["exact"]["peak_mb"] / peaks["predictor"]["peak_mb"]
        worst = max(worst, ratio)
        line[case] = {**peaks, "ratio": round(ratio, 3)}
    print(json.dumps({**line, "worst_ratio": round(worst, 3), "goal": GOAL, "met": worst <= GOAL}))


def peak_of(way: str, in_plane_mm: float) -> dict[str, float]:
    """Megabytes that a fresh process came to, before and at the scan."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_segment, (way, in_plane_mm))


def _segment(way: str, in_plane_mm: float) -> dict[str, float]:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    plans, dataset = plans_of(SMALL, in_plane_mm), dataset_of(NUM_CLASSES)
    network = build_network(plans, dataset, CONFIGURATION)
    voxels = np.random.default_rng(0).normal(300, 80, SHAPE_RAS).astype(np.float32)
    image = Volume(voxels, np.diag([4.0, 0.9, 0.9, 1.0]))
    predictor = predictor_of(plans, network, "cpu", NUM_CLASSES)
    engine = segmenter(plans, network, "cpu", NUM_CLASSES)
    before = _peak_mb()
    if way == "exact":
        engine.segment(image)
    else:
        by_predictor(predictor, image)
    return {"before_mb": before, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
