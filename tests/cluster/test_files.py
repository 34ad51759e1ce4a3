"""What stands in `cluster/` for others' tools: manifests by KubeRay's own schemas, and nothing in them that
is not there, or too open."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from spineage.study import study_from

ROOT = Path(__file__).parent.parent.parent
KUBERAY = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas"
JOBS = ("rescore", "train", "ablate", "sweep")


def rendered(folder: Path) -> dict[str, Any]:
    """What `kubectl kustomize` makes of a folder of ours: one resource, changed by JSON patches."""
    plan = yaml.safe_load((folder / "kustomization.yaml").read_text())
    [source] = plan["resources"]
    place = (folder / source).resolve()
    made: dict[str, Any] = rendered(place) if place.is_dir() else yaml.safe_load(place.read_text())
    for patch in plan.get("patches", []):
        assert patch["target"] == {"kind": made["kind"]}
        for step in yaml.safe_load(patch["patch"]):
            apply(made, **step)
    return made


def apply(document: Any, op: str, path: str, value: Any = None) -> None:
    """One step of RFC 6902. KeyError where what it changes is not there."""
    *above, last = (key.replace("~1", "/").replace("~0", "~") for key in path.split("/")[1:])
    for key in above:
        document = document[int(key) if isinstance(document, list) else key]
    assert op == "add" or last in document, path
    if op == "remove":
        del document[last]
    else:
        document[last] = value


@cache
def schema(kind: str) -> dict[str, Any]:
    place = SCHEMAS / f"ray.io_{kind.lower()}s.yaml.gz"
    if not place.exists():
        pytest.skip("KubeRay's schemas are not here")
    definition = yaml.safe_load(gzip.decompress(place.read_bytes()))
    [found] = [v for v in definition["spec"]["versions"] if v["name"] == "v1"]
    strict: dict[str, Any] = closed(found["schema"]["openAPIV3Schema"])
    return strict


def closed(node: Any) -> Any:
    """The API server drops a key that it does not know in silence: here it is refused."""
    if isinstance(node, list):
        return [closed(one) for one in node]
    if not isinstance(node, dict):
        return node
    made = {key: closed(value) for key, value in node.items()}
    is_open = node.get("x-kubernetes-preserve-unknown-fields") or "additionalProperties" in node
    if isinstance(node.get("properties"), dict) and not is_open:
        made["additionalProperties"] = False
        made["properties"].setdefault("metadata", {"type": "object"})
    if node.get("x-kubernetes-int-or-string"):
        made = {"type": ["integer", "string"]}
    return made


def pods(resource: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    cluster = resource["spec"]["rayClusterSpec"]
    yield "head", cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["groupName"], group["template"]["spec"]


@pytest.mark.parametrize("name", ["base", *JOBS, "kueue"])
def test_a_job_is_what_kuberay_takes(name: str) -> None:
    made = rendered(KUBERAY / name)
    if name == "base":
        made["metadata"]["name"] = "base"
    made["metadata"] = {"name": made["metadata"]["name"], "labels": made["metadata"]["labels"]}
    jsonschema.Draft202012Validator(schema(made["kind"])).validate(made)


def test_a_word_that_kuberay_does_not_know_is_seen() -> None:
    made = rendered(KUBERAY / "rescore")
    made["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3
    with pytest.raises(jsonschema.ValidationError, match="maxReplica"):
        jsonschema.Draft202012Validator(schema("RayJob")).validate(made)


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_a_file_of_jobs_under_its_own_name(name: str) -> None:
    made = rendered(KUBERAY / name)
    assert made["metadata"]["name"] == name
    [job] = re.findall(
        r"/opt/spineage/(jobs/\w+\.py) --study /etc/spineage/study\.yaml",
        made["spec"]["entrypoint"],
    )
    assert job == f"jobs/{name}.py"
    assert (ROOT / job).exists()


def test_versions_are_those_of_the_lock() -> None:
    [ray] = re.findall(
        r"^ray==(.+)$", (ROOT / "cluster/requirements.lock").read_text(), re.MULTILINE
    )
    assert rendered(KUBERAY / "base")["spec"]["rayClusterSpec"]["rayVersion"] == ray


def test_no_pod_is_root_and_no_secret_is_written_out() -> None:
    made = rendered(KUBERAY / "base")
    assert made["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
    for name, pod in pods(made):
        assert pod["securityContext"]["runAsNonRoot"], name
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert (
                container["resources"]["requests"]["memory"]
                == container["resources"]["limits"]["memory"]
            )
            assert all("value" not in one for one in container.get("env", ())), "by reference"
            assert ("SPINEAGE_KEY" in str(container)) == (name == "head"), "the driver's alone"


def test_the_image_is_built_by_the_lock_and_runs_as_nobody_special() -> None:
    lines = (ROOT / "cluster/Dockerfile").read_text().replace("\\\n", " ").splitlines()
    installs = [line for line in lines if "pip install" in line]
    assert installs
    assert all("-c cluster/requirements.lock" in line for line in installs)
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["1000"]
    assert any("useradd" in line and "--uid 1000 ray" in line for line in lines)
    assert lines.index("USER 1000") > max(lines.index(line) for line in installs)
    for line in lines:
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), line


def test_the_study_of_a_growing_cluster_says_so() -> None:
    """What the manifest's comment asks for is a key of the study."""
    assert "`cluster.grows: true`" in (KUBERAY / "base/job.yaml").read_text()
    assert study_from({"cluster": {"grows": True}}).cluster.grows


@pytest.mark.parametrize("name", ["on-premises", "aws", "gcp"])
def test_ray_up_takes_the_file_and_lets_nobody_in_without_a_token(name: str) -> None:
    config = yaml.safe_load((ROOT / "cluster/up" / f"{name}.yaml").read_text())
    prepared = prepare_config(config)
    validate_config(prepared)
    assert all(
        "--dashboard-host=127.0.0.1" in line for line in config["head_start_ray_commands"][1:]
    )
    assert "/home/ray/.ray/auth_token" in config["file_mounts"]
    assert "ENV RAY_AUTH_MODE=token" in (ROOT / "cluster/Dockerfile").read_text()
