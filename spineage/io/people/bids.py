"""The participants.tsv of a BIDS data set in the words of our participants table."""

from __future__ import annotations

import pandas as pd

NAMES = {"participant_id": "person", "age": "age_years", "institution": "site"}


def is_bids(table: pd.DataFrame) -> bool:
    """By its key column, which BIDS prescribes and our own tables do not have."""
    return "participant_id" in table and "person" not in table


def from_bids(table: pd.DataFrame) -> pd.DataFrame:
    """person (with `sub-`), sex, site, age_years, and exam where there are sessions; as text, "" unknown.

    BIDS 1.10, Participants file: `n/a` is missing, and ages over 89 may be given as 89+, which is no age.
    """
    table = table.rename(columns={k: v for k, v in NAMES.items() if v not in table})
    table = table.mask(table.isin(["n/a", "89+"]), "")
    for column in ("sex", "site"):
        if column not in table:
            table[column] = ""
    table["person"] = [_labelled("sub", name) for name in table.person]
    if "session_id" in table:
        sessions = (_labelled("ses", name) for name in table.session_id)
        pairs = zip(table.person, sessions, strict=True)
        table["exam"] = [f"{person}_{session}" for person, session in pairs]
    return table


def _labelled(entity: str, name: str) -> str:
    return name if not name or name.startswith(f"{entity}-") else f"{entity}-{name}"
