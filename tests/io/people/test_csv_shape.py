"""A table that a forgiving parser would read as other people's is refused by row, and not quoted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spineage.errors import BadStudy
from spineage.io.people.csv_shape import check_shape
from spineage.io.people.identity import Keyed
from spineage.io.people.overrides import read_overrides
from spineage.io.people.tables import (
    read_findings,
    read_lifestyle,
    read_participants,
    read_planted,
    read_splits,
)

KEYED = Keyed(b"k" * 32)
CASES = {
    "an unclosed quote": (
        'person,sex,site,age_years\nP1,F,"north,50\nP2,M,south,60\nP3,F,"east",70\nP4,F,x,20\n', "row 2",
    ),
    "a quote that closes by luck": (
        'person,sex,site,age_years\nP1,F,"north,50\nP2,M,south",60\nP4,F,x,20\n', "row 2 holds a line break",
    ),
    "a separator at the end of each row": (
        "exam,person,sex,site\nE1,P1,F,n,\nE2,P2,M,s,\n", "row 2 has 5 fields, the header has 4",
    ),
    "a field too few": ("person,sex,site\nP1,F,n\nP2,M\n", "row 3 has 2 fields"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_row_unlike_the_header_is_refused_by_its_number(tmp_path: Path, name: str) -> None:
    text, said = CASES[name]
    path = tmp_path / "participants.csv"
    path.write_text(text)
    with pytest.raises(BadStudy, match=said) as caught:
        read_participants(str(path), KEYED)
    assert not any(value in str(caught.value) for value in ("P1", "P2", "north", "south"))


def test_overrides_are_looked_at_in_the_same_way(tmp_path: Path) -> None:
    path = tmp_path / "overrides.csv"
    path.write_text("series_id,decision,reason\na,accept,seen,twice\n")
    with pytest.raises(BadStudy, match="row 2 has 4 fields"):
        read_overrides(str(path))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_quoted_fields_empty_lines_and_windows_line_ends_are_fine(separator: str) -> None:
    rows = ["a,b,c", '"x, y",2,', "", "1,2,3"]
    if separator != ",":
        rows = [row.replace("x, y", "x y").replace(",", separator) for row in rows]
    check_shape("\r\n".join(rows).encode("utf-8-sig"), separator, "findings")


@pytest.mark.parametrize("header", ["4711,Petersen,1950-01-02,F", "Anna,anna,F,x"])
def test_the_first_person_of_a_table_without_a_header_is_not_quoted(
    tmp_path: Path, header: str
) -> None:
    path = tmp_path / "participants.csv"
    path.write_text(f"{header}\n{header}\n")
    with pytest.raises(BadStudy) as caught:
        read_participants(str(path), KEYED)
    assert not any(
        word in str(caught.value).lower() for word in ("petersen", "anna", "4711", "1950")
    )


@pytest.mark.parametrize("age", ["1950", "195001", "19500102", "471123"])
def test_an_age_that_may_be_a_date_or_a_number_of_a_record_is_not_quoted(
    tmp_path: Path, age: str
) -> None:
    path = tmp_path / "participants.csv"
    path.write_text(f"person,sex,site,age_years\nP1,F,n,{age}\n")
    with pytest.raises(BadStudy, match="row 2 is no number of years") as caught:
        read_participants(str(path), KEYED)
    assert age[:4] not in str(caught.value)


READERS: dict[str, Callable[[str], Any]] = {
    "participants": lambda at: read_participants(at, KEYED),
    "findings": lambda at: read_findings(at, KEYED),
    "lifestyle": lambda at: read_lifestyle(at, KEYED),
    "splits": read_splits,
    "overrides": read_overrides,
    "truth": read_planted,
}
TWICE = {
    "participants": (
        "person,sex,site,Person ,age_years\nP1,F,x,P2,30\n", "columns 1 and 4 have one name, person",
    ),
    "findings": (
        "person,exam,finding,level,severity,severity\nP1,E1,fracture,L1,0,3\n", "columns 5 and 6",
    ),
    "lifestyle": ("person,Anna,anna\nP1,yes,no\n", "columns 2 and 3 have one name:"),
    "splits": ("person_id,split,split\nP1,train,test\n", "columns 2 and 3 have one name, split"),
    "overrides": ("series_id,decision,reason,decision\na,accept,seen,refuse\n", "columns 2 and 4"),
    "truth": ("person,exam,age_years,age_years\nP1,E1,30,70\n", "columns 3 and 4 have one name"),
}  # fmt: skip


@pytest.mark.parametrize("what", TWICE)
def test_a_column_that_comes_twice_is_refused_by_its_place(tmp_path: Path, what: str) -> None:
    text, said = TWICE[what]
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(BadStudy, match=said) as caught:
        READERS[what](str(path))
    assert "anna" not in str(caught.value).lower()


@pytest.mark.parametrize("what", [what for what in TWICE if what != "overrides"])
def test_a_parquet_table_with_a_column_twice_is_refused_too(tmp_path: Path, what: str) -> None:
    text, said = TWICE[what]
    header, row = text.splitlines()
    path = tmp_path / "table.parquet"
    columns = [pa.array([value]) for value in row.split(",")]
    pq.write_table(pa.Table.from_arrays(columns, names=header.split(",")), path)
    with pytest.raises(BadStudy, match=said):
        READERS[what](str(path))


def test_columns_without_a_heading_are_no_column_twice(tmp_path: Path) -> None:
    """Spreadsheets write separators at the end of all rows."""
    path = tmp_path / "participants.csv"
    path.write_text("person,sex,site,,\nP1,F,x,,\n")
    assert len(read_participants(str(path), KEYED)) == 1
