"""The command line: bad input is one sentence and exit code 2, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spineage import __version__
from spineage.study import Study, commented_study, read_study, study_from
from tests.made.command_line import Ended, spineage


def in_a_process(*args: str, cwd: Path, **env: str) -> Ended:
    """The command as a user calls it: for what a Ray session of this process would hide."""
    return subprocess.run(
        [sys.executable, "-m", "spineage.cli", *args],
        cwd=cwd, capture_output=True, text=True, timeout=120, env={**os.environ, **env},
    )  # fmt: skip


def write_study(folder: Path, **values: object) -> None:
    (folder / "study.yaml").write_text(yaml.safe_dump(values))


def fails_clearly(result: Ended, *words: str) -> None:
    assert result.returncode == 2, result.stdout + result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]


def everything_in(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def test_a_model_in_a_folder_is_looked_for_beside_the_study(tmp_path: Path) -> None:
    for named, meant in {
        "mine/bundle": str(tmp_path / "mine/bundle"),
        "/there/bundle": "/there/bundle",
        "models:/spine-age@champion": "models:/spine-age@champion",
        "s3://bucket/bundle": "s3://bucket/bundle",
        None: None,
    }.items():
        write_study(tmp_path, score={"model": named})
        assert read_study(tmp_path / "study.yaml").score.model == meant


def test_rescoring_is_a_verb(tmp_path: Path) -> None:
    fails_clearly(spineage("rescore", cwd=tmp_path), "no study file")


def test_the_version_is_printed(tmp_path: Path) -> None:
    assert in_a_process("--version", cwd=tmp_path).stdout == f"spineage {__version__}\n"


BAD_STUDIES = {
    "no study file": (None, ["no study file", "spineage init"]),
    "an unknown key": ({"inptus": {}}, ["inptus", "'inputs'"]),
    "an unknown nested key": ({"train": {"epoch": 3}}, ["train.epoch", "'epochs'"]),
    "a wrong type": ({"train": {"epochs": "many"}}, ["train.epochs", "many"]),
    "shares that do not sum to one": ({"cohort": {"train": 0.9}}, ["must be 1"]),
    "a missing input folder": ({"inputs": {"scans": "nowhere"}}, ["inputs.scans"]),
    "no input folder": ({}, ["inputs.scans"]),
}


@pytest.mark.parametrize("name", BAD_STUDIES)
def test_a_bad_study_is_one_sentence_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    values, words = BAD_STUDIES[name]
    if values is not None:
        write_study(tmp_path, **values)
    before = everything_in(tmp_path)
    fails_clearly(spineage("ingest", cwd=tmp_path, SPINEAGE_KEY="a key for tests only"), *words)
    assert everything_in(tmp_path) == before


def test_an_unreadable_study_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_bytes(b"\xff\xfe\x00: [")
    fails_clearly(spineage("cohort", cwd=tmp_path), "study.yaml")
    (tmp_path / "study.yaml").write_text("inputs: [unclosed")
    fails_clearly(spineage("cohort", cwd=tmp_path), "YAML")
    (tmp_path / "study.yaml").write_text("- a list")
    fails_clearly(spineage("cohort", cwd=tmp_path), "list")


def test_a_ray_address_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.txt").write_text("x")
    write_study(tmp_path, inputs={"scans": "scans"}, cluster={"ray": "127.0.0.1:1"})
    before = everything_in(tmp_path)
    fails_clearly(
        in_a_process("ingest", cwd=tmp_path, SPINEAGE_KEY="a key for tests only"), "127.0.0.1:1"
    )
    assert everything_in(tmp_path) == before


def test_an_mlflow_address_that_does_not_answer_is_one_sentence(tmp_path: Path) -> None:
    write_study(tmp_path, cluster={"mlflow": "http://127.0.0.1:1"})
    before = everything_in(tmp_path)
    fails_clearly(spineage("train", cwd=tmp_path), "127.0.0.1:1", "MLflow")
    assert everything_in(tmp_path) == before


def test_a_workspace_where_no_database_can_live_is_said_before_any_work(tmp_path: Path) -> None:
    write_study(tmp_path, workspace="s3://bucket/w")
    before = everything_in(tmp_path)
    road = ("run", "--from", "segment", "--to", "train")
    fails_clearly(spineage(*road, cwd=tmp_path), "object storage", "cluster.mlflow")
    assert everything_in(tmp_path) == before


def test_gpus_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans/a.txt").write_text("x")
    write_study(tmp_path, inputs={"scans": "scans"}, cluster={"gpus_per_worker": 4096})
    before = everything_in(tmp_path)
    fails_clearly(in_a_process("ingest", cwd=tmp_path, SPINEAGE_KEY="a key for tests only"), "GPU")
    assert everything_in(tmp_path) == before


def test_the_commented_study_holds_every_default(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(commented_study())
    read = read_study(tmp_path / "study.yaml").model_dump(exclude={"workspace"})
    assert read == Study().model_dump(exclude={"workspace"})


def test_execution_is_not_identity() -> None:
    slow = study_from({"cluster": {"segment_workers": 1}, "workspace": "a"})
    fast = study_from({"cluster": {"segment_workers": 8}, "workspace": "b"})
    sections = ("ingest", "segment", "prepare", "cohort", "train", "calibrate", "associate")
    assert slow.recipe(*sections) == fast.recipe(*sections)
    with pytest.raises(AssertionError):
        slow.recipe("cluster")


def test_init_writes_once(tmp_path: Path) -> None:
    assert spineage("init", "s.yaml", cwd=tmp_path).returncode == 0
    fails_clearly(spineage("init", "s.yaml", cwd=tmp_path), "exists")


def test_tables_prints_every_column_with_its_meaning(tmp_path: Path) -> None:
    result = spineage("tables", "--json", cwd=tmp_path)
    found = json.loads(result.stdout)
    assert {"predicted_years", "spine_age_years", "sag_years"} <= {
        c["name"] for c in found["scores"]
    }
    assert all(column["meaning"] for table in found.values() for column in table)


def test_show_of_a_table_that_does_not_exist_is_one_sentence(tmp_path: Path) -> None:
    write_study(tmp_path)
    fails_clearly(spineage("show", "soores", cwd=tmp_path), "soores")
    fails_clearly(spineage("show", "scores", "--workspace", "w", cwd=tmp_path), "workspace")
