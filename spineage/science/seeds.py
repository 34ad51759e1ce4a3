"""The named random streams: whatever is drawn from a study's seed, each thing from a stream of its own.

A stream is told from the others by its name. Small numbers as tags collide: the first tag and the first epoch
are both 1, and numpy pads a short seed with zeros, so that [seed] and [seed, 0] are one stream. A seed that
goes to another library whole (UMAP of the cohort's own fit, torch for the first weights) is a stream of that
library's generator, and the phantom has streams by person.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Final

import numpy as np


class Stream(StrEnum):
    """What is drawn."""

    SPLITS = "which split is behind at the start"
    COHORT_BOOTSTRAP = "who fits a cohort that is drawn again"
    COHORT_MAP = "UMAP of a cohort that is drawn again"
    COHORT_SAMPLE = "who is grouped without UMAP, as a check"
    TRAINING_SHARE = "who is kept of the training people"
    EPOCH = "the order and the augmentation of an epoch"
    DROPOUT = "which features an epoch drops"
    LIMITS = "bootstrap of confidence limits"


_BITS: Final = 32


def rng_of(stream: Stream, seed: int, *numbers: int) -> np.random.Generator:
    """A generator of the stream; numbers: which of its draws, such as the epoch. All are 0 or more."""
    return np.random.default_rng(_sequence(stream, seed, numbers))


def int_of(stream: Stream, seed: int, *numbers: int) -> int:
    """A seed for another library, 0 to 2^32 - 1."""
    return int(_sequence(stream, seed, numbers).generate_state(1)[0])


def _sequence(stream: Stream, seed: int, numbers: tuple[int, ...]) -> np.random.SeedSequence:
    name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[: _BITS // 8])
    return np.random.SeedSequence([seed, name, len(numbers), *numbers])
