"""Tables as CSV for people: a spreadsheet that opens one computes nothing out of it."""

from __future__ import annotations

import pandas as pd

from spineage.science.people.quoting import FORMULA_STARTS


def csv_of(table: pd.DataFrame) -> bytes:
    """The table as CSV (UTF-8); text that a spreadsheet would take for a formula has an apostrophe before it.

    Numbers stay numbers, negative ones too: only text is looked at, and text that is a number is left alone.
    """
    safe = table.map(_neutral).rename(columns=lambda name: _neutral(str(name)))
    return safe.to_csv(index=False).encode()


def _neutral(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = value.replace("\r", " ")  # which would begin another row
    if not text.lstrip(" ").startswith(FORMULA_STARTS) or _is_number(text):
        return text
    return f"'{text}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
