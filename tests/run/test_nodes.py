"""Nodes that would lose results, or give other ones, are named before any work."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from spineage.engine.tasks import Visited
from spineage.errors import BadStudy
from spineage.run import nodes
from spineage.run.nodes import Look, compare
from tests.made.clusters import ROOT, Node, environment, require_own_disks, running

HERE = {"ray": "2.60.0", "torch": "2.13.0", "spineage": "0123"}
SAME = Look("", HERE, "w" * 64, 1e12)
VISIT = """
import sys
from spineage.engine import session
from spineage.errors import BadStudy
from spineage.run.context import Context
from spineage.run.nodes import visit_nodes
from spineage.study import study_from

session.connect(sys.argv[1])
assert session.is_joined()
context = Context(study_from({"workspace": sys.argv[2]}))
try:
    visit_nodes(context.store, context.study.segment.weights, print)
    print("all are fit")
except BadStudy as error:
    print(error)
print(context.store.list("visits"))
"""
LINGER = """
import sys, time, uuid
from pathlib import Path
from spineage.engine import session
from spineage.engine.tasks import on_each_node

def linger(folder):
    Path(folder, "visited-" + uuid.uuid4().hex).touch()
    time.sleep(8)
    return "here"

session.connect(sys.argv[1])
assert session.is_joined()
print("answered:", [one.answer for one in on_each_node(linger, sys.argv[2], within_s=120)])
"""


def refused(look: object) -> str:
    with pytest.raises(BadStudy) as said:
        compare(
            [Visited("node 1 of 2 (a)", SAME), Visited("node 2 of 2 (b)", look)],
            HERE,
            "w" * 64,
            print,
        )
    return str(said.value)


def test_nodes_that_are_alike_are_taken() -> None:
    told: list[str] = []
    compare([Visited("node 1 of 1 (a)", SAME)], HERE, "w" * 64, told.append)
    assert not told


def test_another_version_is_refused_with_both() -> None:
    said = refused(replace(SAME, software={**HERE, "torch": "2.11.0"}))
    assert said == (
        "node 2 of 2 (b) has torch 2.11.0 where the driver has 2.13.0: install the same on every node"
    )
    assert "spineage missing" in refused(
        replace(SAME, software={"ray": "2.60.0", "torch": "2.13.0"})
    )


def test_other_weights_are_refused() -> None:
    assert refused(replace(SAME, weights="v" * 64)).startswith(
        "node 2 of 2 (b) has other segmenter weights"
    )


def test_a_node_that_does_not_answer_or_cannot_is_refused() -> None:
    assert refused(None).startswith("node 2 of 2 (b) has not answered in 60 s")
    assert refused(RuntimeError("x")).startswith("node 2 of 2 (b) cannot run spineage")


def test_little_room_is_told() -> None:
    told: list[str] = []
    compare(
        [Visited("node 1 of 1 (a)", replace(SAME, free_bytes=4e8))], HERE, "w" * 64, told.append
    )
    assert told == ["  node 1 of 1 (a) has 0.4 GB of disk left"]


@pytest.mark.slow
@pytest.mark.parametrize("shares", [True, False], ids=["a shared disk", "disks of their own"])
def test_a_node_with_a_disk_of_its_own_is_refused_in_seconds(shares: bool, tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    if not shares:
        require_own_disks()
    nodes = [Node(), Node(own=None if shares else workspace)]
    with running(nodes, tmp_path / "log") as cluster:
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", VISIT, cluster.address, str(workspace)],
            cwd=ROOT, capture_output=True, text=True, timeout=200, env=environment(),
        )  # fmt: skip
        seconds = time.monotonic() - began
    said, left = done.stdout.splitlines()[-2:]
    assert left == "[]", done.stderr[-2000:]
    if shares:
        assert said == "all are fit"
    else:
        assert f"does not see the workspace {workspace} of the driver: give a folder that" in said
    assert seconds < 60, "ten on a machine that does nothing else"


@pytest.mark.slow
def test_a_node_with_another_version_of_this_program_is_refused(tmp_path: Path) -> None:
    """One line of source differs on one node of two."""
    other = tmp_path / "other"
    shutil.copytree(
        ROOT / "spineage", other / "spineage", ignore=shutil.ignore_patterns("__pycache__")
    )
    with (other / "spineage/errors.py").open("a") as source:
        source.write("# another version\n")
    with running([Node(), Node(program=other)], tmp_path / "log") as cluster:
        done = subprocess.run(
            [sys.executable, "-P", "-c", VISIT, cluster.address, str(tmp_path / "w")],
            cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
    sentence, left = done.stdout.splitlines()[-2:]
    assert re.fullmatch(
        r"node [12] of 2 \([\w.-]+\) has spineage [0-9a-f]{16} where the driver has [0-9a-f]{16}: install "
        r"the same on every node",
        sentence,
    ), done.stdout + done.stderr
    assert left == "[]"


@pytest.mark.slow
def test_a_node_that_dies_while_it_is_visited_has_no_say(tmp_path: Path) -> None:
    with running([Node(), Node()], tmp_path / "log") as cluster:
        driver = subprocess.Popen(
            [sys.executable, "-c", LINGER, cluster.address, str(tmp_path)],
            cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        until = time.monotonic() + 100
        while len(list(tmp_path.glob("visited-*"))) < 2:
            assert time.monotonic() < until
            time.sleep(0.2)
        os.killpg(cluster.daemons[-1].pid, signal.SIGKILL)
        said, _ = driver.communicate(timeout=200)
    assert said.splitlines()[-1] == "answered: ['here']"


def test_what_an_object_store_says_of_a_node_is_told_of_that_node(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(root: str) -> None:
        raise PermissionError(errno.EACCES, "secret-key of anna")

    monkeypatch.setattr(nodes, "Store", refuse)
    assert nodes.look("s3://bucket/w", "visits/1", "word", "").trouble == (
        "cannot use the workspace (Permission denied)"
    )
