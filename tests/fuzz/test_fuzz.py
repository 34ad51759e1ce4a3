"""A share of `make fuzz`, and that it would see what it looks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineage.errors import BadScan, BadStudy
from spineage.io.scans.headers import Read
from tests.fuzz import images, run
from tests.fuzz.corpus import CANARY, make_corpus
from tests.fuzz.damage import damaged, elements_of
from tests.fuzz.outcome import outcome

pytestmark = pytest.mark.slow


def test_damaged_files_are_accepted_or_refused_with_a_code() -> None:
    found = run.fuzz("images", 300, seed=7, with_real=False, batch=150)
    assert found["wrong"] == []
    assert found["inputs"] == 300
    assert found["accepted"] > 3
    assert len(found["refused"]) > 8, "the damage is of many kinds"


@pytest.mark.parametrize("target", ["studies", "people", "bundles", "workspaces"])
def test_damage_of_every_other_kind_is_accepted_or_one_sentence(target: str) -> None:
    found = run.fuzz(target, 60, seed=7, with_real=False)
    assert found["wrong"] == []
    assert found["inputs"] == 60
    assert found["accepted"] > 3
    assert sum(found["refused"].values()) > 10


def test_an_input_is_the_same_every_time_and_its_elements_are_found(tmp_path: Path) -> None:
    sources = make_corpus(tmp_path, with_real=False)
    assert damaged(sources, 1, 5) == damaged(sources, 1, 5) != damaged(sources, 2, 5)
    assert len(elements_of(sources["plain"])) > 30


@pytest.mark.parametrize("trouble", ["crash", "quote", "code", "bug"])
def test_a_crash_a_quoted_name_an_unknown_code_and_a_bug_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def read(seen, keyed, exam_key):
        if trouble == "crash":
            raise KeyError("a bug")
        code = {"quote": "unreadable", "code": "no_such_code", "bug": "bug"}[trouble]
        return [Read(seen, "", None, code, CANARY if trouble == "quote" else "")]

    monkeypatch.setattr(images, "read_file", read)
    (tmp_path / "file").write_bytes(b"")
    assert "wrong" in images.answer_to(tmp_path / "file")


@pytest.mark.parametrize(
    "error",
    [KeyError("x"), BadStudy(f"of {CANARY}"), BadStudy("two\nlines"), BadStudy("long " * 300),
     SystemExit(1), MemoryError()],
)  # fmt: skip
def test_whatever_is_no_short_sentence_is_wrong(error: BaseException) -> None:
    def work() -> None:
        raise error

    assert "wrong" in outcome(work)


def test_what_the_house_raises_is_not_wrong() -> None:
    def refuse() -> None:
        raise BadScan("cut_off", "its sides are cut off")

    assert outcome(refuse) == {"ends": ["cut_off"]}
    assert outcome(lambda: 1) == {"ends": ["accepted"]}


def test_a_killed_process_is_reported_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def process(target, seed, first, last, with_real):
        numbers = range(first, 3) if first <= 3 else range(first, last)
        return [{"number": n, "ends": ["accepted"]} for n in numbers], -27

    monkeypatch.setattr(run, "_process", process)
    found = run.fuzz("images", 6, seed=1)
    assert [(one["seed"], one["number"]) for one in found["wrong"]] == [(1, 3)]
    assert (found["inputs"], found["accepted"]) == (6, 5)
