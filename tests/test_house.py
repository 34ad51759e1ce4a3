"""The house: who may import whom, one stage one file one verb one job, nothing foreign in the tree."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from spineage.cli import app
from spineage.errors import FAULTS, BadScan
from spineage.flow import ROAD, SIDE_ROADS
from spineage.tables import TABLES

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "spineage").rglob("*.py"))
STAGES = [*ROAD, *SIDE_ROADS]

FORBIDDEN = {
    "science": {
        "ray", "mlflow", "pathlib", "os", "io", "shutil", "tempfile", "fsspec", "pydicom", "nibabel",
        "spineage.io", "spineage.engine", "spineage.stages", "spineage.report", "spineage.cli",
    },
    "io": {"ray", "spineage.engine", "spineage.stages", "spineage.cli"},
    "report": {"ray", "mlflow", "spineage.engine", "spineage.stages", "spineage.cli"},
    "engine": {"mlflow", "spineage.io", "spineage.stages", "spineage.cli"},
    "stages": {"ray", "spineage.cli"},
}  # fmt: skip


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trespasses(room: str, names: Iterator[str]) -> list[str]:
    banned = FORBIDDEN[room]
    return sorted(n for n in names if any(n == b or n.startswith(b + ".") for b in banned))


@pytest.mark.parametrize("room", FORBIDDEN)
def test_imports_run_one_way(room: str) -> None:
    files = [p for p in MODULES if p.relative_to(ROOT / "spineage").parts[0] == room]
    assert files
    found = {str(p.relative_to(ROOT)): trespasses(room, imports_of(p)) for p in files}
    assert not {name: names for name, names in found.items() if names}


def test_the_wall_test_itself_sees_a_trespass(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from ray import data\n    import spineage.io.store\n")
    assert trespasses("science", imports_of(bad)) == ["ray", "ray.data", "spineage.io.store"]


def test_science_opens_no_file() -> None:
    for path in (ROOT / "spineage/science").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {c.func.id for c in calls if isinstance(c.func, ast.Name)}
        assert "open" not in names, path


@pytest.mark.parametrize("stage", [s.name for s in STAGES])
def test_every_stage_is_one_file_one_verb_and_one_job(stage: str) -> None:
    module = importlib.import_module(f"spineage.stages.{stage}")
    assert callable(module.recipe)
    assert callable(module.run)
    assert CliRunner().invoke(app, [stage, "--help"]).exit_code == 0
    job = ROOT / "jobs" / ("rescore.py" if stage == "score" else f"{stage}.py")
    assert len(job.read_text().splitlines()) <= 40


def test_every_table_has_exactly_one_first_writer_and_every_read_is_written() -> None:
    written = {t for stage in STAGES for t in stage.writes}
    assert written | {"truth"} == set(TABLES)
    assert all(set(stage.reads) <= written for stage in STAGES)


def test_every_fault_code_used_in_the_code_is_declared_and_every_declared_one_is_used() -> None:
    used: set[str] = set()
    for path in MODULES:
        if path.name != "errors.py":
            used |= set(re.findall(r"[\"']([a-z0-9_]+)[\"']", path.read_text()))
    assert not {code for code in FAULTS if code not in used}
    with pytest.raises(AssertionError):
        BadScan("no_such_code", "a fault must be declared")


def test_nothing_but_the_agreed_names_stands_at_the_top() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    tops = {name.split("/")[0] for name in listed.stdout.splitlines()}
    agreed = {"spineage", "jobs", "cluster", "tests", "pyproject.toml", "README.md", "Makefile"}
    assert {t for t in tops if not t.startswith(".")} <= agreed


def test_no_imaging_data_and_no_large_file_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():
            continue
        assert not re.search(r"\.(dcm|nii|nii\.gz|mha|nrrd)$", name), name
        is_weights = name == "spineage/segmenters/demo/weights.safetensors"
        assert path.stat().st_size <= (8_000_000 if is_weights else 512_000), name
        with path.open("rb") as file:
            head = file.read(132)
        assert head[128:132] != b"DICM", name
