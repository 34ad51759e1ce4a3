"""The house: who may import whom, one stage one file one verb one job, nothing foreign in the tree."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import spineage
from spineage.cli import app
from spineage.errors import FAULTS, BadScan
from spineage.flow import STAGES, module_of
from spineage.study import Inputs
from spineage.tables import TABLES

ROOT = Path(__file__).parent.parent
MODULES = sorted((ROOT / "spineage").rglob("*.py"))

ORDER = (
    "errors uris", "privacy", "unexpected", "flow tables study_file", "study", "science engine", "io",
    "report", "segmenter", "run", "stages", "verbs", "cli",
)  # fmt: skip
"""Rooms import from rooms further to the left, never from one beside them."""
RANK = {room: rank for rank, rooms in enumerate(ORDER) for room in rooms.split()}
ONLY = {
    "ray": {"engine"},
    "nnunetv2": {"segmenter"},
    "mlflow": {"io", "stages", "verbs"},
    "pydicom": {"io"},
}
"""Who may import what the house must not be full of."""
NOT_IN_SCIENCE = {"pathlib", "os", "io", "shutil", "tempfile", "fsspec", "nibabel"}


def room_of(module: str) -> str:
    """`io` of `spineage.io.dicom.header`; "" of what is not ours, or the package itself."""
    parts = module.split(".")
    return parts[1] if parts[0] == "spineage" and len(parts) > 1 else ""


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def trespasses(module: str, names: Iterable[str]) -> list[str]:
    """What a module imports that its room may not."""
    here = room_of(module)
    found = []
    for name in names:
        top, there = name.split(".")[0], room_of(name)
        runs_back = there in RANK and there != here and RANK[there] >= RANK[here]
        meets = {here, there} == {"io", "engine"}
        is_foreign = here not in ONLY.get(top, {here})
        is_worldly = here == "science" and top in NOT_IN_SCIENCE
        found += [name] if runs_back or meets or is_foreign or is_worldly else []
    return sorted(found)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


HOUSE = {name_of(path): path for path in MODULES}


def test_imports_run_one_way() -> None:
    assert {room_of(name) for name in HOUSE} <= {"", *RANK}, "a room without a place in the order"
    found = {name: trespasses(name, imports_of(path)) for name, path in HOUSE.items()}
    assert not {name: names for name, names in found.items() if names}


def test_the_wall_test_itself_sees_a_trespass(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    from ray import data\n    import spineage.io.storage.store\n")
    names = list(imports_of(bad))
    assert trespasses("spineage.science.scan.x", names) == [
        "ray",
        "ray.data",
        "spineage.io.storage.store",
    ]
    assert trespasses("spineage.engine.x", names) == ["spineage.io.storage.store"]
    assert trespasses("spineage.stages.x", names) == ["ray", "ray.data"]
    assert trespasses("spineage.report.x", ["spineage.report.words", "spineage.run.context"]) == [
        "spineage.run.context"
    ]


def test_no_circle_of_imports_even_within_functions() -> None:
    reached: dict[str, set[str]] = {
        name: {n for n in imports_of(path) if n in HOUSE and n != name}
        for name, path in HOUSE.items()
    }
    while leaves := [name for name, to in reached.items() if not to]:
        reached = {n: to - set(leaves) for n, to in reached.items() if n not in leaves}
    assert not reached, "each of these imports another, round and round"


def test_a_folder_answers_one_question_with_few_files() -> None:
    folders = [path for path in (ROOT / "spineage").rglob("*") if (path / "__init__.py").is_file()]
    sizes = {str(f.relative_to(ROOT)): len(list(f.glob("[!_]*.py"))) for f in folders}
    sizes.pop("spineage/science/phantom")  # a body has many parts
    assert not {folder: n for folder, n in sizes.items() if n > 13}


def test_science_opens_no_file() -> None:
    for path in (ROOT / "spineage/science").rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        names = {c.func.id for c in calls if isinstance(c.func, ast.Name)}
        assert "open" not in names, path


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_is_one_file_one_verb_and_one_job(stage: str) -> None:
    module = module_of(stage)
    assert callable(module.recipe)
    assert callable(module.run)
    assert CliRunner().invoke(app, [stage, "--help"]).exit_code == 0
    job = ROOT / "jobs" / ("rescore.py" if stage == "score" else f"{stage}.py")
    assert len(job.read_text().splitlines()) <= 40


def test_every_table_has_exactly_one_first_writer_and_every_read_is_written() -> None:
    written = {t for stage in STAGES.values() for t in stage.writes}
    assert written | {"truth"} == set(TABLES)
    assert all({*stage.reads, *stage.fills} <= written for stage in STAGES.values())
    assert all(set(stage.files) <= set(Inputs.model_fields) for stage in STAGES.values())


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
    agreed = {
        "spineage", "jobs", "cluster", "tests", "pyproject.toml", "README.md", "Makefile", "LICENSE",
        "NOTICE", "CHANGELOG.md", "CITATION.cff",
    }  # fmt: skip
    assert {t for t in tops if not t.startswith(".")} <= agreed


def test_the_papers_of_the_project_agree_on_name_version_and_licence() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cited["version"] == spineage.__version__
    assert cited["license"] == project["license"] == "Apache-2.0"
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert f"## {spineage.__version__}" in changes
    assert "## Unreleased" in changes
    for form in (ROOT / ".github").rglob("*.yml"):
        assert isinstance(yaml.safe_load(form.read_text()), dict), form


def test_no_imaging_data_and_no_large_file_is_committed() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():
            continue
        assert not re.search(r"\.(dcm|nii|nii\.gz|mha|nrrd)$", name), name
        is_weights = name == "spineage/data/demo_segmenter/weights.safetensors"
        assert path.stat().st_size <= (8_000_000 if is_weights else 512_000), name
        with path.open("rb") as file:
            head = file.read(132)
        assert head[128:132] != b"DICM", name
