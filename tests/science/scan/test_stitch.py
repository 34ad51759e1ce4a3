"""Stations cut from one volume come back as that volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.scan.geometry import Affine, Volume, resample
from spineage.science.scan.stitch import assemble, coverage_mm, stitch


def body(seed: int = 1) -> Volume:
    """A smooth structured volume of 9 slices, 60 x 200 pixels of 2 mm, brighter on the left."""
    noise = np.random.default_rng(seed).random((9, 60, 200))
    voxels = 200 + 900 * ndimage.gaussian_filter(noise, (0.7, 2.5, 2.5)) ** 2 * 4
    voxels *= np.linspace(1.5, 0.7, 9)[:, None, None]
    affine = np.diag([4.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = (-18, -60, -200)
    return Volume(voxels.astype(np.float32), affine)


def cut(volume: Volume, low: float, high: float, gain: float = 1.0) -> Volume:
    """The rows from low to high, as a station with its own gain."""
    first, last = int(low), int(high)
    affine = volume.affine_RAS.copy()
    affine[:3, 3] = volume.to_mm(np.array([0.0, 0.0, first]))
    return Volume(volume.voxels_RAS[:, :, first:last] * np.float32(gain), affine)


def tilted(volume: Volume, degrees: float, rows: tuple[int, int], spacing_mm: float) -> Volume:
    """A station as a scanner would acquire it with the patient's back tilted: other grid, same world."""
    turn = np.radians(degrees)
    around_R = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    affine: Affine = np.eye(4)
    affine[:3, :3] = around_R @ np.diag([4.0, spacing_mm, spacing_mm])
    affine[:3, 3] = volume.to_mm(np.array([0.0, 2.0, rows[0]]))
    shape = (9, int(110 / spacing_mm), int((rows[1] - rows[0]) * 2 / spacing_mm))
    return resample(volume, shape, affine, order=1)


INNER = (slice(1, -1), slice(14, -14), slice(8, -12))  # what both tilted stations surely cover


def on_grid_of(truth: Volume, found: Volume) -> np.ndarray:
    """The inner part of `found` at the truth's voxel centres, brought to the truth's median."""
    there = resample(found, truth.voxels_RAS.shape, truth.affine_RAS, order=1).voxels_RAS[INNER]
    return there * np.median(truth.voxels_RAS[INNER]) / np.median(there)


def shift_voxels(one: np.ndarray, two: np.ndarray) -> float:
    """Displacement of two pictures [A, S] at the peak of their cross-correlation, in whole voxels."""
    spectra = [np.fft.fft2(picture - picture.mean()) for picture in (one, two)]
    peak = np.fft.ifft2(spectra[0] * spectra[1].conj()).real
    at = np.array(np.unravel_index(int(peak.argmax()), peak.shape))
    return float(np.linalg.norm(np.minimum(at, np.array(peak.shape) - at)))


def test_one_station_comes_back_as_it_is() -> None:
    whole = body()
    assert np.array_equal(stitch([whole]).voxels_RAS, whole.voxels_RAS)


def test_stations_on_one_lattice_with_equal_gain_come_back_exactly() -> None:
    whole = body()
    found = stitch([cut(whole, 0, 80), cut(whole, 130, 200), cut(whole, 60, 150)])
    np.testing.assert_allclose(found.affine_RAS, whole.affine_RAS, atol=1e-9)
    np.testing.assert_allclose(found.voxels_RAS, whole.voxels_RAS, rtol=1e-5)


def test_gains_of_stations_are_matched_to_the_middle_one() -> None:
    whole = body()
    parts = [cut(whole, 130, 200, 1.6), cut(whole, 60, 150), cut(whole, 0, 80, 0.5)]
    np.testing.assert_allclose(stitch(parts).voxels_RAS, whole.voxels_RAS, rtol=1e-3)


