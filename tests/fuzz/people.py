"""The tables that come with the images, as CSV and as parquet: read, coded and tested for factors."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spineage.io.people.overrides import read_overrides
from spineage.io.people.tables import (
    read_codebook,
    read_findings,
    read_lifestyle,
    read_participants,
    read_splits,
)
from spineage.science.cohort.coding import code
from spineage.science.gap.exposures import of_lifestyle
from spineage.tables import CONDITIONS
from tests.fuzz.columns import damaged_parquet
from tests.fuzz.corpus import CANARY
from tests.fuzz.images import KEYED
from tests.fuzz.outcome import Answer, Trial, outcome
from tests.fuzz.texts import damaged_text

SEPARATORS = {"csv": ",", "semicolons.csv": ";", "tsv": "\t"}


def make(folder: Path, *, with_real: bool) -> Trial:
    sources: list[tuple[str, str, bytes]] = []
    for what, table in _tables().items():
        for suffix, separator in SEPARATORS.items():
            data = table.to_csv(index=False, sep=separator).encode()
            sources.append((what, suffix, data))
        sink = io.BytesIO()
        table.to_parquet(sink, index=False)
        sources.append((what, "parquet", sink.getvalue()))

    def trial(seed: int, number: int) -> Answer:
        rng = np.random.default_rng([seed, number])
        what, suffix, data = sources[number % len(sources)]
        damage = damaged_parquet if suffix == "parquet" else damaged_text
        place = folder / f"table.{suffix}"
        place.write_bytes(damage(data, rng))
        return {"source": f"{what}.{suffix}", **outcome(lambda: READERS[what](str(place)))}

    return trial


def _findings(location: str) -> None:
    table, _ = code(read_findings(location, KEYED), read_codebook()[0])
    assert set(table.columns) >= set(CONDITIONS.schema.names)


def _participants(location: str) -> None:
    table = read_participants(location, KEYED)
    assert table.age_years.dropna().between(0, 120).all()


READERS: dict[str, Callable[[str], Any]] = {
    "findings": _findings,
    "participants": _participants,
    "lifestyle": lambda at: of_lifestyle(read_lifestyle(at, KEYED)),
    "splits": read_splits,
    "overrides": read_overrides,
}


def _tables() -> dict[str, pd.DataFrame]:
    people = [f"{CANARY} {i}" for i in range(12)]
    exams = [f"{CANARY}.exam.{i}" for i in range(12)]
    repeat = {"person": people, "exam": exams}
    return {
        "findings": pd.DataFrame(
            {
                **repeat,
                "finding": ["disc herniation", "osteophyte", "stenosis", "Modic changes"] * 3,
                "level": ["L4/5", "C5/6", "T12", "L5/S1"] * 3,
                "side": ["left", "", "both", "right"] * 3,
                "severity": ["mild", "moderate", "severe", "2"] * 3,
            }
        ),
        "participants": pd.DataFrame(
            {**repeat, "sex": ["F", "M"] * 6, "site": ["hill", "lake"] * 6,
             "age_years": [str(20 + 5 * i) for i in range(12)]}
        ),
        "lifestyle": pd.DataFrame(
            {"person": people, "smoking": ["yes", "no", "never"] * 4,
             "bmi": [str(20.5 + i) for i in range(12)], "work": ["heavy", "light", "desk", ""] * 3}
        ),
        "splits": pd.DataFrame(
            {"person_id": [f"{i:016x}" for i in range(12)],
             "split": ["train", "validate", "calibrate", "test"] * 3, "decade": "30-39"}
        ),
        "overrides": pd.DataFrame(
            {"series_id": [f"{i:016x}" for i in range(6)], "decision": ["accept", "refuse"] * 3,
             "reason": "moved"}
        ),
    }  # fmt: skip
