"""Seconds a scan of the demo segmenter, against another version of this project. One JSON line.

git worktree add ../before b7e3f6a; python -m tests.benchmarks.demo_segment ../before

b7e3f6a is the last version before the engine. Each in a process of its own, one thread, the model kept; eight
phantoms in turns.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[2]
NUM_SCANS = 8


def main(other: str) -> None:
    ways = {"before": Path(other).resolve(), "now": HERE}
    workers = {way: start(root) for way, root in ways.items()}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(NUM_SCANS):
        for way, worker in workers.items():
            seconds[way].append(ask(worker, number))
    for worker in workers.values():
        worker.kill()
    mean = {way: sum(each) / NUM_SCANS for way, each in seconds.items()}
    line = {
        "name": "demo_segment",
        "seconds_per_scan": {way: round(s, 3) for way, s in mean.items()},
        "times_as_fast": round(mean["before"] / mean["now"], 2),
        "met": mean["now"] < mean["before"],
    }
    print(json.dumps(line))


def start(root: Path) -> subprocess.Popen[str]:
    """A process that has loaded the demo segmenter of the version at `root`."""
    code = f"{inspect.getsource(serve)}\nserve({NUM_SCANS})"
    worker = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}, cwd=root,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    ask(worker, 0)
    return worker


def ask(worker: subprocess.Popen[str], number: int) -> float:
    """Seconds of one scan."""
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write(f"{number}\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def serve(num_scans: int) -> None:
    """Runs in the other process, on what every version has: so its imports are here."""
    import sys
    import time

    from spineage.science.phantom import PhantomRecipe, draw_population, render
    from spineage.segmenter.predict.predictor import load_segmenter

    recipe = PhantomRecipe(num_people=num_scans, seed=99, repeat_share=0.0)
    images = [render(exam, recipe).image for exam in draw_population(recipe)]
    segmenter = load_segmenter("demo", threads=1)
    for line in sys.stdin:
        started = time.perf_counter()
        segmenter.segment(images[int(line)])
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
