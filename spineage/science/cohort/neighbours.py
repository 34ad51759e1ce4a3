"""Who is nearest to whom by Canberra distance: exact, found once, and shared by every draw of the cohort.

Canberra of two condition vectors is sum |u - v| / (|u| + |v|), where 0/0 is 0: that a finding is there costs
1, how severe it is a fraction. Severities are few, so many people are equally near. Which of them counts must
not hang on a sorting routine (those of numpy differ from one processor to another) nor on the order of the
table alone (the first of a hundred people without findings would be everybody's neighbour): people lie on a
ring in the order of the table, and of equally near ones those come first who follow a person on it.
Letters: P people, F features, K neighbours, D people drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.spatial.distance import cdist

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BLOCK_PAIRS = 20_000_000
"""Distances held at once: 80 MB, and some copies."""
HALVES = np.arange(1, 7) / 2
"""Severities: 0.5 to 3."""
SCALE = 13_860
"""|u - v| / (u + v) of any two HALVES is a whole number of 1 / SCALE."""
EXACT = 2**24
"""Whole numbers up to this are exact in single precision."""
KEPT_BY_A_BOOTSTRAP = 1 - np.exp(-1)
"""The share of people that a bootstrap draws at least once."""


@dataclass(frozen=True)
class Neighbours:
    """Of each person the nearest training people, the nearest first (a training person's own first).

    index_PK: rows of the table. distance_PK: Canberra distances, which rise along K.
    """

    index_PK: Ints
    distance_PK: Singles

    def among(self, drawn: Bools, num: int, matrix_PF: Floats) -> tuple[Ints, Singles]:
        """The `num` nearest of those drawn, of each person: their place among the drawn, and distances.

        drawn: training people. Where too few of a person's neighbours were drawn (a few in a million), the
        distances of that person are computed anew.
        """
        num = min(num, int(drawn.sum()))
        is_drawn_PK = drawn[self.index_PK]
        first = np.argsort(~is_drawn_PK, axis=1, kind="stable")[:, :num]
        index = np.take_along_axis(self.index_PK, first, axis=1)
        distance = np.take_along_axis(self.distance_PK, first, axis=1)
        short = np.flatnonzero(is_drawn_PK.sum(axis=1) < num)
        if len(short):
            index = np.pad(index, ((0, 0), (0, num - index.shape[1])))
            distance = np.pad(distance, ((0, 0), (0, num - distance.shape[1])))
            for rows in blocks(short, int(drawn.sum())):
                index[rows], distance[rows] = nearest(matrix_PF, drawn, rows, num)
        place = np.cumsum(drawn, dtype=np.int32) - 1
        return place[index].astype(np.int32), distance


@dataclass(frozen=True)
class Block:
    """Rows start .. stop - 1 of the table."""

    start: int
    stop: int

    def __str__(self) -> str:
        return f"people {self.start} to {self.stop - 1}"


def nearest_of_block(block: Block, shared: tuple[Floats, Bools, int]) -> tuple[Ints, Singles]:
    """`nearest` of a block of rows; shared: the matrix, who is fitted, how many are wanted."""
    matrix_PF, fitted, num = shared
    return nearest(matrix_PF, fitted, np.arange(block.start, block.stop), num)


def has_halves(matrix_PF: Floats) -> bool:
    """Whether all severities are HALVES, and features few enough for exact sums of their terms."""
    is_half = np.isin(np.unique(matrix_PF), [0, *HALVES])
    return bool(is_half.all()) and 2 * SCALE * matrix_PF.shape[1] < EXACT


def canberra(rows_RF: Floats, others_PF: Floats) -> Singles:
    """Canberra distances of all pairs, of whatever severities."""
    return np.asarray(cdist(rows_RF, others_PF, "canberra"), dtype=np.float32)


def canberra_of_halves(rows_RF: Floats, others_PF: Floats) -> Singles:
    """The same where `has_halves`: exact, and in a tenth of the time.

    Every distance is a whole number of 1 / SCALE: what is there on one side costs 1, and what is there on
    both gives back 2 less its own term. Single precision holds such numbers exactly in whatever order they
    are summed, and most people have few findings, so that a sparse product sums what is there.
    """
    shared_RP = np.zeros((len(rows_RF), len(others_PF)), dtype=np.float32)
    levels = np.unique(rows_RF)
    for level in levels[levels > 0]:
        has_RF = sparse.csr_array((rows_RF == level).astype(np.float32))
        term_FP = 2 - np.abs(level - others_PF.T) / np.maximum(level + others_PF.T, level)
        back_FP = np.where(others_PF.T > 0, np.rint(SCALE * term_FP), 0)
        shared_RP += has_RF @ back_FP.astype(np.float32)
    num_R, num_P = (rows_RF > 0).sum(axis=1), (others_PF > 0).sum(axis=1)
    apart_RP = (SCALE * (num_R[:, None] + num_P)).astype(np.float32) - shared_RP
    return np.asarray(apart_RP / SCALE, dtype=np.float32)


def enough_for(num_neighbors: int) -> int:
    """How many neighbours to find so that a bootstrap keeps num_neighbors of them for nearly everybody."""
    mean = num_neighbors / KEPT_BY_A_BOOTSTRAP
    return int(np.ceil(mean + 5 * np.sqrt(mean)))


def find_neighbours(matrix_PF: Floats, fitted: Bools, num: int) -> Neighbours:
    """The `num` nearest training people of everybody, in this process."""
    num = min(num, int(fitted.sum()))
    by_block = [
        nearest(matrix_PF, fitted, rows, num)
        for rows in blocks(np.arange(len(matrix_PF)), int(fitted.sum()))
    ]
    return joined(by_block)


def joined(by_block: list[tuple[Ints, Singles]]) -> Neighbours:
    """What was by_block block by block, in the order of the table."""
    return Neighbours(
        np.concatenate([index for index, _ in by_block]),
        np.concatenate([distance for _, distance in by_block]),
    )


def blocks(rows: Rows, num_fitted: int) -> Iterator[Rows]:
    """Rows of the table, as many at a time as memory allows."""
    size = max(1, BLOCK_PAIRS // max(num_fitted, 1))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def nearest(matrix_PF: Floats, fitted: Bools, rows: Rows, num: int) -> tuple[Ints, Singles]:
    """The `num` nearest fitted people of some rows of the table: rows of the table, and distances."""
    where = np.flatnonzero(fitted)
    distances = canberra_of_halves if has_halves(matrix_PF) else canberra
    distance_RP = distances(matrix_PF[rows], matrix_PF[where])
    limit_R = np.partition(distance_RP, num - 1, axis=1)[:, num - 1]
    index = np.empty((len(rows), num), dtype=np.int32)
    distance = np.empty((len(rows), num), dtype=np.float32)
    for i, row in enumerate(rows):
        near = np.flatnonzero(distance_RP[i] <= limit_R[i])
        further_on = (where[near] - row) % len(matrix_PF)
        chosen = near[np.lexsort((further_on, distance_RP[i][near]))[:num]]
        index[i], distance[i] = where[chosen], distance_RP[i][chosen]
    return index, distance
