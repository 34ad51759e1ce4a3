"""What the files in `jobs/` say of themselves, and what is sent along with them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

from spineage.flow import RESCORE, ROAD, STAGES
from spineage.run.entry import specification
from tests.made.clusters import ROOT


def test_a_job_says_what_it_needs_writes_and_how_it_ends() -> None:
    text = specification(RESCORE)
    lines = {line[:20].strip(): line[20:].strip() for line in text.splitlines()}
    assert lines["stages"] == "ingest, score"
    assert lines["files of the study"] == "inputs.scans, inputs.participants, inputs.overrides"
    assert lines["tables it needs"] == "-", "it makes what it reads"
    assert lines["tables it fills in"] == "masks, tensors"
    assert lines["needs an answer from"] == "ray"
    assert "143  stopped" in text


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_stage_reads_is_what_its_job_needs(stage: str) -> None:
    text = " ".join(specification([stage]).split())
    needed = text.partition("tables it needs ")[2].partition(" tables it fills in")[0]
    made = {*STAGES[stage].writes, *STAGES[stage].fills}
    assert set(needed.split(", ")) == {t for t in STAGES[stage].reads if t not in made} or (
        needed == "-"
    )


def test_the_whole_road_needs_what_is_made_off_it() -> None:
    assert "tables it needs       ablations\n" in specification([stage.name for stage in ROAD])


def test_code_and_studies_are_sent_along_and_nothing_else(tmp_path: Path) -> None:
    sent = ["spineage/flow.py", "spineage/data/codebook.yaml", "jobs/rescore.py", "study.yaml"]
    kept = [
        "participants.csv", "scans/1/IM0001", "scans/1.nii", "key.pem", ".env", "mlflow.db",
        "w/masks/part-0.parquet",
        ".venv/bin/python", ".git/config", "tests/test_cli.py", "spineage/__pycache__/flow.pyc",
    ]  # fmt: skip
    for name in (*sent, *kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    excludes = yaml.safe_load((ROOT / "jobs" / "runtime_env.yaml").read_text())["excludes"]
    found: list[Path] = []
    _dir_travel(
        tmp_path, [_get_excludes(tmp_path, excludes)], found.append, include_gitignore=False
    )
    assert sorted(str(p.relative_to(tmp_path)) for p in found if p.is_file()) == sorted(sent)
