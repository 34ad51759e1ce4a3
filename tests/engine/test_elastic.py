"""Workers on the nodes that a study names, and on fewer of them when one is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from spineage.engine import places
from spineage.engine.labels import matches
from spineage.engine.places import Need, Place
from spineage.errors import BadStudy
from tests.made.clusters import ROOT, Cluster, Node, environment, running

TRAIN = """
import json, sys
from spineage.engine import session
from spineage.engine.training import ddp
from tests.made.loops import count_epochs

address, folder = sys.argv[1:]
session.connect(address)
fitted = ddp.fit(
    count_epochs, {"epochs": 7, "log": folder, "pause_s": 1.0}, workers=(1, 2), storage=folder + "/runs",
    name="run", report_to=lambda metrics: None, tell=lambda text: print(text, flush=True),
)
print(json.dumps(fitted.metrics))
"""
ROWS = """
import json, sys
import ray
from spineage.engine import session
from spineage.engine.rows import Step, run_rows
from tests.made.fakes import NodeOf, WriteLines

session.connect(sys.argv[1])
rows = [{"scan_id": str(i), "source_digest": "d", "value": i} for i in range(6)]
steps = [Step(NodeOf, name="where", num_cpus=0.5, labels=json.loads(sys.argv[3]))]
print(dict(run_rows(rows, steps, Step(WriteLines, {"folder": sys.argv[2]}, num_cpus=0.25))))
"""
GROWING = """
import sys
from spineage.engine import session
from spineage.engine.rows import Step, run_rows
from tests.made.fakes import Wait, WriteLines

session.connect(sys.argv[1], grows=bool(sys.argv[3]))
rows = [{"scan_id": str(i), "source_digest": "d", "value": i} for i in range(6)]
steps = [Step(Wait, {"seconds": 0.1}, name="grow", num_cpus=1.0)]
print(dict(run_rows(rows, steps, Step(WriteLines, {"folder": sys.argv[2]}, num_cpus=0.5))))
"""
MANY = """
import sys
from spineage.engine import session
from spineage.engine.rows import Step, run_rows
from tests.made.fakes import Wait, WriteLines

session.connect(sys.argv[1])
rows = [{"scan_id": str(i), "source_digest": "d", "value": i} for i in range(150)]
steps = [Step(Wait, {"seconds": 1.0}, name="slow", workers=5, num_cpus=0.3)]
print(dict(run_rows(rows, steps, Step(WriteLines, {"folder": sys.argv[2]}, num_cpus=0.3))))
"""


def driver(script: str, cluster: Cluster, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, cluster.address, *args],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment(), "PYTHONPATH": str(ROOT), "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("selector", "is_one"),
    [
        *(("L4", True), ("L40", False), ("!L4", False), ("!L40", True), ("in(L4, L40)", True)),
        *(("in(L40,H100)", False), ("!in(L40, H100)", True)),
    ],
)
def test_selectors_are_read_as_ray_reads_them(selector: str, is_one: bool) -> None:
    assert matches({"gpu": "L4"}, {"gpu": selector}) == is_one


def test_a_label_that_no_node_has_is_refused_with_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = Place({"CPU": 4.0, "GPU": 1.0}, {"gpu": "L4", "ray.io/node-id": "0123"})
    monkeypatch.setattr(places, "_nodes", lambda: [node])
    with pytest.raises(BadStudy) as said:
        places.on_gpus([Need("segment", 1, 0.0, 1.0, {"gpu": "H100"})])
    assert str(said.value) == (
        "segment asks for a node with gpu=H100 (cluster.labels) and the cluster has none; labels that are "
        "there: gpu=L4"
    )


def test_gpus_of_other_nodes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Place({"GPU": 1.0}, {"gpu": "L4"}), Place({"GPU": 4.0}, {"gpu": "H100"})]
    monkeypatch.setattr(places, "_nodes", lambda: nodes)
    need = Need("segment", 4, 0.0, 1.0, {"gpu": "L4"})
    anywhere = Need("predict", 4, 0.0, 1.0)
    found = places.on_gpus([anywhere, need], lambda text: None)
    assert [one.workers for one in found] == [4, 1]


@pytest.mark.slow
def test_a_step_runs_on_the_nodes_that_it_names(tmp_path: Path) -> None:
    with running([Node(1), Node(1, label="gpu=L4")], tmp_path / "log") as cluster:
        found = tmp_path / "lines"
        found.mkdir()
        done = driver(ROWS, cluster, str(found), json.dumps({"gpu": "L4"}))
        said, complaint = done.communicate(timeout=120)
        assert "{'ok': 6}" in said, complaint
        refused = driver(ROWS, cluster, str(found), json.dumps({"gpu": "H100"}))
        _, complaint = refused.communicate(timeout=120)
    assert [path.read_text() for path in found.iterdir()] == [":L4"] * 6
    assert "where asks for a node with gpu=H100 (cluster.labels)" in complaint


@pytest.mark.slow
def test_a_cluster_that_grows_is_asked_for_nodes_and_waited_for(tmp_path: Path) -> None:
    """The head has no core, and there is no other node until rows need one."""
    found = tmp_path / "lines"
    found.mkdir()
    workers = {"resources": {"CPU": 2}, "max_workers": 2}
    with running([Node(0)], tmp_path / "log", workers) as cluster:
        refused = driver(GROWING, cluster, str(found), "")
        _, complaint = refused.communicate(timeout=120)
        assert "take 0.03 CPU at least and the cluster has no CPU on 1 nodes" in complaint
        done = driver(GROWING, cluster, str(found), "grows")
        said, complaint = done.communicate(timeout=200)
    assert "{'ok': 6}" in said, complaint
    assert "the cluster is asked to grow" in complaint


@pytest.mark.slow
def test_rows_go_on_with_fewer_workers_when_a_node_that_they_need_is_lost(tmp_path: Path) -> None:
    """Six workers of 0.3 cores have a place on two nodes of one core, and none on one. There are more rows
    than those of one node serve before Ray knows that the other is lost, which takes half a minute."""
    found = tmp_path / "lines"
    found.mkdir()
    with running([Node(1), Node(1)], tmp_path / "log") as cluster:
        rows = driver(MANY, cluster, str(found))
        until = time.monotonic() + 100
        while len(list(found.iterdir())) < 4:
            assert time.monotonic() < until
            time.sleep(0.2)
        os.killpg(cluster.daemons[-1].pid, signal.SIGKILL)
        said, complaint = rows.communicate(timeout=200)
    assert "{'ok': 150}" in said, complaint
    told = "a node was lost: what is left is served by workers on those that are there"
    assert told in complaint, complaint
    assert len(list(found.iterdir())) == 150


@pytest.mark.slow
def test_a_training_goes_on_with_the_workers_that_are_left_when_a_node_is_lost(
    tmp_path: Path,
) -> None:
    with running([Node(1), Node(1)], tmp_path / "log") as cluster:
        training = driver(TRAIN, cluster, str(tmp_path))
        until = time.monotonic() + 120
        while not (tmp_path / "rank1").exists() or len((tmp_path / "rank1").read_text()) < 6:
            assert time.monotonic() < until
            time.sleep(0.2)
        os.killpg(cluster.daemons[-1].pid, signal.SIGKILL)
        said, complaint = training.communicate(timeout=240)
    assert training.returncode == 0, complaint[-3000:]
    *told, ended = said.splitlines()
    assert told[0] == "training on 2 workers"
    assert told[-1] == "training on 1 worker"
    assert any(line.startswith("training failed on worker") for line in told)
    assert json.loads(ended) == {"epoch": 7, "workers": 1}
