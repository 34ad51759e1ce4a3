"""Ingest: read headers in parallel, group files into series and series into scans, refuse with a reason.

Headers are kept on storage (`ingest_scan.py`); then each person's are brought together and judged
(`ingest_groups.py`). Neither step holds the archive in memory. The folder holds one generation of tables
per state of the input (names, sizes and times of all files, the participants table, the overrides);
`latest.json` names the current one and is replaced last, so that a reader sees either the old generation or
the new one, whole.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from spineage.errors import BadStudy
from spineage.io.findings import digest_of_file
from spineage.io.identity import Keyed, load_key
from spineage.io.overrides import read_overrides
from spineage.stages.context import Context, digest_of
from spineage.stages.ingest_groups import check_tables, judge_groups
from spineage.stages.ingest_scan import Scanned, scan_headers

SCHEMA = 2  # raise it when the same headers give other tables


def recipe(context: Context) -> dict[str, Any]:
    """The ingest section, which input, and which key: its name, never the key."""
    inputs = context.study.inputs
    return {
        "schema": SCHEMA,
        **context.study.recipe("ingest"),
        "input": inputs.scans,
        "exam_key": inputs.exam_key,
        "key": Keyed(load_key(context.study)).key_id,
    }


def run(context: Context) -> dict[str, int]:
    """Write the tables of the input as it is now; nothing is read again when it has not changed.

    Raises BadStudy for a missing or empty input, a missing key, or a participants or overrides table that
    does not fit.
    """
    keyed = Keyed(load_key(context.study))
    _refuse_workspace_in_input(context)
    check_tables(context.study.inputs, keyed)
    scanned = scan_headers(context, keyed)
    if 0 < scanned.num_read < scanned.num_files:
        context.say(f"  read {scanned.num_read} of {scanned.num_files} files, the others are known")
    generation = _generation(context, scanned)
    folder = f"{context.folder('ingest')}/{generation}"
    if not context.store.exists(f"{folder}/done.json"):
        counts = judge_groups(context, keyed, scanned, folder)
        context.store.write(f"{folder}/done.json", json.dumps(counts).encode())
    counts = Counter(json.loads(context.store.read(f"{folder}/done.json")))
    _tell_overrides(context, counts.pop("overrides", 0))
    _tell_participants(context, counts.pop("in_participants", 0), counts["scans"])
    pointer = json.dumps({"generation": generation}).encode()
    context.store.point(f"{context.folder('ingest')}/latest.json", pointer)
    context.forget()
    return dict(counts)


def _refuse_workspace_in_input(context: Context) -> None:
    """A run would find the files of the run before."""
    scans = context.study.inputs.scans
    if context.store.is_local and scans and "://" not in scans:
        inside = Path(context.store.root).resolve()
        if inside.is_relative_to(Path(scans).resolve()):
            raise BadStudy("the workspace lies inside inputs.scans: put it beside")


def _generation(context: Context, scanned: Scanned) -> str:
    """Names a state of the input."""
    inputs = context.study.inputs
    tables = {"participants": inputs.participants, "overrides": inputs.overrides}
    return digest_of(
        {
            "headers": digest_of([scanned.folder, *scanned.parts]),
            **{name: digest_of_file(at, name) if at else "" for name, at in tables.items()},
        }
    )


def _tell_participants(context: Context, num_found: int, num_scans: int) -> None:
    """Say so when the table has nothing on some scans' people: ids of another kind match nobody."""
    if context.study.inputs.participants and num_found < num_scans:
        unknown = f"{num_scans - num_found} of {num_scans} scans"
        context.say(f"  the participants table has nothing on the people of {unknown}")


def _tell_overrides(context: Context, num_used: int) -> None:
    """Say so when a decision names no series: a mistyped id must not look obeyed."""
    location = context.study.inputs.overrides
    wanted = read_overrides(location) if location else {}
    if num_unknown := len(wanted) - num_used:
        context.say(f"  {num_unknown} of {len(wanted)} overrides name no series of this input")
