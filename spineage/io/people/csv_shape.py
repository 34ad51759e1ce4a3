"""Is a CSV what it looks like, line by line? A parser that forgives gives one person the values of another.

An unclosed quote swallows the rows up to the next one, and a row with a field too many moves every column by
one. So each row must have as many fields as the header, and no field may go over several lines.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Final

import fsspec
import pandas as pd

from spineage.errors import BadStudy

MAX_FIELD = 100_000
KNOWN: Final = frozenset({
    "age", "age_years", "decision", "exam", "finding", "institution", "level", "participant_id", "person",
    "person_id", "reason", "region", "series_id", "session_id", "severity", "sex", "side", "site", "split",
})  # fmt: skip
"""Columns that may be named in a message; without a header line the others are somebody's values."""


def check_shape(data: bytes, separator: str, what: str) -> None:
    """Raise BadStudy naming the first row, as a spreadsheet counts, that is not like the header.

    Text that is no UTF-8 is left to the parser, which refuses it.
    """
    text = data.decode("utf-8-sig", "replace")
    csv.field_size_limit(MAX_FIELD)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    num_columns = 0
    while True:
        line = rows.line_num
        try:
            row = next(rows, None)
        except csv.Error:
            raise BadStudy(
                f"{what}: row {line + 1} has a quote that is not closed, or text behind a closed one"
            ) from None
        if row is None:
            return
        if not row:
            continue  # an empty line
        if not num_columns:
            num_columns = len(row)
            check_headings([cell or f"Unnamed: {n}" for n, cell in enumerate(row)], what)
        if len(row) != num_columns:
            raise BadStudy(
                f"{what}: row {line + 1} has {len(row)} fields, the header has {num_columns}: a "
                "separator too many or too few would move every value behind it"
            )
        if any("\n" in field or "\r" in field for field in row):
            raise BadStudy(
                f"{what}: row {line + 1} holds a line break within a field: a quote that is not closed looks "
                "so; take line breaks out of the table"
            )


def read_table_bytes(location: str, key: str) -> bytes:
    """A CSV that the study names under this key. Raises BadStudy when it cannot be read."""
    try:
        with fsspec.open(location, "rb") as file:
            data: bytes = file.read()
    except Exception as error:
        raise BadStudy(f"{key} cannot be read ({type(error).__name__})") from None
    return data


def text_table(data: bytes, what: str, key: str) -> pd.DataFrame:
    """Its rows as stripped text. Raises BadStudy as `check_shape` does, or when it is no table."""
    check_shape(data, ",", what)
    try:
        table = pd.read_csv(
            io.BytesIO(data),
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
        )
    except Exception as error:
        raise BadStudy(f"{key} cannot be read ({type(error).__name__})") from None
    return table.apply(lambda column: column.str.strip())


def check_headings(headings: Sequence[str], what: str) -> None:
    """Raise BadStudy naming two columns of one name: the second may hold another person's values.

    Capital letters and blanks at the ends make no difference, as where columns are looked up.
    """
    names = [heading.strip().lower() for heading in headings]
    for number, name in enumerate(names):
        if name in names[:number]:
            named = f", {name}" if name in KNOWN else ""
            raise BadStudy(
                f"{what}: columns {names.index(name) + 1} and {number + 1} have one name{named}: keep the "
                "one that is meant"
            )


def is_open_ended(data: bytes) -> bool:
    """Whether the last of several lines has no line end, nor a quote that closes its last field.

    Many tools write no last line end, so this refuses nothing; but a file that was cut within its last value
    looks so too, and then a 45 has become a 4.
    """
    return b"\n" in data.strip() and not data.endswith((b"\n", b"\r", b'"'))
