"""Runs inputs first..last of a seed in one process of bounded memory; dies by an alarm when one hangs.

Prints one JSON line an input, before the next is begun: the number, how it ended, or what is wrong.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import tempfile
import traceback
from pathlib import Path

from spineage.errors import FAULTS, BadScan
from spineage.io.assemble import read_station
from spineage.io.headers import Read, read_file
from spineage.io.identity import Keyed
from spineage.io.listing import Seen
from spineage.io.pixels import read_frames
from spineage.science.judge import judge
from spineage.stages.ingest_tables import limits_of
from spineage.study import Ingest
from tests.fuzz.corpus import CANARY, make_corpus
from tests.fuzz.damage import damaged

MEMORY_BYTES = 3 << 30  # address space, of which libraries take about one
SECONDS = 10.0  # of processor time for one input
KEYED = Keyed(b"k" * 32)
LIMITS = limits_of(Ingest())


def main(seed: int, first: int, last: int, with_real: bool) -> None:
    """Ends by SIGPROF's default, death, when an input takes longer than it may, even in a decoder."""
    with tempfile.TemporaryDirectory() as folder:
        sources = make_corpus(Path(folder) / "sources", with_real=with_real)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        place = Path(folder) / CANARY
        for number in range(first, last):
            name, data = damaged(sources, seed, number)
            place.write_bytes(data)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            answer = answer_to(place)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps({"number": number, "source": name, **answer}), flush=True)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"peak_mb": peak_mb}), flush=True)


def answer_to(place: Path) -> dict[str, object]:
    """ends: a fault code or "accepted" for every file in the input; wrong: what must not be, if anything."""
    try:
        reads = read_file(
            Seen(place.name, str(place), place.stat().st_size, ""), KEYED, "StudyInstanceUID"
        )
        ends = [_end_of(read) for read in reads]
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return {"wrong": f"{type(error).__name__} at {Path(where.filename).name}:{where.lineno}"}
    codes, messages = [code for code, _ in ends], " ".join(message for _, message in ends)
    if not set(codes) <= {"accepted", *FAULTS}:
        return {"wrong": "an undeclared code"}
    if CANARY.lower()[:8] in messages.lower() or len(messages) > 300 * len(ends):
        return {"wrong": "a message quotes the file"}
    return {"ends": codes}


def _end_of(read: Read) -> tuple[str, str]:
    if read.header is None:
        return read.code, read.message
    series = judge([read.header], LIMITS)
    try:
        if read.header.kind == "dicom":
            read_frames(read.seen.location)
        else:
            read_station([{"location": read.seen.location, "kind": "nifti", "frame": 0}])
    except BadScan as fault:
        return fault.code, str(fault)
    return series.code or "accepted", series.message


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4] == "real")
