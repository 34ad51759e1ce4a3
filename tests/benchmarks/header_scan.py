"""Files a second of the header scan on every core against a plain pydicom loop in one process.

    python -m tests.benchmarks.header_scan [--people 80] [--rounds 3]

Prints one JSON line. The plain loop is what a user would write first: dcmread up to the pixels, and values of
the same tags. Ours also hashes the header and a sample of the pixels, checks that the pixels are all
there, keys every id, and writes the result to storage. Rounds alternate; Ray is started before.

2026-11-23: pydicom's conversion of values was two thirds of our time; files of a series repeat nearly all
of them, so each is converted once (1.37 to 0.82 ms a file). Then all that slices of a series have in common
is taken from the slice before when its bytes are the same (0.81 to 0.62 ms). The ratio stayed at 1.44 to
1.50, with chunks of 256 files and of 64 alike: two workers gain less than their time a file promises.
2026-11-24: 3.47. A slice is known by the one before without a parser (`io/dicom/alike.py`: 1.26 to 0.51 ms of
processor time a file, the plain loop's 1.44), and a header is read in one piece (1.26 to 1.07 ms by itself).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from statistics import median

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ["SPINEAGE_KEY"] = "a key for benchmarks only"

import pydicom

from spineage.engine import session
from spineage.io.dicom.header import TAGS
from spineage.io.files.listing import list_input
from spineage.io.people.identity import Keyed, load_key
from spineage.run.context import Context
from spineage.stages.ingest.scan import scan_headers
from spineage.study import Inputs, Study
from spineage.verbs import phantom

TARGET_RATIO = 2.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=80)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        phantom.make(f"{folder}/population", num_people=options.people)
        archive = f"{folder}/population/dicom"
        paths = [seen.location for seen in list_input(archive)]
        session.connect()
        scan(archive, f"{folder}/warm")  # worker processes start and import
        plain_s, ours_s = [], []
        for number in range(options.rounds):
            plain_s.append(timed(lambda: plain(paths)))
            ours_s.append(timed(lambda at=f"{folder}/{number}": scan(archive, at)))
    ratio = median(plain_s) / median(ours_s)
    print(
        json.dumps(
            {
                "name": "header_scan",
                "files": len(paths),
                "plain_files_per_s": round(len(paths) / median(plain_s)),
                "files_per_s": round(len(paths) / median(ours_s)),
                "ratio": round(ratio, 2),
                "cores": os.cpu_count(),
                "met": ratio >= TARGET_RATIO,
            }
        )
    )


def timed(work: object) -> float:
    started = time.perf_counter()
    work()  # type: ignore[operator]
    return time.perf_counter() - started


def plain(paths: list[str]) -> None:
    for path in paths:
        dataset = pydicom.dcmread(path, stop_before_pixels=True)
        {tag: dataset[tag].value for tag in TAGS if tag in dataset}


def scan(archive: str, workspace: str) -> None:
    study = Study(workspace=workspace, inputs=Inputs(scans=archive))
    context = Context(study, say=lambda text: None)
    scanned = scan_headers(context, Keyed(load_key(study)))
    assert scanned.num_read == scanned.num_files == scanned.num_rows > 0


if __name__ == "__main__":
    main()
