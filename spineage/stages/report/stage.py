"""report: one self-contained HTML file that tells the whole study, one section per person."""

from __future__ import annotations

from typing import Any

from spineage.io.people.tables import digest_of_file
from spineage.report.numbers import headline_of
from spineage.report.pages import html
from spineage.run.context import Context, digest_of
from spineage.run.counts import Counts
from spineage.stages.report.evidence import fault_rows, gather, gather_tables, is_there
from spineage.tables import KEY

__all__ = ["headline", "html", "recipe", "report_path", "run"]

SCHEMA = 2
FILE = "report.html"
UPSTREAM = (
    "ingest",
    "cohort",
    "segment",
    "prepare",
    "train",
    "calibrate",
    "score",
    "associate",
    "explain",
    "ablate",
)
OPTIONAL = {"associations": "associate", "explanations": "explain", "ablations": "ablate"}
"""Tables that may come later: the report is made again when they do."""


def recipe(context: Context) -> dict[str, Any]:
    """The study, the addresses of all results shown, and which scans each per-scan table answers
    for.
    """
    truth = context.study.inputs.truth
    return {
        "schema": SCHEMA,
        "name": context.study.name,
        "seed": context.study.seed,
        **context.study.recipe("report"),
        "upstream": {
            stage: context.fingerprint(stage) for stage in UPSTREAM if is_there(context, stage)
        },
        "scans": {table: _who(context, table) for table in ("scans", "masks", "tensors", "scores")},
        "faults": digest_of(
            sorted(
                map(
                    list,
                    fault_rows(context)[["scan_id", "source_digest", "stage", "code"]].to_numpy(),
                )
            )
        ),
        "is_published": {
            table: context.has(table, stage)
            for table, stage in OPTIONAL.items()
            if is_there(context, stage)
        },
        "truth": digest_of_file(truth, "truth") if truth else None,
    }


def _who(context: Context, table: str) -> str:
    """Over the keys of the study's scans that have a row."""
    if table in ("scans", "scores"):
        return context.table_digest(table)
    found = context.having(table, context.read("scans", KEY))
    return digest_of(sorted(found[KEY].to_numpy().tolist()))


def run(context: Context) -> Counts:
    """Write the report unless this very one exists. Raises BadStudy naming the verb to run when
    scores are missing.
    """
    if not context.is_done("report"):
        context.publish("report", {}, {FILE: html(gather(context)).encode()})
    scans = context.read("scans", ["person_id"])
    return Counts(
        {
            "people": int(scans["person_id"].nunique()),
            "scored": len(context.read("scores", KEY)),
        }
    )


def headline(context: Context) -> dict[str, Any]:
    """The few numbers a run ends with; `report/numbers.py` says on whom each is computed."""
    return headline_of(gather_tables(context))


def report_path(context: Context) -> str:
    """Where the report lies: a path, or a URI on an object store."""
    return context.store.uri(context.folder("report"), FILE)
