"""Discs as things: a component of voxels in front of the canal, with a place along it and a tilt.

Letters: R A S voxel axes; N voxels; 3 coordinates.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.scan.geometry import Points, Volume
from spineage.science.spine.canal import Canal
from spineage.science.spine.labels import SEMANTIC

MIN_PIECE_MM3 = 40.0
MIN_DISC_MM3 = 120.0
"""The smallest cervical disc has 500 mm3; a disc this small is a remnant."""
MIN_SHARE = 0.3
"""Less than this share of the discs around it is no disc: a bright line in a body, the foot of the dens."""
FORWARD_MM = (4.0, 55.0)
"""A disc's centre in front of the canal's centre line: 12 mm at C2/3, 30 mm in a big lumbar spine."""
MAX_SIDE_MM = 25.0
MAX_TILT = float(np.cos(np.radians(35)))
JOIN_PITCHES = 0.45
"""Pieces nearer than this (in distances between neighbouring discs) are of one disc."""
SPLIT_PITCHES = 1.15
"""A piece that spreads further along the canal is two discs that touch."""


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


@dataclass(frozen=True)
class Piece:
    """Connected voxels of disc tissue. along_mm: of each voxel; mm3: their volume."""

    voxels: NDArray[np.int64]
    along_mm: Points
    mm3: float

    @property
    def place_mm(self) -> float:
        """Where its middle lies along the canal."""
        return float(self.along_mm.mean())

    @property
    def spread_mm(self) -> float:
        """Length of the slab that spreads as much along the canal."""
        return float(np.sqrt(12 * self.along_mm.var()))

    def part(self, keep: NDArray[np.bool_]) -> Piece:
        """Some of its voxels."""
        return Piece(self.voxels[keep], self.along_mm[keep], self.mm3 * float(keep.mean()))

    def plus(self, other: Piece) -> Piece:
        """Both together."""
        return Piece(
            np.concatenate([self.voxels, other.voxels]),
            np.concatenate([self.along_mm, other.along_mm]),
            self.mm3 + other.mm3,
        )


def find_discs(semantic: Volume, canal: Canal, sacrum_mm: Points) -> list[Disc]:
    """All discs, from the sacrum up. Discs that touch are parted, pieces of one are joined; what is too
    small beside its neighbours, or lies beside, behind or within the sacrum, is dropped.

    Raises BadScan `implausible_mask` when most disc tissue lies behind the canal, and `levels_unknown`
    when fewer than five discs are left.
    """
    pieces = _pieces(semantic, canal, sacrum_mm)
    if len(pieces) >= 5:
        pieces = _dropped(_joined(_parted(pieces)))
    if len(pieces) < 5:
        raise BadScan("levels_unknown", f"{len(pieces)} discs were found, expected 22 to 24")
    return [disc_from(semantic, canal, piece.voxels) for piece in pieces]


def _pieces(semantic: Volume, canal: Canal, sacrum_mm: Points) -> list[Piece]:
    """Components of disc tissue in front of the canal and above the sacrum, in order along the canal."""
    labels, count = ndimage.label(semantic.voxels_RAS == SEMANTIC["disc"], np.ones((3, 3, 3)))
    voxels = np.argwhere(labels)
    along, forward, side = canal.locate(semantic.to_mm(voxels))
    if len(voxels) and np.mean(forward < 0) > 0.3:
        raise BadScan(
            "implausible_mask",
            "most discs lie behind the canal: back to front, or labels are mixed up",
        )
    sacrum_along, sacrum_forward, _ = canal.locate(sacrum_mm)
    front = sacrum_along[sacrum_forward > 0]
    sacrum_top = float(np.percentile(front, 70)) if len(front) else 0.0
    component = labels[tuple(voxels.T)]
    order = np.argsort(component, kind="stable")
    ends = np.cumsum(np.bincount(component, minlength=count + 1))
    pieces = []
    for start, end in itertools.pairwise(ends):
        those = order[start:end]
        piece = Piece(voxels[those], along[those], len(those) * semantic.voxel_mm3)
        is_disc = (
            piece.mm3 >= MIN_PIECE_MM3
            and FORWARD_MM[0] < forward[those].mean() < FORWARD_MM[1]
            and abs(side[those].mean()) < MAX_SIDE_MM
            and piece.place_mm > sacrum_top
        )
        if is_disc:
            pieces.append(piece)
    return sorted(pieces, key=lambda piece: piece.place_mm)


def _pitch_mm(pieces: list[Piece], at_mm: float) -> float:
    """The usual distance between neighbouring discs around a place: the median of the six nearest."""
    places = np.array([p.place_mm for p in pieces if p.mm3 >= MIN_DISC_MM3])
    if len(places) < 3:
        return 0.0
    middles = (places[1:] + places[:-1]) / 2
    nearest = np.argsort(np.abs(middles - at_mm))[:6]
    return float(np.median(np.diff(places)[nearest]))


def _parted(pieces: list[Piece]) -> list[Piece]:
    """Pieces that are several discs grown together (by an osteophyte, by a blur) are cut where they are
    thinnest."""
    parted = []
    for piece in pieces:
        pitch_mm = _pitch_mm(pieces, piece.place_mm)
        cuts_mm = []
        if 0 < SPLIT_PITCHES * pitch_mm < piece.spread_mm:
            cuts_mm = _thinnest_mm(piece, pitch_mm)
        part = np.searchsorted(cuts_mm, piece.along_mm)
        parted += [piece.part(part == number) for number in range(len(cuts_mm) + 1)]
    return parted


def _thinnest_mm(piece: Piece, pitch_mm: float) -> list[float]:
    """Places between the thick parts of a piece: the valleys of its volume along the canal."""
    from scipy import signal  # half a second to import, for workers that never cut a disc

    start = piece.along_mm.min() - 6.0
    edges = np.arange(start, piece.along_mm.max() + 7.0)
    profile = ndimage.gaussian_filter1d(np.histogram(piece.along_mm, edges)[0].astype(float), 1.5)
    peaks, _ = signal.find_peaks(
        profile, distance=max(1.0, 0.5 * pitch_mm), prominence=0.25 * profile.max()
    )
    valleys = [low + int(profile[low:high].argmin()) for low, high in itertools.pairwise(peaks)]
    return [float(start + valley + 0.5) for valley in valleys]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """Pieces of one disc together."""
    joined: list[Piece] = []
    for piece in pieces:
        reach_mm = JOIN_PITCHES * _pitch_mm(pieces, piece.place_mm)
        if joined and piece.place_mm - joined[-1].place_mm < reach_mm:
            joined[-1] = joined[-1].plus(piece)
        else:
            joined.append(piece)
    return joined


def _dropped(pieces: list[Piece]) -> list[Piece]:
    """Without what is too small to be a disc among these neighbours. A true disc lost here leaves a gap that
    the counting notices."""
    mm3 = np.array([piece.mm3 for piece in pieces])
    kept = []
    for i, piece in enumerate(pieces):
        around = np.delete(mm3, i)[max(0, i - 2) : i + 2]
        if piece.mm3 >= max(MIN_DISC_MM3, MIN_SHARE * float(np.median(around))):
            kept.append(piece)
    return kept


def disc_from(volume: Volume, canal: Canal, voxels: NDArray[np.int64]) -> Disc:
    """Centre and tilt of a set of voxels; the tilt follows the voxels unless they are too few or too
    odd."""
    points = volume.to_mm(voxels)
    centre = points.mean(0)
    along, _, side = canal.locate(centre[None])
    axis = canal.up_at(float(along[0]))
    _, _, directions = np.linalg.svd(points - centre, full_matrices=False)
    normal = directions[-1] * np.sign(directions[-1] @ axis or 1.0)
    up = normal if len(voxels) >= 30 and normal @ axis > MAX_TILT else axis
    return Disc(centre, up, float(along[0]), float(side[0]), voxels)
