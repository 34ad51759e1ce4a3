"""Ingest: read headers in parallel, group files into series and series into scans, refuse with a reason.

The folder holds one generation of tables per state of the input (names, sizes and times of all files, and
the participants table); `latest.json` names the current one and is replaced last, so that a reader sees
either the old generation or the new one, whole.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from spineage.engine import session
from spineage.engine.rows import plain_progress, spread
from spineage.io.findings import digest_of_file, read_participants
from spineage.io.headers import Chunk, Read, read_chunk
from spineage.io.identity import Keyed, load_key
from spineage.io.listing import Seen, list_input
from spineage.io.parquet import read_table, write_part
from spineage.stages.context import Context, digest_of
from spineage.stages.ingest_tables import tables_of
from spineage.tables import FILES, SCANS, SERIES, TABLES

SCHEMA = 1  # raise it when the same files give other tables
FILES_PER_TASK = 64
FEW_FILES = 400
"""Fewer are read here, in about a second: starting worker processes takes longer."""


def recipe(context: Context) -> dict[str, Any]:
    """The ingest section, which input, and which key: its name, never the key."""
    inputs = context.study.inputs
    return {
        "schema": SCHEMA,
        **context.study.recipe("ingest"),
        "input": inputs.scans,
        "exam_key": inputs.exam_key,
        "key": Keyed(load_key(context.study)).key_id,
    }


def run(context: Context) -> dict[str, int]:
    """Write the tables of the input as it is now; nothing is read again when it has not changed.

    Raises BadStudy for a missing or empty input, a missing key, or a participants table that does not fit.
    """
    keyed = Keyed(load_key(context.study))
    files = list_input(context.study.inputs.scans)
    people = _people(context, keyed)
    generation = _generation(context, files)
    folder = f"{context.folder('ingest')}/{generation}"
    if not context.store.exists(f"{folder}/done.json"):
        context.say(f"reading the headers of {len(files)} files")
        reads = list(_read_all(context, files, keyed))
        tables = tables_of(reads, context.study.ingest, keyed, people)
        for table, table_rows in tables.items():
            write_part(context.store, folder, TABLES[table], table_rows, "part-0")
        context.store.write(f"{folder}/done.json", b"{}")
    pointer = json.dumps({"generation": generation}).encode()
    context.store.point(f"{context.folder('ingest')}/latest.json", pointer)
    return _counts(context, folder)


def _generation(context: Context, files: Sequence[Seen]) -> str:
    """Names a state of the input."""
    listing = hashlib.sha256()
    for seen in files:
        listing.update(
            f"{seen.name}\0{seen.bytes}\0{seen.stamp}\n".encode("utf-8", "surrogateescape")
        )
    participants = context.study.inputs.participants
    people = digest_of_file(participants, "participants") if participants else ""
    return digest_of({"files": listing.hexdigest(), "participants": people})


def _people(context: Context, keyed: Keyed) -> pd.DataFrame | None:
    location = context.study.inputs.participants
    return read_participants(location, keyed) if location else None


def _read_all(context: Context, files: Sequence[Seen], keyed: Keyed) -> Iterator[Read]:
    """Every file's header or fault, in any order."""
    exam_key = context.study.inputs.exam_key
    chunks = [
        Chunk(files[start : start + FILES_PER_TASK], keyed, exam_key)
        for start in range(0, len(files), FILES_PER_TASK)
    ]
    progress = plain_progress("headers")
    done = 0
    for reads in _spread(context, chunks) if len(files) > FEW_FILES else map(read_chunk, chunks):
        done += len(reads)
        progress(done, len(files))
        yield from reads


def _spread(context: Context, chunks: Sequence[Chunk]) -> Iterator[list[Read]]:
    """In parallel, a process for each core: parsing headers is work, not waiting."""
    context.connect()
    have = session.resources()
    cores = max(1, os.cpu_count() or 1) * max(1, int(have["nodes"]))
    return spread(read_chunk, chunks, num_cpus=max(1.0, have["CPU"] / cores))


def _counts(context: Context, folder: str) -> dict[str, int]:
    """Files, series and scans; refused series and unused files by code."""
    series = read_table(context.store, folder, SERIES, ["code"]).code
    files = read_table(context.store, folder, FILES, ["code"]).code
    scans = read_table(context.store, folder, SCANS, ["scan_id"])
    refused = Counter(f"refused:{code}" for code in series if code)
    unused = Counter(f"unused:{code}" for code in files if code)
    counts = {"files": len(files), "series": len(series), "scans": len(scans)}
    return {**counts, **dict(sorted(refused.items())), **dict(sorted(unused.items()))}
