"""report: one self-contained HTML file that tells the whole study, one section per person."""

from __future__ import annotations

from typing import Any

from spineage.io.findings import digest_of_file
from spineage.report.pages import html
from spineage.stages.context import Context, digest_of
from spineage.stages.headline import headline
from spineage.stages.report_evidence import fault_rows, gather, is_there

__all__ = ["headline", "html", "recipe", "report_path", "run"]

SCHEMA = 1
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
COUNTED = ("scans", "masks", "tensors", "scores")


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
        "scans": {table: context.table_digest(table) for table in COUNTED},
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


OPTIONAL = {"associations": "associate", "explanations": "explain", "ablations": "ablate"}
"""Tables that may come later: the report is made again when they do."""


def run(context: Context) -> dict[str, int]:
    """Write the report unless this very one exists. Raises BadStudy naming the verb to run when
    scores are missing.
    """
    if not context.is_done("report"):
        context.publish("report", {}, {FILE: html(gather(context)).encode()})
    scans = context.read("scans", ["person_id"])
    return {
        "people": int(scans["person_id"].nunique()),
        "scored": len(context.read("scores", ["scan_id", "source_digest"])),
    }


def report_path(context: Context) -> str:
    """Where the report lies: a path, or a URI on an object store."""
    return context.store.uri(context.folder("report"), FILE)
