"""What names somebody, in every form it could come out in, and every place where it could.

A file of a workspace is looked at as who has it would: parquet columns unpacked and decoded, compressed ones
too, JSON within them, zips, pictures of a page, databases.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import re
import sqlite3
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PRIVATE_COLUMNS = {"location", "stations_json"}
"""Of private tables: where files lie. Of stations_json, what is beside the locations is looked at."""
ZSTD, ZIP = b"\x28\xb5\x2f\xfd", b"PK\x03\x04"


def forms_of(day: datetime.date) -> set[str]:
    """The ways to write a day, as a number too."""
    written = {
        f"{day:{form}}" for form in ("%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%Y.%m.%d")
    }
    return written | {str(day.toordinal())}


@dataclass(frozen=True)
class Needles:
    """Words, whatever their case; and what hashes hold by chance, looked for where it stands alone."""

    words: tuple[bytes, ...]
    alone: tuple[bytes, ...]

    def found_in(self, text: bytes) -> list[bytes]:
        """Which of them the text holds; one after the other is far faster than one pattern of all."""
        low = text.lower()
        found = [word for word in self.words if word in low]
        return found + [word for word in self.alone if word in low and _stands_alone(word, low)]


def _stands_alone(word: bytes, low: bytes) -> bool:
    return re.search(rb"(?<![0-9a-f.])" + word + rb"(?![0-9a-f])", low) is not None


def needle(words: Iterable[str], days: Iterable[datetime.date] = ()) -> Needles:
    """For the words, and for the days in every form."""
    texts = {word.lower() for word in words if word} | {f for day in days for f in forms_of(day)}
    alone = {text for text in texts if re.fullmatch("[0-9a-f]+", text)}
    in_bytes = (sorted(text.encode() for text in some) for some in (texts - alone, alone))
    return Needles(*map(tuple, in_bytes))


def found_in(needles: Needles, *texts: str | bytes) -> list[bytes]:
    """What any of the texts holds."""
    raw = (text.encode() if isinstance(text, str) else text for text in texts)
    return [found for text in raw for found in needles.found_in(text)]


def leaks_of(folder: Path, needles: Needles, skipped: Iterable[str] = ()) -> list[str]:
    """Files below the folder that hold any of them, or are named so; not below `skipped`."""
    leaks = []
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not set(skipped) & set(Path(name).parts):
            found = found_in(needles, name, *contents_of(path))
            leaks += [f"{name}: {found[0]!r}"] if found else []
    return leaks


def contents_of(path: Path) -> Iterator[bytes]:
    """The file as it lies there, and everything in it."""
    data = path.read_bytes()
    if path.suffix == ".parquet":
        yield from _of_table(pq.read_table(io.BytesIO(data)))
        return
    yield data
    if data.startswith(b"SQLite format 3"):
        yield from _of_database(path)
    elif data.startswith(ZIP):
        yield from _of_zip(data)
    elif path.suffix == ".html":
        yield from (base64.b64decode(found) for found in re.findall(rb"base64,([\w+/=]+)", data))


def _of_table(table: pa.Table) -> Iterator[bytes]:
    yield table.schema.to_string().encode()
    for name in table.column_names:
        if name == "stations_json":
            stations = (json.loads(text) for text in table[name].to_pylist())
            kept = [[[_without_location(one) for one in s] for s in scan] for scan in stations]
            yield json.dumps(kept).encode()
        elif name not in PRIVATE_COLUMNS:
            values = table[name].to_pylist()
            yield "\n".join(str(value) for value in values if not isinstance(value, bytes)).encode()
            yield from (_unpacked(value) for value in values if isinstance(value, bytes))


def _without_location(source: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in source.items() if key != "location"}


def _unpacked(value: bytes) -> bytes:
    if value.startswith(ZSTD):
        return bytes(pa.input_stream(io.BytesIO(value), compression="zstd").read())
    return b"\n".join(_of_zip(value)) if value.startswith(ZIP) else value


def _of_zip(data: bytes) -> Iterator[bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        for name in packed.namelist():
            yield name.encode("utf-8", "replace")
            yield packed.read(name)


def _of_database(path: Path) -> Iterator[bytes]:
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            yield str(database.execute(f'SELECT * FROM "{table}"').fetchall()).encode()
