"""One section per person: the uncertainty first, then the prediction, then what was corrected with
the age.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from spineage.errors import FAULTS
from spineage.report.evidence import Evidence, Tables, people_shown, scans_not_drawn, title_of
from spineage.report.figures.anatomy import thumbnail
from spineage.report.page import Picture, png_uri
from spineage.report.peers import Peers
from spineage.report.words import counted, percent, readable, signed_years, years
from spineage.science.frames import dicts_of, rows_of
from spineage.science.spine.labels import disc_name
from spineage.tables import KEY

FLAG_WORDS = {
    "age_outside_range": (
        "This age lies outside the ages the correction was fitted on: spine age and gap are "
        "extrapolated."
    ),
    "no_age": "The age is not known: there is a raw prediction with its interval, and no gap.",
    "trained_on": (
        "The network was trained on this scan: the prediction is closer to the age than for a new "
        "person. Do not read the gap."
    ),
    "discs_inferred": "At least one disc was not seen and was placed from its neighbours.",
    "transitional": "The number of vertebrae is unusual: levels may be off by one.",
}
ROLE_WORDS = {
    "validate": "This person's prediction helped to choose the network: read the gap with care.",
    "calibrate": "This person took part in fitting the correction and the intervals: read the gap with care.",
}
HIDDEN_WORDS = (
    "No picture is shown: its header says that text, perhaps a name, is part of the picture."
)
PX_PER_MM = 0.72


@dataclass(frozen=True)
class DiscHeight:
    """One disc's height, and the middle 80 % of normal spines when there are enough; mm."""

    name: str
    height: float
    band: tuple[float, float] | None


@dataclass(frozen=True)
class ScanPage:
    """What a reader is told about one scored scan. Years; None where there is no age."""

    scan_id: str
    when: str
    low: float
    high: float
    predicted: float
    age: float | None
    spine_age: float | None
    interval_words: str
    predicted_words: str
    corrected_words: str
    flags: tuple[str, ...]
    thumbnail: Picture | None
    discs: tuple[DiscHeight, ...]


@dataclass(frozen=True)
class Refusal:
    """A scan that got no spine age, and why."""

    scan_id: str
    words: str


@dataclass(frozen=True)
class PersonPage:
    """One person: scored scans in order of time, then refused ones."""

    person_id: str
    who: str
    gist: str
    scans: tuple[ScanPage, ...]
    refusals: tuple[Refusal, ...]


def pages(evidence: Evidence) -> list[PersonPage]:
    """The sections, by person id."""
    tables = evidence.tables
    shown = people_shown(tables, evidence.study.report.max_people)
    peers = Peers.of(tables)
    hidden = scans_not_drawn(tables, evidence.study)
    scores = tables.scores.merge(tables.scans[[*KEY, "days_since_first"]], on=KEY, how="left")
    scores = scores.sort_values(["days_since_first", "age_years", "scan_id"])
    by_person = dict(iter(scores.groupby("person_id")))
    faults = tables.faults.merge(tables.scans[[*KEY, "person_id"]], on=KEY)
    refused = dict(iter(faults.groupby("person_id")))
    ours = tables.scans.loc[tables.scans["person_id"].isin(shown), KEY]
    masks = dicts_of(tables.masks.merge(ours, on=KEY))
    measures = {(row["scan_id"], row["source_digest"]): row for row in masks}
    first = (
        tables.scans.sort_values(["days_since_first", "scan_id"])
        .drop_duplicates("person_id")
        .set_index("person_id")
    )
    found = []
    for person in shown:
        rows = dicts_of(by_person.get(person, scores.iloc[:0]))
        scans = tuple(
            _scan(
                evidence, row, measures.get((row["scan_id"], row["source_digest"])), peers, hidden
            )
            for row in rows
        )
        refusals = tuple(
            Refusal(r.scan_id, _why(r.code, r.message))
            for r in rows_of(refused.get(person, faults.iloc[:0]))
        )
        found.append(
            PersonPage(
                str(person), title_of(first.loc[person]), _gist(scans, refusals), scans, refusals
            )
        )
    return found


def axis(tables: Tables) -> tuple[float, float]:
    """Whole decades that hold every age and interval: the axis all strips share."""
    columns = [
        "age_years",
        "predicted_years",
        "interval_low_years",
        "interval_high_years",
        "spine_age_years",
    ]
    values = tables.scores[columns].to_numpy(float)
    if not np.isfinite(values).any():
        return 0.0, 100.0
    return max(0.0, float(np.floor(np.nanmin(values) / 10) * 10)), float(
        np.ceil(np.nanmax(values) / 10) * 10
    )


