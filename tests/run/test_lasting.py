"""A submitted job writes nothing into the copy of its folder that Ray throws away."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.run.entry import open_study
from spineage.verbs import train_segmenter
from spineage.verbs.demo import run_demo

INSIDE = "ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0123456789abcdef"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Where Ray unpacks what was submitted."""
    folder = tmp_path / INSIDE
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("inputs: {scans: /data/dicom}", "workspace"),
        ("workspace: out\ninputs: {scans: /data/dicom}", "workspace"),
        ("workspace: s3://bucket/out\ninputs: {scans: dicom}", r"inputs\.scans"),
        ("workspace: /data/out\ninputs: {scans: /data/dicom, key_file: key}", r"inputs\.key_file"),
        ("workspace: /data/out\nsegment: {weights: weights}", r"segment\.weights"),
        ("workspace: /data/out\nscore: {model: bundle}", r"score\.model"),
    ],
)
def test_relative_places_of_a_submitted_study_are_refused(
    text: str, key: str, copied: Path
) -> None:
    (copied / "study.yaml").write_text(text)
    with pytest.raises(
        BadStudy, match=rf"^{key} is relative, and a submitted job .* absolute path"
    ):
        open_study(str(copied / "study.yaml"))


def test_a_database_beside_the_job_is_refused(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "study.yaml").write_text(
        "workspace: /data/out\ncluster: {mlflow: 'sqlite:///mlflow.db'}"
    )
    monkeypatch.chdir(copied)
    with pytest.raises(BadStudy, match=r"^cluster\.mlflow is relative"):
        open_study("study.yaml")


def test_a_submitted_study_with_absolute_places_is_taken(copied: Path) -> None:
    text = "workspace: /data/out\ninputs: {scans: 's3://bucket/dicom'}\nsegment: {weights: demo}"
    (copied / "study.yaml").write_text(text)
    assert open_study(str(copied / "study.yaml")).workspace == "/data/out"
    assert open_study(str(copied / "study.yaml"), workspace="gs://b/o").workspace == "gs://b/o"


@pytest.mark.parametrize("gone", ["work", "out"])
def test_folders_of_a_submitted_training_are_absolute(
    gone: str, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    places = {name: name if name == gone else str(tmp_path / name) for name in ("work", "out")}
    options = train_segmenter.Options(raw=str(tmp_path), **places)
    with pytest.raises(BadStudy, match=rf"^--{gone} is relative"):
        train_segmenter.train(options, print)


def test_a_submitted_demo_names_its_workspace(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copied)
    with pytest.raises(BadStudy, match=r"^--workspace is relative"):
        run_demo(80, "demo", seed=1, say=print)
