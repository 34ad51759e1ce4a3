"""Values that no magnitude image has: of CT, of labels, of a sign that was lost either way."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from spineage.science.scan.values import value_fault

SHAPE = (12, 60, 90)


def magnitudes(top: float = 900.0, seed: int = 0) -> NDArray[np.float32]:
    """Rician noise in air, tissue of many shades."""
    drawn = np.random.default_rng(seed)
    tissue = np.zeros(SHAPE)
    tissue[:, 15:50, 10:80] = np.linspace(0.1, 1, 70) * top
    noise = drawn.normal(0, 12, (2, *SHAPE))
    return np.round(np.hypot(tissue + noise[0], noise[1])).astype(np.float32)


@pytest.mark.parametrize("top", [300.0, 900.0, 4000.0, 30000.0])
def test_magnitudes_are_let_through(top: float) -> None:
    assert value_fault(magnitudes(top)) is None


def test_a_few_bright_voxels_and_burned_in_text_are_no_lost_sign() -> None:
    voxels = magnitudes()
    voxels[:, 2:6, 2:30] = 4095
    voxels[3, 20, 20:24] = 60000
    assert value_fault(voxels) is None
    marker = magnitudes(top=450)
    marker[2:4, 3:9, 3:13] = 2600 + np.arange(10)
    assert value_fault(marker) is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_image_made_finer_along_one_axis_is_no_label_image(axis: int) -> None:
    assert value_fault(np.repeat(magnitudes(), 4, axis)) is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
def test_a_label_image_is_one_in_any_orientation(order: tuple[int, int, int]) -> None:
    labels = np.zeros(SHAPE, np.float32)
    for n in range(60):  # more values than a count would tell
        labels[2:10, 5 + n % 6 * 8 : 12 + n % 6 * 8, n // 6 * 9 : n // 6 * 9 + 8] = n + 1
    assert value_fault(labels.transpose(order)) is not None


@pytest.mark.parametrize("bits", [12, 16])
def test_a_sign_that_was_lost_either_way_is_told(bits: int) -> None:
    signed = magnitudes() - 30  # noise about zero
    unsigned = np.where(signed < 0, signed + 2**bits, signed).astype(np.float32)
    fault = value_fault(unsigned)
    assert fault
    assert (fault[0], "unsigned" in fault[1]) == ("bad_values", True)
    bright = magnitudes(top=0.9 * 2**bits)
    wrapped = np.where(bright >= 2 ** (bits - 1), bright - 2**bits, bright).astype(np.float32)
    fault = value_fault(wrapped)
    assert fault
    assert "PixelRepresentation" in fault[1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_or_constant_is_told(value: float) -> None:
    voxels = magnitudes()
    voxels[0, 0, 0] = value
    assert value_fault(voxels) == ("bad_values", "voxels are NaN or infinite")
    assert value_fault(np.zeros(SHAPE, np.float32)) == ("bad_values", "all voxels have one value")
