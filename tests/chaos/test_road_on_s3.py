"""The whole road with inputs and workspace on S3, killed in every stage, ends as an undisturbed run on disk.

The server sees every write, so a run is killed at a chosen one: when it is made, or has just been kept.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.dataset as pads
import pydicom
import pytest
import yaml
from mlflow import MlflowClient

from spineage.flow import ROAD
from spineage.io.storage.store import Store
from spineage.verbs import phantom
from tests.made.demo_workspace import COARSE, environment, run
from tests.made.s3_gate import Gate, Moment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "SPINEAGE_TEST_LONG" not in os.environ,
        reason="ten minutes of two cores: run where SPINEAGE_TEST_LONG is set",
    ),
]

SMALL = {"num_people": 26, "num_slices": 9, "slice_mm": 6.0, "in_plane_mm": 2.0}
CLEAR = {"pathological_share": 0.0, "artefact_share": 0.0}
"""Of so few people all must be normal to be split four ways."""
STUDY: dict[str, Any] = {
    "name": "road",
    "cohort": {"train": 0.36, "validate": 0.04, "calibrate": 0.2, "test": 0.4},
    "stability": {
        "num_neighbors": [15],
        "num_components": [5],
        "num_seeds": 1,
        "num_bootstraps": 1,
    },
    "prepare": COARSE,
    "train": {"epochs": 12},
    "calibrate": {"distance_slack": 100.0},
    "associate": {"spline_df": 1},
}
MOMENTS: tuple[tuple[str, Moment], ...] = (
    ("ingest", Moment(r"ingest/headers-\w+/headers/.*", 3)),
    ("ingest", Moment(r"ingest/\w+/\w+/scans/.*")),
    ("conditions", Moment(r"conditions/\w+/done\.json")),
    ("cohort", Moment(r"cohort/\w+/cohort/.*", is_kept=True)),
    ("segment", Moment(r"segment/\w+/masks/.*", 3)),
    ("prepare", Moment(r"prepare/\w+/tensors/.*", 5, is_kept=True)),
    ("train", Moment(r"train/\w+/run/checkpoint_[^/]*/state\.pt", 2)),
    ("train", Moment(r"train/\w+/predictions/.*")),
    ("calibrate", Moment(r"calibrate/\w+/registered/.*")),
    ("score", Moment(r"score/\w+/scores/.*", 2, is_kept=True)),
    ("associate", Moment(r"associate/\w+/associations/.*", is_kept=True)),
    ("explain", Moment(r"explain/\w+/done\.json")),
    ("report", Moment(r"report/\w+/report\.html", is_kept=True)),
)
"""The stage that is at work, and the write at which it is killed."""
TAKEN_OVER = "has died: it is taken over"
DIFFER = (".parquet", "report.html", "study.resolved.yaml", "checkpoint_manager_snapshot.json")
"""Files that name places, times or checkpoints; tables are compared row for row."""


@pytest.mark.timeout(1500)
def test_the_road_on_s3_killed_in_every_stage_ends_as_an_undisturbed_run(
    tmp_path: Path, s3_server: Any, s3: str
) -> None:
    assert {stage for stage, _ in MOMENTS} == {stage.name for stage in ROAD}
    population = tmp_path / "population"
    phantom.make(str(population), workers=1, **SMALL, **CLEAR)
    blank(max(population.glob("dicom/*/*"), key=lambda exam: exam.name))
    local = study_in(tmp_path / "local", str(population), "w", key=population)
    ended = run("run", cwd=local)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]

    store = Store(f"{s3}/w")
    store.fs.put(f"{population}/", f"{s3}/population/", recursive=True)
    registry = f"sqlite:///{tmp_path}/registry/mlflow.db"
    remote = study_in(
        tmp_path / "remote", f"{s3}/population", store.root, key=population,
        mlflow=registry,
    )  # fmt: skip
    gate = Gate(s3_server, store.root)
    begin = ROAD[0].name
    for stage, moment in MOMENTS:
        told = killed_in(stage, gate, moment, remote, begin)
        assert (TAKEN_OVER in told) == (moment is not MOMENTS[0][1])
        begin = stage
    ended = run("run", cwd=remote)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    assert TAKEN_OVER in ended.stdout

    assert not store.list("leases")
    assert unfinished_uploads(store) == []
    assert [path.name for path in remote.iterdir()] == ["study.yaml"]
    disk = Store(str(local / "w"))
    names, undisturbed = names_in(store), names_in(disk)
    assert kinds_of(names) == kinds_of(undisturbed)
    tables, others = tables_of(names), tables_of(undisturbed)
    assert tables.keys() == others.keys()
    for table, parts in tables.items():
        rows = rows_of(store, parts, s3)
        assert len(set(rows)) == len(rows) > 0, table
        assert rows == rows_of(disk, others[table], str(tmp_path)), table
    for name in names & undisturbed:
        if not name.endswith(DIFFER):
            assert store.read(name) == disk.read(name), name
    versions = MlflowClient(registry).search_model_versions("name = 'spine-age-road'")
    assert [version.version for version in versions] == [1]

    again = run("run", cwd=remote)
    assert again.returncode == 0, again.stderr[-3000:]
    assert names_in(store) == names, "a finished road makes nothing"


def blank(exam: Path) -> None:
    """Images of nothing: a scan that is refused when it is assembled."""
    for path in exam.rglob("*.dcm"):
        image = pydicom.dcmread(path)
        image.PixelData = bytes(len(image.PixelData))
        image.save_as(path)


def study_in(folder: Path, inputs: str, workspace: str, *, key: Path, **cluster: Any) -> Path:
    folder.mkdir()
    names = {"scans": "dicom", "truth": "truth.parquet"}
    names |= {name: f"{name}.csv" for name in ("participants", "findings", "lifestyle")}
    where = {name: f"{inputs}/{file}" for name, file in names.items()}
    values = {
        **STUDY,
        "workspace": workspace,
        "inputs": {**where, "key_file": str(key / "phantom.key")},
        "cluster": {"cohort_workers": 1, **cluster},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return folder


def killed_in(stage: str, gate: Gate, moment: Moment, folder: Path, begin: str) -> str:
    """Go on where the run before was killed, at once; this one dies at the moment, in the stage."""
    began = time.monotonic()
    with (folder.parent / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "spineage.cli", "run", "--from", begin, "--to", stage],
            cwd=folder, env=environment(), stdout=log, stderr=log,
        )  # fmt: skip
        gate.kill(process.pid, moment)
        process.wait(timeout=600)
        log.seek(0)
        told = log.read()
    print(f"{stage} {moment.key}: {time.monotonic() - began:.1f} s")
    assert process.returncode == -9, f"{moment.key}: {told[-3000:]}"
    assert re.findall(r"^\[\d+/\d+\] (\w+):", told, re.MULTILINE)[-1] == stage, told[-3000:]
    return told


def unfinished_uploads(store: Store) -> list[str]:
    bucket = store.root.removeprefix("s3://").partition("/")[0]
    found = store.fs.call_s3("list_multipart_uploads", Bucket=bucket)
    return [upload["Key"] for upload in found.get("Uploads", [])]


def names_in(store: Store) -> set[str]:
    """All files, but for those of single runs and MLflow's; Ray marks folders by names that end with `/`."""
    names = {name.lstrip("/") for name in store.list("")}
    return {
        name
        for name in names
        if not re.search(r"^$|^mlflow|^mlartifacts|/runs/|^(logs|rates|status)/|/$", name)
    }


def kinds_of(names: set[str]) -> set[str]:
    """The same without digests and times."""
    return {re.sub(r"[0-9a-f]{12,}(-\d+)?(?=\.|-|/)|(?<=checkpoint_)[^/]*", "*", n) for n in names}


def tables_of(names: set[str]) -> dict[str, list[str]]:
    """Parts by the folder of their table; where it hangs on the place of the input, `*` stands for that."""
    found: dict[str, list[str]] = {}
    for name in sorted(name for name in names if name.endswith(".parquet")):
        folder = name.rpartition("/")[0]
        folder = re.sub(r"^ingest/(headers-\w+|(\w+/)\w+)(?=/\w+$)", r"ingest/\2*", folder)
        found.setdefault(folder, []).append(name)
    return found


def rows_of(store: Store, parts: list[str], place: str) -> list[str]:
    """Every row of every part as plain Arrow reads it, as text in order, wherever the input lies."""
    data = pads.dataset(
        [store.uri(part).removeprefix("s3://") for part in parts], filesystem=store.fs
    )
    rows = data.to_table().to_pylist()
    return sorted(json.dumps(row, default=repr).replace(place, "") for row in rows)
