"""A share of `make fuzz`, and that it would see what it looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineage.io.headers import Read
from tests.fuzz import run, worker
from tests.fuzz.corpus import CANARY, make_corpus
from tests.fuzz.damage import damaged, elements_of


def test_damaged_files_are_accepted_or_refused_with_a_code() -> None:
    found = run.fuzz(300, seed=7, with_real=False, batch=150)
    assert found["wrong"] == []
    assert found["inputs"] == 300
    assert found["accepted"] > 3
    assert len(found["refused"]) > 8, "the damage is of many kinds"


def test_an_input_is_the_same_every_time_and_its_elements_are_found(tmp_path: Path) -> None:
    sources = make_corpus(tmp_path, with_real=False)
    assert damaged(sources, 1, 5) == damaged(sources, 1, 5) != damaged(sources, 2, 5)
    assert len(elements_of(sources["plain"])) > 30


@pytest.mark.parametrize("trouble", ["crash", "quote", "code"])
def test_a_crash_a_quoted_name_and_an_unknown_code_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def read(seen, keyed, exam_key):
        if trouble == "crash":
            raise KeyError("a bug")
        code = "unreadable" if trouble == "quote" else "no_such_code"
        return [Read(seen, "", None, code, CANARY if trouble == "quote" else "")]

    monkeypatch.setattr(worker, "read_file", read)
    (tmp_path / "file").write_bytes(b"")
    assert "wrong" in worker.answer_to(tmp_path / "file")


def test_a_killed_process_is_reported_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def process(seed, first, last, with_real):
        numbers = range(first, 3) if first <= 3 else range(first, last)
        return [{"number": n, "ends": ["accepted"]} for n in numbers], -27

    monkeypatch.setattr(run, "_process", process)
    found = run.fuzz(6, seed=1)
    assert [(one["seed"], one["number"]) for one in found["wrong"]] == [(1, 3)]
    assert (found["inputs"], found["accepted"]) == (6, 5)
