"""Nothing in the house turns a file's text or bytes into code, but the few places named here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted([*(ROOT / "spineage").rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
DANGEROUS = {
    "eval", "exec", "compile", "__import__", "locate", "pydoc.locate", "get_network_from_plans",
    "recursive_find_python_class",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "yaml.load", "yaml.unsafe_load",
    "np.load", "importlib.import_module", "os.system", "os.popen",
    "subprocess.run", "subprocess.Popen", "subprocess.call", "subprocess.check_output",
}  # fmt: skip
MAY = {
    ("spineage/engine/rows.py", "pickle.loads"): "rows of our own, through Ray's object store",
    ("spineage/engine/tally.py", "pickle.loads"): "rows of our own, packed in this process",
    ("spineage/engine/training/ddp.py", "torch.load"): "weights_only",
    ("spineage/segmenter/training/folds.py", "torch.load"): "weights_only",
    (
        "spineage/segmenter/training/folds.py",
        "importlib.import_module",
    ): "a module of numpy, by its name here",
    ("spineage/segmenter/published/unpickle.py", "torch.load"): "the process apart, within bounds",
    (
        "spineage/segmenter/published/unpickle.py",
        "importlib.import_module",
    ): "what it will need, by names here",
    ("spineage/io/storage/arrays.py", "np.load"): "allow_pickle=False",
    (
        "spineage/segmenter/published/isolation.py",
        "subprocess.run",
    ): "asks whether a process can be isolated",
    (
        "spineage/science/cohort/arithmetic.py",
        "importlib.import_module",
    ): "a module of numpy, by its name here",
    ("spineage/study_file.py", "yaml.load"): "a safe loader of ours, without aliases",
    (
        "spineage/segmenter/published/bounded_process.py",
        "subprocess.Popen",
    ): "starts the process apart",
    ("spineage/flow.py", "importlib.import_module"): "a stage, by the road's own names",
}


def calls_of(source: str) -> list[ast.Call]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]


def name_of(call: ast.Call) -> str:
    """`torch.load` of torch.load(...), `eval` of eval(...); of a method the last two names."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    if isinstance(call.func, ast.Attribute):
        owner = call.func.value
        return f"{owner.id}.{call.func.attr}" if isinstance(owner, ast.Name) else ""
    return ""


def test_no_file_calls_what_runs_code_but_those_that_say_why() -> None:
    found = {
        (path.relative_to(ROOT).as_posix(), name_of(call))
        for path in FILES
        for call in calls_of(path.read_text())
        if name_of(call) in DANGEROUS
    }
    assert found == set(MAY)


@pytest.mark.parametrize(
    "name", ["spineage/engine/training/ddp.py", "spineage/segmenter/training/folds.py"]
)
def test_our_own_checkpoints_are_read_as_tensors_alone(name: str) -> None:
    loads = [c for c in calls_of((ROOT / name).read_text()) if name_of(c) == "torch.load"]
    assert loads
    for call in loads:
        given = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg == "weights_only"}
        assert given == {"weights_only": True}


def test_arrays_are_read_without_pickles() -> None:
    (call,) = [
        c
        for c in calls_of((ROOT / "spineage/io/storage/arrays.py").read_text())
        if name_of(c) == "np.load"
    ]
    given = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert given == {"allow_pickle": False}
