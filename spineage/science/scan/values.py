"""What voxels say against a magnitude MR image, whatever their file calls itself."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_LABELS: Final = 32  # a label image has few values; MR has hundreds
MAX_SAME: Final = 0.7  # share of voxels equal to their neighbour: labels 0.8 and more, MR below 0.1
LEAST_VALUE: Final = -200.0  # MR magnitudes are not negative; resampling overshoots by far less
TYPE_BITS: Final = (8, 10, 12, 14, 15, 16, 32)
NEARLY: Final = 0.02
"""Noise just below zero is as near to the end of an unsigned type."""
BINS: Final = 16  # of the range, half of which is empty where a sign was lost
WRAPPED_SHARE: Final = 1e-3
WRAPPED_VALUES: Final = 8
"""Noise below zero that a lost sign puts at the top: so much of it, and so varied; burned-in text is not."""


def value_fault(voxels: NDArray[np.float32]) -> tuple[str, str] | None:
    """(code, message), or None. Codes: bad_values, not_mr, not_an_image."""
    if not np.isfinite(voxels).all():
        return "bad_values", "voxels are NaN or infinite"
    low, high = float(voxels.min()), float(voxels.max())
    if low == high:
        return "bad_values", "all voxels have one value"
    if low < LEAST_VALUE:
        return "not_mr", (
            f"values reach down to {low:.0f}, as Hounsfield units of CT do, or magnitudes whose sign is "
            "wrongly declared (PixelRepresentation)"
        )
    if _is_label_image(voxels):
        return "not_an_image", "few whole numbers in flat regions: a mask or label image"
    if _is_wrapped(voxels, low, high):
        return "bad_values", (
            f"values lie at both ends of {low:.0f} to {high:.0f} and none between: negative ones are "
            "declared as unsigned"
        )
    return None


def _is_label_image(voxels: NDArray[np.float32]) -> bool:
    if (voxels != np.round(voxels)).any():
        return False
    few = np.unique(voxels[::7, ::7, ::7])  # sorting all takes a minute in the largest
    if len(few) <= MAX_LABELS and len(np.unique(voxels)) <= MAX_LABELS:
        return True
    return (
        float(np.median([_share_of_same(voxels.swapaxes(0, axis)) for axis in range(3)])) > MAX_SAME
    )


def _share_of_same(voxels: NDArray[np.float32]) -> float:
    """Of neighbours along the first axis that are both something the share that are equal."""
    here, right = voxels[:-1], voxels[1:]
    inside = (here != 0) & (right != 0)
    return float((here[inside] == right[inside]).mean()) if inside.any() else 0.0


def _is_wrapped(voxels: NDArray[np.float32], low: float, high: float) -> bool:
    """Noise at both ends of the range, which is that of a type, and nothing in half of it between them."""
    if not any((1 - NEARLY) * 2**bits < high < 2**bits for bits in TYPE_BITS):
        return False
    some = voxels[::3, ::3, ::3]
    edges = np.linspace(low, high, BINS + 1)
    is_met = np.histogram(some, edges)[0] > 0
    met = np.flatnonzero(is_met)
    widest = int(np.argmax(np.diff(met))) if len(met) > 1 else 0
    if len(met) < 2 or met[widest + 1] - met[widest] <= BINS // 2:
        return False
    top = some[some >= edges[met[widest + 1]]]
    return top.size > WRAPPED_SHARE * some.size and len(np.unique(top)) >= WRAPPED_VALUES
