"""What a label means. Labels never travel without this map.

Schemas: *semantic* (what tissue) as the demo segmenter writes; *landmarks* (tissues, and some discs by name);
and *levels* (which vertebra or disc), the internal schema that every segmenter's output is turned into and
that all later stages read.
"""

from __future__ import annotations

from typing import Final

SEMANTIC: Final[dict[str, int]] = {
    "background": 0,
    "vertebra": 1,
    "disc": 2,
    "canal": 3,  # cerebrospinal fluid and roots around the cord, without the cord
    "cord": 4,
    "sacrum": 5,
}

VERTEBRAE: Final[tuple[str, ...]] = (
    *(f"C{i}" for i in range(1, 8)),
    *(f"T{i}" for i in range(1, 14)),
    *(f"L{i}" for i in range(1, 7)),
)
"""Cranial to caudal. T13 and L6 exist in transitional anatomy only."""

LEVELS: Final[dict[str, int]] = {
    "background": 0,
    **{
        name: i for i, name in enumerate(VERTEBRAE, start=1)
    },  # C1 1 .. C7 7, T1 8 .. T13 20, L1 21 .. L6 26
    "sacrum": 27,
    **{f"disc_below_{name}": 100 + i for i, name in enumerate(VERTEBRAE, start=1) if name != "C1"},
    "canal": 200,
    "cord": 201,
}
"""Vertebra 1-26, sacrum 27; a disc is 100 + the vertebra above it (C2/3 is 102); canal 200, cord 201."""

LANDMARKS: Final[dict[str, int]] = {
    "background": 0,
    "vertebra": 1,  # the sacrum too
    "disc": 2,
    "canal": 3,
    "cord": 4,
    "disc_C2_C3": 11,
    "disc_C7_T1": 12,
    "disc_T12_L1": 13,
    "disc_on_sacrum": 14,
}
"""Tissues, and four discs by name: see `landmarks.py`."""

SCHEMAS: Final = {"semantic": SEMANTIC, "levels": LEVELS, "landmarks": LANDMARKS}

REGIONS: Final[tuple[str, ...]] = ("cervical", "thoracic", "lumbar")


def disc_name(upper: str, lower: str) -> str:
    """The usual name of a disc: `L5/S1`, `C7/T1`, `T12/L1`."""
    return f"{upper}/{'S1' if lower == 'sacrum' else lower if lower[0] != upper[0] else lower[1:]}"


def region_of(level: str) -> str:
    """The region a vertebra (or the disc below it) belongs to; the sacrum counts as lumbar."""
    return {"C": "cervical", "T": "thoracic", "L": "lumbar", "s": "lumbar"}[
        level.removeprefix("disc_below_")[0]
    ]
