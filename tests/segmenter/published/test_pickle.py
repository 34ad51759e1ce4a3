"""A checkpoint may hold any program: it takes no more than it is given, and nothing of it outlives it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from spineage.errors import BadStudy
from spineage.segmenter.published import bounded_process
from spineage.segmenter.published import checkpoint as nnunet_checkpoint
from spineage.segmenter.published.adopt import import_segmenter
from spineage.segmenter.published.checkpoint import MB
from spineage.segmenter.training import folds as nnunet_folds
from tests.made.attackers import Runs, armed, hub_model, nothing_outlives
from tests.made.tiny_nnunet import LABELS, tiny_plans, write_tiny_model


@pytest.fixture
def model(tmp_path, monkeypatch) -> Path:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    return write_tiny_model(tmp_path / "model")


def refusal(model: Path, isolated: bool = True) -> str:
    with pytest.raises(BadStudy) as refused:
        import_segmenter(
            model, model.parent / "out", trust=True, orientation="RAS", isolated=isolated
        )
    assert str(refused.value).isprintable()
    assert not (model.parent / "out").exists() or not list((model.parent / "out").iterdir())
    assert not list((model.parent / "scratch").iterdir())
    return str(refused.value)


HIDE = """
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
libc.prctl(1, 0)  # no signal when the parent dies
for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGXCPU"):
    try: signal.signal(getattr(signal, name), signal.SIG_IGN)
    except Exception: pass
for act in (os.setsid, os.fork, os.setsid, os.fork):
    try: act()
    except OSError: pass
while True:
    try: time.sleep(1)
    except BaseException: pass
"""


def late_once(monkeypatch: pytest.MonkeyPatch, are_there: Callable[[], bool]) -> None:
    """The time limit is reached two seconds after the processes are there, on however slow a machine."""
    real = bounded_process._listen

    def listen(process: Any, deadline: float) -> bytes:
        until = time.monotonic() + 120
        while not are_there() and process.poll() is None and time.monotonic() < until:
            time.sleep(0.05)
        return real(process, time.monotonic() + 2)

    monkeypatch.setattr(bounded_process, "_listen", listen)


def test_a_checkpoint_that_hides_does_not_outlive_its_time(model, monkeypatch):
    with nothing_outlives(num_expected=3) as are_there:
        late_once(monkeypatch, are_there)
        assert "it took too long" in refusal(armed(model, HIDE))


def test_the_watch_of_that_test_sees_a_process_that_outlives(tmp_path):
    note = tmp_path / "pid"
    code = (
        "import os, time\nif os.fork(): os._exit(0)\nos.setsid()\n"
        f"open({str(note)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    )
    watch = nothing_outlives(num_expected=1)
    watch.__enter__()
    subprocess.run([sys.executable, "-c", code], check=True)
    while not (note.exists() and note.read_text()):
        time.sleep(0.02)
    time.sleep(0.2)
    with pytest.raises(AssertionError, match="outlived"):
        watch.__exit__(None, None, None)
    os.kill(int(note.read_text()), signal.SIGKILL)


def test_the_namespace_ends_even_without_the_filter_on_system_calls(model, monkeypatch):
    """The filter refuses fork and prctl; the namespace must hold alone as well."""
    off = "import spineage.segmenter.published.isolation as i; i.restrict_system_calls = lambda libc: None; "
    off += "i.set_limits = lambda limits: None; "
    off += "import runpy; runpy.run_module('spineage.segmenter.published.unpickle', run_name='__main__')"
    real = bounded_process.run_bounded

    def unfiltered(command, timeout_s, **options):
        return real([command[0], "-c", off, *command[4:]], timeout_s, **options)

    monkeypatch.setattr(nnunet_checkpoint, "run_bounded", unfiltered)
    with nothing_outlives(num_expected=5) as are_there:  # three of ours, two of the four forks
        late_once(monkeypatch, are_there)
        assert "it took too long" in refusal(armed(model, HIDE))


def test_what_a_checkpoint_starts_ends_with_it_though_it_ends_well(model):
    code = "import os, time\nif os.fork() == 0:\n    time.sleep(60)\n    os._exit(0)\nos._exit(0)"
    with nothing_outlives(num_expected=1):
        said = refusal(armed(model, code), isolated=False)
    assert "is not JSON" in said or "BlockingIOError" in said  # root may fork, others may not


def test_nothing_can_be_started_or_opened(model):
    tries = {
        "fork": "os.fork()", "exec": "os.execv('/bin/sh', ['sh'])", "socket": "socket.socket()",
        "open": "os.open('/x', os.O_CREAT | os.O_WRONLY)", "memory": "os.memfd_create('x')",
        "kill": "os.kill(1, 9)", "death": "check(ctypes.CDLL(None, use_errno=True).prctl(1, 0))",
        "limit": "resource.setrlimit(resource.RLIMIT_FSIZE, (2**40, 2**40))",
    }  # fmt: skip
    code = f"""
import ctypes, os, resource, socket
def check(result):
    if result: raise OSError(ctypes.get_errno(), "refused")
got = []
for name, act in {tries!r}.items():
    try:
        eval(act)
        got.append(name)
    except (OSError, ValueError):
        pass