def test_stations_off_the_lattice_come_back_within_five_percent_and_one_voxel() -> None:
    whole = body()
    upper = tilted(whole, 0.0, (120, 200), 1.7)
    lower = tilted(whole, 2.0, (2, 140), 2.3)
    found = on_grid_of(whole, stitch([upper.with_voxels(upper.voxels_RAS * 1.4), lower]))
    truth = whole.voxels_RAS[INNER]
    assert np.percentile(np.abs(found - truth) / truth, 95) < 0.05
    assert shift_voxels(found[3], truth[3]) < 1.0


def test_left_stays_left() -> None:
    whole = body()
    found = stitch([cut(whole, 0, 110), cut(whole, 90, 200, 0.7)])
    brightness = found.voxels_RAS.mean(axis=(1, 2))
    assert (np.diff(brightness) < 0).all(), (
        "the volume was made brighter on the left (first R index)"
    )


def test_order_of_stations_does_not_matter() -> None:
    whole = body()
    parts = [cut(whole, 130, 200, 1.2), cut(whole, 60, 150), cut(whole, 0, 80, 0.8)]
    one, two = stitch(parts), stitch(parts[::-1])
    assert np.array_equal(one.voxels_RAS, two.voxels_RAS)
    assert np.array_equal(one.affine_RAS, two.affine_RAS)


def test_a_gap_between_stations_is_refused_and_its_length_named() -> None:
    whole = body()
    with pytest.raises(BadScan, match="gap of 20 mm") as fault:
        stitch([cut(whole, 0, 90), cut(whole, 100, 200)])
    assert fault.value.code == "stations_apart"


def test_a_tolerated_gap_is_filled_from_its_edges() -> None:
    whole = body()
    found = stitch([cut(whole, 0, 99), cut(whole, 100, 200)], max_gap_mm=2.0).voxels_RAS
    row = found[:, :, 99]
    lower, upper = found[:, :, 98], found[:, :, 100]
    assert (row >= np.minimum(lower, upper) - 1e-2).all()
    assert (row <= np.maximum(lower, upper) + 1e-2).all()


def test_the_seam_is_a_ramp_not_a_step() -> None:
    flat = Volume(np.full((5, 40, 100), 100, np.float32), np.diag([4.0, 2.0, 2.0, 1.0]))
    lower, upper = cut(flat, 0, 60), cut(flat, 40, 100)
    falling = upper.with_voxels(upper.voxels_RAS * np.linspace(0.5, 1.5, 60, dtype=np.float32))
    profile = stitch([lower, falling]).voxels_RAS[2, 20]
    steps = np.abs(np.diff(profile)) / profile[:-1]
    assert steps.max() < 0.06, "a hard seam would step by a fifth or more"


def test_stations_that_show_different_things_are_refused() -> None:
    one, other = body(1), body(2)
    flat = np.linspace(0.7, 1.5, 9)[:, None, None] / np.linspace(1.5, 0.7, 9)[:, None, None]
    stranger = cut(other, 60, 200)
    with pytest.raises(BadScan) as fault:
        stitch([cut(one, 0, 100), stranger.with_voxels(stranger.voxels_RAS * np.float32(flat))])
    assert fault.value.code == "stations_disagree"


def test_coverage_reaches_to_the_faces_of_the_outermost_voxels() -> None:
    assert coverage_mm(body()) == pytest.approx((-201.0, 199.0))


def moved(station: Volume, *shift_mm: float) -> Volume:
    """What the scanner stores of a person who slid: the same picture at another place."""
    affine = station.affine_RAS.copy()
    affine[:3, 3] += shift_mm
    return Volume(station.voxels_RAS, affine)


@pytest.mark.parametrize("shift_mm", [(0.0, 3.0, -2.6), (0.0, -1.7, 4.1), (0.0, 0.0, 3.4)])
def test_a_person_who_slid_between_stations_is_moved_back(shift_mm: tuple[float, ...]) -> None:
    whole = body()
    parts = [cut(whole, 60, 200), moved(cut(whole, 0, 100, 0.7), *shift_mm)]
    found = assemble(parts)
    by_station = {piece.station: piece for piece in found.pieces}
    assert by_station[0].shift_mm == (0.0, 0.0, 0.0) or by_station[1].shift_mm == (0.0, 0.0, 0.0)
    between = np.subtract(by_station[1].shift_mm, by_station[0].shift_mm)
    np.testing.assert_allclose(between, [-x for x in shift_mm], atol=0.5)


