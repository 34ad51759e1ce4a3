"""Out of sample, defined once: scans of people that the network was neither fitted to nor chosen by.

All functions take rows of `scores` (role: what the model used the person for) and return some of them.
"""

from __future__ import annotations

import pandas as pd

LEARNED_FROM = ("train", "validate")
ENOUGH_PEOPLE = 100
"""With this many people neither trained nor calibrated on, the calibration people are left out too: the
age-bias correction was fitted on their gaps. With fewer they are needed more than the few coefficients
they shaped hurt."""


def not_learned_from(scores: pd.DataFrame) -> pd.DataFrame:
    """Whatever is known of them, ages too or not."""
    return scores[~scores["role"].isin(LEARNED_FROM)]


def out_of_sample(scores: pd.DataFrame) -> pd.DataFrame:
    """Those of them that have a SAG."""
    unseen = not_learned_from(scores)
    return unseen[unseen["sag_years"].notna()]


def never_used(scores: pd.DataFrame) -> pd.DataFrame:
    """Out-of-sample scans of people that took no part in fitting the age correction either."""
    unseen = out_of_sample(scores)
    return unseen[unseen["role"] != "calibrate"]


def people_to_study(scores: pd.DataFrame) -> pd.DataFrame:
    """One out-of-sample scan a person, the earliest; calibration people only when fewer than ENOUGH_PEOPLE
    remain without them. Adds raw_gap_years (predicted minus chronological age). Sorted by person."""
    untouched = never_used(scores)
    enough = untouched["person_id"].nunique() >= ENOUGH_PEOPLE
    known = untouched if enough else out_of_sample(scores)
    known = known.sort_values(["person_id", "age_years", "scan_id"]).drop_duplicates("person_id")
    gap_years = known["predicted_years"] - known["age_years"]
    return known.assign(raw_gap_years=gap_years).reset_index(drop=True)
