"""What a person decided about single series, against the rules: `overrides.csv`."""

from __future__ import annotations

from dataclasses import dataclass

from spineage.errors import BadStudy
from spineage.io.people.csv_shape import read_table_bytes, text_table

COLUMNS = ("series_id", "decision", "reason")
DECISIONS = ("accept", "refuse")
MAX_REASON = 200


@dataclass(frozen=True)
class Override:
    """accept or refuse one series. The reason is shown in tables and pages: it must name nobody."""

    decision: str
    reason: str


def read_overrides(location: str) -> dict[str, Override]:
    """By series id, as `spineage show series` prints it.

    Raises BadStudy when the file cannot be read, lacks a column, decides anything but accept or refuse,
    gives no reason or a long one, or decides a series twice.
    """
    data = read_table_bytes(location, "inputs.overrides")
    table = text_table(data, "overrides", "inputs.overrides")
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise BadStudy(f"overrides: no column {missing[0]}; expected {', '.join(COLUMNS)}")
    found: dict[str, Override] = {}
    for number, (series_id, decision, reason) in enumerate(table[[*COLUMNS]].to_numpy(str), 2):
        if decision not in DECISIONS:
            raise BadStudy(f"overrides: row {number}: the decision must be accept or refuse")
        if not reason:
            raise BadStudy(f"overrides: row {number}: a decision needs a reason")
        if len(reason) > MAX_REASON or not reason.isprintable():
            raise BadStudy(
                f"overrides: row {number}: a reason is one line of at most {MAX_REASON} letters: it is "
                "shown in tables and pages, and must name nobody"
            )
        if series_id in found:
            raise BadStudy(f"overrides: row {number}: this series is decided twice")
        found[str(series_id)] = Override(str(decision), str(reason))
    return found
