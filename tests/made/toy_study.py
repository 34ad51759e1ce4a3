"""A workspace of toy spines, as if ingest, segment, cohort and prepare had run: what training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spineage.io.storage.index import part_name
from spineage.io.storage.parquet import write_part
from spineage.run.context import Context
from spineage.stages.prepare import tensor_columns
from spineage.study import study_from
from spineage.tables import COHORT, SCANS, TENSORS
from tests.made.toy_spine import SMALL, ToyPeople

SPLITS = ("train", "train", "train", "validate", "test", "calibrate")
TRAIN = {
    "channels": [4, 8, 8], "epochs": 3, "batch_size": 4, "learning_rate": 1e-2,
}  # fmt: skip


def toy_study(
    folder: Path, *, num_people: int = 18, train: dict[str, Any] | None = None, **sections: Any
) -> Context:
    """A context whose cohort and tensors exist; one scan a person, every ninth not normal."""
    study = study_from(
        {
            "workspace": str(folder),
            "prepare": SMALL.model_dump(),
            "train": {**TRAIN, **(train or {})},
            **sections,
            "cluster": {"train_workers": 0, **sections.get("cluster", {})},
        }
    )
    context = Context(study, say=lambda text: None)
    pin_upstream(context)
    write_tables(context, cohort_of(num_people))
    return context


def pin_upstream(context: Context) -> None:
    """Addresses of stages that toys do not run."""
    for stage in ("ingest", "cohort", "segment", "prepare"):
        context._fingerprints[stage] = f"toy-{stage}"


def cohort_of(num_people: int) -> pd.DataFrame:
    """Rows of the `cohort` table."""
    ages_years = np.random.default_rng(1).permutation(np.linspace(25, 85, num_people))
    return pd.DataFrame(
        {
            "scan_id": [f"scan{i:03d}" for i in range(num_people)],
            "source_digest": [f"{i:064d}"[::-1] for i in range(num_people)],
            "person_id": [f"person{i:03d}" for i in range(num_people)],
            "exam_id": [f"exam{i:03d}" for i in range(num_people)],
            "age_years": ages_years,
            "sex": "F",
            "site": "here",
            "split": [SPLITS[i % len(SPLITS)] for i in range(num_people)],
            "cluster": 0,
            "cluster_name": "none",
            "status": ["not_normal" if i % 9 == 1 else "normal" for i in range(num_people)],
            "fit_status": ["not_normal" if i % 9 == 1 else "normal" for i in range(num_people)],
            "consensus": "unknown",
            "normal_probability": np.nan,
            "umap_x": 0.0,
            "umap_y": 0.0,
            "num_findings": 0,
            "burden": 0.0,
        }
    )


def write_tables(context: Context, cohort: pd.DataFrame) -> None:
    """The cohort, the scans and one tensor each."""
    people = ToyPeople(list(cohort["age_years"]))
    write_part(context.store, context.folder("cohort"), COHORT, cohort, "part-0")
    scans = cohort.assign(
        age_source="participants", vendor="toy", model="toy", field_tesla=1.5, days_since_first=0,
        num_stations=1, extent_mm=700.0, coverage_json="[]", is_phantom=True,
    )[SCANS.schema.names]  # fmt: skip
    write_part(context.store, context.folder("ingest"), SCANS, scans, "part-0")
    for i, row in enumerate(cohort.itertuples()):
        tensor = {
            "scan_id": row.scan_id,
            "source_digest": row.source_digest,
            **tensor_columns(*people.tensor(i)),
        }
        name = part_name(row.scan_id, row.source_digest)
        write_part(context.store, context.folder("prepare"), TENSORS, [tensor], name)
