"""Streams: none is another's, none depends on the process, the same name and numbers are the same draw."""

from __future__ import annotations

import itertools

import numpy as np

from spineage.science.seeds import Stream, int_of, rng_of

SEEDS = (0, 1, 2511, 2**32 - 1)
NUMBERS = [(), (0,), (1,), (0, 0), (0, 1), (1, 0), (2, 3, 4)]


def test_no_two_streams_and_no_two_draws_of_one_are_the_same() -> None:
    every = list(itertools.product(Stream, SEEDS, NUMBERS))
    drawn = {rng_of(stream, seed, *numbers).bytes(16) for stream, seed, numbers in every}
    assert len(drawn) == len(every)


def test_no_stream_is_that_of_a_bare_seed_or_tag() -> None:
    """What numpy makes of [seed], which is also [seed, 0], and of [seed, epoch]."""
    bare = {np.random.default_rng([seed, tag]).bytes(16) for seed in SEEDS for tag in range(50)}
    named = {rng_of(stream, seed).bytes(16) for stream in Stream for seed in SEEDS}
    assert not bare & named


def test_a_stream_is_the_same_in_every_process_and_release() -> None:
    """Other numbers are other results: raise SCHEMA of the stages that draw."""
    assert int_of(Stream.SPLITS, 2511, 3) == 4028642548
    assert int_of(Stream.EPOCH, 2511, 3) == 2342569241
