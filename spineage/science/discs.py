"""Discs as things: a component of voxels in front of the canal, with a place along it and a tilt.

Letters: R A S voxel axes; N voxels; 3 coordinates.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.canal import Canal, Points, voxel_mm3
from spineage.science.geometry import Volume
from spineage.science.labels import SEMANTIC

MIN_DISC_MM3 = 120.0
"""The smallest cervical disc has 500 mm3; fragments below this are joined to a neighbour or dropped."""
MIN_PIECE_MM3 = 40.0
FORWARD_MM = (4.0, 55.0)
"""A disc's centre in front of the canal's centre line: 12 mm at C2/3, 30 mm in a big lumbar spine."""
MAX_SIDE_MM = 25.0
MAX_TILT = float(np.cos(np.radians(35)))


@dataclass(frozen=True)
class Disc:
    """One disc. up: [3] unit normal; voxels: [N, 3] indices, none when it was inferred."""

    centre_mm: Points
    up: Points
    along_mm: float
    side_mm: float
    voxels: NDArray[np.int64]

    @property
    def is_inferred(self) -> bool:
        """Not seen, but certain from its neighbours."""
        return len(self.voxels) == 0

    @staticmethod
    def inferred(centre_mm: Points, canal: Canal) -> Disc:
        """A disc that must be at a place; its tilt is the canal's."""
        along, _, side = canal.locate(centre_mm[None])
        none = np.zeros((0, 3), np.int64)
        return Disc(centre_mm, canal.up_at(float(along[0])), float(along[0]), float(side[0]), none)

    @staticmethod
    def between(lower: Disc, upper: Disc) -> Disc:
        """The disc midway between two that are two vertebrae apart."""
        up = lower.up + upper.up
        return Disc(
            (lower.centre_mm + upper.centre_mm) / 2,
            up / np.linalg.norm(up),
            (lower.along_mm + upper.along_mm) / 2,
            (lower.side_mm + upper.side_mm) / 2,
            np.zeros((0, 3), np.int64),
        )


def find_discs(semantic: Volume, canal: Canal, sacrum_mm: Points) -> list[Disc]:
    """All discs, from the sacrum up. Pieces of one disc are joined; what lies beside, behind or within the
    sacrum is dropped.

    Raises BadScan `implausible_mask` when most disc tissue lies behind the canal, and `levels_unknown` when fewer
    than five discs are left.
    """
    labels, count = ndimage.label(semantic.voxels_RAS == SEMANTIC["disc"], np.ones((3, 3, 3)))
    voxels = np.argwhere(labels)
    component = labels[tuple(voxels.T)]
    along, forward, side = canal.locate(semantic.to_mm(voxels))
    if len(voxels) and np.mean(forward < 0) > 0.3:
        raise BadScan("implausible_mask", "most discs lie behind the canal: back to front, or labels are mixed up")
    sizes = np.bincount(component, minlength=count + 1)

    def mean(values: Points) -> Points:
        return np.bincount(component, values, count + 1) / np.maximum(sizes, 1)

    sacrum_along, sacrum_forward, _ = canal.locate(sacrum_mm)
    sacrum_top = float(np.percentile(sacrum_along[sacrum_forward > 0], 70)) if (sacrum_forward > 0).any() else 0.0
    is_disc = (
        (sizes * voxel_mm3(semantic) >= MIN_PIECE_MM3)
        & (mean(forward) > FORWARD_MM[0])
        & (mean(forward) < FORWARD_MM[1])
        & (np.abs(mean(side)) < MAX_SIDE_MM)
        & (mean(along) > sacrum_top)
    )
    is_disc[0] = False
    places = mean(along)
    order = [int(c) for c in np.argsort(places) if is_disc[c]]
    groups = _joined(order, places, sizes * voxel_mm3(semantic))
    if len(groups) < 5:
        raise BadScan("levels_unknown", f"{len(groups)} discs were found, expected 22 to 24")
    return [disc_from(semantic, canal, voxels[np.isin(component, g)]) for g in groups]


def _joined(order: list[int], places: Points, volumes_mm3: Points) -> list[list[int]]:
    """Components that are pieces of one disc, together: nearer than half of what parts whole discs there."""
    whole = [c for c in order if volumes_mm3[c] >= MIN_DISC_MM3]
    if len(whole) < 3:
        return [[c] for c in whole]
    gaps = np.diff(places[whole])
    groups: list[list[int]] = []
    for c in order:
        near = np.argsort(np.abs(places[whole] - places[c]))[:6]
        pitch_mm = float(np.median(gaps[np.clip(near, 0, len(gaps) - 1)]))
        if groups and places[c] - places[groups[-1][-1]] < 0.45 * pitch_mm:
            groups[-1].append(c)
        else:
            groups.append([c])
    return [g for g in groups if volumes_mm3[g].sum() >= MIN_DISC_MM3]


def disc_from(volume: Volume, canal: Canal, voxels: NDArray[np.int64]) -> Disc:
    """Centre and tilt of a set of voxels; the tilt follows the voxels unless they are too few or too odd."""
    points = volume.to_mm(voxels)
    centre = points.mean(0)
    along, _, side = canal.locate(centre[None])
    axis = canal.up_at(float(along[0]))
    _, _, directions = np.linalg.svd(points - centre, full_matrices=False)
    normal = directions[-1] * np.sign(directions[-1] @ axis or 1.0)
    up = normal if len(voxels) >= 30 and normal @ axis > MAX_TILT else axis
    return Disc(centre, up, float(along[0]), float(side[0]), voxels)
