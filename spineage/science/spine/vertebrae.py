"""Which vertebra a voxel of bone belongs to: bodies by the planes of the discs, arches by what they hang
on.

Letters: R A S voxel axes; N voxels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.spatial import cKDTree

from spineage.science.scan.geometry import Points, Volume
from spineage.science.spine.canal import Canal
from spineage.science.spine.discs import Disc
from spineage.science.spine.labels import SEMANTIC

BODY_FORWARD_MM = 6.0
"""Bone this far in front of the canal's centre line is body; behind it pedicles and arches begin."""
PILLAR_FORWARD_MM = -8.0
"""Pedicles and the pillars of the facet joints lie between here and the bodies."""
PILLAR_PITCHES = 0.28
"""Bone of a pillar this far (in distances between neighbouring discs) from the plane of a disc is the
vertebra's own; nearer to it, the facets of two vertebrae overlap."""
MIN_CRUMB_MM3 = 100.0
C1_PITCHES = 1.15
"""C1 surrounds the dens from this many cervical pitches above the disc C2/3, measured from its plane."""
ATLAS_ARCH_PITCHES, AXIS_ARCH_PITCHES = 1.3, (0.6, 1.1)
"""Behind the canal: C1's arch above, C2's arch between these, measured along the canal."""
DENS_MM = 6.5
"""Half the thickness of the dens; bone around it at that height is C1."""
HALF_SHELL = [d for d in np.ndindex(3, 3, 3) if d > (1, 1, 1)]
"""The 13 neighbours (plus 1) that, with their opposites, surround a voxel."""


def split_vertebrae(semantic: Volume, canal: Canal, discs: Sequence[Disc]) -> NDArray[np.uint8]:
    """[R, A, S]: 1 for C1, 2 for C2 ... along the discs given from cranial to caudal; 0 elsewhere.

    Bodies are cut by the planes of the discs. An arch slopes far below its body, so it is not cut but
    grown: each voxel behind the bodies takes the vertebra that it reaches first through bone.
    """
    bone_RAS = _without_crumbs(semantic)
    voxels = np.argwhere(bone_RAS)
    points = semantic.to_mm(voxels)
    along, forward, _ = canal.locate(points)
    place, height = _place_between(points, along, discs)
    is_body, is_low = forward > BODY_FORWARD_MM, place == len(discs) + 2
    is_pillar = (forward > PILLAR_FORWARD_MM) & (place > 2) & (height > PILLAR_PITCHES)
    seed = np.where((is_body | is_pillar) & ~is_low, place, 0)
    _seed_atlas_and_axis(seed, points, along, forward, place, discs)
    taken = _grown(voxels, seed, bone_RAS.shape, semantic.spacing_mm)
    if (taken == 0).any() and (taken > 0).any():
        taken = _nearest(points, voxels, taken, bone_RAS.shape)
    taken[is_body & is_low] = 0  # bone in front of the sacral canal is nobody's
    vertebra_RAS = np.zeros(bone_RAS.shape, np.uint8)
    vertebra_RAS[tuple(voxels.T)] = taken
    return vertebra_RAS


def _without_crumbs(semantic: Volume) -> NDArray[np.bool_]:
    labels, _ = ndimage.label(semantic.voxels_RAS == SEMANTIC["vertebra"], np.ones((3, 3, 3)))
    keep = np.bincount(labels.ravel()) * semantic.voxel_mm3 >= MIN_CRUMB_MM3
    keep[0] = False
    return np.asarray(keep[labels], np.bool_)


def _place_between(
    points: Points, along: Points, discs: Sequence[Disc]
) -> tuple[NDArray[np.int64], Points]:
    """Place of each point: 2 above the first disc, 3 below it, ... by the plane of the disc nearest along;
    and its distance from that plane, in distances between neighbouring discs."""
    places = np.array([disc.along_mm for disc in discs])
    nearest = np.abs(along[:, None] - places[None]).argmin(1)
    centres = np.stack([disc.centre_mm for disc in discs])
    ups = np.stack([disc.up for disc in discs])
    height = np.einsum("ij,ij->i", points - centres[nearest], ups[nearest])
    pitch_mm = np.abs(np.gradient(places))
    return nearest + 2 + (height < 0), np.abs(height) / pitch_mm[nearest]


