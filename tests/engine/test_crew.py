"""A crew: every item once, the first worker does what runs alone, and trouble says where it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import ray

from spineage.engine import crew as module
from spineage.engine.crew import Crew
from spineage.errors import StoppedEarly
from tests.made.fakes import die_once, work_on

pytestmark = pytest.mark.usefixtures("ray_session")


def test_every_item_is_done_once_with_the_shared_value_by_no_more_workers_than_asked_for() -> None:
    with Crew(2) as crew:
        alone = crew.alone(os.getpid)
        found = dict(crew.each(work_on, range(9), "shared"))
    assert {item: answer[:2] for item, answer in found.items()} == {
        i: (i * i, "shared") for i in range(9)
    }
    pids = {answer[2] for answer in found.values()}
    assert alone in pids
    assert len(pids) == 2


def test_an_exception_is_raised_here_and_says_for_which_item() -> None:
    with Crew(1) as crew, pytest.raises(ValueError, match="a bad item") as caught:
        dict(crew.each(work_on, [1, "bad"], None))
    assert caught.value.__notes__ == ["at bad"]


def test_an_item_that_kills_its_worker_stops_the_run_with_a_sentence() -> None:
    with Crew(1) as crew, pytest.raises(StoppedEarly, match="kill killed its worker twice"):
        dict(crew.each(work_on, [1, "kill"], None))


def test_no_items_need_no_workers() -> None:
    with Crew(2) as crew:
        assert list(crew.each(work_on, [], None)) == []
        assert crew._workers == []


def test_an_item_whose_worker_was_lost_is_done_by_another_and_none_twice(tmp_path: Path) -> None:
    items = [1, 2, "kill", 3, 4]
    with Crew(2) as crew:
        found = list(crew.each(die_once, items, str(tmp_path / "died")))
        assert (tmp_path / "died").exists()
        assert sorted(map(str, dict(found))) == sorted(map(str, items))
        assert len(found) == len(items)


def test_work_is_given_only_to_workers_that_have_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLACED_WITHIN_S", 3.0)
    there_are = int(ray.cluster_resources()["CPU"])
    with Crew(there_are + 2) as crew:
        found = dict(crew.each(work_on, range(there_are + 4), None))
        assert len(found) == there_are + 4
        assert len(crew._workers) <= there_are
