"""How alike two label maps are."""

from __future__ import annotations

from spineage.science.scan.geometry import Volume


def dice_of(found: Volume, truth: Volume, label: int) -> float:
    """Overlap of one label: 2 |A and B| / (|A| + |B|); 1 when both are empty."""
    a, b = found.voxels_RAS == label, truth.voxels_RAS == label
    total = int(a.sum() + b.sum())
    return 2 * float((a & b).sum()) / total if total else 1.0
