"""What was seen of one file of the input, before it is opened."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seen:
    """One file, or one member of an archive.

    name: path below the input folder, with `/`; stamp: changes when the file does, even where a tool sets
    size and time back, and "" where a store says nothing that would; trouble: the fault
    code of what must not be opened (link, special_file, hidden, unreadable), else "". above: of a BIDS image
    the JSON files that describe it beside its own, the one that wins last.
    """

    name: str
    location: str
    bytes: int
    stamp: str
    trouble: str = ""
    above: tuple[Seen, ...] = ()
