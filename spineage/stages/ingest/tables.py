"""From the headers of some people's files to the tables files, series, scans and sources."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from spineage.io.people.identity import Keyed
from spineage.io.people.overrides import Override
from spineage.io.scans.given import Given, seals_of
from spineage.io.scans.headers import Read
from spineage.science.people.age import settle_age
from spineage.science.people.one_person import (
    find_doubtful,
    gives_other_age,
    gives_other_sex,
    refuse_doubtful,
)
from spineage.science.scan.accept import Series, judge_series
from spineage.science.scan.choose import Choice, Covered, choose_stations, coverage_of
from spineage.science.scan.regroup import regroup
from spineage.science.scan.same import find_copies
from spineage.science.scan.series import Header, SeriesLimits, has_text_burned_in
from spineage.study import Ingest

Row = dict[str, Any]
People = dict[tuple[str, str | None], Row]
OTHER_STUDY = (
    "; another study of the day has series of this person too (ingest.joins_studies_of_a_day)"
)
OTHER_SEX = "; the participants table gives another sex than the header"
OTHER_AGE = "; the participants table gives an age over a year from the header's"


def tables_of(
    reads: Sequence[Read],
    section: Ingest,
    keyed: Keyed,
    people: pd.DataFrame | None,
    overrides: Mapping[str, Override],
    given: Given | None = None,
) -> dict[str, list[Row]]:
    """The rows of the four tables. reads: all files of some people; given: masks that are there."""
    reads = sorted(reads, key=lambda read: read.file_id)
    limits = limits_of(section)
    distinct = _without_doubles(read.header for read in reads if read.header)
    headers = regroup(distinct, limits.min_repetition_ms)
    doubtful = find_doubtful(headers, labels_hold_everywhere=section.labels_hold_everywhere)
    judged = [judge_series(group, limits) for group in _grouped(headers, "series_id")]
    believed = _tell_other_studies([refuse_doubtful(one, doubtful) for one in judged], section)
    usable = [decided(one, overrides) if _is_refused(one, overrides) else one for one in believed]
    series = [decided(one, overrides) for one in _without_copies(usable)]
    choices = _choose(series, section)
    first_days = _first_days(headers)
    locations = {read.file_id: read.seen.location for read in reads}
    known = list_people(people)
    scans, sources = [], []
    for choice in choices:
        masks = _masks_of(choice, locations, given, keyed)
        key = _scan_key(choice, keyed, [mask["seal"] for mask in masks])
        scans.append({**key, **_scan_row(choice, known, first_days)})
        sources.append(
            {
                **key,
                "stations_json": _stations_json(choice, locations),
                "seal_key": keyed.seal_key.hex(),
                "masks_json": json.dumps(masks),
                "num_voxels": sum(_num_voxels(station) for station in choice.stations),
            }
        )
    scan_ids = {
        station.series_id: scan["scan_id"]
        for choice, scan in zip(choices, scans, strict=True)
        for station in choice.stations
    }
    left = {series_id: why for choice in choices for series_id, why in choice.left.items()}
    used = {header.file_id: header.series_id for header in headers}
    digests = {header.object_id: header.digest for header in headers}
    return {
        "files": [_file_row(read, used, digests) for read in reads],
        "sources": sources,
        "series": [_series_row(one, left, scan_ids, overrides, known) for one in series],
        "scans": scans,
    }


def decided(series: Series, overrides: Mapping[str, Override]) -> Series:
    """The rules' answer, or a person's. What has no even stack of slices cannot be accepted by anyone."""
    override = overrides.get(series.series_id)
    if override is None:
        return series
    if override.decision == "refuse":
        return replace(series, code="refused_by_hand", message=f"by hand: {override.reason}")
    view = series.view
    if view.grid is None or view.stack_fault or view.num_slices < 2:
        why = "accepted by hand, but its slices make no volume"
        return replace(series, message=f"{series.message}; {why}")
    return replace(series, code="", message=f"by hand: {override.reason}")


def _is_refused(series: Series, overrides: Mapping[str, Override]) -> bool:
    """By hand: then it is no reason to leave its copies."""
    override = overrides.get(series.series_id)
    return override is not None and override.decision == "refuse"


def limits_of(section: Ingest) -> SeriesLimits:
    """The part of the section that judges one series."""
    return SeriesLimits(
        **{name: getattr(section, name) for name in SeriesLimits.__dataclass_fields__}
    )


def _without_doubles(headers: Iterable[Header]) -> list[Header]:
    """One header for each object: of copies that differ the first by content, of equal ones by file id."""
    first: dict[str, Header] = {}
    for header in sorted(headers, key=lambda header: (header.digest, header.file_id)):
        first.setdefault(header.object_id, header)
    return list(first.values())


def _tell_other_studies(series: Sequence[Series], section: Ingest) -> list[Series]:
    """Say so where a person's accepted DICOM series of one day lie in several studies and are not joined."""
    exams: dict[tuple[str, int], set[str]] = {}
    for one in series:
        day = _day_of(one)
        if day and not one.code:
            exams.setdefault(day, set()).add(one.view.first.about.exam_id)
    if section.joins_studies_of_a_day:
        return [*series]
    return [
        replace(one, message=one.message + OTHER_STUDY)
        if not one.code and (day := _day_of(one)) and len(exams[day]) > 1
        else one
        for one in series
    ]


