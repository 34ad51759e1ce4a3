"""Who is used for what: every person in exactly one of train, validate, calibrate and test.

Stratified by decade of age, sex and site. The paper splits too, but its ratios are unknown.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

SPLITS = ("train", "validate", "calibrate", "test")
BRACKET_YEARS = 10


def draw_splits(people: pd.DataFrame, shares: Mapping[str, float], seed: int) -> pd.Series:
    """The split of each person, indexed by person_id.

    people: one row a person: person_id, age_years, sex, site (each may be unknown: a stratum of its own).
    People are lined up by stratum, and within a stratum by a hash of seed and person, so the order of the
    rows does not matter. Walking along the line, each goes to the split that is furthest behind its share:
    totals are within two people of the shares, and any stretch of the line (a decade, a decade and sex)
    within three. The seed also draws which split is behind at the start, or the youngest would always train.
    """
    assert people.person_id.is_unique
    assert set(shares) <= set(SPLITS)
    line = pd.DataFrame(
        {
            "bracket": bracket(people.age_years),
            "sex": people.sex.fillna("unknown").astype(str),
            "site": people.site.fillna("unknown").astype(str),
            "lot": [_lot(seed, person) for person in people.person_id],
            "person_id": people.person_id,
        }
    ).sort_values(["bracket", "sex", "site", "lot"])
    names = [name for name in SPLITS if shares.get(name, 0) > 0]
    share = np.array([shares[name] for name in names])
    assert abs(share.sum() - 1) < 1e-6, "shares must sum to 1"
    start = np.random.default_rng(seed).random(len(names)) - 0.5
    behind = start - start.mean()
    drawn = []
    for _ in range(len(line)):
        behind += share
        chosen = int(np.argmax(behind))
        behind[chosen] -= 1
        drawn.append(names[chosen])
    return pd.Series(
        drawn, index=pd.Index(line.person_id, name="person_id"), name="split", dtype=object
    )


def bracket(age_years: pd.Series) -> pd.Series:
    """The decade an age lies in (20 for 20-29.99); -1 when the age is unknown."""
    decade = age_years.astype("float64") // BRACKET_YEARS * BRACKET_YEARS
    return decade.fillna(-1).astype("int64")


def _lot(seed: int, person_id: str) -> str:
    return hashlib.blake2b(f"{seed}:{person_id}".encode(), digest_size=8).hexdigest()
