"""What it costs to judge an archive again when one of its files was touched, against the judging itself.

    python -m tests.benchmarks.judging [--exams 1540]

Prints one JSON line. An exam is 13 classic slices. The work: one process judges all headers as kept (its
processor seconds, read from storage included). `spineage ingest` after a touch: processor seconds and the
highest resident memory of all its processes together, and how many there were; the start of Python and its
imports count, so they are measured by `spineage status` and told beside.

2026-11-28: 20,000 files were judged by a shuffle between Ray's processes: 44 processes, 4.5 GB, 76 s. Up to
32,768 files are now judged in the process of the command, group by group.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import yaml
from pydicom.dataset import FileDataset

from spineage.io.people.identity import Keyed, load_key
from spineage.io.storage.parquet import read_parts
from spineage.run.context import Context
from spineage.science.scan.geometry import Volume
from spineage.stages.ingest.groups import Judging, judge_group
from spineage.stages.ingest.scan import scan_headers
from spineage.study import read_study
from spineage.tables import HEADERS
from tests.made.dicom_makers import write_sagittal
from tests.made.processes import below, stats

TARGET = 2.0
SLICES = 13
MARK = "987654"
"""Digits that every copy replaces by its exam's number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--exams", type=int, default=1540)
    options = parser.parse_args()
    os.environ |= {"RAY_AUTH_MODE": "disabled", "SPINEAGE_KEY": "a key for benchmarks only"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_archive(folder, options.exams)
        watched(folder, "ingest")
        touched = next((folder / "archive").rglob("*-0.dcm"))
        touched.write_bytes(touched.read_bytes())
        again = watched(folder, "ingest")
        start = watched(folder, "status")
        work_s = judged_s(folder)
    ratio = (again["cpu_s"] - start["cpu_s"]) / work_s
    print(
        json.dumps(
            {
                "name": "judging", "files": SLICES * options.exams, "work_cpu_s": round(work_s, 1),
                "ingest": again, "start": start, "ratio": round(ratio, 2), "met": ratio <= TARGET,
            }
        )
    )  # fmt: skip


def make_archive(folder: Path, num_exams: int) -> None:
    affine = np.diag([4.0, 4.0, 4.0, 1.0])

    def mark(dataset: FileDataset, number: int) -> None:
        dataset.PatientID = f"P{MARK}"
        dataset.StudyInstanceUID = f"1.2.3.1{MARK}"
        dataset.SeriesInstanceUID = f"1.2.3.1{MARK}.1"
        dataset.SOPInstanceUID = f"1.2.3.1{MARK}.1.{number}"
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

    voxels = np.arange(SLICES * 6 * 120, dtype=np.uint16).reshape(SLICES, 6, 120)
    templates = [
        (path.name, path.read_bytes())
        for path in write_sagittal(folder / "template", Volume(voxels, affine), change=mark)
    ]
    for exam in range(num_exams):
        place = folder / "archive" / f"{exam // 100:03d}" / f"{exam:06d}"
        place.mkdir(parents=True)
        for name, data in templates:
            (place / name).write_bytes(data.replace(MARK.encode(), f"{exam:06d}".encode()))
    (folder / "study.yaml").write_text(yaml.safe_dump({"inputs": {"scans": "archive"}}))


def watched(folder: Path, verb: str) -> dict[str, float]:
    """Seconds, processor seconds and peak MiB of a command with all the processes below it."""
    started, used = time.monotonic(), _children_s()
    place = ["--workspace", "workspace"] if verb == "status" else []
    command = [sys.executable, "-m", "spineage.cli", verb, *place]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    peak, most = 0.0, 0
    while process.poll() is None:
        family = {process.pid, *below(process.pid, stats())}
        peak, most = max(peak, sum(map(_resident_mib, family))), max(most, len(family))
        time.sleep(0.1)
    assert process.returncode == 0
    return {
        "seconds": round(time.monotonic() - started, 1), "cpu_s": round(_children_s() - used, 1),
        "peak_mib": round(peak), "processes": most,
    }  # fmt: skip


def judged_s(folder: Path) -> float:
    """Processor seconds of judging all in this process."""
    context = Context(read_study(folder / "study.yaml"), say=lambda text: None)
    study, keyed = context.study, Keyed(load_key(context.study))
    scanned = scan_headers(context, keyed)
    paths = [f"{scanned.folder}/{HEADERS.name}/{part}.parquet" for part in scanned.parts]
    began = time.process_time()
    judging = Judging(context.store.root, "judged", study.ingest, study.inputs, keyed, ())
    judge_group(0, read_parts(context.store, paths, HEADERS), judging)
    return time.process_time() - began


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _resident_mib(pid: int) -> float:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / (1 << 20)
    return 0.0


if __name__ == "__main__":
    main()
