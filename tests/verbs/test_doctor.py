"""A set-up that is broken in one place: the doctor names it, and what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from spineage.errors import BadStudy
from spineage.study import study_from
from spineage.verbs.doctor import require_object_store
from tests.made.clusters import ROOT, Cluster, Node, environment, require_own_disks, running
from tests.made.command_line import spineage
from tests.made.demo_workspace import Demo


def lines(folder: Path, on: Cluster | None = None, **sections: object) -> dict[str, str]:
    """What the doctor says of each, `ok` or `FAIL` first."""
    study = folder / "sick.yaml"
    known = yaml.safe_load((folder / "study.yaml").read_text())
    for section, values in sections.items():
        known[section] = values if isinstance(values, str) else {**known.get(section, {}), **values}  # type: ignore[dict-item]
    study.write_text(yaml.safe_dump(known))
    if on is None:
        told = spineage("doctor", "--study", str(study), cwd=folder).stdout
    else:
        command = [sys.executable, "-m", "spineage.cli", "doctor", "--study", str(study)]
        told = subprocess.run(
            [*command, "--ray", on.address], cwd=ROOT, env=environment(),
            capture_output=True, text=True, check=False, timeout=200,
        ).stdout  # fmt: skip
    return {line.split()[1].rstrip(":"): line for line in told.splitlines() if line.strip()}


def test_a_gpu_that_is_asked_for_and_not_there(demo: Demo, tmp_path: Path) -> None:
    found = lines(demo.copy(tmp_path / "w"), cluster={"gpus_per_worker": 1})
    assert found["ray"].startswith("FAIL")
    assert "set cluster.gpus_per_worker to 0" in found["ray"]


def test_a_bucket_that_is_not_there(demo: Demo, tmp_path: Path, s3: str) -> None:
    found = lines(demo.copy(tmp_path / "w"), workspace="s3://no-such-bucket-of-ours/w")
    assert found["storage"].startswith("FAIL")
    assert "bucket" in found["storage"].lower()


def test_weights_that_are_not_those_of_their_digest(demo: Demo, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for path in (ROOT / "spineage" / "data" / "demo_segmenter").iterdir():
        (weights / path.name).write_bytes(path.read_bytes())
    content = bytearray((weights / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (weights / "weights.safetensors").write_bytes(content)
    found = lines(demo.copy(tmp_path / "w"), segment={"weights": str(weights)})
    assert found["weights"].startswith("FAIL")
    assert "digest" in found["weights"] or "damaged" in found["weights"]


def test_an_object_store_that_is_too_small() -> None:
    study = study_from({"workspace": "w", "cluster": {"cpu_workers": 8, "segment_workers": 4}})
    require_object_store(study, 6.1e9)
    with pytest.raises(BadStudy, match=r"hold 0\.2 GB, and 30 workers keep up to 6\.0 GB"):
        require_object_store(study, 2e8)


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_and_a_workspace_that_is_not_shared(
    demo: Demo, tmp_path: Path
) -> None:
    require_own_disks()
    token = tmp_path / "token"
    token.write_text("a" * 64)
    token.chmod(0o600)
    folder = demo.copy(tmp_path / "w")
    with running([Node(1)], tmp_path / "log", token=token) as cluster:
        found = lines(folder, cluster)
    assert found["ray"].startswith("FAIL")
    assert "asks for a token" in found["ray"]
    assert "RAY_AUTH_MODE=token" in found["ray"]
    with running([Node(1), Node(1, own=folder)], tmp_path / "log") as cluster:
        found = lines(folder, cluster)
    assert found["ray"].startswith("FAIL")
    assert "does not see the workspace" in found["ray"]
    assert "give a folder that every node sees" in found["ray"]
