"""What a table about people holds, in counts: told before anything is made of it.

A word is shown only where enough people share it (see science/people/quoting.py); the rest is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from spineage.io.people.identity import Keyed
from spineage.io.people.tables import (
    ends_openly,
    read_lifestyle,
    read_participants,
    read_rows,
)
from spineage.science.gap.exposures import of_lifestyle, show_headings
from spineage.science.people.quoting import list_counts
from spineage.science.people.sex import is_understood

NOBODYS = Keyed(b"a key to count by, of which no hash comes out")


def describe_participants(location: str, max_age_shown: int | None = None) -> str:
    """People by sex and site, what was not understood and what is withheld. Raises as read_participants."""
    people = read_participants(location, NOBODYS, max_age_shown).drop_duplicates("person_id")
    sexes = people.sex.fillna("unknown").value_counts()
    parts = [
        f"participants: {len(people)} people",
        "sex " + ", ".join(f"{sex} {n}" for sex, n in sexes.items()),
        f"site {list_counts(_num_people(location, 'site'))}",
    ]
    if unknown := list_unknown_sexes(location):
        parts.append(unknown)
    if num_withheld := int(people.age_is_withheld.sum()):
        parts.append(f"{num_withheld} ages above {max_age_shown} are withheld")
    if open_end := tell_open_end(location):
        parts.append(open_end)
    return "; ".join(parts)


def tell_open_end(location: str, what: str = "participants") -> str:
    """That the last value may be cut, "" when the file ends as a whole one does."""
    if not ends_openly(location, what):
        return ""
    return "the last line has no line end: if the file was cut there, so is its last value"


def list_unknown_sexes(location: str) -> str:
    """`sex not understood: 2 95, 3 not shown, of 4 people`; "" when every word is known."""
    counts = _num_people(location, "sex")
    unknown = {word: n for word, n in counts.items() if not is_understood(word)}
    if not unknown:
        return ""
    return f"sex not understood, so unknown (write F, M or O): {list_counts(unknown)}"


def _num_people(location: str, column: str) -> dict[str, int]:
    """People by the words of a column; what is empty is left out."""
    rows = read_rows(location, "participants", ("person", "sex", "site"))
    counts = rows[rows[column] != ""].groupby(column).person.nunique()
    return {str(word): int(n) for word, n in counts.items()}


def describe_lifestyle(location: str, factors: Sequence[str] | None) -> str:
    """What would be tested, and which columns are no factors and why. Raises as read_lifestyle does."""
    table = read_lifestyle(location, NOBODYS, factors)
    exposures, refused = of_lifestyle(table, are_named=factors is not None)
    names = ", ".join(exposure.name for exposure in exposures)
    parts = [f"lifestyle: {len(table)} people", f"tested: {names or 'nothing'}"]
    parts += [f"not tested: {one['exposure']} ({one['reason']})" for one in refused]
    headings = show_headings(table.columns, are_named=factors is not None)
    if num_hidden := sum(a != b for a, b in zip(headings, table.columns, strict=True)):
        parts.append(
            f"{num_hidden} headings are not shown, as they may be names or dates: name them in "
            "associate.lifestyle to have them shown"
        )
    if open_end := tell_open_end(location, "lifestyle"):
        parts.append(open_end)
    return "; ".join(parts)
