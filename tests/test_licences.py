"""What may be installed beside an Apache-2.0 project, and that nothing else is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / ".github" / "licences.py"
LOCK = ROOT / "cluster" / "requirements.lock"


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["licences"] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


def installed(folder: Path, name: str, *lines: str) -> Path:
    """A package that says this of itself."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    head = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines]
    (place / "METADATA").write_text("\n".join(head) + "\n")
    return folder


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *words], capture_output=True, text=True)


CLASSIFIER = "Classifier: License :: OSI Approved :: "


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: MIT", "License-Expression: Apache-2.0 AND BSD-3-Clause",
        "License-Expression: BSD-3-Clause AND 0BSD AND MIT AND Zlib AND CC0-1.0",
        "License-Expression: MIT OR GPL-3.0-only", "License: 3-Clause BSD License",
        f"{CLASSIFIER}BSD License", f"{CLASSIFIER}Python Software Foundation License",
    ],
)  # fmt: skip
def test_permissive_licences_pass(tmp_path, line):
    done = run("--path", str(installed(tmp_path, "some", line)))
    assert (done.returncode, done.stderr) == (0, "")
    assert "some" in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "License-Expression: GPL-3.0-or-later", "License-Expression: AGPL-3.0-only",
        "License-Expression: MIT AND GPL-2.0-only", "License: GPL V3.0",
        f"{CLASSIFIER}GNU General Public License v3 (GPLv3)",
        f"{CLASSIFIER}GNU Affero General Public License v3",
    ],
)  # fmt: skip
def test_gpl_fails_and_no_entry_lets_it_pass(tmp_path, line, licences):
    done = run("--path", str(installed(tmp_path, "some", line)))
    assert done.returncode == 1
    assert "some 1.0" in done.stderr
    assert "whole GPL" in done.stderr
    (package,) = importlib.metadata.distributions(path=[str(tmp_path)])
    reviewed = {"some": {"licence": licences.licence_of(package), "reason": "we like it"}}
    assert "whole GPL" in licences.look_at(package, reviewed).trouble


@pytest.mark.parametrize(
    "lines",
    [
        ["License-Expression: LGPL-3.0-or-later"], ["License-Expression: MPL-2.0"], ["License: ours"],
        [], ["License: UNKNOWN"], [f"{CLASSIFIER}GNU Lesser General Public License v3 (LGPLv3)"],
    ],
)  # fmt: skip
def test_weak_copyleft_and_unknown_ones_need_somebody_who_looked(tmp_path, lines, licences):
    done = run("--path", str(installed(tmp_path, "some", *lines)))
    assert done.returncode == 1
    assert "nobody has looked at it" in done.stderr
    (package,) = importlib.metadata.distributions(path=[str(tmp_path)])
    said = licences.licence_of(package)
    assert not licences.look_at(package, {"some": {"licence": said, "reason": "well"}}).trouble
    changed = licences.look_at(package, {"some": {"licence": "another", "reason": "well"}})
    assert "look again" in changed.trouble


def test_whatever_the_lock_installs_may_be_installed():
    done = run("--only", str(LOCK))
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) > 150


def test_every_entry_is_of_a_package_in_the_lock_and_says_why(licences):
    entries = tomllib.loads(licences.REVIEWED.read_text())
    assert {licences.plain(name) for name in entries} <= licences.named_in(LOCK)
    assert all(len(entry["reason"]) > 20 for entry in entries.values())


def test_the_licence_and_the_notice_stand_at_the_top():
    text = (ROOT / "LICENSE").read_text()
    assert re.search(r"Apache License\s+Version 2.0, January 2004", text)
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Apache License, Version 2.0" in (ROOT / "NOTICE").read_text()
    told = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (told["license"], told["license-files"]) == ("Apache-2.0", ["LICENSE", "NOTICE"])
