"""What a radiologist wrote, as numbers: one feature per finding and region, its value the worst severity
there.

The paper aggregates 215 features by region and severity; its list is unknown, so the codebook (data,
packaged as `codebook.yaml`) is our documented default. `coding` reads a table by it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.errors import BadStudy
from spineage.science.spine.labels import REGIONS, VERTEBRAE, region_of

Floats = npt.NDArray[np.float64]

KINDS = ("disc", "vertebra")
MAX_SEVERITY = 3.0

SIDES = {
    "left": ("left",),
    "l": ("left",),
    "right": ("right",),
    "r": ("right",),
    "bilateral": ("left", "right"),
    "both": ("left", "right"),
    "both side": ("left", "right"),
    "b": ("left", "right"),
    "central": (),
    "midline": (),
    "none": (),
    "": (),
}
"""The word of a row's side, canonical, to the sides it means; none for what has no side."""

REGION_WORDS = {
    "cervical": ("cervical",),
    "c": ("cervical",),
    "thoracic": ("thoracic",),
    "dorsal": ("thoracic",),
    "t": ("thoracic",),
    "lumbar": ("lumbar",),
    "l": ("lumbar",),
    "lumbosacral": ("lumbar",),
    "sacral": ("lumbar",),
    "sacrum": ("lumbar",),
    "cervicothoracic": ("cervical", "thoracic"),
    "thoracolumbar": ("thoracic", "lumbar"),
    "whole": REGIONS,
}
_SACRAL = tuple(f"S{i}" for i in range(1, 6))
CRANIAL_TO_CAUDAL = (*VERTEBRAE, *_SACRAL)


@dataclass(frozen=True)
class Feature:
    """One coordinate of the condition vector."""

    finding: str
    region: str
    kind: str

    @property
    def name(self) -> str:
        return f"{self.finding}, {self.region}"


