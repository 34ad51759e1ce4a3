"""Scans per minute of the engine against nnU-Net's own predictor and command line. One JSON line.

python -m tests.benchmarks.segment_speed [num_scans [file of the network's weights, kept between runs]]

Same network, same scans (20 x 900 x 400 at 0.9 mm, plan spacing 1.5 mm in plane), mirroring off, two threads.
nnUNetPredictor is kept in one process and takes turns with the engine, scan by scan; `nnUNetv2_predict` runs
once over all scans with its defaults. Where there is a GPU, a network of the size that nnU-Net plans, at 0.9
mm, is measured there instead. `dice` is against the phantoms' truth, mean over tissues and scans.

2026-11-25, two idle cores, 8 scans, seconds a scan: predictor 19.9, exact 6.5, fast 1.4, cli 21.1; exact
3.07 and fast 14.6 times the predictor, exact 3.25 times the cli: goals met. Fewer than one in a million of
exact's voxels are not the predictor's, since tiles are summed in half precision and in its order (in single
precision one in 9,000 was). Dice exact 0.704, fast 0.701; with a network of 200 steps (Dice 0.417 and 0.410,
2026-11-24) the coarse pass cut two spines of eight and fast was 0.0066 below.
2026-11-24, what it took since 0.93 and 1.79 (two cores shared): memory kept when freed, oneDNN by name for
single tiles (`predict/convolutions.py`), tiles up to a quarter longer than the patch in the spine's box.
Longer tiles over the whole volume lowered Dice (0.918 against 0.940 with the demo segmenter) and were left.
2026-11-24, processor seconds of one 16 x 256 x 128 tile (user + system, two threads, load 3-5): one at once
1.49, two 1.20; with glibc kept from giving large blocks back (mallopt M_MMAP_THRESHOLD and
M_TRIM_THRESHOLD of 1 GiB) 0.99 and 0.69. Used since by `predict/allocator.py`, with one arena: a thread's
own arena holds no block over 64 MB.
2026-11-24, did not help (one thread): channels_last_3d, 0.66-0.71 against 0.54-0.64, twice as fast in an
8 to 8 convolution and slower in instance norm and copies; four tiles at once, 0.73.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from spineage.science.scan.geometry import Volume
from spineage.science.spine.dice import dice_of
from spineage.science.spine.labels import SEMANTIC
from spineage.segmenter.predict.allocator import keep_freed_memory
from tests.benchmarks.segment_beside import Beside
from tests.benchmarks.segment_by_engine import segmenter
from tests.benchmarks.segment_by_nnunet import write_results
from tests.benchmarks.segment_network import scans, trained
from tests.benchmarks.segment_plans import CONFIGURATION, PLANNED, SMALL

GOALS_CPU = {"exact_over_predictor": 1.4, "fast_over_predictor": 6.0, "exact_over_cli": 2.0}
GOALS_GPU = {"exact_over_predictor": 5.0, "fast_over_predictor": 10.0}
DICE_LOSS = 0.005
SEED = 99


def main(num_scans: int = 8, kept: str | None = None) -> None:
    on_gpu = torch.cuda.is_available()
    device, goals = ("cuda", GOALS_GPU) if on_gpu else ("cpu", GOALS_CPU)
    features, in_plane_mm = (PLANNED, 0.9) if on_gpu else (SMALL, 1.5)
    torch.set_num_threads(2)
    if not on_gpu:
        keep_freed_memory()  # as `load_segmenter` does for a worker
    plans, network = trained(features, in_plane_mm, device, Path(kept) if kept else None)
    people = scans(num_scans, SEED, 0.9)
    with Beside(plans, network, device) as beside:
        measure(beside, plans, network, device, goals, people)


def measure(
    beside: Beside,
    plans: PlansManager,
    network: torch.nn.Module,
    device: str,
    goals: dict[str, float],
    people: list[tuple[Volume, Volume]],
) -> None:
    """Each scan by each way in turn; prints the line."""
    on_gpu, num_scans = device == "cuda", len(people)
    engine = segmenter(plans, network, device)
    engine.warm_up()
    ways: dict[str, Callable[[Volume], tuple[Volume, float]]] = {
        "predictor": beside,
        "exact": lambda image: timed(lambda: engine.segment(image)),
        "fast": lambda image: timed(lambda: engine.segment(image, "fast")),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    dice: dict[str, list[float]] = {way: [] for way in ways}
    agreement, how = [], []
    for image, truth in people:
        labels = {}
        for way, run in ways.items():
            labels[way], taken = run(image)
            seconds[way].append(taken)
            dice[way].append(mean_dice(labels[way], truth))
        agreement.append(
            float((labels["exact"].voxels_RAS == labels["predictor"].voxels_RAS).mean())
        )
        how.append(engine.segment_and_say(image, "fast").how)
        print({way: round(s[-1], 2) for way, s in seconds.items()}, how[-1], file=sys.stderr)
    per_scan = {way: float(np.mean(s)) for way, s in seconds.items()}
    if not on_gpu:
        per_scan["cli"] = by_command_line([image for image, _ in people], plans, network)
    figures = {
        goal: round(per_scan[goal.split("_over_")[1]] / per_scan[goal.split("_over_")[0]], 2)
        for goal in goals
    }
    mean = {way: float(np.mean(d)) for way, d in dice.items()}
    line = {
        "name": "segment_speed",
        "device": torch.cuda.get_device_name() if on_gpu else "cpu, 2 threads",
        "num_scans": num_scans,
        "num_parameters": sum(p.numel() for p in network.parameters()),
        "seconds_per_scan": {way: round(s, 2) for way, s in per_scan.items()},
        **figures,
        "voxels_as_predictor": round(float(np.mean(agreement)), 6),
        "dice": {way: round(d, 4) for way, d in mean.items()},
        "fast_saw": {text: how.count(text) for text in set(how)},
        "goals": goals,
        "met": all(figures[goal] >= least for goal, least in goals.items())
        and mean["fast"] >= mean["exact"] - DICE_LOSS,
    }
    print(json.dumps(line))


def timed(run: Callable[[], Volume]) -> tuple[Volume, float]:
    started = time.perf_counter()
    return run(), time.perf_counter() - started


def mean_dice(found: Volume, truth: Volume) -> float:
    return float(
        np.mean([dice_of(found, truth, v) for name, v in SEMANTIC.items() if name != "background"])
    )


def by_command_line(images: list[Volume], plans: PlansManager, network: torch.nn.Module) -> float:
    """Seconds per scan of `nnUNetv2_predict` over a folder of all scans."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "in").mkdir()
        for number, image in enumerate(images):
            nib.save(
                nib.Nifti1Image(image.voxels_RAS, image.affine_RAS),
                folder / "in" / f"case{number:03}_0000.nii.gz",
            )
        results = folder / "results" / "Dataset901_Bench"
        write_results(results / f"nnUNetTrainer__nnUNetPlans__{CONFIGURATION}", plans, network)
        names = ("raw", "preprocessed", "results")
        settings = {f"nnUNet_{name}": str(folder / name) for name in names}
        command = Path(sys.executable).with_name("nnUNetv2_predict")
        arguments = ["-d", "901", "-c", CONFIGURATION, "-f", "0", "--disable_tta", "-device", "cpu"]
        started = time.perf_counter()
        subprocess.run(
            [command, "-i", folder / "in", "-o", folder / "out", *arguments],
            env={**os.environ, **settings}, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        taken = time.perf_counter() - started
        assert len(list((folder / "out").glob("*.nii.gz"))) == len(images)
    return taken / len(images)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:3])
