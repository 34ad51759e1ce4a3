"""Small JSON files of a workspace that name other things in it: they are checked before they are believed."""

from __future__ import annotations

import json
import re
from typing import Any

from spineage.errors import BadStudy
from spineage.io.storage.store import Store

ADDRESS = re.compile(r"[0-9a-f]{16}")
SHA256 = re.compile(r"[0-9a-f]{64}")


def read_object(store: Store, rel: str, remedy: str) -> dict[str, Any]:
    """The JSON object in a file. Raises FileNotFoundError, and BadStudy with the remedy when it is none."""
    return parse_object(store.read(rel), rel, remedy)


def parse_object(data: bytes, rel: str, remedy: str) -> dict[str, Any]:
    """The JSON object in these bytes of the named file; BadStudy when they hold none."""
    found = parse(data, rel, remedy)
    if not isinstance(found, dict):
        raise damaged(rel, remedy)
    return found


def parse(data: bytes, rel: str, remedy: str) -> Any:
    """Any JSON value in these bytes of the named file; BadStudy when they hold none."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise damaged(rel, remedy) from None


def damaged(rel: str, remedy: str) -> BadStudy:
    """The sentence for a file that holds something else than it should."""
    return BadStudy(f"{rel} in the workspace is damaged: {remedy}")
