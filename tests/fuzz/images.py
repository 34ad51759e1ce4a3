"""Files of the input: through reading, judging and decoding."""

from __future__ import annotations

import traceback
from pathlib import Path

from spineage.errors import FAULTS, BadScan
from spineage.io.dicom.pixels import read_frames
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.scans.headers import Read, read_file
from spineage.io.scans.read import read_station
from spineage.science.scan.accept import judge_series
from spineage.stages.ingest.tables import limits_of
from spineage.study import Ingest
from tests.fuzz.corpus import CANARY, make_corpus
from tests.fuzz.damage import damaged
from tests.fuzz.outcome import Answer, Trial

KEYED = Keyed(b"k" * 32)
LIMITS = limits_of(Ingest())


def make(folder: Path, *, with_real: bool) -> Trial:
    sources = make_corpus(folder / "sources", with_real=with_real)
    place = folder / CANARY

    def trial(seed: int, number: int) -> Answer:
        name, data = damaged(sources, seed, number)
        place.write_bytes(data)
        return {"source": name, **answer_to(place)}

    return trial


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
    if "bug" in codes:
        return {"wrong": f"a bug: {messages}"}
    if not set(codes) <= {"accepted", *FAULTS}:
        return {"wrong": "an undeclared code"}
    if CANARY.lower()[:8] in messages.lower() or len(messages) > 300 * len(ends):
        return {"wrong": "a message quotes the file"}
    return {"ends": codes}


def _end_of(read: Read) -> tuple[str, str]:
    if read.header is None:
        return read.code, read.message
    series = judge_series([read.header], LIMITS)
    try:
        if read.header.kind == "dicom":
            read_frames(read.seen.location)
        else:
            read_station([{"location": read.seen.location, "kind": "nifti", "frame": 0}])
    except BadScan as fault:
        return fault.code, str(fault)
    return series.code or "accepted", series.message
