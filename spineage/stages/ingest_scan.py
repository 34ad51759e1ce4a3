"""The header scan of ingest: every file is read once, in parallel, and its header kept on storage.

Files are cut into chunks where their names say so (not every so many), so a file that appears or changes
touches one chunk: the others are found under their old address and not read again. The driver holds one
chunk and the names of the parts, never the headers.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from spineage.engine import session
from spineage.engine.rows import plain_progress, spread
from spineage.io.header_rows import row_of
from spineage.io.headers import Chunk, read_chunk
from spineage.io.identity import Keyed
from spineage.io.listing import Seen, walk_input
from spineage.io.parquet import write_part
from spineage.io.store import Store
from spineage.stages.context import Context, digest_of
from spineage.tables import HEADERS

SCHEMA = 3  # raise it when the same file gives another header
CUT = 256
"""One name in so many ends a chunk."""
MAX_CHUNK = 1024
FEW_FILES = 400
"""Fewer are read here, in about a second: starting worker processes takes longer."""


@dataclass(frozen=True)
class Scanned:
    """The parts that hold the header of every file of the input as it is now, in the order of names."""

    folder: str
    parts: tuple[str, ...]
    num_files: int
    num_read: int


@dataclass(frozen=True)
class Work:
    """One task: read a chunk's headers into the part of that name."""

    root: str
    folder: str
    part: str
    chunk: Chunk


def scan_headers(context: Context, keyed: Keyed) -> Scanned:
    """Read what has not been read. Raises BadStudy when the input is missing or empty."""
    inputs = context.study.inputs
    folder = f"ingest/headers-{_reader(inputs.scans, inputs.exam_key, keyed)}"
    known = {part.rsplit("/", 1)[-1] for part in context.store.list(folder, ".parquet")}
    parts: list[str] = []
    num_files = Counter(known=0, read=0)

    def missing() -> Iterator[Work]:
        for files in chunks_of(walk_input(inputs.scans)):
            part = _name(files)
            parts.append(part)
            is_known = f"{part}.parquet" in known
            num_files["known" if is_known else "read"] += len(files)
            if not is_known:
                chunk = Chunk(files, keyed, inputs.exam_key)
                yield Work(context.store.root, folder, part, chunk)

    _read_all(context, missing())
    return Scanned(folder, tuple(parts), num_files.total(), num_files["read"])


def chunks_of(files: Iterable[Seen]) -> Iterator[list[Seen]]:
    """Cut a listing after names that say so, whatever stands before them."""
    chunk: list[Seen] = []
    for seen in files:
        chunk.append(seen)
        if len(chunk) == MAX_CHUNK or _ends_a_chunk(seen.name):
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _ends_a_chunk(name: str) -> bool:
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=4).digest()
    return int.from_bytes(digest, "big") % CUT == 0


def _name(files: Iterable[Seen]) -> str:
    """Names, sizes and times of a chunk: another state of it is another part."""
    listing = hashlib.sha256()
    for seen in files:
        line = f"{seen.name}\0{seen.location}\0{seen.bytes}\0{seen.stamp}\n"
        listing.update(line.encode("utf-8", "surrogateescape"))
    return listing.hexdigest()[:32]


def _reader(root: str, exam_key: str, keyed: Keyed) -> str:
    """What a kept header depends on beside its file."""
    return digest_of({"schema": SCHEMA, "input": root, "exam_key": exam_key, "key": keyed.key_id})


def read_part(work: Work) -> int:
    """Read one chunk and keep it; returns the number of files and archive members."""
    rows = [row_of(read) for read in read_chunk(work.chunk)]
    write_part(Store(work.root), work.folder, HEADERS, rows, work.part)
    return len(rows)


def _read_all(context: Context, works: Iterator[Work]) -> None:
    """A few files here, many in parallel."""
    progress = plain_progress("headers")
    first = list(_until_many(works))
    rest = next(works, None)
    if rest is None:
        answers: Iterator[int] = map(read_part, first)
    else:
        answers = _spread(context, chain(first, [rest], works))
    done = 0
    for num_rows in answers:
        done += num_rows
        progress(done, None)


def _until_many(works: Iterator[Work]) -> Iterator[Work]:
    num_files = 0
    while num_files <= FEW_FILES and (work := next(works, None)):
        num_files += len(work.chunk.files)
        yield work


def _spread(context: Context, works: Iterable[Work]) -> Iterator[int]:
    """In parallel, a process for each core: parsing headers is work, not waiting."""
    context.connect()
    have = session.resources()
    cores = max(1, os.cpu_count() or 1) * max(1, int(have["nodes"]))
    return spread(read_part, works, num_cpus=max(1.0, have["CPU"] / cores))