def _scan(
    evidence: Evidence,
    row: dict[str, Any],
    measures: dict[str, Any] | None,
    peers: Peers,
    hidden: set[str],
) -> ScanPage:
    key = (row["scan_id"], row["source_digest"])
    age, spine_age = _known(row["age_years"]), _known(row["spine_age_years"])
    days = _known(row["days_since_first"])
    when = "date unknown" if days is None else _since_first(days)
    return ScanPage(
        scan_id=row["scan_id"],
        when=f"{when}, {'age unknown' if age is None else f'{age:.0f} years old'}",
        low=row["interval_low_years"],
        high=row["interval_high_years"],
        predicted=row["predicted_years"],
        age=age,
        spine_age=spine_age,
        interval_words=_interval_words(evidence, row, age, peers),
        predicted_words=f"Raw prediction: {years(row['predicted_years'])}.",
        corrected_words=_corrected_words(row, age, spine_age, peers),
        flags=_flags(row, row["scan_id"] in hidden),
        thumbnail=_thumbnail(evidence, key),
        discs=_discs(measures, peers),
    )


def _since_first(days: float) -> str:
    if days < 1:
        return "first exam"
    return f"{days / 365.25:.1f} years after the first exam"


def _interval_words(
    evidence: Evidence, row: dict[str, Any], age: float | None, peers: Peers
) -> str:
    low, high = row["interval_low_years"], row["interval_high_years"]
    aim = evidence.tables.calibration.get("nominal_coverage")
    aimed = f"{percent(aim)} interval" if aim else "the model's interval"
    kept = (
        f"; among {peers.num_tested} held-out people with a normal spine it held the age of "
        f"{peers.num_inside}"
        if peers.num_tested
        else ""
    )
    inside = (
        ""
        if age is None
        else " The person's age lies inside it."
        if low <= age <= high
        else " The person's age lies outside it."
    )
    return (
        f"A spine that looks like this belongs to a person between {low:.0f} and {high:.0f} years old "
        f"({aimed}{kept}).{inside}"
    )


def _corrected_words(
    row: dict[str, Any], age: float | None, spine_age: float | None, peers: Peers
) -> str:
    if age is None or spine_age is None:
        return "No spine age and no gap: both need the chronological age."
    gap = float(row["sag_years"])
    share = float(np.mean(np.abs(peers.gaps_years) >= abs(gap))) if len(peers.gaps_years) else None
    usual = (
        ""
        if share is None
        else f" Of {counted(len(peers.gaps_years), 'held-out person', 'held-out people')} with a "
        f"normal spine, {percent(share)} have "
        "a gap at least as large in either direction."
    )
    return (
        f"Spine age (corrected, uses age): {years(spine_age)}; gap (SAG) {signed_years(gap)}. The "
        f"correction itself is known to ± {row['correction_se_years']:.1f}\u00a0y (standard error) at "
        f"this age; the uncertainty of the prediction is the interval above.{usual}"
    )


def _flags(row: dict[str, Any], is_hidden: bool) -> tuple[str, ...]:
    words = [FLAG_WORDS[flag] for flag in row["flags"]]
    if is_hidden:
        words.append(HIDDEN_WORDS)
    if row["role"] in ROLE_WORDS:
        words.append(ROLE_WORDS[row["role"]])
    return tuple(words)


def _thumbnail(evidence: Evidence, key: tuple[str, str]) -> Picture | None:
    picture = evidence.pictures.prepared.get(key)
    if picture is None:
        return None
    caption = (
        "Mid-sagittal slice as the network sees it, and with its levels; front of the body left."
    )
    return Picture(
        png_uri(thumbnail(picture)),
        caption,
        "Mid-sagittal slice of this spine with its levels",
        round(2 * picture.width_mm * PX_PER_MM),
    )


def _discs(measures: dict[str, Any] | None, peers: Peers) -> tuple[DiscHeight, ...]:
    if measures is None:
        return ()
    vertebrae = [*measures["level_names"], "sacrum"]
    below = dict(pairwise(vertebrae))
    return tuple(
        DiscHeight(
            disc_name(name, below.get(name, "sacrum")), float(height), peers.disc_bands_mm.get(name)
        )
        for name, height in zip(measures["disc_names"], measures["disc_height_mm"], strict=True)
        if np.isfinite(height)
    )


def _gist(scans: tuple[ScanPage, ...], refusals: tuple[Refusal, ...]) -> str:
    if not scans:
        return counted(len(refusals), "scan") + " refused" if refusals else "not scored yet"
    first = scans[0]
    more = f", {counted(len(scans), 'scan')}" if len(scans) > 1 else ""
    return f"{first.low:.0f} to {first.high:.0f} y, raw {first.predicted:.0f} y{more}"


def _why(code: str, message: str) -> str:
    found = f"{message[:1].upper()}{message[1:]}".rstrip(".")
    return f"{readable(code)}. {found}. In general: {FAULTS.get(code, 'see the list of codes')}."


def _known(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)
