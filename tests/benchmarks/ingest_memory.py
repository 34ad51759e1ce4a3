"""The driver's resident memory while it ingests 1,000 and 20,000 exams: it never holds their headers.

    python tests/benchmarks/ingest_memory.py [--small 1000] [--large 20000]

Prints one JSON line. An exam here is three enhanced multi-frame stations of 11 slices without pixels to speak
of: headers, grouping and tables are the same, and the archive fits on a laptop. The driver's peak (VmHWM) is
read from /proc while `spineage ingest` runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml
from pydicom.dataset import FileDataset

from spineage.science.scan.geometry import Volume
from tests.benchmarks.driver_memory import peak_mib
from tests.made.dicom_makers import write_enhanced

TARGET = 1.2
STATIONS = ("neck", "chest", "loin")
MARK = "987654"
"""Digits that every copy replaces by its exam's number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--large", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        templates = made_templates(Path(name))
        small = ingested(Path(name) / "small", options.small, templates)
        large = ingested(Path(name) / "large", options.large, templates)
    ratio = large["driver_mib"] / small["driver_mib"]
    print(
        json.dumps(
            {
                "name": "ingest_memory",
                "small": small,
                "large": large,
                "ratio": round(ratio, 3),
                "met": ratio <= TARGET,
            }
        )
    )


def made_templates(folder: Path) -> list[bytes]:
    """One file a station; person, exam, series and object ids hold the digits of MARK."""
    templates = []
    for number, name in enumerate(STATIONS):
        affine = np.diag([4.0, 40.0, 40.0, 1.0])
        affine[2, 3] = -200.0 * number

        def mark(dataset: FileDataset, _: int, number: int = number) -> None:
            dataset.PatientID = f"P{MARK}"
            dataset.StudyInstanceUID = f"1.2.3.1{MARK}"
            dataset.SeriesInstanceUID = f"1.2.3.1{MARK}.{number}"
            dataset.SOPInstanceUID = f"1.2.3.1{MARK}.{number}.1"
            dataset.FrameOfReferenceUID = f"1.2.3.1{MARK}.9"
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID

        path = folder / f"{name}.dcm"
        write_enhanced(path, Volume(np.zeros((11, 6, 6), np.uint16), affine), change=mark)
        templates.append(path.read_bytes())
    return templates


def ingested(folder: Path, num_exams: int, templates: list[bytes]) -> dict[str, float]:
    """Peak MiB of the driver and seconds of `spineage ingest` on that many exams."""
    for exam in range(num_exams):
        place = folder / "archive" / f"{exam // 1000:03d}" / f"{exam:06d}"
        place.mkdir(parents=True)
        for name, data in zip(STATIONS, templates, strict=True):
            (place / name).write_bytes(data.replace(MARK.encode(), f"{exam:06d}".encode()))
    study = {"inputs": {"scans": "archive"}, "ingest": {"max_pixel_mm": 100.0}}  # tiny pictures
    (folder / "study.yaml").write_text(yaml.safe_dump(study))
    started = time.monotonic()
    driver_mib, said = ingest(folder)
    assert f"series {3 * num_exams}, scans {num_exams}" in said, said
    seconds = time.monotonic() - started
    files = 3 * num_exams
    return {
        "exams": num_exams, "driver_mib": round(driver_mib), "seconds": round(seconds, 1),
        "files_per_s": round(files / seconds),
    }  # fmt: skip


def ingest(folder: Path) -> tuple[float, str]:
    """The driver's peak in MiB, and what it printed."""
    key = "a key for benchmarks only"
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "SPINEAGE_KEY": key}
    command = [sys.executable, "-m", "spineage.cli", "ingest"]
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE)
    driver_mib = peak_mib(process)
    assert process.stdout
    return driver_mib, process.stdout.read().decode()


if __name__ == "__main__":
    main()
