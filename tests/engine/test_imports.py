"""Nothing is imported from the folder that a verb is called in, which may be somebody's archive."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import ray
from spineage.engine import session
session.connect(num_cpus=1)
print(ray.get(ray.remote(lambda: __import__("planted_module_of_nobody").__file__).remote()))
session.disconnect()
"""
ROOT = Path(__file__).parent.parent.parent


@pytest.mark.slow
@pytest.mark.parametrize("is_ours", [False, True])
def test_a_module_in_the_folder_of_the_call_is_not_imported_by_workers(
    tmp_path: Path, is_ours: bool
) -> None:
    """Unless the process that starts them imports from there itself."""
    archive, script = tmp_path / "archive", tmp_path / "elsewhere" / "script.py"
    archive.mkdir()
    script.parent.mkdir()
    script.write_text(SCRIPT)
    (archive / "planted_module_of_nobody.py").write_text("")
    path = f"{ROOT}{os.pathsep}{archive}" if is_ours else str(ROOT)
    done = subprocess.run(
        [sys.executable, str(script)], cwd=archive, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"},
    )  # fmt: skip
    assert ("planted_module_of_nobody.py" in done.stdout) == is_ours
    assert ("No module named" in done.stderr) == (not is_ours)


def test_no_folder_that_code_is_imported_from_is_looked_up_where_the_call_stands(
    tmp_path: Path,
) -> None:
    """An archive may hold a folder of any name; `pip install -e` once put a mere name on the path."""
    told = subprocess.run(
        [sys.executable, "-P", "-c", "import json, sys; print(json.dumps(sys.path))"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )  # fmt: skip
    relative = [entry for entry in json.loads(told.stdout) if not os.path.isabs(entry)]
    assert not relative, (
        f"{relative} on sys.path is looked up in the folder of the call: this environment was installed as "
        "older versions were; install the package again (`make install`)"
    )
