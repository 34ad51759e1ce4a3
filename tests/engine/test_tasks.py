"""Tasks: every result once, and what goes wrong in one is raised here as a sentence."""

from __future__ import annotations

import pytest
import ray.exceptions
import ray.train

from spineage.engine.quiet import plain_bad_study
from spineage.engine.tasks import run_alone, spread
from spineage.errors import BadStudy
from tests.made.fakes import refuse_study, square

pytestmark = pytest.mark.usefixtures("ray_session")


def test_spread_returns_every_result_once() -> None:
    assert sorted(spread(square, range(40))) == [n * n for n in range(40)]


def test_a_bad_study_in_a_parallel_task_is_raised_as_it_was() -> None:
    with pytest.raises(BadStudy) as error:
        list(spread(refuse_study, [1]))
    assert str(error.value) == "the workspace cannot be written: No space left on device"


def test_a_bad_study_in_a_training_worker_is_raised_as_it_was() -> None:
    met = ray.exceptions.RayTaskError("train", "Traceback ...", BadStudy("the tensor is gone"))
    failure = ray.train.WorkerGroupError("rank 1: Traceback ...", {1: met})
    with pytest.raises(BadStudy, match=r"^the tensor is gone$"), plain_bad_study():
        raise failure
    other = ray.train.WorkerGroupError("rank 1: Traceback ...", {1: ValueError("a bug")})
    with pytest.raises(ray.train.WorkerGroupError), plain_bad_study():
        raise other


def test_an_error_of_a_task_is_raised_here_as_a_sentence() -> None:
    with pytest.raises(Exception, match=r"unexpected ValueError in int at ") as raised:
        list(spread(int, ["MUELLER Anna"]))
    assert "MUELLER" not in str(raised.value)
    with pytest.raises(BadStudy, match="as it is"):
        run_alone(refuse)


def refuse() -> None:
    raise BadStudy("as it is")
