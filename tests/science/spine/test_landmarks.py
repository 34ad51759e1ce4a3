"""Tissues and four named discs: the sacrum is told from the vertebrae, and count and names must agree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LANDMARKS, LEVELS
from spineage.science.spine.landmarks import levels_from_landmarks
from spineage.segmenter.published.adopt import describe
from spineage.segmenter.published.layouts import LAYOUTS
from tests.segmenter.published.test_adopt import dataset_of

RECIPE = PhantomRecipe(
    num_people=3, seed=7, repeat_share=0.0, transitional_share=0.0, artefact_share=0.0
)
KNOWN = {
    "disc_below_C2": "disc_C2_C3", "disc_below_C7": "disc_C7_T1", "disc_below_T12": "disc_T12_L1",
    "disc_below_L5": "disc_on_sacrum",
}  # fmt: skip


@pytest.fixture(scope="module")
def truths() -> list[Volume]:
    return [render(exam, RECIPE).levels for exam in draw_population(RECIPE)]


def as_drawn(levels: Volume, known: dict[str, str] = KNOWN) -> Volume:
    """What TotalSpineSeg's first step would draw of it: the sacrum is one more vertebra."""
    table = np.zeros(256, np.uint8)
    for name, value in LEVELS.items():
        tissue = "disc" if name.startswith("disc_") else "vertebra"
        if name in ("background", "canal", "cord"):
            tissue = name
        table[value] = LANDMARKS[known.get(name, tissue)]
    return levels.with_voxels(table[levels.voxels_RAS])


def test_levels_and_sacrum_are_those_of_the_truth(truths: list[Volume]) -> None:
    for truth in truths:
        found = levels_from_landmarks(as_drawn(truth))
        assert found.numbering == "regular"
        for name in ("C2", "C7", "T6", "L1", "L5", "sacrum", "disc_below_L5", "disc_below_C7"):
            here = truth.voxels_RAS == LEVELS[name]
            share = float((found.volume.voxels_RAS[here] == LEVELS[name]).mean())
            assert share > (0.85 if name == "sacrum" else 0.6), (name, share)


@pytest.mark.parametrize(
    ("moved", "to"), [("disc_below_C7", "disc_below_T1"), ("disc_below_T12", "disc_below_T11")]
)
def test_a_count_that_its_landmarks_contradict_is_refused(
    truths: list[Volume], moved: str, to: str
) -> None:
    known: dict[str, Any] = {k: v for k, v in KNOWN.items() if k != moved} | {to: KNOWN[moved]}
    with pytest.raises(BadScan, match="by count from C2 it is the one below") as told:
        levels_from_landmarks(as_drawn(truths[0], known))
    assert told.value.code == "levels_unknown"


def test_a_landmark_that_was_not_drawn_contradicts_nothing(truths: list[Volume]) -> None:
    known = {k: v for k, v in KNOWN.items() if k != "disc_below_T12"}
    assert levels_from_landmarks(as_drawn(truths[0], known)).numbering == "regular"


def test_without_the_disc_on_the_sacrum_there_is_no_sacrum(truths: list[Volume]) -> None:
    known = {k: v for k, v in KNOWN.items() if k != "disc_below_L5"}
    with pytest.raises(BadScan, match="below which the sacrum begins") as told:
        levels_from_landmarks(as_drawn(truths[0], known))
    assert told.value.code == "incomplete_spine"


def test_the_released_model_is_known_by_its_nine_regions(tmp_path: Any) -> None:
    facts = describe(tmp_path, dataset_of(LAYOUTS["totalspineseg-step1"]), None, None, None)
    assert (facts["schema"], facts["orientation"]) == ("landmarks", "RAS")
    assert facts["labels"] == {
        "0": "background", "1": "disc", "2": "disc_C2_C3", "3": "disc_C7_T1", "4": "disc_T12_L1",
        "5": "disc_on_sacrum", "6": "vertebra", "7": "vertebra", "8": "canal", "9": "cord",
    }  # fmt: skip
    assert "iterative labelling" in " ".join(facts["without"])
