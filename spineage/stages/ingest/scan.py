"""The header scan of ingest: every file is read once, in parallel, and its header kept on storage.

Files are cut into chunks where their names say so (not every so many), so a file that appears or changes
touches one chunk: the others are found under their old address and not read again. The driver holds one
chunk and the names of the parts, never the headers.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from spineage.engine.tasks import spread
from spineage.io.files.listing import walk_input
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.scans.header_rows import Row, read_of, row_of
from spineage.io.scans.headers import Chunk, Read, fault_from, is_passing, read_chunk
from spineage.io.storage.parquet import write_part
from spineage.io.storage.store import Store
from spineage.run.context import Context, digest_of
from spineage.run.progress import plain_progress
from spineage.study import Inputs
from spineage.tables import HEADERS
from spineage.uris import digest_of_place

SCHEMA = 10  # raise it when the same file gives another header
CUT = 64
"""One name in so many ends a chunk: large ones would leave one worker with the last."""
MAX_CHUNK = 256
FEW_FILES = 400
"""Fewer are read here, in about a second: starting worker processes takes longer."""


@dataclass(frozen=True)
class Scanned:
    """The parts that hold the header of every file of the input as it is now.

    num_rows: files and archive members; num_read: files that were read in this run.
    """

    folder: str
    parts: tuple[str, ...]
    num_files: int
    num_rows: int
    num_read: int


@dataclass(frozen=True)
class Work:
    """One task: read a chunk's headers into a part whose name begins so."""

    root: str
    folder: str
    name: str
    chunk: Chunk


def scan_headers(context: Context, keyed: Keyed) -> Scanned:
    """Read what has not been read. Raises BadStudy when the input is missing or empty."""
    inputs = context.study.inputs
    folder = f"ingest/headers-{_reader(inputs, keyed)}"
    known = _known(context.store, folder)
    parts: list[str] = []
    num_files = Counter(known=0, read=0)

    def missing() -> Iterator[Work]:
        for files in chunks_of(walk_input(inputs.scans)):
            name = _name(files, keyed)
            num_files["known" if name in known else "read"] += len(files)
            if name in known:
                parts.append(known[name])
            else:
                chunk = Chunk(files, keyed, inputs.exam_key, inputs.max_age_shown)
                yield Work(context.store.root, folder, name, chunk)

    parts.extend(_read_all(context, missing()))
    num_rows = sum(int(part.split("-")[1]) for part in parts)
    return Scanned(folder, tuple(sorted(parts)), num_files.total(), num_rows, num_files["read"])


def count_files(context: Context, keyed: Keyed) -> Counter[str]:
    """How many files of the input are `known`, and how many are to be `read`. Raises BadStudy when the input
    is missing or empty."""
    inputs = context.study.inputs
    known = _known(context.store, f"ingest/headers-{_reader(inputs, keyed)}")
    num_files = Counter(known=0, read=0)
    for files in chunks_of(walk_input(inputs.scans)):
        num_files["known" if _name(files, keyed) in known else "read"] += len(files)
    return num_files


def _known(store: Store, folder: str) -> dict[str, str]:
    """Parts by the name of their chunk. Those with a file that could not be opened are read again."""
    stems = [Path(part).stem for part in store.list(folder, ".parquet")]
    return {stem.split("-")[0]: stem for stem in stems if stem.count("-") == 1}


def chunks_of(files: Iterable[Seen]) -> Iterator[list[Seen]]:
    """Cut a listing after names that say so, whatever stands before them; a volume stays with its sidecar."""
    chunk: list[Seen] = []
    for seen in files:
        if chunk and _is_cut(chunk[-1], seen, len(chunk)):
            yield chunk
            chunk = []
        chunk.append(seen)
    if chunk:
        yield chunk


def _is_cut(last: Seen, following: Seen, num_files: int) -> bool:
    stem = _stem(last.name)
    if stem == _stem(following.name):
        return False
    digest = hashlib.blake2b(stem.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    return num_files >= MAX_CHUNK or int.from_bytes(digest, "big") % CUT == 0


def _stem(name: str) -> str:
    """What a NIfTI file and its sidecars have in common; of any other file its whole name."""
    folder, _, base = name.rpartition("/")
    is_one_of_several = base.endswith((".nii", ".nii.gz", ".json", ".bval", ".bvec"))
    return f"{folder}/{base.split('.')[0] if is_one_of_several else base}"


def _name(files: Iterable[Seen], keyed: Keyed) -> str:
    """Names, sizes and times of a chunk: another state of it is another part. Keyed: names name people."""
    listing = hashlib.blake2b(key=keyed.seal_key, digest_size=16)
    for seen in chain.from_iterable((file, *file.above) for file in files):
        line = f"{seen.name}\0{seen.location}\0{seen.bytes}\0{seen.stamp}\n"
        listing.update(line.encode("utf-8", "surrogateescape"))
    return listing.hexdigest()


def _reader(inputs: Inputs, keyed: Keyed) -> str:
    """What a kept header depends on beside its file."""
    return digest_of(
        {
            "schema": SCHEMA,
            "input": digest_of_place(inputs.scans),  # kept headers say where each file lies
            "exam_key": inputs.exam_key,
            "max_age_shown": inputs.max_age_shown,
            "key": keyed.key_id,
        }
    )


def read_part(work: Work) -> str:
    """Read one chunk and keep it; returns the part's name: chunk, number of rows.

    A file that could not be opened may be readable next time, and one without a stamp may be another, and
    nothing in the listing will tell: then the name also says what was found, and the part stands for this
    run only.
    """
    reads = read_chunk(work.chunk)
    rows = [_row(read) for read in reads]
    part = f"{work.name}-{len(rows)}"
    passing = any(is_passing(read_of(row)) for row in rows)
    if passing or any(not (read.seen.stamp or read.seen.trouble) for read in reads):
        found = [[row["file_id"], row["code"], row["header_json"]] for row in rows]
        part += f"-{work.chunk.keyed.source(map(json.dumps, found))[:16]}"
    write_part(Store(work.root), work.folder, HEADERS, rows, part)
    return part


def _row(read: Read) -> Row:
    try:
        return row_of(read)
    except Exception as error:  # a header that cannot be kept is this file's trouble alone
        fault = fault_from(error)
        return row_of(Read(read.seen, read.file_id, None, fault.code, str(fault)))


def _read_all(context: Context, works: Iterator[Work]) -> list[str]:
    """A few files here, many in parallel; the parts they are in."""
    progress = plain_progress("headers")
    first = list(_until_many(works))
    rest = next(works, None)
    if rest is None:
        answers: Iterator[str] = map(read_part, first)
    else:
        answers = _spread(context, chain(first, [rest], works))
    parts, done = [], 0
    for part in answers:
        parts.append(part)
        done += int(part.split("-")[1])
        progress(done, None)
    return parts


def _until_many(works: Iterator[Work]) -> Iterator[Work]:
    num_files = 0
    while num_files <= FEW_FILES and (work := next(works, None)):
        num_files += len(work.chunk.files)
        yield work


def _spread(context: Context, works: Iterable[Work]) -> Iterator[str]:
    """In parallel, a process for each core: parsing headers is work, not waiting."""
    context.connect()
    return spread(read_part, works)
