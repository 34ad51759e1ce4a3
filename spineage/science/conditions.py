"""What a radiologist wrote, as numbers: one feature per finding and region, its value the worst severity
there.

The paper aggregates 215 features by region and severity; its list is unknown, so the codebook (data,
packaged as `codebook.yaml`) is our documented default. A row that cannot be read is counted and listed,
never dropped in silence; a term is quoted only when it cannot be somebody's name (see `_printable`).
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from spineage.errors import BadStudy
from spineage.science.labels import REGIONS, VERTEBRAE, region_of

Floats = npt.NDArray[np.float64]

KINDS = ("disc", "vertebra")
MAX_SEVERITY = 3.0
QUOTED_PEOPLE = 3
"""A term is quoted when this many people share it, or when it is nearly a known word."""

_REGION_WORDS = {
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
_CRANIAL_TO_CAUDAL = (*VERTEBRAE, *_SACRAL)


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

    kinds, regions: by finding. words: canonical term to finding. severities: canonical word to 0 (absent)
    .. 3. nothing: canonical terms that mean "read, and nothing found".
    """

    kinds: dict[str, str]
    regions: dict[str, tuple[str, ...]]
    words: dict[str, str]
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
    for finding, entry in raw["findings"].items():
        kinds[finding] = entry["kind"]
        regions[finding] = tuple(entry.get("regions", REGIONS))
        if kinds[finding] not in KINDS or not set(regions[finding]) <= set(REGIONS):
            raise BadStudy(
                f"codebook: {finding} needs a kind of {KINDS} and regions of {REGIONS}, "
                f"found {kinds[finding]!r} and {regions[finding]}"
            )
        for word in (finding, *entry.get("also", ())):
            if words.setdefault(canonical(word), finding) != finding:
                raise BadStudy(
                    f"codebook: {word!r} means both {words[canonical(word)]} and {finding}"
                )
    return Codebook(
        kinds,
        regions,
        words,
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
    if word in _REGION_WORDS:
        return _REGION_WORDS[word]
    match = re.fullmatch(
        r"([ctdls])\s*(\d{1,2})(?:\s*(?:/|-|–|to)\s*([ctdls]?)\s*(\d{1,2}))?", plain
    )
    if not match:
        return ()
    first, last = (
        _vertebra(match[1], match[2]),
        _vertebra(match[3] or match[1], match[4] or match[2]),
    )
    if first not in _CRANIAL_TO_CAUDAL or last not in _CRANIAL_TO_CAUDAL:
        return ()
    if kind == "disc" and _are_neighbours(first, last):
        last = first
    start, stop = sorted((_CRANIAL_TO_CAUDAL.index(first), _CRANIAL_TO_CAUDAL.index(last)))
    stretch = _CRANIAL_TO_CAUDAL[start : stop + 1]
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


def code(findings: pd.DataFrame, codebook: Codebook) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The condition vector of every exam in a findings table, and what was not understood in it.

    findings: person_id, exam_id, finding, level, severity, row (its number in the file); text, empty when
    absent. Returns (one row per exam, see tables.CONDITIONS; a list of terms for people to read).
    A finding whose severity cannot be read is counted as present and ungraded, and listed.
    """
    rows = findings.reset_index(drop=True)
    columns: dict[Feature, int] = {feature: i for i, feature in enumerate(codebook.features)}
    exams = rows[["person_id", "exam_id"]].drop_duplicates().sort_values(["person_id", "exam_id"])
    exam_index = {key: i for i, key in enumerate(zip(exams.person_id, exams.exam_id, strict=True))}
    matrix = np.zeros((len(exams), len(columns)))
    missed = np.zeros(len(exams), dtype=np.int64)
    trouble: list[tuple[str, str, int]] = []
    for i, row in enumerate(rows.itertuples(index=False)):
        exam = exam_index[str(row.person_id), str(row.exam_id)]
        if canonical(str(row.finding)) in codebook.nothing:
            continue
        coded, problem = _code_row(str(row.finding), str(row.level), codebook)
        severity = severity_of(str(row.severity), codebook)
        if problem:
            trouble.append((*problem, i))
            missed[exam] += 1
            continue
        if severity is None:
            trouble.append(("severity", str(row.severity), i))
            severity = codebook.ungraded
        for feature in coded:
            matrix[exam, columns[feature]] = max(matrix[exam, columns[feature]], severity)
    table = exams.reset_index(drop=True).assign(
        features=list(matrix),
        num_findings=(matrix > 0).sum(axis=1),
        burden=matrix.sum(axis=1),
        worst_severity=matrix.max(axis=1, initial=0.0),
        num_not_understood=missed,
    )
    return table, _summary(trouble, rows, codebook)


def _code_row(
    finding: str, level: str, codebook: Codebook
) -> tuple[list[Feature], tuple[str, str] | None]:
    """The features of one row, or (which column, the term) that was not understood."""
    name = codebook.words.get(canonical(finding))
    if name is None:
        return [], ("finding", finding)
    possible = codebook.regions[name]
    kind = codebook.kinds[name]
    if not level.strip() and len(possible) == 1:
        return [Feature(name, possible[0], kind)], None
    regions = regions_of(level, kind)
    if not regions:
        return [], ("level", level)
    coded = [Feature(name, region, kind) for region in regions if region in possible]
    return (coded, None) if coded else ([], ("region", f"{name} in {regions[0]}"))


def _summary(
    trouble: list[tuple[str, str, int]], rows: pd.DataFrame, codebook: Codebook
) -> list[dict[str, Any]]:
    """One entry for each term that was not understood, the most frequent first."""
    known = {
        "finding": list(codebook.words),
        "level": [*_CRANIAL_TO_CAUDAL, *_REGION_WORDS, "L4/5", "T12/L1", "L5/S1"],
        "severity": list(codebook.severities),
        "region": [],
    }
    grouped: dict[tuple[str, str], list[int]] = {}
    for column, term, i in trouble:
        grouped.setdefault((column, term.strip()), []).append(i)
    entries = []
    for (column, term), where in grouped.items():
        near = difflib.get_close_matches(canonical(term), known[column], n=1, cutoff=0.5)
        num_people = rows.person_id.iloc[where].nunique()
        nearest = near[0] if near else None
        entries.append(
            {
                "column": column,
                "term": term if column == "region" else _printable(term, nearest, num_people),
                "nearest": codebook.words.get(nearest, nearest) if nearest else None,
                "num_rows": len(where),
                "num_people": int(num_people),
                "first_row": int(rows["row"].iloc[where[0]]),
            }
        )
    return sorted(entries, key=lambda e: (-e["num_rows"], e["column"], e["first_row"]))


def _printable(term: str, nearest: str | None, num_people: int) -> str:
    """The term, unless it may be a name or free text: then the row number alone says where to look."""
    if not term:
        return "(empty)"
    alike = difflib.SequenceMatcher(None, canonical(term), nearest or "").ratio()
    is_short = len(term) <= 40 and not re.search(r"\d{4}", term)
    if is_short and (num_people >= QUOTED_PEOPLE or alike >= 0.75):
        return term
    return "(not shown: it may be free text; see first_row)"


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
