"""Who is used for what: every person in exactly one of train, validate, calibrate and test.

Stratified by decade of age, sex and site. The paper splits too, but its ratios are unknown. Two things may
be asked beside the shares: sites whose people are all in test, and the splits of an earlier cohort, which
people keep so that a network trained again is tested on people it still has never seen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import pandas as pd

from spineage.science.seeds import Stream, rng_of

SPLITS = ("train", "validate", "calibrate", "test")
BRACKET_YEARS = 10


def draw_splits(
    people: pd.DataFrame,
    shares: Mapping[str, float],
    seed: int,
    *,
    held_out: frozenset[str] = frozenset(),
    kept: Mapping[str, str] | None = None,
) -> pd.Series:
    """The split of each person, indexed by person_id.

    people: one row a person: person_id, age_years, sex, site (each may be unknown: a stratum of its own).
    held_out: people of sites that are only tested on; the shares are those of all others. kept: the split
    that people have had before; it holds, and new people go where their stratum is behind. (A draw that
    depends on a person alone would need no memory, but then strata would hold their shares only by chance:
    with a share of 0.2, one in ten groups of ten people would have nobody in test.)

    People are lined up by stratum, and within a stratum by a hash of seed and person, so the order of the
    rows does not matter. Walking along the line, each goes to the split that is furthest behind its share:
    totals are within two people of the shares, and any stretch of the line (a decade, a decade and sex)
    within three. The seed also draws which split is behind at the start, or the youngest would always train.
    """
    assert people.person_id.is_unique
    assert set(shares) <= set(SPLITS)
    kept = kept or {}
    people = people.reset_index(drop=True)
    line = pd.DataFrame(
        {
            "bracket": bracket(people.age_years),
            "sex": people.sex.fillna("unknown").astype(str),
            "site": people.site.fillna("unknown").astype(str),
            "is_new": ~people.person_id.isin(list(kept)),
            "lot": [_lot(seed, person) for person in people.person_id],
            "person_id": people.person_id,
        }
    ).sort_values(["bracket", "sex", "site", "is_new", "lot"])
    names = [name for name in SPLITS if shares.get(name, 0) > 0]
    share = np.array([shares[name] for name in names])
    assert abs(share.sum() - 1) < 1e-6, "shares must sum to 1"
    start = rng_of(Stream.SPLITS, seed).random(len(names)) - 0.5
    behind = start - start.mean()
    drawn = []
    for person in line.person_id:
        if person in held_out:
            drawn.append("test")
            continue
        behind += share
        split = kept.get(person) or names[int(np.argmax(behind))]
        behind -= np.array([name == split for name in names])
        drawn.append(split)
    return pd.Series(
        drawn, index=pd.Index(line.person_id, name="person_id"), name="split", dtype=object
    )


def bracket(age_years: pd.Series) -> pd.Series:
    """The decade an age lies in (20 for 20-29.99); -1 when the age is unknown."""
    decade = age_years.astype("float64") // BRACKET_YEARS * BRACKET_YEARS
    return decade.fillna(-1).astype("int64")


def _lot(seed: int, person_id: str) -> str:
    return hashlib.blake2b(f"{seed}:{person_id}".encode(), digest_size=8).hexdigest()
