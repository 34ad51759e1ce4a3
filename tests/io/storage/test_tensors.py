"""A tensor is of the scan that it is asked for, whatever its file is called."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.io.storage.index import part_name
from spineage.io.storage.tensors import people_of
from tests.made.toy_study import toy_study


def test_a_tensor_under_the_name_of_another_scan_is_refused(tmp_path: Path) -> None:
    context = toy_study(tmp_path, num_people=3)
    cohort, folder = context.read("cohort"), context.folder("prepare")
    one, other = (
        f"{folder}/tensors/{part_name(row.scan_id, row.source_digest)}.parquet"
        for row in cohort.itertuples()
        if row.Index < 2
    )
    people = people_of(context.store, folder, cohort)
    assert people.tensor(0)[0].size
    os.replace(context.store.local(other), context.store.local(one))
    with pytest.raises(BadStudy, match=r"scan000 holds another scan: run `spineage prepare` again"):
        people_of(context.store, folder, cohort).tensor(0)
    assert not context.store.exists(one), "set aside, and made anew by the next prepare"