def _day_of(series: Series) -> tuple[str, int] | None:
    """Person and day of a DICOM series that says when it was made."""
    first = series.view.first
    if first.kind != "dicom" or first.about.study_day is None:
        return None
    return first.about.person_id, first.about.study_day


def _without_copies(series: Sequence[Series]) -> list[Series]:
    """Of one volume that a person has in several forms one is used; the others say what they are."""
    people: dict[str, list[Series]] = {}
    for one in series:
        if not one.code:
            people.setdefault(one.view.first.about.person_id, []).append(one)
    copies = {i: what for accepted in people.values() for i, what in find_copies(accepted).items()}
    return [
        replace(one, code=copies[one.series_id][0], message=copies[one.series_id][1])
        if one.series_id in copies
        else one
        for one in series
    ]


def _grouped(headers: Iterable[Header], by: str) -> list[list[Header]]:
    groups: dict[str, list[Header]] = {}
    for header in headers:
        groups.setdefault(getattr(header, by), []).append(header)
    return [groups[name] for name in sorted(groups)]


def _choose(series: Sequence[Series], section: Ingest) -> list[Choice]:
    """One choice for each exam; a NIfTI file is a scan by itself, but for the chunks of one session.

    An exam is a person's: an exam id that two people share is two exams. Studies of one day are one exam
    where the section says so.
    """
    exams: dict[str, list[Series]] = {}
    for one in series:
        first = one.view.first
        if not one.code:
            alone = (first.chunk_of or first.series_id) if first.kind == "nifti" else ""
            about, day = first.about, _day_of(one) if section.joins_studies_of_a_day else None
            exam = f"day {day[1]}" if day else about.exam_id
            exams.setdefault(f"{about.person_id}:{exam}:{alone}", []).append(one)
    return [choose_stations(exams[name], section.composed_extent_mm) for name in sorted(exams)]


def _first_days(headers: Iterable[Header]) -> dict[str, int]:
    """The day of each person's first exam, whether or not it could be used."""
    first: dict[str, int] = {}
    for header in headers:
        about = header.about
        if about.study_day is not None:
            first[about.person_id] = min(
                first.get(about.person_id, about.study_day), about.study_day
            )
    return first


def _masks_of(
    choice: Choice, locations: Mapping[str, str], given: Given | None, keyed: Keyed
) -> list[dict[str, str]]:
    """The files of the mask that is given for a scan, with their seals; [] where there is none."""
    if given is None:
        return []
    images = [locations[i] for station in choice.stations for i, _ in station.view.slices]
    about = choice.stations[0].view.first.about
    return seals_of(given.of(images, about.person_id, about.exam_id), keyed)


def _scan_key(choice: Choice, keyed: Keyed, masks: Sequence[str] = ()) -> Row:
    """scan_id names the series; source_digest their content: headers, sizes and frames in use, and the mask
    that is given."""
    lines = [f"mask:{seal}" for seal in masks]
    for number, station in enumerate(choice.stations):
        seals = _seals(station)
        lines += [f"{number}:{seals[file_id]}:{frame}" for file_id, frame in station.view.slices]
    ids = (station.series_id for station in choice.stations)
    return {"scan_id": keyed.scan(*ids), "source_digest": keyed.source(lines)}


def _seals(station: Series) -> dict[str, str]:
    """By file id."""
    return {header.file_id: header.digest for header in station.view.headers}


