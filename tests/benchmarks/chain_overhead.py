"""What the chain of actors costs over its steps: CPU-seconds a scan of all processes of `spineage score`,
over those of the same steps called in a loop, for scans that are new and for scans whose tensors are there.

    python -m tests.benchmarks.chain_overhead [--model WORKSPACE_OF_A_DEMO]

Prints one JSON line. Without --model a small demo is made first. What a run costs once (Ray, workers that
load their libraries) falls out: each figure is the margin between few scans and many. Scans whose tensors are
there are one of the demo's under many names.

- 2026-11-26: with one scan a block a scan whose tensor was there cost 149 ms around 50 to 95 ms of work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from spineage.io.models.bundle import read_bundle
from spineage.run.context import Context
from spineage.stages.score import stage as score
from spineage.stages.score.sink import WriteScores
from spineage.stages.score.work import work_rows
from spineage.study import read_study
from spineage.tables import KEY
from tests.benchmarks.resume_many import change_scans, multiply
from tests.made import processes
from tests.made.demo_workspace import Demo, environment

NEW, PREPARED = (6, 40), (200, 1_200)
MAX_RATIO = 1.15


def context_of(folder: Path) -> Context:
    return Context(read_study(folder / "study.yaml"), say=lambda text: None)


def make(demo: Demo, folder: Path, num: int, *, are_new: bool) -> None:
    """A workspace in which so many scans have no score, and when new no mask and tensor either."""
    demo.copy(
        folder,
        without=("report", "explain", "associate", *(["segment", "prepare"] if are_new else [])),
    )
    context = context_of(folder)
    if are_new:
        scored = demo.context().read("scores", KEY).iloc[:num]
        change_scans(context, lambda rows: rows.merge(scored, on=KEY))
    else:
        multiply(context, num, readable=True)
    shutil.rmtree(folder / "score")


def in_a_loop(folder: Path) -> float:
    """CPU-seconds of the steps alone, in this process."""
    context = context_of(folder)
    chosen = score.choose(context)
    bundle, _ = read_bundle(context.store, chosen.folder, chosen.digest)
    rows = list(work_rows(context, context.read("scans"), bundle))
    num = sum(row["work"].needs_tensor for row in rows)
    predicting = score._predicting_steps(context, chosen, bundle.region)
    links = [*score._filling_steps(context, num, num), *predicting]
    calls = [link.make(**link.kwargs) for link in links]
    write = WriteScores(
        context.store.root,
        {stage: context.folder(stage) for stage in ("segment", "prepare", "score")},
    )
    before = resource.getrusage(resource.RUSAGE_SELF)
    batch: list[dict[str, Any]] = []
    for row in rows:
        for call in calls:
            row = call(row)
        batch.append(row)
        if len(batch) == score.ROWS_PER_BLOCK:
            write(batch)
            batch = []
    if batch:
        write(batch)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def on_ray(folder: Path) -> float:
    """CPU-seconds of the command's process and of all below it, as they were last seen."""
    process = subprocess.Popen(
        [sys.executable, "-m", "spineage.cli", "score"], cwd=folder, stdout=subprocess.DEVNULL,
        env=environment(),
    )  # fmt: skip
    ticks: dict[int, int] = {}
    while process.poll() is None:
        stats = processes.stats()
        ours = ({process.pid} | processes.below(process.pid, stats)) & stats.keys()
        ticks |= {pid: int(stats[pid][11]) + int(stats[pid][12]) for pid in ours}
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"spineage score ended with {process.returncode}")
    return sum(ticks.values()) / os.sysconf("SC_CLK_TCK")


def apart(folder: Path) -> float:
    """`in_a_loop` in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.chain_overhead", "--loop", str(folder)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def ms_a_scan(demo: Demo, place: Path, nums: tuple[int, int], *, are_new: bool) -> dict[str, float]:
    """The margin between few scans and many, of the loop and of the chain."""
    loop: list[float] = []
    chain: list[float] = []
    for num in nums:
        for measured, way in ((loop, apart), (chain, on_ray)):
            folder = place / "w"
            make(demo, folder, num, are_new=are_new)
            measured.append(way(folder))
            shutil.rmtree(folder)
    few, many = nums
    each = {
        "loop_ms": 1_000 * (loop[1] - loop[0]) / (many - few),
        "chain_ms": 1_000 * (chain[1] - chain[0]) / (many - few),
    }
    return {
        **{k: round(v, 1) for k, v in each.items()},
        "ratio": round(each["chain_ms"] / each["loop_ms"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="workspace of a finished demo")
    parser.add_argument("--loop", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.loop:
        print(in_a_loop(Path(options.loop)))
        return
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = Path(options.model).absolute() if options.model else place / "demo"
        if not options.model:
            command = [sys.executable, "-m", "spineage.cli", "demo", "--workspace", str(model)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        demo = Demo(model, {}, "")
        prepared = ms_a_scan(demo, place, PREPARED, are_new=False)
        new = ms_a_scan(demo, place, NEW, are_new=True)
    print(
        json.dumps(
            {
                "name": "chain_overhead",
                "new": new,
                "prepared": prepared,
                "target": MAX_RATIO,
                "met": max(new["ratio"], prepared["ratio"]) <= MAX_RATIO,
            }
        )
    )


if __name__ == "__main__":
    main()
