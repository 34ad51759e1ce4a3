"""Which words of a table about people may be quoted: those that many share, and that do nothing.

A column may be another than its name says, and hold names. So a word comes out (in a table, a page or a
message) only when enough people share it, when it is short, and when no spreadsheet takes it for a formula;
a rarer one is counted, not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

MIN_SHARED: Final = 5
"""People: what three or four have in common may still be a family's name."""
MAX_LETTERS: Final = 40
FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets take for the begin of a formula."""
MARKUP: Final = frozenset("$\\<>`{}")
"""Letters that a figure or a page may take for more than letters."""


def may_be_quoted(word: str, num_people: int) -> bool:
    """Whether a word that so many people share may come out as it is."""
    return num_people >= MIN_SHARED and is_harmless(word)


def is_harmless(word: str) -> bool:
    """Short, printable, no formula and no markup; who shares it is another question."""
    is_short = 0 < len(word) <= MAX_LETTERS
    is_text = word.isprintable() and not set(word) & MARKUP
    return is_short and is_text and not word.startswith(FORMULA_STARTS)


def list_counts(num_people: Mapping[str, int]) -> str:
    """`north 120, south 80, and 3 others of 4 people`: the words that may be quoted, the rest by count."""
    quoted = {word: n for word, n in num_people.items() if may_be_quoted(word, n)}
    parts = [
        f"{word} {n}" for word, n in sorted(quoted.items(), key=lambda item: (-item[1], item[0]))
    ]
    if num_rest := len(num_people) - len(quoted):
        people = sum(num_people.values()) - sum(quoted.values())
        parts.append(f"{num_rest} not shown, of {people} people")
    return ", ".join(parts)
