"""The spinal canal as a curve: how far along it, how far in front of it, how far beside it a point lies.

Every rule about levels is written in these three coordinates, so a bent spine is as good as a straight one.
Letters: R A S voxel axes; N points; 3 the coordinates (R, A, S) in mm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from spineage.errors import BadScan
from spineage.science.scan.geometry import Points, Volume, where_mm, without_crumbs
from spineage.science.spine.labels import LEVELS, SEMANTIC, VERTEBRAE

STEP_MM = 1.0
SMOOTH_MM = 8.0
"""Above the wobble of a voxelised centroid, below the bend of any spine."""
TANGENT_MM = 30.0
"""Length over which the ends are prolonged straight."""
MIN_LENGTH_MM = 60.0
MIN_BONES = 5
BESIDE_MM = 5.0
"""Along S: the cord at the height of a vertebra's middle."""


@dataclass(frozen=True)
class Canal:
    """The centre line of canal and cord, from caudal to cranial.

    points_mm: [N, 3], STEP_MM apart, prolonged straight at both ends; up: [N, 3] unit tangents;
    forward: [N, 3] unit vectors to the front, across the tangent; low_mm, high_mm: the part that was seen.
    """

    points_mm: Points
    up: Points
    forward: Points
    low_mm: float
    high_mm: float

    def locate(self, points_mm: Points) -> tuple[Points, Points, Points]:
        """(along, forward, side) of points [N, 3]: mm along the canal from its caudal end, in front of
        it, to the right."""
        _, nearest = cKDTree(self.points_mm).query(points_mm)
        offset = points_mm - self.points_mm[nearest]
        along = nearest * STEP_MM + np.einsum("ij,ij->i", offset, self.up[nearest])
        forward = np.einsum("ij,ij->i", offset, self.forward[nearest])
        side = np.einsum("ij,ij->i", offset, np.cross(self.forward[nearest], self.up[nearest]))
        return along, forward, side

    def up_at(self, along_mm: float) -> Points:
        """Unit tangent [3] at a place along the canal."""
        index = int(np.clip(round(along_mm / STEP_MM), 0, len(self.up) - 1))
        return np.asarray(self.up[index], np.float64)


def find_canal(semantic: Volume) -> Canal:
    """Fit the curve through the centroids of canal and cord, slice by slice from below.

    A person lies along S, so each S slice cuts the canal once; gaps are bridged straight.
    Raises BadScan `implausible_mask` when there is too little of it to follow.
    """
    inside = np.isin(semantic.voxels_RAS, (SEMANTIC["canal"], SEMANTIC["cord"]))
    inside = without_crumbs(inside, share=0.05)
    counts_S = inside.sum((0, 1))
    seen = np.flatnonzero(counts_S >= 2)
    if len(seen) * semantic.spacing_mm[2] < MIN_LENGTH_MM:
        raise BadScan(
            "implausible_mask",
            f"the canal is {len(seen) * semantic.spacing_mm[2]:.0f} mm long, expected "
            f"{MIN_LENGTH_MM:.0f} mm or more",
        )
    r = inside.sum(1).T @ np.arange(inside.shape[0])
    a = inside.sum(0).T @ np.arange(inside.shape[1])
    centres = np.stack([r[seen] / counts_S[seen], a[seen] / counts_S[seen], seen], 1)
    return _curve(semantic.to_mm(centres))


def canal_behind(named: Volume) -> Canal:
    """The curve where no canal was drawn: behind the vertebrae, as far as the cord lies behind those that it
    passes.

    named: in the levels schema. Raises BadScan `implausible_mask` when there is too little of either.
    """
    counts = np.bincount(named.voxels_RAS.ravel(), minlength=256)
    values = [LEVELS[name] for name in VERTEBRAE[1:] if counts[LEVELS[name]]]
    if len(values) < MIN_BONES or not counts[LEVELS["cord"]]:
        raise BadScan(
            "implausible_mask",
            f"there is no canal, {counts[LEVELS['cord']]} voxels of cord and {len(values)} vertebrae from C2 "
            f"down; a cord and {MIN_BONES} vertebrae are needed to place the canal",
        )
    bones_mm = np.array([where_mm(named, named.voxels_RAS == value).mean(0) for value in values])
    cord_mm = where_mm(named, named.voxels_RAS == LEVELS["cord"])
    passed = (bones_mm[:, 2] > cord_mm[:, 2].min()) & (bones_mm[:, 2] < cord_mm[:, 2].max())
    beside = [
        (bone, cord_mm[np.abs(cord_mm[:, 2] - bone[2]) < BESIDE_MM]) for bone in bones_mm[passed]
    ]
    offsets = [cord.mean(0) - bone for bone, cord in beside if len(cord)]
    if not offsets:
        raise BadScan("implausible_mask", "there is no canal, and the cord passes no vertebra")
    bones_mm[:, :2] += np.median(np.array(offsets)[:, :2], axis=0)
    order = np.argsort(bones_mm[:, 2])
    heights_mm = np.arange(bones_mm[order[0], 2], bones_mm[order[-1], 2], STEP_MM)
    places = [np.interp(heights_mm, bones_mm[order, 2], bones_mm[order, k]) for k in (0, 1)]
    return _curve(np.stack([*places, heights_mm], 1))


def _curve(centres_mm: Points) -> Canal:
    """Resample by height, smooth, prolong, then resample by length."""
    heights = np.arange(centres_mm[0, 2], centres_mm[-1, 2] + STEP_MM / 2, STEP_MM)
    sigma = SMOOTH_MM / STEP_MM
    line = np.stack(
        [
            _smooth(np.interp(heights, centres_mm[:, 2], centres_mm[:, axis]), sigma)
            for axis in (0, 1)
        ]
        + [heights],
        1,
    )
    low, high = _prolong(line[::-1])[::-1], _prolong(line)
    whole = np.concatenate([low, line, high])
    lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(whole, axis=0), axis=1))])
    along = np.arange(0, lengths[-1], STEP_MM)
    points = np.stack([np.interp(along, lengths, whole[:, axis]) for axis in range(3)], 1)
    up = _unit(np.gradient(points, axis=0))
    front = np.array([0.0, 1.0, 0.0])
    forward = _unit(front - up * (up @ front)[:, None])
    return Canal(
        points, up, forward, float(lengths[len(low)]), float(lengths[len(low) + len(line) - 1])
    )


def _smooth(values: Points, sigma: float) -> Points:
    """Gaussian, reflecting about the end points so that the ends keep their slope."""
    reach = min(int(4 * sigma), len(values) - 1)
    head = 2 * values[0] - values[reach:0:-1]
    tail = 2 * values[-1] - values[-2 : -reach - 2 : -1]
    smooth: Points = ndimage.gaussian_filter1d(np.concatenate([head, values, tail]), sigma)
    return smooth[reach : reach + len(values)]


def _prolong(line: Points, length_mm: float = 80.0) -> Points:
    """Points after the last, STEP_MM apart, in the mean direction of the last TANGENT_MM."""
    direction = line[-1] - line[-min(len(line), int(TANGENT_MM / STEP_MM))]
    direction = direction / np.linalg.norm(direction)
    return np.asarray(
        line[-1] + np.arange(1, length_mm / STEP_MM)[:, None] * STEP_MM * direction, np.float64
    )


def _unit(vectors: Points) -> Points:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float64)