def _scan_row(choice: Choice, people: People, first_days: Mapping[str, int]) -> Row:
    about = choice.stations[0].view.first.about
    person = find_person(about.person_id, about.exam_id, people)
    age_years, age_source = settle_age(
        person.get("age_years"), about.age_years, about.age_by_dates_years
    )
    if about.age_is_withheld or person.get("age_is_withheld"):
        age_years, age_source = None, "withheld: above inputs.max_age_shown"
    first_day = first_days.get(about.person_id)
    has_day = about.study_day is not None and first_day is not None
    return {
        "person_id": about.person_id,
        "exam_id": about.exam_id,
        "age_years": age_years,
        "sex": person.get("sex") or about.sex,
        "site": person.get("site") or about.site,
        "age_source": age_source,
        "vendor": about.vendor,
        "model": about.model,
        "field_tesla": about.field_tesla,
        "days_since_first": (about.study_day or 0) - (first_day or 0) if has_day else None,
        "num_stations": len(choice.stations),
        "extent_mm": choice.extent_mm,
        "coverage_json": json.dumps([_rounded(covered) for covered in coverage_of(choice)]),
        "is_phantom": about.is_phantom,
    }


def find_person(person_id: str, exam_id: str, people: People) -> Row:
    """What the participants table says of the exam, or else of the person; {} when it says nothing."""
    return people.get((person_id, exam_id), people.get((person_id, None), {}))


def _rounded(covered: Covered) -> Row:
    """To a tenth of a millimetre: the rest is rounding of headers."""
    values = asdict(covered)
    return {k: round(v, 1) if isinstance(v, float) else v for k, v in values.items()}


def list_people(people: pd.DataFrame | None) -> People:
    """What the participants table says of each exam, and of each person where it names no exam."""
    found: People = {}
    for row in (people if people is not None else pd.DataFrame()).to_dict("records"):
        known: Row = {str(k): None if pd.isna(value) else value for k, value in row.items()}
        found.setdefault((known["person_id"], known["exam_id"]), known)
    return found


def _num_voxels(series: Series) -> int:
    assert series.view.grid is not None
    return math.prod(series.view.grid.shape)


def _stations_json(choice: Choice, locations: Mapping[str, str]) -> str:
    stations = []
    for station in choice.stations:
        kind, seals = station.view.first.kind, _seals(station)
        stations.append(
            [
                {"location": locations[i], "kind": kind, "frame": frame, "seal": seals[i]}
                for i, frame in station.view.slices
            ]
        )
    return json.dumps(stations)


def _series_row(
    series: Series,
    left: Mapping[str, tuple[str, str]],
    scan_ids: Mapping[str, str],
    overrides: Mapping[str, Override],
    people: People,
) -> Row:
    view = series.view
    first = view.first
    code, message = left.get(series.series_id, (series.code, series.message))
    if code == "not_chosen" and series.series_id in overrides:
        message += "; accepted by hand: to use it, refuse the one that was chosen"
    person = find_person(first.about.person_id, first.about.exam_id, people)
    if gives_other_sex(first.about, person.get("sex")):
        message += OTHER_SEX
    if gives_other_age(first.about, person.get("age_years")):
        message += OTHER_AGE
    return {
        "series_id": series.series_id,
        "person_id": first.about.person_id,
        "exam_id": first.about.exam_id,
        "scan_id": scan_ids.get(series.series_id),
        "code": code,
        "message": message,
        "kind": first.kind,
        "burned_in": has_text_burned_in(view),
        "num_files": len(view.headers),
        "num_slices": view.num_slices,
        "plane": view.plane,
        "repetition_ms": first.physics.repetition_ms,
        "echo_ms": view.echo_ms,
        "in_plane_mm": view.in_plane_mm,
        "slice_gap_mm": view.gap_mm,
        "extent_mm": view.grid.extent_mm[2] if view.grid else None,
    }


def _file_row(read: Read, used: Mapping[str, str], digests: Mapping[str, str]) -> Row:
    """A file is part of a series (used: which), a copy of one that is, or refused when it was read."""
    code, message = read.code, read.message
    series_id = used.get(read.file_id)
    if read.header and series_id is None:
        is_copy = digests[read.header.object_id] == read.header.digest
        what = "holds the same object" if is_copy else "says it is the same object, and differs"
        code, message = "duplicate_file", f"another file {what}"
    return {
        "file_id": read.file_id,
        "location": read.seen.location.encode("utf-8", "replace").decode(),
        "bytes": read.seen.bytes,
        "series_id": series_id,
        "code": code,
        "message": message,
    }