@dataclass(frozen=True)
class Codebook:
    """Which findings there are, where they can occur, and how reports word them.

    kinds, regions: by finding. words: canonical term to finding. sided: the finding to code instead when the
    row names a side. snomed: the SNOMED CT concept of a finding, for those that have one here. severities:
    canonical word to 0 (absent) .. 3. nothing: canonical terms that mean "read, and nothing found".
    """

    kinds: dict[str, str]
    regions: dict[str, tuple[str, ...]]
    words: dict[str, str]
    sided: dict[str, dict[str, str]]
    snomed: dict[str, str]
    severities: dict[str, float]
    nothing: frozenset[str]
    ungraded: float

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features, in the order of the condition vector."""
        return tuple(
            Feature(finding, region, self.kinds[finding])
            for finding, regions in self.regions.items()
            for region in regions
        )


def codebook_from(raw: dict[str, Any]) -> Codebook:
    """Check plain values (parsed YAML).

    Raises BadStudy when a kind or region is unknown, or a word has two meanings.
    """
    kinds: dict[str, str] = {}
    regions: dict[str, tuple[str, ...]] = {}
    words: dict[str, str] = {}
    sided: dict[str, dict[str, str]] = {}
    snomed: dict[str, str] = {}
    for finding, entry in raw["findings"].items():
        kinds[finding] = entry["kind"]
        regions[finding] = tuple(entry.get("regions", REGIONS))
        if kinds[finding] not in KINDS or not set(regions[finding]) <= set(REGIONS):
            raise BadStudy(
                f"codebook: {finding} needs a kind of {KINDS} and regions of {REGIONS}, "
                f"found {kinds[finding]!r} and {regions[finding]}"
            )
        if "sides" in entry:
            sided[finding] = dict(entry["sides"])
        if "snomed" in entry:
            snomed[finding] = str(entry["snomed"])
        for word in (finding, *entry.get("also", ())):
            if words.setdefault(canonical(word), finding) != finding:
                raise BadStudy(
                    f"codebook: {word!r} means both {words[canonical(word)]} and {finding}"
                )
    for finding, other in ((f, o) for f, sides in sided.items() for o in sides.values()):
        if set(sided[finding]) != {"left", "right"} or other not in kinds:
            raise BadStudy(
                f"codebook: sides of {finding} must name a finding for left and for right"
            )
    return Codebook(
        kinds,
        regions,
        words,
        sided,
        snomed,
        {canonical(word): float(value) for word, value in raw["severities"].items()},
        frozenset(canonical(word) for word in raw["nothing"]),
        float(raw["ungraded"]),
    )


@lru_cache(maxsize=4096)
def canonical(term: str) -> str:
    """The term without case, plurals, punctuation and disk/disc: `Disk-Bulges` and `disc_bulge` are one."""
    words = re.sub(r"[^a-z0-9.]+", " ", term.lower().replace("'", "")).split()
    words = [
        w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words
    ]
    return " ".join("disc" if w == "disk" else w for w in words)


@lru_cache(maxsize=4096)
def regions_of(level: str, kind: str) -> tuple[str, ...]:
    """The regions a level as reported belongs to; empty when it cannot be read.

    `L4/5`, `L4-L5`, `L5/S1`, `C7`, `D12` (dorsal), `S1`, `L3-S1` (a stretch), `lumbar`, `thoracolumbar`.
    Neighbours such as `T12/L1` are one disc, which belongs to the vertebra above it; of a finding of
    vertebrae they are two vertebrae.
    """
    plain = level.strip().lower()
    word = re.sub(r"[\s-]*spine$", "", plain)
    if word in REGION_WORDS:
        return REGION_WORDS[word]
    match = re.fullmatch(
        r"([ctdls])\s*(\d{1,2})(?:\s*(?:/|-|–|to)\s*([ctdls]?)\s*(\d{1,2}))?", plain
    )
    if not match:
        return ()
    first, last = (
        _vertebra(match[1], match[2]),
        _vertebra(match[3] or match[1], match[4] or match[2]),
    )
    if first not in CRANIAL_TO_CAUDAL or last not in CRANIAL_TO_CAUDAL:
        return ()
    if kind == "disc" and _are_neighbours(first, last):
        last = first
    start, stop = sorted((CRANIAL_TO_CAUDAL.index(first), CRANIAL_TO_CAUDAL.index(last)))
    stretch = CRANIAL_TO_CAUDAL[start : stop + 1]
    found = {"lumbar" if v in _SACRAL else region_of(v) for v in stretch}
    return tuple(region for region in REGIONS if region in found)


def _vertebra(letter: str, number: str) -> str:
    return f"{'T' if letter == 'd' else letter.upper()}{int(number)}"


def _are_neighbours(upper: str, lower: str) -> bool:
    """One disc lies between them; L4, L5 and L6 may each be the last above the sacrum, T11-T13 above L1."""
    if upper[0] == lower[0]:
        return int(lower[1:]) == int(upper[1:]) + 1
    return upper in {"T1": ("C7",), "L1": ("T11", "T12", "T13"), "S1": ("L4", "L5", "L6")}.get(
        lower, ()
    )


def severity_of(text: str, codebook: Codebook) -> float | None:
    """0 (absent) to 3 (severe); None when it cannot be read. Empty is the codebook's `ungraded`."""
    word = canonical(text).removeprefix("grade ")
    if not word:
        return codebook.ungraded
    if word in codebook.severities:
        return codebook.severities[word]
    try:
        value = float(text.strip().lower().removeprefix("grade"))
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= MAX_SEVERITY else None


def aligned(
    scans: pd.DataFrame, conditions: pd.DataFrame, num_features: int
) -> tuple[Floats, pd.DataFrame]:
    """The condition vectors of scans: [scan, feature], and num_findings, burden and is_coded by scan.

    The findings table lists what was found, so a scanned exam that is not in it was read and nothing was
    found. An exam of which no row was understood is not coded: it must not pass for healthy.
    """
    columns = ["exam_id", "person_id", "features", "num_findings", "burden", "num_not_understood"]
    joined = scans[["person_id", "exam_id"]].merge(
        conditions[columns], on=["person_id", "exam_id"], how="left", validate="many_to_one"
    )
    matrix = np.zeros((len(joined), num_features))
    for i, vector in enumerate(joined.features):
        if isinstance(vector, (list, np.ndarray)):
            matrix[i] = vector
    about = pd.DataFrame(
        {
            "num_findings": joined.num_findings.fillna(0).astype("int64"),
            "burden": joined.burden.fillna(0.0).astype("float64"),
        }
    )
    about["is_coded"] = ~((about.num_findings == 0) & (joined.num_not_understood.fillna(0) > 0))
    return matrix, about.set_index(scans.index)
