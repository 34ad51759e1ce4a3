"""The study file: read, and what an address is made of."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml

from spineage.study import Study, commented_study, read_study
from tests.fuzz.outcome import Answer, Trial, outcome
from tests.fuzz.texts import damaged_text

SECTIONS = ("ingest", "segment", "prepare", "cohort", "stability", "train", "calibrate", "score",
            "associate", "explain", "report", "ablate", "sweep")  # fmt: skip


def make(folder: Path, *, with_real: bool) -> Trial:
    whole = Study().model_dump(mode="json", by_alias=True)
    sources = {
        "commented": commented_study().encode(),
        "dumped": yaml.safe_dump(whole).encode(),
        "short": b"inputs:\n  scans: scans\n  findings: f.csv\ncohort: {rule: burden, train: 0.55}\n"
        b"cluster: {gpus_per_worker: 1}\n",
        "json": json.dumps(whole).encode(),
    }
    place = folder / "study.yaml"

    def read() -> None:
        study = read_study(place)
        json.dumps(study.recipe(*SECTIONS), allow_nan=False)
        yaml.safe_dump(study.model_dump(mode="json", by_alias=True))

    def trial(seed: int, number: int) -> Answer:
        rng = np.random.default_rng([seed, number])
        name = list(sources)[number % len(sources)]
        place.write_bytes(damaged_text(sources[name], rng))
        return {"source": name, **outcome(read)}

    return trial
