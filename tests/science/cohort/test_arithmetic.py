"""A cohort is the same table on every machine: its arithmetic is pinned, and the bits agree."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.science.cohort import arithmetic
from spineage.science.cohort.arithmetic import arithmetic_in_use, pinned_environment
from spineage.science.cohort.decide import decide
from spineage.study import Cohort
from tests.made.pinned import called, pinned
from tests.made.planted_cohort import FEATURES, population, study_rule
from tests.other_machines import LIBM_WITHOUT_FMA, OTHER_MACHINES

OURS = Cohort().arithmetic
MACHINES = [
    {**OTHER_MACHINES["nehalem"], "NPY_DISABLE_CPU_FEATURES": "X86_V3"},
    {**OTHER_MACHINES["skylake"], **LIBM_WITHOUT_FMA},
]
pytestmark = pytest.mark.skipif(
    platform.machine() not in arithmetic.MACHINES[OURS],
    reason="the default is of another processor",
)


def in_several_parts() -> tuple[pd.DataFrame, npt.NDArray[np.float64]]:
    """People who hang together in several parts: of some of them UMAP's own start was another each time."""
    rng = np.random.default_rng(0)
    mild = np.zeros((48, len(FEATURES)))
    mild[:, :6] = rng.random((48, 6)) < 0.9
    few = np.zeros((372, len(FEATURES)))
    few[:, 10:14] = rng.random((372, 4)) < 0.5
    matrix = np.concatenate([mild, few])
    people = pd.DataFrame(
        {
            "person_id": [f"p{i}" for i in range(420)],
            "split": np.where(np.arange(420) % 4 < 3, "train", "test"),
            "age_years": rng.uniform(25, 84, 420),
            "sex": "F",
            "num_findings": (matrix > 0).sum(axis=1),
            "is_coded": True,
        }
    )
    return people, matrix


def tables() -> list[npt.NDArray[Any]]:
    """What two cohorts hold, to the last bit; the second is fitted twice."""
    people, matrix, _ = population(0.10, num_people=200)
    parts = in_several_parts()
    rule = study_rule(min_people=0)
    found = [
        decide(*one, FEATURES, rule, seed=0).people for one in ((people, matrix), parts, parts)
    ]
    return [
        one[name].to_numpy() for one in found for name in ("status", "cluster", "umap_x", "umap_y")
    ]


@pytest.mark.slow
def test_workers_on_other_processors_agree_bit_for_bit() -> None:
    here = pinned(tables)
    assert all(np.array_equal(a, b) for a, b in zip(here[4:8], here[8:], strict=True))
    for machine in MACHINES:
        there = pinned(tables, machine=machine)
        assert all(np.array_equal(a, b) for a, b in zip(here, there, strict=True)), machine


def test_a_pinned_process_says_what_is_not_pinned_and_another_is_refused() -> None:
    assert pinned(arithmetic_in_use, OURS) == {
        "arithmetic": OURS, "libc": " ".join(platform.libc_ver())
    }  # fmt: skip
    others = [{"NUMBA_CPU_NAME": "generic"}, {"OPENBLAS_CORETYPE": "Nehalem"}]
    if arithmetic._numpy_features().get("X86_V4"):
        others.append({"NPY_DISABLE_CPU_FEATURES": ""})
    for other in others:
        assert "expected" in called(refusal, environment=pinned_environment(OURS) | other)


def refusal() -> str:
    try:
        arithmetic_in_use(OURS)
    except BadStudy as error:
        return str(error)
    return ""


def test_a_processor_that_cannot_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with pytest.raises(BadStudy, match=r"arithmetic is x86-64-v3.*aarch64.*set it to armv8"):
        arithmetic_in_use("x86-64-v3")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(arithmetic, "_numpy_features", lambda: {"AVX2": True, "FMA3": False})
    with pytest.raises(BadStudy, match="lacks FMA3"):
        arithmetic_in_use("x86-64-v3")
    assert pinned_environment("armv8")["NUMBA_CPU_NAME"] == "generic"
