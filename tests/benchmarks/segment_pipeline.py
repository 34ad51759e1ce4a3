"""Segmenting through the Ray pipeline against the same calls in a bare loop. One JSON line.

    python tests/benchmarks/segment_pipeline.py [--scans 64] [--people 4]

The bare loop is what one would write without Ray: assemble, segment, name, write, scan after scan in one
process. The pipeline is `stages.segment` as it runs: each step in a worker of its own, one of each. Every
process has one thread, in the loop as in the workers, and every scan is read from the disk again. Both
walls begin before anything is loaded (the loop: its imports and the network; the pipeline: its workers, with
the same imports and network) and end with the last mask; `loading_s` and `seconds_a_scan` tell them apart.
Both write the same masks, which is checked.

2026-11-24, 2 cores that other work shared (load 11), 64 scans of 13 x 128 x 432: 85.9 s against 106.1 s
(0.81), busy 0.98; 0.78 s a scan against 1.55. Naming is 0.50 s of the 1.55: with it inside the network's
worker, as before, the device waits for a third of each scan while the worker counts as busy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

MAX_RATIO, MIN_BUSY = 1.10, 0.90
Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=64)
    parser.add_argument("--people", type=int, default=4)
    parser.add_argument("--bare", help="a folder: run the bare loop there, and nothing else")
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare_loop(Path(options.bare))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_population(folder, options.scans, options.people)
        command = [sys.executable, __file__, "--bare", temporary]
        bare = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        piped = pipeline(folder)
        is_same = digests(folder / "bare") == digests(folder / "ray")
    ratio, busy = piped["wall_s"] / bare["wall_s"], piped["busy_share"]
    figures = {
        "name": "segment_pipeline",
        "scans": options.scans,
        "bare": bare,
        "pipeline": piped,
        "wall_over_bare": round(ratio, 3),
        "busy_share": busy,
        "same_masks": is_same,
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[2], 1),
        "met": ratio <= MAX_RATIO and busy >= MIN_BUSY and is_same,
    }
    print(json.dumps(figures))


def write_population(folder: Path, num_scans: int, num_people: int) -> None:
    """A few phantoms, each under many names, as rows of `sources`."""
    import nibabel as nib

    from spineage.science.phantom import PhantomRecipe, draw_population, render

    recipe = PhantomRecipe(
        num_people=num_people, seed=5, repeat_share=0.0, transitional_share=0.0, artefact_share=0.0
    )
    for exam in draw_population(recipe)[:num_people]:
        image = render(exam, recipe).image
        nib.save(
            nib.Nifti1Image(image.voxels_RAS, image.affine_RAS), folder / f"{exam.index}.nii.gz"
        )
    files = sorted(folder.glob("*.nii.gz"))
    rows = [source(f"scan{i:03d}", files[i % len(files)]) for i in range(num_scans)]
    (folder / "sources.json").write_text(json.dumps(rows))


def source(name: str, path: Path) -> Row:
    from tests.made.sealed import sealed_nifti

    return {
        "scan_id": name,
        "source_digest": f"{name:0<64}",
        **sealed_nifti(path),
        "num_voxels": 1_000_000,
    }


def bare_loop(folder: Path) -> dict[str, float]:
    """The steps of the stage called one after the other; seconds in all and in each."""
    began = time.monotonic()
    from spineage.run.fill import WriteEach
    from spineage.stages.segment import steps
    from spineage.study import study_from

    links = steps(study_from({}))
    calls = [(step.make.__name__, step.make(**step.kwargs)) for step in links]
    write = WriteEach(str(folder / "bare"), "segment", "masks")
    seconds = {name: 0.0 for name, _ in calls}
    rows = json.loads((folder / "sources.json").read_text())
    loading_s = time.monotonic() - began
    for row in rows:
        for name, call in calls:
            started = time.monotonic()
            row = call(row)
            seconds[name] += time.monotonic() - started
        write([row])
    wall_s = time.monotonic() - began
    return {
        "wall_s": round(wall_s, 2),
        "loading_s": round(loading_s, 2),
        "seconds_a_scan": round((wall_s - loading_s) / len(rows), 3),
        **{k: round(v, 2) for k, v in seconds.items()},
    }


def pipeline(folder: Path) -> dict[str, float]:
    """The same rows through the stage's chain on a session that is there."""
    from spineage.engine import session
    from spineage.engine.rows import Step, run_rows
    from spineage.run.fill import WriteEach
    from spineage.stages.segment import steps
    from spineage.study import study_from

    session.connect()
    told: list[str] = []
    sink = Step(
        WriteEach,
        {"root": str(folder / "ray"), "folder": "segment", "table": "masks"},
        "write",
        num_cpus=0.25,
    )
    rows = json.loads((folder / "sources.json").read_text())
    began = time.time()
    counts = run_rows(rows, steps(study_from({})), sink, tell=told.append)
    wall_s = time.time() - began
    session.disconnect()
    assert counts == {"ok": len(rows)}, counts
    busy = re.search(r"busy (\d+)% of the time", told[0])
    written = sorted(path.stat().st_mtime for path in (folder / "ray").rglob("*.parquet"))
    assert busy is not None
    per_scan_s = (written[-1] - written[0]) / (len(written) - 1)
    return {
        "wall_s": round(wall_s, 2),
        "loading_s": round(written[0] - began - per_scan_s, 2),
        "seconds_a_scan": round(per_scan_s, 3),
        "busy_share": int(busy[1]) / 100,
    }


def digests(folder: Path) -> dict[str, str]:
    """What was written, by name."""
    import hashlib

    import pandas as pd

    found = {}
    for path in folder.rglob("*.parquet"):
        row = pd.read_parquet(path).iloc[0]
        found[row.scan_id] = hashlib.sha256(row.levels_zstd).hexdigest()
    return found


if __name__ == "__main__":
    main()
