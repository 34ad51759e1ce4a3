"""JSON that somebody else wrote: a table, of bounded size and depth, without NaN, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, NoReturn

from spineage.errors import BadStudy
from spineage.io.storage.trouble import reason_of

MAX_BYTES: Final = 16_000_000
MAX_DEPTH: Final = 40


def parse_table(content: bytes, name: str, remedy: str) -> dict[str, Any]:
    """The table in a JSON file. name: of the file; remedy: what to do when it is damaged.

    Raises BadStudy when it is too large, no JSON, no table, nested deeper than any of ours, or holds NaN or
    infinity, which are no JSON and no number that means anything.
    """
    if len(content) > MAX_BYTES:
        raise BadStudy(
            f"{name} is {len(content):,} bytes, at most {MAX_BYTES:,} are read: {remedy}"
        )
    try:
        found = json.loads(content, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise BadStudy(f"{name} is not JSON: {remedy}") from None
    if not isinstance(found, dict) or _depth(found) > MAX_DEPTH:
        raise BadStudy(f"{name} is not JSON of a table: {remedy}")
    return found


def read_table_file(path: Path, name: str, remedy: str) -> dict[str, Any]:
    """`parse_table` of a file on disk; no more of it is read than is looked at."""
    try:
        with path.open("rb") as file:
            return parse_table(file.read(MAX_BYTES + 1), name, remedy)
    except OSError as error:
        raise BadStudy(f"{name} cannot be read ({reason_of(error)}): {remedy}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


def _depth(value: Any) -> int:
    """Levels of tables and lists; counted level by level, so that depth costs no stack."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        depth += 1
        level = [
            inner
            for one in level
            if isinstance(one, dict | list)
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth
