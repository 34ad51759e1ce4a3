"""Who is out of sample: nobody the network learned from, one scan a person where people are compared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from spineage.science.gap.sample import never_used, not_learned_from, out_of_sample, people_to_study


def scores(**columns: Any) -> pd.DataFrame:
    frame = pd.DataFrame(columns)
    return frame.assign(
        scan_id=[f"s{i}" for i in range(len(frame))],
        predicted_years=frame.age_years + 2,
        sag_years=1.0,
    )


def test_people_seen_in_training_or_validation_take_no_part() -> None:
    roles = ["train", "validate", "calibrate", "test", "unseen"]
    people = people_to_study(scores(person_id=list("abcde"), age_years=[50.0] * 5, role=roles))
    assert people.role.tolist() == ["calibrate", "test", "unseen"]
    assert people.raw_gap_years.tolist() == [2.0] * 3


def test_calibration_people_are_left_out_when_there_are_enough_others() -> None:
    num = 130
    roles = ["calibrate"] * 30 + ["test"] * 100
    table = scores(person_id=[f"p{i}" for i in range(num)], age_years=[50.0] * num, role=roles)
    assert set(people_to_study(table).role) == {"test"}
    assert set(people_to_study(table[:-1]).role) == {"calibrate", "test"}


def test_one_scan_a_person_the_earliest_with_a_gap() -> None:
    table = scores(person_id=["a", "a", "b"], age_years=[55.0, 50.0, 40.0], role=["test"] * 3)
    assert people_to_study(table).scan_id.tolist() == ["s1", "s2"]
    table.loc[1, "sag_years"] = np.nan
    assert people_to_study(table).scan_id.tolist() == ["s0", "s2"]


# exposures


def test_each_step_leaves_out_what_its_name_says() -> None:
    roles = ["train", "validate", "calibrate", "test", "unseen"]
    table = scores(person_id=list("abcde"), age_years=[50.0] * 5, role=roles)
    table.loc[3, "sag_years"] = np.nan
    assert not_learned_from(table).role.tolist() == ["calibrate", "test", "unseen"]
    assert out_of_sample(table).role.tolist() == ["calibrate", "unseen"]
    assert never_used(table).role.tolist() == ["unseen"]
