"""The Dockerfile without Docker: its lines, run one by one in a fresh root of the same Debian."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
BASE = "FROM python:${PYTHON}-slim-bookworm"
CA_BUNDLE = "etc/ssl/certs/ca-certificates.crt"
WORKS = """
import os, sys
import mlflow, monai, nnunetv2, ray, torch
import spineage
assert os.getuid() == 1000, os.getuid()
assert os.environ["RAY_AUTH_MODE"] == "token"
assert spineage.__file__.startswith("/usr/local/lib/"), spineage.__file__
from spineage.segmenter.folder import read_manifest
read_manifest("demo")
print(torch.__version__, ray.__version__)
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        not shutil.which("debootstrap") or os.getuid() != 0,
        reason="a fresh root needs debootstrap (Debian's package) and root",
    ),
    pytest.mark.skipif(
        "SPINEAGE_TEST_LONG" not in os.environ,
        reason="ten minutes and gigabytes from package registries: run where SPINEAGE_TEST_LONG is set",
    ),
]


@dataclass
class Image:
    """A root, and what the lines so far have set."""

    root: Path
    shared: list[Path] = field(default_factory=list)
    environment: dict[str, str] = field(
        default_factory=lambda: {
            "PATH": "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
        }
    )
    folder: str = "/"
    user: str = "0"
    entry: list[str] = field(default_factory=list)

    def run(self, *command: str) -> str:
        """In the root, as the user and in the folder of now. AssertionError with its last words."""
        mounts = [f"mount --bind {place} {self.root}{place}" for place in self.shared]
        settings = [f"{name}={value}" for name, value in self.environment.items()]
        inside = shlex.join(
            ["chroot", f"--userspec={self.user}:{self.user}", str(self.root), "env", "-i", *settings,
             "sh", "-c", f'cd {self.folder} && exec "$@"', "sh", *command]
        )  # fmt: skip
        mounts += [
            f"mount -t proc none {self.root}/proc",
            f"mount -t tmpfs none {self.root}/dev/shm",
            inside,
        ]
        ended = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", "\n".join(mounts)],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ended.returncode == 0, (command, ended.stdout[-2000:] + ended.stderr[-4000:])
        return ended.stdout


@pytest.fixture
def image(tmp_path: Path) -> Iterator[Image]:
    """What the base image is, as far as these lines need it: Debian's Python, `python` and `pip` in front."""
    root = tmp_path / "root"
    packages = "python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)],
        check=True, capture_output=True,
    )  # fmt: skip
    made = Image(root)
    (root / "dev/shm").mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    shutil.copy(f"/{CA_BUNDLE}", root / CA_BUNDLE)
    _as_pip_is_set_here(made)
    made.run("python3", "-m", "venv", "/usr/local")
    yield made
    shutil.rmtree(root, ignore_errors=True)


def _as_pip_is_set_here(image: Image) -> None:
    """Its mirrors and local packages, read only by being mounted where they are."""
    settings = subprocess.run(
        ["pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    lines = re.findall(r"^(?:global|:env:)\.([\w-]+)='(.*)'$", settings, re.MULTILINE)
    text = "[global]\n" + "".join(f"{name} = {value}\n" for name, value in dict(lines).items())
    (image.root / "etc/pip.conf").write_text(text)
    named = {Path(found) for found in re.findall(r"(?:file://|\s|=\s)(/[\w./-]+)", text)}
    # an index refers to files beside it
    for place in sorted({one.parent if one.name == "simple" else one for one in named}):
        inside = image.root / str(place)[1:]
        if place.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
            image.shared.append(place)
        elif place.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(place, inside)


def follow(image: Image, line: str) -> None:
    """One instruction of a Dockerfile."""
    word, _, rest = line.partition(" ")
    if word == "RUN":
        image.run("sh", "-c", rest)
    elif word == "WORKDIR":
        image.folder = rest
        (image.root / rest[1:]).mkdir(parents=True)
    elif word == "COPY":
        *sources, target = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            place = image.root / image.folder[1:] / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    elif word in ("ENV", "ARG"):
        for pair in shlex.split(rest):
            name, _, value = pair.partition("=")
            image.environment[name] = value
    elif word == "USER":
        image.user = rest
    elif word in ("ENTRYPOINT", "CMD"):
        image.entry += re.findall(r'"([^"]+)"', rest)
    else:
        raise AssertionError(f"this test does not know {word}")


def test_each_line_runs_in_a_fresh_root_and_the_result_works(image: Image) -> None:
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    assert [line for line in lines if line.startswith("FROM")] == [BASE]
    for line in lines[lines.index(BASE) + 1 :]:
        follow(image, line)
    assert "Usage: spineage" in image.run(*image.entry)
    torch, ray = image.run("python", "-c", WORKS).split()
    lock = (ROOT / "cluster/requirements.lock").read_text()
    assert f"\nray=={ray}\n" in lock
    assert f"\ntorch=={torch.partition('+')[0]}\n" in lock
    for job in sorted((ROOT / "jobs").glob("*.py")):
        assert "--study" in image.run("python", f"/opt/spineage/jobs/{job.name}", "--help")
    assert image.run("wget", "--version").startswith("GNU Wget")
