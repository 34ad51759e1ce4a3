"""A network that draws tissues and knows four discs by name, as TotalSpineSeg's first step does.

It draws the sacrum as one more vertebra: what lies below the disc on it is taken for it. Levels are counted
from C2 as of any semantic mask, and the named discs must be where the count says. Letters: R A S voxel axes.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.science.scan.geometry import Volume, without_crumbs
from spineage.science.spine.canal import find_canal
from spineage.science.spine.discs import disc_from
from spineage.science.spine.labels import LANDMARKS, LEVELS, SEMANTIC, VERTEBRAE, disc_name
from spineage.science.spine.levels import Levels, find_levels

ON_SACRUM: Final = "disc_on_sacrum"
NAMED: Final = {"disc_C2_C3": "C2", "disc_C7_T1": "C7", "disc_T12_L1": "T12"}
"""Landmarks by the vertebra above them."""
MIN_VOXELS: Final = 10
BEHIND_MM: Final = 15.0
"""Behind the canal the last vertebra's spinous process hangs below its disc."""


def levels_from_landmarks(drawn: Volume, *, min_levels: int = 22, max_levels: int = 24) -> Levels:
    """Levels of a volume in labels.LANDMARKS.

    Raises BadScan as `levels.find_levels` does, and levels_unknown where count and landmarks disagree.
    """
    levels = find_levels(_with_sacrum(drawn), min_levels=min_levels, max_levels=max_levels)
    last = [name for name in VERTEBRAE if name in levels.names][-1]
    for landmark, above in (*NAMED.items(), (ON_SACRUM, last)):
        counted = _disc_at(levels.volume, drawn.voxels_RAS == LANDMARKS[landmark])
        if counted not in ("", above):
            raise BadScan(
                "levels_unknown",
                f"the network names the disc below {above}, by count from C2 it is the one below {counted}",
            )
    return levels


def _with_sacrum(drawn: Volume) -> Volume:
    """The tissues of labels.SEMANTIC, with the sacrum told from the vertebrae."""
    table = np.zeros(256, np.uint8)
    for name, value in LANDMARKS.items():
        table[value] = SEMANTIC["disc" if name.startswith("disc") else name]
    tissues = drawn.with_voxels(table[drawn.voxels_RAS])
    on_sacrum = without_crumbs(drawn.voxels_RAS == LANDMARKS[ON_SACRUM], share=0.5)
    if on_sacrum.sum() < MIN_VOXELS:
        raise BadScan(
            "incomplete_spine",
            f"the disc {disc_name('L5', 'sacrum')} was not found, below which the sacrum begins",
        )
    canal = find_canal(tissues)
    disc = disc_from(drawn, canal, np.argwhere(on_sacrum))
    bone = np.argwhere(tissues.voxels_RAS == SEMANTIC["vertebra"])
    points_mm = tissues.to_mm(bone)
    along, forward, _ = canal.locate(points_mm)
    is_below = np.where(
        forward > 0, (points_mm - disc.centre_mm) @ disc.up < 0, along < disc.along_mm - BEHIND_MM
    )
    labels_RAS = tissues.voxels_RAS.copy()
    labels_RAS[tuple(bone[is_below & (along < disc.along_mm + BEHIND_MM)].T)] = SEMANTIC["sacrum"]
    return tissues.with_voxels(labels_RAS)


def _disc_at(levels: Volume, landmark_RAS: NDArray[np.bool_]) -> str:
    """The vertebra above the counted disc that most of a landmark lies in; "" where it was not drawn."""
    values = np.asarray(levels.voxels_RAS[landmark_RAS], np.int64)
    counts = np.bincount(values[(values > 100) & (values < LEVELS["canal"])], minlength=1)
    if counts.sum() < MIN_VOXELS:
        return ""
    return VERTEBRAE[int(counts.argmax()) - 101]
