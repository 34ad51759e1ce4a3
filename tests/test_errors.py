"""What a message may hold, wherever its words come from."""

from __future__ import annotations

import pickle

import pytest

from spineage.errors import BadScan, BadStudy, DeviceFault, SpineageError, StoppedEarly


@pytest.mark.parametrize("kind", [SpineageError, BadStudy, StoppedEarly])
def test_a_foreign_text_in_a_message_cannot_move_the_cursor(kind):
    error = kind("label \x1b[2J\x07\u202e\ud800 of\u00a0Müller\nis odd\r")
    assert str(error) == "label ?[2J??? of\u00a0Müller\nis odd?"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("kind", [BadScan, DeviceFault])
def test_a_fault_keeps_code_and_text_through_a_pickle(kind):
    again = pickle.loads(pickle.dumps(kind("bad_pixels", "no \x1b[0m frames")))
    assert (type(again), again.code, str(again)) == (kind, "bad_pixels", "no ?[0m frames")
