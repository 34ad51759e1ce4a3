"""Tables about people that come with the images: findings, lifestyle, participants, planted truth.

CSV or parquet, by path or URI. Everything is read as text; person and exam are replaced by their keyed
hashes before anything else sees them. What does not fit is one clear sentence, naming columns and row
numbers, never people.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.resources
import io
from collections.abc import Sequence

import fsspec
import numpy as np
import pandas as pd
import yaml

from spineage.errors import BadStudy
from spineage.io.bids import from_bids, is_bids
from spineage.io.identity import Keyed
from spineage.science.conditions import Codebook, codebook_from
from spineage.science.folds import SPLITS
from spineage.tables import TRUTH

MAX_AGE_YEARS = 120.0


def read_findings(location: str, keyed: Keyed) -> pd.DataFrame:
    """person_id, exam_id, finding, level, side, severity as text ("" when empty); row, its number in the
    file.

    Needs the columns person, exam, finding, and level or region (where both are, region stands in for an
    empty level); side may be left out, and severity (then nothing is graded).
    """
    table = _read(location, "findings", ("person", "exam", "finding"))
    if "region" in table:
        level = table["level"] if "level" in table else table["region"]
        table["level"] = level.where(level != "", table["region"])
    _need(table, "level", "findings", "it needs")
    for column in ("side", "severity"):
        if column not in table:
            table[column] = ""
    table = _hashed(table, keyed, "findings", with_exam=True)
    return table[["person_id", "exam_id", "finding", "level", "side", "severity", "row"]]


def read_lifestyle(
    location: str, keyed: Keyed, factors: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row a person, indexed by person_id; one column of text a factor. Only `factors` when named.

    Raises BadStudy when a named factor is not there (the nearest is named) or a person is listed twice.
    """
    table = _hashed(_read(location, "lifestyle", ("person",)), keyed, "lifestyle", with_exam=False)
    if doubled := int(table.person_id.duplicated().sum()):
        first = table.row[table.person_id.duplicated()].iloc[0]
        raise BadStudy(
            f"lifestyle: {doubled} people are listed more than once (first in row {first}): keep one row each"
        )
    table = table.set_index("person_id").drop(columns=["row", "exam"], errors="ignore")
    if factors is None:
        return table
    for factor in factors:
        _need(table, factor, "lifestyle", "associate.lifestyle names")
    return table[list(factors)]


def read_participants(location: str, keyed: Keyed) -> pd.DataFrame:
    """person_id, exam_id (null when the table is by person), age_years, sex, site; null where unknown.

    Needs person, sex and site; age_years and exam may be left out. Or the participants.tsv of a BIDS data
    set. Raises BadStudy for an age outside 0-120.
    """
    table = _read(location, "participants", ("person", "sex", "site"))
    by_exam = "exam" in table
    table = _hashed(table, keyed, "participants", with_exam=by_exam)
    if not by_exam:
        table["exam_id"] = None
    key = ["person_id", "exam_id"] if by_exam else ["person_id"]
    if table.duplicated(key).any():
        row = table.row[table.duplicated(key)].iloc[0]
        raise BadStudy(f"participants: row {row} repeats a person listed before; keep one row each")
    table["age_years"] = _ages(table) if "age_years" in table else np.nan
    for column in ("sex", "site"):
        table[column] = table[column].where(table[column] != "", None)
    return table[["person_id", "exam_id", "age_years", "sex", "site"]]


def read_splits(location: str) -> dict[str, str]:
    """The split of each person_id in the splits.csv that an earlier cohort published.

    Raises BadStudy when a split has another name, or a person is listed twice.
    """
    table = _read(location, "splits", ("person_id", "split"))
    known = table.split.isin(SPLITS)
    if not known.all():
        raise BadStudy(
            f"splits: row {table.row[~known].iloc[0]} holds no split; splits are {', '.join(SPLITS)}"
        )
    if (doubled := table.person_id.duplicated()).any():
        raise BadStudy(f"splits: row {table.row[doubled].iloc[0]} repeats a person listed before")
    return dict(zip(table.person_id, table.split, strict=True))


def read_truth(location: str, keyed: Keyed) -> pd.DataFrame:
    """The planted values of a phantom population: tables.TRUTH with keyed ids and without accession."""
    table = _load(location, "truth")
    for column in TRUTH.schema.names:
        _need(table, column, "truth", "it needs")
    table = table.rename(columns={"person": "person_id", "exam": "exam_id"})
    table["person_id"] = table.person_id.astype(str).map(keyed.person)
    table["exam_id"] = table.exam_id.astype(str).map(keyed.exam)
    table["repeat_of"] = table.repeat_of.map(lambda raw: keyed.exam(str(raw)), na_action="ignore")
    return table.drop(columns="accession")


