"""How alike two label maps are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS, SEMANTIC, VERTEBRAE
from spineage.science.spine.named import semantic_of


def dice_of(found: Volume, truth: Volume, label: int) -> float:
    """Overlap of one label: 2 |A and B| / (|A| + |B|); 1 when both are empty."""
    a, b = found.voxels_RAS == label, truth.voxels_RAS == label
    total = int(a.sum() + b.sum())
    return 2 * float((a & b).sum()) / total if total else 1.0


@dataclass(frozen=True)
class Agreement:
    """Of one mask with a true one on one grid.

    dice: by tissue, of those that the true one has (a vertebra or disc is in its tissue by any name);
    num_levels: vertebrae of the true one from C2 down, 0 where it names none; num_named_alike: those of which
    most voxels that are any vertebra in the other have the same name.
    """

    dice: dict[str, float]
    num_levels: int
    num_named_alike: int


def agreement(found: Volume, truth: Volume, *, has_levels: bool) -> Agreement:
    """How alike two masks are, in tissue and in names. found: in the levels schema, and truth in it where it
    `has_levels`, else in the semantic one."""
    tissues = {name: value for name, value in SEMANTIC.items() if value}
    seen, true = semantic_of(found), semantic_of(truth) if has_levels else truth
    present = set(np.unique(true.voxels_RAS).tolist())
    dice = {name: dice_of(seen, true, v) for name, v in tissues.items() if v in present}
    named = VERTEBRAE[1:] if has_levels else ()
    levels = [n for n in named if (truth.voxels_RAS == LEVELS[n]).any()]
    alike = [name for name in levels if _usual_name(found, truth, name) == LEVELS[name]]
    return Agreement(dice, len(levels), len(alike))


def _usual_name(found: Volume, truth: Volume, name: str) -> int:
    """The value that most voxels of a true vertebra have, of those that are a vertebra at all; 0 for none."""
    values = found.voxels_RAS[truth.voxels_RAS == LEVELS[name]]
    counts = np.bincount(values[(values > 0) & (values < LEVELS["sacrum"])], minlength=1)
    return int(counts.argmax())
