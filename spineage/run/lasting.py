"""A submitted job runs in a copy of its folder that Ray throws away: nothing that lasts may lie in it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from spineage.errors import BadStudy

COPY: Final = "/runtime_resources/working_dir_files/"
"""In the path of what `ray job submit --working-dir` unpacked; named by its content, and collected."""
RELATIVE_DATABASE: Final = "sqlite:///"


def require_lasting(places: Mapping[str, Any]) -> None:
    """Raise BadStudy for the first place that lies in such a copy. places: by key, sections within; what is
    no text is no place."""
    for key, place in _flat(places):
        if _is_thrown_away(place):
            raise BadStudy(
                f"{key} is relative, and a submitted job runs in a copy of the folder that Ray removes: "
                "write an absolute path that every node sees, or a URI such as s3://bucket/folder"
            )


def _is_thrown_away(place: str) -> bool:
    if place.startswith(RELATIVE_DATABASE):
        place = os.path.abspath(place.removeprefix(RELATIVE_DATABASE))
    return COPY in f"{Path(place)}/"


def _flat(places: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in places.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, str):
            yield f"{before}{key}", value
