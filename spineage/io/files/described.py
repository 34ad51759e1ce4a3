"""Which JSON files say something of an image: the inheritance principle of BIDS, read in full.

A JSON file describes every image at or below its folder that has the same suffix and all of its entities;
the closer one wins, and of one folder that with more entities. A `dataset_description.json` begins a data
set: nothing above it holds in it. Specification 1.10, "The Inheritance Principle".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from spineage.io.files.seen import Seen

DATA_SET: Final = "dataset_description.json"
IMAGE_ENDS: Final = (".nii.gz", ".nii")
MAX_ENTITIES: Final = 10
"""Of an image; a name with more is none of BIDS, and its subsets too many."""

Said = tuple[str, frozenset[str]]
"""Suffix and entities of a name."""


@dataclass(frozen=True)
class Descriptions:
    """JSON files of the folders from a data set's own down to one, by what they say they describe."""

    folders: tuple[dict[Said, Seen], ...] = ()

    def below(self, files: Iterable[Seen]) -> Descriptions:
        """Those that hold in a folder of these files, which lies in the folder of these descriptions."""
        found: dict[Said, Seen] = {}
        above = self.folders
        for file in files:
            base = _base(file.name)
            if file.trouble or not base.endswith(".json"):
                continue
            if base == DATA_SET:
                above = ()
            elif said := _said(base.removesuffix(".json")):
                found[said] = file
        return Descriptions((*above, found) if found else above)

    def of(self, name: str) -> tuple[Seen, ...]:
        """Those of an image but for its own, the one that wins last; none of what is no BIDS image."""
        base = _base(name)
        end = next((end for end in IMAGE_ENDS if base.endswith(end)), "")
        said = _said(base.removesuffix(end)) if end and base.startswith("sub-") else None
        if said is None or not self.folders:
            return ()
        suffix, entities = said
        chosen = [(suffix, frozenset(some)) for some in _subsets(sorted(entities))]
        found = [folder[some] for folder in self.folders for some in chosen if some in folder]
        own = f"{name.removesuffix(end)}.json"
        return tuple(file for file in found if file.name != own)


def descriptions_in(files: Sequence[Seen]) -> Mapping[str, Descriptions]:
    """By folder, of all files of a tree that is not walked, such as an archive's."""
    contents: dict[str, list[Seen]] = {}
    for file in files:
        contents.setdefault(folder_of(file.name), []).append(file)
    found: dict[str, Descriptions] = {}
    for folder in sorted(contents, key=lambda name: name.count("/")):
        above = folder_of(folder)
        while above and above not in found:
            above = folder_of(above)
        found[folder] = found.get(above, Descriptions()).below(contents[folder])
    return found


def folder_of(name: str) -> str:
    """What stands before the last `/`."""
    return name.rpartition("/")[0]


def _subsets(entities: Sequence[str]) -> Iterable[tuple[str, ...]]:
    """The smaller ones first."""
    sizes = range(len(entities) + 1) if len(entities) <= MAX_ENTITIES else ()
    return itertools.chain.from_iterable(itertools.combinations(entities, n) for n in sizes)


def _base(name: str) -> str:
    return name.rpartition("/")[2]


def _said(stem: str) -> Said | None:
    *entities, suffix = stem.split("_")
    if not re.fullmatch(r"[A-Za-z0-9]+", suffix) or not all("-" in entity for entity in entities):
        return None
    return suffix, frozenset(entities)
