"""A clinic of three kinds of people, as ingest would have left it, with its findings table."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spineage.io.people.identity import Keyed, load_key
from spineage.io.storage.parquet import write_part
from spineage.run.context import Context
from spineage.stages import conditions
from spineage.stages.cohort import stage as cohort
from spineage.study import study_from
from spineage.tables import SCANS

KEYED = Keyed(b"k" * 32)
FEW_DRAWS = {"num_neighbors": [10], "num_components": [3], "min_cluster_share": [0.08, 0.12],
             "min_samples": [5], "num_seeds": 2, "num_bootstraps": 3}  # fmt: skip
FEW_PEOPLE = {"min_people": 0, "min_group_people": 8}
"""So that groups decide though few train."""
GROUPS = {
    "none": [],
    "worn": [("disc_desiccation", level, "mild") for level in ("L3/4", "L4/5", "C5/6", "T8/9")]
    + [("facet arthropathy", "L5/S1", "mild"), ("osteophytes", "L4", "mild"), ("disc bulge", "L4/5", "mild")],
    "ill": [(finding, level, "severe") for finding in ("fracture", "kyphosis", "marrow edema")
            for level in ("T7", "L1")]
    + [("central_stenosis", "L4/5", "severe"), ("spondylolisthesis", "L4/5", "severe")],
}  # fmt: skip


class Planted(Context):
    """A workspace in which ingest has run already: its table is written by the test."""

    def recipe(self, stage: str) -> dict[str, Any]:
        return {"planted": True} if stage == "ingest" else super().recipe(stage)


def exams(num_people: int = 90) -> pd.DataFrame:
    """Raw ids, as the tables of a clinic have them; every ninth person has a second exam."""
    rng = np.random.default_rng(0)
    people = pd.DataFrame(
        {
            "person": [f"PAT{i:03d}" for i in range(num_people)],
            "group": np.resize(["none", "worn", "worn", "worn", "ill"], num_people),
            "age_years": rng.uniform(25, 84, num_people),
            "sex": rng.choice(["F", "M"], num_people),
            "site": rng.choice(["hill", "harbour"], num_people),
            "exam": [f"1.2.{i}.1" for i in range(num_people)],
            "days_since_first": 0,
        }
    )
    again = people[::9].assign(exam=lambda p: p.exam.str[:-1] + "2", days_since_first=400)
    return pd.concat(
        [people, again.assign(age_years=again.age_years + 400 / 365.25)], ignore_index=True
    )


def scans_of(table: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "scan_id": [KEYED.scan(exam) for exam in table.exam],
            "source_digest": "d",
            "person_id": table.person.map(KEYED.person),
            "exam_id": table.exam.map(KEYED.exam),
            "age_years": table.age_years,
            "sex": table.sex,
            "site": table.site,
            "age_source": "PatientAge",
            "vendor": "v",
            "model": "m",
            "field_tesla": 1.5,
            "days_since_first": table.days_since_first,
            "num_stations": 3,
            "extent_mm": 700.0,
            "coverage_json": "[]",
            "is_phantom": True,
        }
    )


def findings_of(table: pd.DataFrame) -> pd.DataFrame:
    rows = [
        (e.person, e.exam, *finding) for e in table.itertuples() for finding in GROUPS[str(e.group)]
    ]
    return pd.DataFrame(rows, columns=["person", "exam", "finding", "level", "severity"])


def workspace(
    folder: Path,
    table: pd.DataFrame,
    findings: pd.DataFrame | None,
    *,
    stability: dict[str, Any] | None = None,
    inputs: dict[str, Any] | None = None,
    workers: int = 1,
    **section: Any,
) -> Planted:
    folder.mkdir(exist_ok=True)
    inputs = {"key_file": str(folder / "key"), **(inputs or {})}
    (folder / "key").write_text("not a secret, only for tests")
    if findings is not None:
        inputs["findings"] = str(folder / "findings.csv")
        findings.to_csv(inputs["findings"], index=False)
    study = study_from(
        {
            "workspace": str(folder / "workspace"),
            "inputs": inputs,
            "cohort": {**FEW_PEOPLE, **section},
            "stability": stability or FEW_DRAWS,
            "cluster": {"cohort_workers": workers},
        }
    )
    context = Planted(study, say=lambda text: None)
    key = Keyed(load_key(study))
    scans = scans_of(table).assign(
        person_id=table.person.map(key.person), exam_id=table.exam.map(key.exam)
    )
    write_part(context.store, context.folder("ingest"), SCANS, scans, "part-0")
    return context


@functools.cache
def made() -> Planted:
    """Conditions and cohort, run once for all tests that only read them; needs a Ray session."""
    table = exams()
    context = workspace(Path(_FOLDER.name), table, findings_of(table), workers=2)
    conditions.run(context)
    cohort.run(context)
    return context


_FOLDER = tempfile.TemporaryDirectory(prefix="spineage-cohort-")
