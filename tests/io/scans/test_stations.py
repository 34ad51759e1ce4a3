"""Phantom spines cut into stations and assembled again, as real ones are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from spineage.io.phantom.write import write_exam
from spineage.io.scans.read import read_assembly, read_stations
from spineage.science.phantom import PhantomRecipe, Rendered, draw_population, render
from tests.made.cut_stations import cut_and_assembled, errors, shifts, sides
from tests.made.sealed import sealed

RECIPE = PhantomRecipe(num_people=2, seed=31)
EXAM = draw_population(RECIPE)[0]


@pytest.fixture(scope="module")
def rendered() -> Rendered:
    return render(EXAM, RECIPE)


def test_a_phantom_cut_at_three_spacings_and_a_tilt_comes_back(
    rendered: Rendered, tmp_path: Path
) -> None:
    whole = rendered.image
    found = cut_and_assembled(whole, tmp_path)
    assert {piece.shift_mm for piece in found.pieces} == {(0.0, 0.0, 0.0)}
    assert np.percentile(errors(whole, found.volume), 95) < 0.05
    assert max(shifts(whole, found.volume)) < 1.0
    straight, mirrored = sides(whole, found.volume)
    assert straight > 0.999 > mirrored


def test_the_stations_a_phantom_scanner_stores_are_not_moved_and_can_be_had_singly(
    rendered: Rendered, tmp_path: Path
) -> None:
    """Each with its own gain, noise and fall-off towards its ends."""
    write_exam(rendered, EXAM, tmp_path, RECIPE)
    names = ("cervical", "thoracic", "lumbar")
    row = sealed(
        [
            [
                {"location": str(path), "kind": "dicom", "frame": 0}
                for path in (tmp_path / n).iterdir()
            ]
            for n in names
        ]
    )
    found = read_assembly(row)
    assert {piece.shift_mm for piece in found.pieces} == {(0.0, 0.0, 0.0)}
    assert found.gaps_mm == []
    assert max(shifts(rendered.image, found.volume)) < 1.0
    singles = read_stations(row)
    for piece in found.pieces:
        low, high = singles[piece.station].to_mm(
            np.array([[0, 0, -0.5], [0, 0, singles[piece.station].voxels_RAS.shape[2] - 0.5]])
        )[:, 2]
        assert (piece.low_mm, piece.high_mm) == pytest.approx((low, high))
