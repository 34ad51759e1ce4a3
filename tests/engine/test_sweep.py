"""A grid ends every arm; a search finds the good corner, stops the hopeless and repeats itself by seed."""

from __future__ import annotations

import pytest

from spineage.engine.training import sweep
from tests.made.loops import descend, leave_mark

pytestmark = pytest.mark.usefixtures("ray_session")


def test_a_grid_runs_every_arm_and_counts_them(tmp_path):
    counted = []
    configs = [{"i": i, "folder": str(tmp_path)} for i in range(3)]
    sweep.run_grid(
        leave_mark,
        configs,
        storage=str(tmp_path / "tune"),
        name="grid",
        say=lambda done, total: counted.append((done, total)),
    )
    assert sorted(p.name for p in tmp_path.glob("arm*")) == ["arm0", "arm1", "arm2"]
    assert counted == [(1, 3), (2, 3), (3, 3)]


def test_a_broken_arm_is_raised_after_the_others_ended(tmp_path):
    configs = [{"i": i, "folder": str(tmp_path), "is_broken": i == 0} for i in range(2)]
    with pytest.raises(Exception, match=r"unexpected \w+ in a trial at ") as raised:
        sweep.run_grid(leave_mark, configs, storage=str(tmp_path / "tune"), name="grid")
    assert "this arm is broken" not in str(raised.value), "what it said is in the private log"
    assert (tmp_path / "arm1").exists()


def find(folder, seed=1):
    return sweep.search(
        descend,
        {"epochs": 6},
        {"x": (-4.0, 4.0, False)},
        num_trials=6,
        max_epochs=6,
        grace_epochs=2,
        seed=seed,
        storage=str(folder),
        name="search",
        at_once=1,
    )


@pytest.mark.slow
def test_a_search_stops_hopeless_trials_early_and_goes_on_where_it_ended(tmp_path):
    outcomes = find(tmp_path)
    assert len(outcomes) == 6
    best = min(outcomes, key=lambda o: o.metrics["smooth_mae_years"])
    worst = max(outcomes, key=lambda o: o.metrics["smooth_mae_years"])
    assert best.metrics["epoch"] == 6
    assert worst.metrics["epoch"] < 6
    assert abs(best.parameters["x"]) < abs(worst.parameters["x"])
    again = find(
        tmp_path, seed=2
    )  # a finished search is read, not repeated: another seed would draw other values
    assert {o.parameters["x"] for o in again} == {o.parameters["x"] for o in outcomes}
