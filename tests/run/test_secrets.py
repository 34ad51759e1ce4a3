"""Keys are stretched and made in private; places and logins stand in no record."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from spineage.cli import app
from spineage.errors import BadStudy
from spineage.io.models.tracking import check
from spineage.io.people.identity import Keyed, load_key, make_key, require_private_key, stretch
from spineage.run.context import Context
from spineage.run.entry import open_study
from spineage.run.runner import run_stages
from spineage.study import Inputs, Study
from tests.made.dicom_makers import shaded, write_sagittal

TALL = shaded((7, 40, 60))


def study_of(folder: Path, scans: Path | str, **inputs: str) -> Context:
    study = Study(workspace=str(folder / "w"), inputs=Inputs(scans=str(scans), **inputs))
    return Context(study, say=lambda text: None)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")


# keys


def test_a_guess_at_a_key_costs_time_and_memory_and_many_ids_do_not() -> None:
    stretch.cache_clear()
    started = time.process_time()
    stretched = stretch(b"a weak key, guessable")
    once = time.process_time() - started
    assert once > 0.02
    started = time.process_time()
    for number in range(2000):
        Keyed(stretch(b"a weak key, guessable")).person(str(number))
    assert time.process_time() - started < 10 * once
    assert len(stretched) == 32
    assert stretched != stretch(b"a weak key, guessablf")


def test_a_new_key_is_private_random_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "new" / "spineage.key"
    done = CliRunner().invoke(app, ["new-key", str(path)])
    assert done.exit_code == 0, done.output
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first = path.read_bytes()
    assert len(first.strip()) == 64
    assert first.decode().strip() not in done.output
    assert CliRunner().invoke(app, ["new-key", str(path)]).exit_code == 2
    assert path.read_bytes() == first
    make_key(str(tmp_path / "other.key"))
    assert (tmp_path / "other.key").read_bytes() != first


def test_a_key_file_gives_the_ids_of_the_same_key_in_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPINEAGE_KEY", raising=False)
    make_key(str(tmp_path / "k"))
    study = Study(inputs=Inputs(key_file=str(tmp_path / "k")))
    by_file = load_key(study)
    monkeypatch.setenv("SPINEAGE_KEY", (tmp_path / "k").read_text().strip())
    assert load_key(Study()) == by_file


def test_doctor_refuses_a_key_file_that_others_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPINEAGE_KEY", raising=False)
    make_key(str(tmp_path / "k"))
    study = Study(inputs=Inputs(key_file=str(tmp_path / "k")))
    require_private_key(study)
    (tmp_path / "k").chmod(0o644)
    with pytest.raises(BadStudy, match="chmod 600"):
        require_private_key(study)


# places


def test_an_archive_that_moves_keeps_its_address_and_its_scans(tmp_path: Path, key: None) -> None:
    write_sagittal(tmp_path / "old place", TALL)
    old = study_of(tmp_path, tmp_path / "old place")
    run_stages(old, ["ingest"])
    before = old.read("scans")
    shutil.move(tmp_path / "old place", tmp_path / "new place")
    new = study_of(tmp_path, tmp_path / "new place")
    assert new.folder("ingest") == old.folder("ingest")
    with pytest.raises(BadStudy, match="run `spineage ingest` first"):
        new.read("scans")  # its tables say where files lie: of this place there are none yet
    run_stages(new, ["ingest"])
    assert new.read("scans").equals(before)
    assert str(tmp_path / "new place") in new.read("files", ["location"]).location.iloc[0]


def test_two_archives_in_one_workspace_do_not_take_each_others_scans(
    tmp_path: Path, key: None
) -> None:
    write_sagittal(tmp_path / "one", TALL)
    write_sagittal(tmp_path / "two", shaded((9, 40, 60)))
    one, two = (study_of(tmp_path, tmp_path / name) for name in ("one", "two"))
    run_stages(one, ["ingest"])
    run_stages(two, ["ingest"])
    states = [set(context.read("scans").source_digest) for context in (one, two)]
    assert states[0].isdisjoint(states[1])


def test_no_record_says_where_the_input_lies_or_who_logs_in(tmp_path: Path, key: None) -> None:
    write_sagittal(tmp_path / "clinic of Anna", TALL)
    path = tmp_path / "study.yaml"
    login = "postgresql://mlflow:s3cret@db/m?password=s3cret"
    path.write_text(
        yaml.safe_dump(
            {
                "workspace": "w",
                "inputs": {"scans": "clinic of Anna", "lifestyle": "ftp://anna:s3cret@h/l.csv"},
                "cluster": {"mlflow": login},
            }
        )
    )
    study = open_study(str(path))
    assert study.cluster.mlflow == login, "what is used keeps its login"
    context = Context(study, say=lambda text: None)
    run_stages(context, ["ingest"])
    records = list((tmp_path / "w").rglob("runs/*.json"))
    assert records
    assert not [r for r in records if "Anna" in r.read_text() or str(tmp_path) in r.read_text()]
    assert "ftp://h/l.csv" in (tmp_path / "w" / "study.resolved.yaml").read_text()
    texts = [p for p in (tmp_path / "w").rglob("*") if p.suffix in (".json", ".yaml")]
    assert not [p for p in texts if "s3cret" in p.read_text()]
    shown = CliRunner().invoke(app, ["show", "scans", "--workspace", str(tmp_path / "w")])
    assert shown.exit_code == 0, shown.output


def test_every_file_of_a_workspace_is_its_owners_alone(tmp_path: Path, key: None) -> None:
    write_sagittal(tmp_path / "scans", TALL)
    context = study_of(tmp_path, tmp_path / "scans")
    before = os.umask(0o022)
    try:
        run_stages(context, ["ingest"])
    finally:
        os.umask(before)
    files = [p for p in (tmp_path / "w").rglob("*") if p.is_file()]
    assert {"files", "sources", "headers"} <= {p.parent.name for p in files}
    assert {stat.S_IMODE(p.stat().st_mode) for p in files} == {0o600}


# logins


@pytest.mark.parametrize(
    "uri", ["http://anna:s3cret@127.0.0.1:1", "http://anna:s3cret@127.0.0.1:1/x?token=s3cret"]
)
def test_a_login_of_mlflow_is_not_quoted_when_it_does_not_answer(uri: str) -> None:
    with pytest.raises(
        BadStudy, match=r"no MLflow server answers at http://127\.0\.0\.1:1"
    ) as told:
        check(uri)
    assert "s3cret" not in str(told.value)
    assert "anna" not in str(told.value)


def test_a_login_of_an_input_is_not_quoted_when_it_does_not_answer(
    tmp_path: Path, key: None
) -> None:
    with pytest.raises(BadStudy, match=r"inputs\.scans cannot be listed") as told:
        run_stages(study_of(tmp_path, "ftp://anna:s3cret@127.0.0.1:1/archive"), ["ingest"])
    assert "s3cret" not in str(told.value)


# usage statistics

TELLS = """
import sys
from spineage.privacy import keep_private
if "private" in sys.argv:
    keep_private()
from mlflow.telemetry.utils import is_telemetry_disabled
from ray._common.usage.usage_lib import usage_stats_enabled
print(not is_telemetry_disabled(), usage_stats_enabled())
"""


@pytest.mark.parametrize(
    ("words", "asked", "tells"),
    [
        (["private"], {}, "False False"),
        (["private"], {"MLFLOW_DISABLE_TELEMETRY": "false"}, "True False"),
        (["private"], {"RAY_USAGE_STATS_ENABLED": "1"}, "False True"),
        ([], {}, "True True"),  # or this test would show nothing
    ],
)
def test_mlflow_and_ray_tell_nobody_unless_asked(
    tmp_path: Path, words: list[str], asked: dict[str, str], tells: str
) -> None:
    plain = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": os.getcwd()}
    done = subprocess.run(
        [sys.executable, "-c", TELLS, *words],
        env={**plain, **asked},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == tells.split(), done.stderr