def _seed_atlas_and_axis(
    seed: NDArray[np.int64],
    points: Points,
    along: Points,
    forward: Points,
    place: NDArray[np.int64],
    discs: Sequence[Disc],
) -> None:
    """Tell C1 from C2 in the seeds: no disc parts them. C1 is what stands around the dens, off the line
    from C2's middle to the tip of the dens; behind the canal the upper arch is C1's."""
    top = discs[0]
    steps_mm = [_apart_mm(a, b) for a, b in itertools.pairwise(discs[:4])]
    pitch_mm = float(np.mean(steps_mm))
    height = (points - top.centre_mm) @ top.up
    is_front, is_top = forward > -BODY_FORWARD_MM, place == 2
    above = is_top & is_front & (height > C1_PITCHES * pitch_mm)
    dens = np.flatnonzero(above & (forward > 0))
    if len(dens) < 10:
        return
    tip_mm = points[dens[np.argsort(height[dens])[-max(4, len(dens) // 20) :]]].mean(0)
    foot_mm = top.centre_mm + top.up * 0.6 * pitch_mm
    axis = (tip_mm - foot_mm) / np.linalg.norm(tip_mm - foot_mm)
    offset = points - foot_mm
    off_axis = np.linalg.norm(offset - np.outer(offset @ axis, axis), axis=1)
    seed[above & (off_axis > DENS_MM)] = 1
    behind = (along - top.along_mm) / pitch_mm
    seed[is_top & ~is_front & (behind > ATLAS_ARCH_PITCHES)] = 1
    low, high = AXIS_ARCH_PITCHES
    seed[is_top & ~is_front & (behind > low) & (behind < high)] = 2


def _apart_mm(one: Disc, other: Disc) -> float:
    return float(np.linalg.norm(one.centre_mm - other.centre_mm))


def _grown(
    voxels: NDArray[np.int64],
    seed: NDArray[np.int64],
    shape: tuple[int, ...],
    spacing_mm: tuple[float, ...],
) -> NDArray[np.int64]:
    """Each voxel's seed, or that of the seeded voxel nearest through bone (mm); 0 where none can be
    reached."""
    number = np.full(np.array(shape) + 2, -1, np.int64)
    number[tuple((voxels + 1).T)] = np.arange(len(voxels))
    here, there, length = [], [], []
    for shift in HALF_SHELL:
        neighbour = number[tuple((voxels + np.array(shift)).T)]
        open_ = (neighbour >= 0) & ((seed == 0) | (seed[neighbour] == 0))
        here.append(np.flatnonzero(open_))
        there.append(neighbour[open_])
        length.append(np.full(int(open_.sum()), np.linalg.norm((np.array(shift) - 1) * spacing_mm)))
    rows, columns = np.concatenate(here), np.concatenate(there)
    graph = sparse.coo_array((np.concatenate(length), (rows, columns)), (len(voxels),) * 2).tocsr()
    ends = np.unique(np.concatenate([rows, columns]))
    starts = ends[seed[ends] > 0]
    if not len(starts):
        return seed
    _, _, source = sparse.csgraph.dijkstra(
        graph, directed=False, indices=starts, return_predecessors=True, min_only=True
    )
    return np.where(seed > 0, seed, np.where(source >= 0, seed[np.maximum(source, 0)], 0))


def _nearest(
    points: Points, voxels: NDArray[np.int64], taken: NDArray[np.int64], shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Pieces that hang on nothing take the vertebra nearest to most of their voxels."""
    left = taken == 0
    _, nearest = cKDTree(points[~left]).query(points[left])
    vote = taken[~left][nearest]
    left_RAS = np.zeros(shape, bool)
    left_RAS[tuple(voxels[left].T)] = True
    labels, count = ndimage.label(left_RAS, np.ones((3, 3, 3)))
    piece = labels[tuple(voxels[left].T)]
    winner = np.array([0, *(np.bincount(vote[piece == n]).argmax() for n in range(1, count + 1))])
    taken = taken.copy()
    taken[left] = winner[piece]
    return taken
