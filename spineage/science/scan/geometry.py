"""Volumes in RAS+ millimetres, and moving between grids.

Letters: R left->right, A posterior->anterior, S inferior->superior (voxel axes of every array);
`affine_RAS` maps voxel indices (i, j, k, 1) to millimetres (R, A, S, 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Affine = NDArray[np.float64]
Points = NDArray[np.float64]
"""Places [N, 3] in RAS+ millimetres."""


@dataclass(frozen=True)
class Volume:
    """A 3D array with its place in the scanner.

    voxels_RAS: [R, A, S]; axes closest to right, anterior, superior, in that order and increasing.
    affine_RAS: 4 x 4, voxel index to millimetres in RAS+.
    """

    voxels_RAS: NDArray[np.generic]
    affine_RAS: Affine

    def __post_init__(self) -> None:
        assert self.voxels_RAS.ndim == 3
        assert self.affine_RAS.shape == (4, 4)

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel edge lengths along R, A, S."""
        lengths = np.linalg.norm(self.affine_RAS[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def extent_mm(self) -> tuple[float, float, float]:
        """Edge lengths of the whole field of view along R, A, S."""
        r, a, s = (n * mm for n, mm in zip(self.voxels_RAS.shape, self.spacing_mm, strict=True))
        return r, a, s

    @property
    def voxel_mm3(self) -> float:
        """Volume of one voxel."""
        return float(np.prod(self.spacing_mm))

    def with_voxels(self, voxels_RAS: NDArray[np.generic]) -> Volume:
        """The same place, other values."""
        assert voxels_RAS.shape == self.voxels_RAS.shape
        return Volume(voxels_RAS, self.affine_RAS)

    def to_mm(self, index_RAS: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
        """Voxel indices [..., 3] to millimetres [..., 3]."""
        return index_RAS.astype(np.float64) @ self.affine_RAS[:3, :3].T + self.affine_RAS[:3, 3]

    def to_index(self, point_mm: NDArray[np.floating]) -> NDArray[np.float64]:
        """Millimetres [..., 3] to fractional voxel indices [..., 3]."""
        return (point_mm - self.affine_RAS[:3, 3]) @ np.linalg.inv(self.affine_RAS[:3, :3]).T


def where_mm(volume: Volume, inside_RAS: NDArray[np.bool_]) -> Points:
    """The places [N, 3] of the voxels of a mask."""
    return volume.to_mm(np.argwhere(inside_RAS))


def without_crumbs(mask_RAS: NDArray[np.bool_], *, share: float) -> NDArray[np.bool_]:
    """The mask without components smaller than a share of its largest one."""
    labels, count = ndimage.label(mask_RAS, np.ones((3, 3, 3)))
    if count < 2:
        return mask_RAS
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray((sizes >= share * sizes.max())[labels] & mask_RAS, np.bool_)


def reorient(voxels: NDArray[np.generic], affine_RAS: Affine) -> Volume:
    """Permute and flip axes so that they run right, anterior, superior; no resampling.

    voxels: [i, j, k] in any order; affine_RAS: voxel index to RAS+ mm for that order.
    """
    directions = affine_RAS[:3, :3] / np.linalg.norm(affine_RAS[:3, :3], axis=0)
    order = _axis_order(np.abs(directions))
    voxels = voxels.transpose(order)
    affine = affine_RAS[:, [*order, 3]].copy()
    for axis in range(3):
        if affine[axis, axis] < 0:
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return Volume(np.ascontiguousarray(voxels), affine)


def _axis_order(weights: NDArray[np.float64]) -> list[int]:
    """For each of R, A, S the voxel axis that runs most along it; strongest matches first."""
    order = [-1, -1, -1]
    weights = weights.copy()
    for _ in range(3):
        world, axis = np.unravel_index(int(np.argmax(weights)), (3, 3))
        order[world] = int(axis)
        weights[world, :] = -1
        weights[:, axis] = -1
    return order


def resample(
    volume: Volume, shape_RAS: tuple[int, int, int], affine_RAS: Affine, *, order: int
) -> Volume:
    """The volume on another grid; 0 outside the field of view. order: 0 nearest, 1 linear, 3 cubic."""
    matrix = np.linalg.inv(volume.affine_RAS) @ affine_RAS
    off_diagonal = matrix[:3, :3] - np.diag(np.diag(matrix[:3, :3]))
    linear = np.diag(matrix)[:3] if np.abs(off_diagonal).max() < 1e-6 else matrix[:3, :3]
    voxels = ndimage.affine_transform(
        volume.voxels_RAS, linear, matrix[:3, 3], output_shape=shape_RAS, order=order, cval=0
    )
    return Volume(voxels, affine_RAS)
