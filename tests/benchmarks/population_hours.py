"""Core seconds of a scan of a scanner's resolution, by kind of work, and what populations take by them.

    python -m tests.benchmarks.population_hours [--model WORKSPACE_OF_A_DEMO] [--price 0.05]

Prints one JSON line. Phantom people in 20 slices of 0.9 mm, 4 mm apart, written as DICOM, are ingested, and
scored without Ray, one process that does one thing after another; what each kind of work took is what the
runs themselves measure (of `ingest` the time of the stage by all cores). The segmenter of such a run
is the demo's, which is small: a network of the size that nnU-Net plans (PlainConvUNet, 32 to 320 features, 26
classes, tiles of 16 x 256 x 128 at 0.9 mm, without mirroring) is timed apart, on two threads, on a scan in a
scanner's field of view (20 x 900 x 400). price: of a core hour, in any currency. Nothing is measured on a GPU
here: `segment_speed` does that where there is one.

2026-11-27, two cores: ingest 1.7, decode 0.5, the demo's segmenter 1.2, name levels 0.9, prepare 0.2, predict
0.1; exact 290, fast 150 (with random weights it finds no spine to look closer at, so that is its worst).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import torch
import yaml

from spineage.io.storage.store import Store
from spineage.run.context import Context
from spineage.run.rates import rates_of
from spineage.run.runner import run_stages
from spineage.segmenter.predict.allocator import keep_freed_memory
from spineage.segmenter.predict.networks import build_network
from spineage.study import read_study
from spineage.verbs.phantom import make
from tests.benchmarks.plan_estimate import spineage
from tests.benchmarks.segment_by_engine import segmenter
from tests.benchmarks.segment_network import scans
from tests.benchmarks.segment_plans import CONFIGURATION, PLANNED, dataset_of, plans_of

NUM_PEOPLE = 8
POPULATIONS = (18_000, 100_000, 500_000)
THREADS = 2
OF_NETWORK = "draw"


def of_the_chain(demo: Path, folder: Path) -> dict[str, float]:
    """Core seconds of a scan by kind of work, with the demo's segmenter and network; ingest too."""
    out = folder / "population"
    recipe = {"in_plane_mm": 0.9, "slice_mm": 4.0, "num_slices": 20, "repeat_share": 0.0}
    make(str(out), num_people=NUM_PEOPLE, seed=7, **recipe)
    study = yaml.safe_load((demo / "study.yaml").read_text())
    [bundle] = demo.glob("calibrate/*/bundle")
    kept = {name: study[name] for name in ("cohort", "prepare") if name in study}
    text = {
        "name": "hours", "workspace": str(folder / "w"),
        "inputs": {"scans": str(out / "dicom"), "key_file": str(out / "phantom.key")},
        "score": {"model": str(bundle)}, **kept,
    }  # fmt: skip
    (folder / "study.yaml").write_text(yaml.safe_dump(text))
    spineage("ingest", "--study", "study.yaml", cwd=folder)
    [found] = rates_of(Store(str(folder / "w")), ["ingest"])
    context = Context(read_study(folder / "study.yaml"), say=print, is_alone=True)
    run_stages(context, ["score"])
    [pace] = context.paces
    ingest_s = found.seconds * (os.cpu_count() or 1)  # at most: it may have kept them all busy
    seconds = {work: step.seconds / step.rows for work, step in pace.steps.items()}
    return {"ingest": ingest_s / NUM_PEOPLE, **seconds}


def of_a_planned_network() -> dict[str, float]:
    """Core seconds of a scan, exact and fast; random weights, for what is drawn takes no time."""
    torch.set_num_threads(THREADS)
    keep_freed_memory()
    torch.manual_seed(0)
    plans = plans_of(PLANNED, 0.9)
    network = build_network(plans, dataset_of(), CONFIGURATION).eval()
    engine = segmenter(plans, network, "cpu")
    [(image, _)] = scans(1, 99, 0.9)
    took = {}
    for way in ("exact", "fast"):
        began = time.monotonic()
        engine.segment(image, way)
        took[way] = (time.monotonic() - began) * THREADS
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="workspace of a finished demo")
    parser.add_argument("--price", type=float, default=0.05, help="of a core hour")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        demo = Path(options.model) if options.model else folder / "demo"
        if not options.model:
            spineage("demo", "--workspace", str(demo), cwd=folder)
        chain = of_the_chain(demo, folder)
    planned = of_a_planned_network()
    beside = sum(seconds for work, seconds in chain.items() if work != OF_NETWORK)
    core_s = {
        "demo": beside + chain[OF_NETWORK],
        **{way: beside + planned[way] for way in planned},
    }
    populations = {
        f"{num}": {
            way: {
                "core_hours": round(num * seconds / 3600),
                "hours_on_64_cores": round(num * seconds / 3600 / 64, 1),
                "price": round(num * seconds / 3600 * options.price),
            }
            for way, seconds in core_s.items()
        }
        for num in POPULATIONS
    }
    line = {
        "name": "population_hours",
        "core_s_a_scan": {work: round(s, 2) for work, s in {**chain, **planned}.items()},
        "price_of_a_core_hour": options.price,
        "populations": populations,
        "met": None,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
