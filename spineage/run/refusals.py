"""Why a table is empty though its stage has run: everything was refused, by code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from spineage.io.storage.parquet import read_table
from spineage.io.storage.store import Store
from spineage.tables import FAULTS, KEY

MADE_BY = {"masks": "segment", "tensors": "prepare", "scores": "score"}
"""Tables whose stage refuses scans, in the order of the road."""


def why_empty(store: Store, folder_of: Callable[[str], str], table: str) -> str | None:
    """One sentence when its stage, or one before it, has refused every scan; None when that is not why.

    folder_of: where a stage's results are.
    """
    tables = list(MADE_BY)
    for before in reversed(tables[: tables.index(table) + 1] if table in MADE_BY else []):
        stage, folder = MADE_BY[before], folder_of(MADE_BY[before])
        if store.list(f"{folder}/{before}", ".parquet"):
            return None
        if codes := _codes(store, folder):
            return (
                f"{stage} refused every scan it tried ({_by_code(codes)}), so there are no {before}: "
                "`spineage show faults` says why of each"
            )
    return None


def why_no_scans(codes: Iterable[str]) -> str:
    """One sentence when ingest accepted nothing. codes: of all series, "" where accepted."""
    refused = [code for code in codes if code]
    what = (
        f"none of {len(refused)} series ({_by_code(refused)})" if refused else "no file as an image"
    )
    return (
        f"ingest accepted {what}, so there are no scans: `spineage show series` says why of each, "
        "`spineage show files` what was no image"
    )


def _codes(store: Store, folder: str) -> list[str]:
    rows = read_table(store, folder, FAULTS, ["scan_id", "source_digest", "code"])
    return list(rows.drop_duplicates(KEY, keep="last")["code"])


def _by_code(codes: Iterable[str]) -> str:
    return ", ".join(f"{n} {code}" for code, n in Counter(codes).most_common())