def test_of_three_stations_only_the_one_that_moved_is_moved() -> None:
    whole = body()
    parts = [cut(whole, 130, 200), moved(cut(whole, 0, 80, 1.3), 0, 2.0, -4.0), cut(whole, 60, 150)]
    found = assemble(parts)
    shifts = {piece.station: piece.shift_mm for piece in found.pieces}
    assert shifts[0] == shifts[2] == (0.0, 0.0, 0.0)
    np.testing.assert_allclose(shifts[1], (0.0, -2.0, 4.0), atol=0.3)
    there = resample(found.volume, whole.voxels_RAS.shape, whole.affine_RAS, order=1).voxels_RAS
    error = np.abs(there - whole.voxels_RAS)[INNER] / whole.voxels_RAS[INNER]
    assert np.percentile(error, 95) < 0.05


def test_a_person_who_moved_too_far_is_refused_and_the_distance_named() -> None:
    whole = body()
    parts = [cut(whole, 60, 200), moved(cut(whole, 0, 100), 0, 6.0, 6.0)]
    with pytest.raises(BadScan, match="lies 8 mm apart, at most 5 mm") as fault:
        stitch(parts)
    assert fault.value.code == "stations_moved"


def test_stations_that_lie_well_are_never_moved() -> None:
    """Other noise, gain and shading in each, another spacing and a tilt of two degrees in one."""
    whole = body()
    rng = np.random.default_rng(3)
    lower = tilted(whole, 2.0, (2, 120), 2.3)
    shade = np.linspace(0.6, 1.4, lower.voxels_RAS.shape[2])
    noise = rng.normal(1, 0.02, lower.voxels_RAS.shape)
    parts = [cut(whole, 80, 200, 1.5), lower.with_voxels(lower.voxels_RAS * shade * noise)]
    assert {piece.shift_mm for piece in assemble(parts).pieces} == {(0.0, 0.0, 0.0)}


def test_a_station_inside_another_is_matched_to_it_and_changes_nothing() -> None:
    """Double coverage: the short station shares nothing with its neighbour, and all with the long one."""
    whole = body()
    parts = [cut(whole, 150, 200, 0.6), cut(whole, 20, 90, 1.8), cut(whole, 0, 180)]
    found = assemble(parts)
    gains = {piece.station: piece.gain for piece in found.pieces}
    assert gains[0] / gains[2] == pytest.approx(1 / 0.6, rel=1e-3)
    assert gains[1] / gains[2] == pytest.approx(1 / 1.8, rel=1e-3)
    np.testing.assert_allclose(found.volume.voxels_RAS, gains[2] * whole.voxels_RAS, rtol=1e-3)


def test_the_pieces_say_which_millimetres_each_station_gave_and_what_is_missing() -> None:
    whole = body()
    parts = [cut(whole, 0, 99), cut(whole, 100, 200)]
    found = assemble(parts, max_gap_mm=2.0)
    spans = {piece.station: (piece.low_mm, piece.high_mm) for piece in found.pieces}
    assert spans == {0: pytest.approx((-201.0, -3.0)), 1: pytest.approx((-1.0, 199.0))}
    assert found.pieces[0].station == 1, "head first"
    assert found.gaps_mm == [pytest.approx((-3.0, -1.0))]


def test_the_corners_of_a_tilted_station_do_not_hide_a_gap() -> None:
    """110 mm deep and tilted by 8 degrees, its corner reaches 8 mm higher than its middle."""
    whole = body()
    lower = tilted(whole, 8.0, (2, 90), 2.0)
    top = coverage_mm(lower)[1]
    first_row = int(np.ceil((top + 6.0 - whole.affine_RAS[2, 3]) / 2 + 0.5))
    with pytest.raises(BadScan, match=r"gap of [67] mm") as fault:
        stitch([cut(whole, first_row, 200), lower])
    assert fault.value.code == "stations_apart"
