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
from collections.abc import Collection, Sequence

import fsspec
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import yaml

from spineage.errors import BadStudy
from spineage.io.people.bids import from_bids, is_bids
from spineage.io.people.csv_shape import check_headings, check_shape, is_open_ended
from spineage.io.people.identity import Keyed
from spineage.io.storage.trouble import reason_of
from spineage.science.cohort.conditions import Codebook, codebook_from
from spineage.science.cohort.splits import SPLITS
from spineage.science.people.age import in_tenths, is_withheld
from spineage.science.people.quoting import is_harmless, may_be_quoted
from spineage.science.people.sex import sex_of
from spineage.tables import TRUTH

MAX_AGE_YEARS = 120.0
MAX_UNNAMED = 20
"""Columns of a lifestyle table that are taken for factors without being named."""


def read_findings(location: str, keyed: Keyed) -> pd.DataFrame:
    """person_id, exam_id, finding, level, side, severity as text ("" when empty); row, its number in the
    file.

    Needs the columns person, exam, finding, and level or region (where both are, region stands in for an
    empty level); side may be left out, and severity (then nothing is graded).
    """
    table = read_rows(location, "findings", ("person", "exam", "finding"))
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

    Raises BadStudy when a named factor is not there (the nearest is named), a person is listed twice, or
    there are more than MAX_UNNAMED columns and none is named.
    """
    table = _hashed(
        read_rows(location, "lifestyle", ("person",)), keyed, "lifestyle", with_exam=False
    )
    if doubled := int(table.person_id.duplicated().sum()):
        first = table.row[table.person_id.duplicated()].iloc[0]
        raise BadStudy(
            f"lifestyle: {doubled} people are listed more than once (first in row {first}): keep one row each"
        )
    table = table.set_index("person_id").drop(columns=["row", "exam"], errors="ignore")
    if factors is None:
        if len(table.columns) > MAX_UNNAMED:
            raise BadStudy(
                f"lifestyle: {len(table.columns)} columns, and more than {MAX_UNNAMED} are not taken for "
                "factors unseen: name those that are in associate.lifestyle"
            )
        return table
    for factor in factors:
        _need(table, factor, "lifestyle", "associate.lifestyle names")
    return table[list(factors)]


def read_participants(
    location: str,
    keyed: Keyed,
    max_age_shown: int | None = None,
    named_sites: Collection[str] = (),
) -> pd.DataFrame:
    """person_id, exam_id (null when the table is by person), age_years in tenths, age_is_withheld (it was
    above max_age_shown), sex (F, M, O), site; null where unknown.

    Needs person, sex and site; age_years and exam may be left out. Or the participants.tsv of a BIDS data
    set. A site that few people share is a keyed hash, unless the study itself names it. Raises BadStudy for
    an age outside 0-120, a person of two sexes, and a site column of too many values to be sites.
    """
    table = read_rows(location, "participants", ("person", "sex", "site"))
    by_exam = "exam" in table
    table = _hashed(table, keyed, "participants", with_exam=by_exam)
    if not by_exam:
        table["exam_id"] = None
    key = ["person_id", "exam_id"] if by_exam else ["person_id"]
    if table.duplicated(key).any():
        row = table.row[table.duplicated(key)].iloc[0]
        raise BadStudy(f"participants: row {row} repeats a person listed before; keep one row each")
    table["age_years"] = _ages(table) if "age_years" in table else np.nan
    table["age_is_withheld"] = [is_withheld(age, most=max_age_shown) for age in table.age_years]
    table["age_years"] = table.age_years.mask(table.age_is_withheld)
    table["sex"] = pd.Series([sex_of(text) for text in table.sex], table.index, dtype=object)
    _check_sexes(table)
    table["site"] = pd.Series(_sites(table, keyed, named_sites), table.index, dtype=object)
    return table[["person_id", "exam_id", "age_years", "age_is_withheld", "sex", "site"]]


MAX_SITES = 200


def _check_sexes(table: pd.DataFrame) -> None:
    """A person may be listed at several exams, and has one sex."""
    known = table[table.sex.isin(["F", "M"])]
    other = known.sex != known.groupby("person_id").sex.transform("first")
    if other.any():
        raise BadStudy(
            f"participants: row {known.row[other].iloc[0]} gives another sex to a person listed before "
            f"({int(other.sum())} such rows): two people may have got one id"
        )


def _sites(table: pd.DataFrame, keyed: Keyed, named: Collection[str]) -> list[str | None]:
    """As written where enough people share it, else a hash that tells sites apart; None where empty."""
    num_people = table.groupby("site").person_id.nunique()
    if len(num_people) > MAX_SITES:
        raise BadStudy(
            f"participants: site holds {len(num_people)} different values, at most {MAX_SITES} are taken: "
            "is it another column?"
        )
    shown: dict[str, str] = {}
    for site, n in num_people.items():
        word = str(site)
        is_shown = may_be_quoted(word, int(n)) or (word in named and is_harmless(word))
        shown[word] = word if is_shown else keyed.word("site", word)
    return [shown[site] if site else None for site in table.site]


def read_splits(location: str) -> dict[str, str]:
    """The split of each person_id in the splits.csv that an earlier cohort published.

    Raises BadStudy when a split has another name, or a person is listed twice.
    """
    table = read_rows(location, "splits", ("person_id", "split"))
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


def read_planted(location: str) -> pd.DataFrame:
    """The planted values of a phantom population as they were written, for `spineage show truth`."""
    return _load(location, "truth")


@functools.cache
def read_codebook() -> tuple[Codebook, str]:
    """The packaged codebook and the digest of its text."""
    text = importlib.resources.files("spineage").joinpath("data/codebook.yaml").read_text()
    return codebook_from(yaml.safe_load(text)), hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_of_file(location: str, what: str) -> str:
    """16 hex digits over the bytes of a table; raises BadStudy when it cannot be read."""
    return hashlib.sha256(_bytes(location, what)).hexdigest()[:16]


def read_rows(location: str, what: str, needed: Sequence[str]) -> pd.DataFrame:
    """The table as stripped text with lower-case column names, and `row`, counted as a spreadsheet
    counts."""
    table = _load(location, what)
    table.columns = [str(c).strip().lower() for c in table.columns]
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
        if _is_parquet(location):
            check_headings(pq.read_schema(io.BytesIO(data)).names, what)
            columns = pq.read_table(io.BytesIO(data))
            columns.validate(full=True)  # text that is no UTF-8 would be quoted by a later error
            table = columns.to_pandas()
        else:
            separator = _separator(data)
            check_shape(data, separator, what)
            table = pd.read_csv(
                io.BytesIO(data), dtype=str, keep_default_na=False, sep=separator,
                encoding="utf-8-sig", index_col=False,
            )  # fmt: skip
    except BadStudy:
        raise
    except Exception as error:  # parsers raise many types; their texts quote the file
        raise BadStudy(
            f"{what}: the file cannot be read as CSV (UTF-8) or parquet ({type(error).__name__})"
        ) from None
    if table.empty:
        raise BadStudy(f"{what}: the table has no rows")
    return table


def ends_openly(location: str, what: str) -> bool:
    """Whether a CSV may have been cut within its last value; see is_open_ended."""
    return not _is_parquet(location) and is_open_ended(_bytes(location, what))


def _is_parquet(location: str) -> bool:
    return location.lower().endswith((".parquet", ".pq"))


def _bytes(location: str, what: str) -> bytes:
    try:
        with fsspec.open(location, "rb") as file:
            return bytes(file.read())
    except (
        Exception
    ) as error:  # of whatever library reads there; their texts quote what they were given
        raise BadStudy(
            f"{what}: the file cannot be read ({reason_of(error)}): check inputs.{what}"
        ) from None


def _separator(data: bytes) -> str:
    """Comma, semicolon or tab: whichever the header has most of."""
    header = data.split(b"\n", 1)[0].decode("utf-8", "replace")
    return max(",;\t", key=header.count)


def _need(table: pd.DataFrame, column: str, what: str, who: str) -> None:
    if column in table:
        return
    names = [str(c) for c in table.columns]  # without a header line these are somebody's values
    near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
    hint = f": is it column {names.index(near[0]) + 1}?" if near else ""
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
            f"participants: age_years in row {table.row[bad].iloc[0]} is no number of years from 0 to "
            f"{MAX_AGE_YEARS:g} ({int(bad.sum())} such rows)"
        )
    return ages.map(in_tenths)