@functools.cache
def read_codebook() -> tuple[Codebook, str]:
    """The packaged codebook and the digest of its text."""
    text = importlib.resources.files("spineage").joinpath("codebook.yaml").read_text()
    return codebook_from(yaml.safe_load(text)), hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_file(location: str, what: str) -> str:
    """16 hex digits over the bytes of a table; raises BadStudy when it cannot be read."""
    return hashlib.sha256(_bytes(location, what)).hexdigest()[:16]


def _read(location: str, what: str, needed: Sequence[str]) -> pd.DataFrame:
    """The table as stripped text with lower-case column names, and `row`, counted as a spreadsheet
    counts."""
    table = _load(location, what)
    table.columns = [str(c).strip().lower() for c in table.columns]
    if table.columns.duplicated().any():
        raise BadStudy(
            f"{what}: column {table.columns[table.columns.duplicated()][0]!r} is there twice"
        )
    if what == "participants" and is_bids(table):
        table = from_bids(table)
    for column in needed:
        _need(table, column, what, "it needs")
    table = table.drop(columns="row", errors="ignore")
    table = table.astype(object).where(table.notna(), "").astype(str).apply(lambda c: c.str.strip())
    table["row"] = np.arange(len(table)) + 2
    return table


def _load(location: str, what: str) -> pd.DataFrame:
    data = _bytes(location, what)
    if not data.strip():
        raise BadStudy(f"{what}: the file is empty")
    try:
        if location.lower().endswith((".parquet", ".pq")):
            table = pd.read_parquet(io.BytesIO(data))
        else:
            table = pd.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False, sep=_separator(data),
                                encoding="utf-8-sig")  # fmt: skip
    except (ValueError, OSError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise BadStudy(
            f"{what}: the file cannot be read as CSV (UTF-8) or parquet ({type(error).__name__})"
        ) from None
    if table.empty:
        raise BadStudy(f"{what}: the table has no rows")
    return table


def _bytes(location: str, what: str) -> bytes:
    try:
        with fsspec.open(location, "rb") as file:
            return bytes(file.read())
    except (OSError, ValueError, ImportError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise BadStudy(f"{what}: the file cannot be read ({reason}): check inputs.{what}") from None


def _separator(data: bytes) -> str:
    """Comma, semicolon or tab: whichever the header has most of."""
    header = data.split(b"\n", 1)[0].decode("utf-8", "replace")
    return max(",;\t", key=header.count)


def _need(table: pd.DataFrame, column: str, what: str, who: str) -> None:
    if column in table:
        return
    near = difflib.get_close_matches(column, [str(c) for c in table.columns], n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else ""
    raise BadStudy(f"{what}: {who} a column {column!r}, which is not there{hint}")


def _hashed(table: pd.DataFrame, keyed: Keyed, what: str, *, with_exam: bool) -> pd.DataFrame:
    """person and exam become person_id and exam_id; an empty one is refused by row number."""
    for column, hashed in (("person", keyed.person), ("exam", keyed.exam))[: 1 + with_exam]:
        if (empty := table[column] == "").any():
            row = table.row[empty].iloc[0]
            raise BadStudy(f"{what}: {int(empty.sum())} rows have no {column} (first: row {row})")
        table[f"{column}_id"] = table[column].map(
            {raw: hashed(raw) for raw in table[column].unique()}
        )
    return table.drop(columns=["person", *(["exam"] if with_exam else [])])


def _ages(table: pd.DataFrame) -> pd.Series:
    """Ages as numbers, empty is unknown; raises BadStudy naming the first row that is no age."""
    ages = pd.to_numeric(table.age_years.where(table.age_years != ""), errors="coerce").astype(
        "float64"
    )
    bad = (table.age_years != "") & ~ages.between(0, MAX_AGE_YEARS)
    if bad.any():
        raise BadStudy(
            f"participants: age_years in row {table.row[bad].iloc[0]} is "
            f"{_quoted(table.age_years[bad].iloc[0])}, "
            f"expected a number of years from 0 to {MAX_AGE_YEARS:g} ({int(bad.sum())} such rows)"
        )
    return ages


def _quoted(text: str) -> str:
    """A number may be shown; anything else might say who somebody is."""
    try:
        return f"{float(text):g}"
    except ValueError:
        return "not a number"