raise RuntimeError("got: " + ",".join(got) + ";")
"""
    assert "got: ;" in refusal(armed(model, code))


@pytest.mark.parametrize("stream", ["1", "2"])
def test_a_flood_of_output_is_not_kept(model, stream):
    code = f"import os\nfor _ in range(30000): os.write({stream}, b'x' * 100000)"  # 3 GB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = refusal(armed(model, f"{code}\nraise RuntimeError('all of it')"))
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mb < 100
    assert ("all of it" in said) if stream == "1" else ("kB of messages" in said)


def test_a_file_larger_than_the_checkpoint_is_not_written(model):
    code = "import os, sys\nwhile True: os.write(int(sys.argv[2]), b'x' * 2**20)"
    assert "File too large" in refusal(armed(model, code))


def test_memory_is_bounded(model):
    code = "kept = []\nwhile True: kept.append(bytearray(64 * 2**20))"
    bound = 4 * (model / "fold_0" / "checkpoint_final.pth").stat().st_size + 512 * MB
    assert bound < 600 * MB
    assert "MemoryError" in refusal(armed(model, code))


def test_processor_time_is_bounded(model, monkeypatch):
    real = nnunet_checkpoint.Bounds
    monkeypatch.setattr(
        nnunet_checkpoint, "Bounds", lambda memory, file, cpu: real(memory, file, 5)
    )
    with nothing_outlives(num_expected=3):
        said = refusal(armed(model, "while True: pass"))
    assert "it ended with" in said


def written(weights: str = "b''", facts: str = "b''") -> str:
    """A checkpoint that writes the answer itself."""
    return f"""
import json, os, sys, torch
from safetensors.torch import save
os.write(int(sys.argv[2]), {weights})
os.write(int(sys.argv[3]), {facts})
os._exit(0)
"""


FACTS = {
    "trainer": "x", "configuration": "tiny", "num_channels": 1, "num_heads": 6, "mirror_axes": [0],
}  # fmt: skip


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        (b"", "is not JSON"),
        (b"[" * 5000, "is not JSON"),
        (b"x" * 17_000_000, "at most|File too large"),
        ({**FACTS, "trainer": "\x1b[2J"}, "plain words"),
        ({**FACTS, "trainer": "x" * 5000}, "plain words"),
        ({**FACTS, "configuration": "../../x"}, "plain words"),
        ({**FACTS, "num_heads": True}, "plain words"),
        ({**FACTS, "num_heads": 10**9}, "plain words"),
        ({**FACTS, "mirror_axes": [7]}, "plain words"),
        ({**FACTS, "mirror_axes": None}, "plain words"),
    ],
)
def test_what_it_says_of_itself_is_looked_at(model, facts, sentence):
    code = f"json.dumps({facts!r}).encode()" if isinstance(facts, dict) else repr(facts)
    if isinstance(facts, bytes) and len(facts) > 10_000:
        code = f"b'x' * {len(facts)}"
    said = refusal(armed(model, written("save({'a': torch.zeros(1)})", code)))
    assert any(words in said for words in sentence.split("|")), said


@pytest.mark.parametrize(
    ("weights", "sentence"),
    [
        ("b'no safetensors'", "gave no weights"),
        ("save({'a': torch.full((2,), float('nan'))})", "not all numbers"),
        ("save({'a' + chr(27) + '[2J': torch.zeros(1)})", "no weight"),
        ("save({'../../a': torch.zeros(1)})", "no weight"),
        ("save({'a': torch.zeros(1, dtype=torch.complex64)})", "no weight|gave no weights|cannot"),
    ],
)
def test_the_weights_it_gives_are_looked_at(model, weights, sentence):
    said = refusal(armed(model, written(weights, f"json.dumps({FACTS!r}).encode()")))
    assert any(words in said for words in sentence.split("|")), said


def test_an_honest_checkpoint_passes_all_this(model):
    manifest = import_segmenter(model, model.parent / "out", trust=True, orientation="RAS")
    assert manifest["opened"] == "isolated"
    assert manifest["mirror_axes"] == [0, 1, 2]


# a training that goes on from its own folder


def test_a_training_goes_on_from_tensors_and_runs_no_program(tmp_path):
    canary = tmp_path / "canary"
    path = tmp_path / "fold_0" / "checkpoint_latest.pth"
    path.parent.mkdir()
    torch.save({"network_weights": {}, "logging": Runs(f"open({str(canary)!r}, 'w')")}, path)
    with pytest.raises(BadStudy, match=r"checkpoint_latest\.pth of fold_0 is no checkpoint"):
        nnunet_folds._read_checkpoint(path)
    assert not canary.exists()
    torch.load(path, weights_only=False)  # as nnU-Net does
    assert canary.exists()


def test_a_training_from_plans_of_others_starts_nothing(tmp_path):
    canary = tmp_path / "canary"
    folder = tmp_path / "preprocessed" / nnunet_folds.DATASET
    folder.mkdir(parents=True)
    hub = hub_model(tmp_path / "hub", canary)
    plans = tiny_plans()
    plans["configurations"]["tiny"]["architecture"] = {
        "network_class_name": "torch.hub.load", "_kw_requires_import": [],
        "arch_kwargs": {"repo_or_dir": str(hub), "model": "net", "source": "local", "n_stages": 3},
    }  # fmt: skip
    (folder / f"{nnunet_folds.PLANS}.json").write_text(json.dumps(plans))
    dataset = {"labels": LABELS, "channel_names": {"0": "T2"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(BadStudy, match=r"torch\.hub\.load"):
        nnunet_folds.train_fold(
            tmp_path, "0", nnunet_folds.FoldRecipe("tiny"), device=torch.device("cpu"), keep_every=1,
            augment_processes=0, tell=lambda epoch: None,
        )  # fmt: skip
    assert not canary.exists()
