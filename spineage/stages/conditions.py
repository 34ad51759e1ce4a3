"""conditions: radiology findings become condition vectors, one row an exam.

Exams that are not in the findings table have no row here; `cohort` and `associate` take a scanned exam
without a row as read with no findings (the table lists what was found), and refuse a table that matches no
scan at all.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pandas as pd

from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import digest_of_file, read_codebook, read_findings
from spineage.run.checks import findings_of
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.science.cohort.coding import REMARKS, code
from spineage.tables import CONDITIONS

SCHEMA = 3
NAMED_TERMS = 5


def recipe(context: Context) -> dict[str, Any]:
    """The findings' bytes, the codebook and the key."""
    location = context.study.inputs.findings
    return {
        "schema": SCHEMA,
        "codebook": read_codebook()[1],
        "findings": digest_of_file(location, "findings") if location else None,
        "key": Keyed(load_key(context.study)).key_id,
    }


def run(context: Context) -> Counts:
    """Code the findings. Raises BadStudy when there are none and the cohort's rule needs them."""
    location = findings_of(context.study)
    if not context.is_done("conditions"):
        _publish(context, location)
    table = context.read("conditions", ["num_findings", "num_not_understood"])
    missed = json.loads(context.asset("conditions", "not_understood.json"))
    _say_missed(context, missed)
    return Counts(
        {
            "exams": len(table),
            "exams_with_findings": int((table.num_findings > 0).sum()),
            "rows_not_understood": sum(e["num_rows"] for e in missed if e["column"] not in REMARKS),
        }
    )


def _publish(context: Context, location: str | None) -> None:
    codebook, _ = read_codebook()
    table = pd.DataFrame(columns=CONDITIONS.schema.names)
    missed: list[dict[str, Any]] = []
    if location:
        table, missed = code(read_findings(location, Keyed(load_key(context.study))), codebook)
    features = [{"name": f.name, **dataclasses.asdict(f)} for f in codebook.features]
    context.publish(
        "conditions",
        {"conditions": table},
        {"features.json": _json(features), "not_understood.json": _json(missed)},
    )


def _say_missed(context: Context, missed: list[dict[str, Any]]) -> None:
    for entry in missed[:NAMED_TERMS]:
        hint = f"; nearest known: {entry['nearest']}" if entry["nearest"] else ""
        what = (
            entry["column"] if entry["column"] in REMARKS else f"{entry['column']} not understood"
        )
        context.say(f"  {what} in {entry['num_rows']} rows: {entry['term']}{hint}")
    if len(missed) > NAMED_TERMS:
        context.say(f"  and {len(missed) - NAMED_TERMS} more terms: not_understood.json lists them")


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()
