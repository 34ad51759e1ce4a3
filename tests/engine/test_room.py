"""A Ray session started here: what its daemons inherit, who can look into its folder, what workers get."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from spineage.engine import room

TOKEN = "0123456789abcdef" * 4
LOOK = """
import json, os, stat, sys
from pathlib import Path
import ray
from spineage.engine import session
from spineage.engine.rows import Step, run_rows

session.connect(num_cpus=2)
folder = session._rooms[0]
mode = lambda path: stat.S_IMODE(os.stat(path).st_mode)

def mentions(pid, place):
    try:
        return str(folder) in Path(f"/proc/{pid}/{place}").read_text(errors="replace")
    except OSError:
        return False

def environ(pid):
    return Path(f"/proc/{pid}/environ").read_text(errors="replace")

class Fails:
    def __call__(self, row):
        raise ValueError("Wrapping MUELLER Anna 1950-01-02 failed")

class Sink:
    def __call__(self, rows):
        pass

def look():
    old = os.umask(0o077)
    names = ("AWS_SECRET_ACCESS_KEY", "SPINEAGE_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_USAGE_STATS_ENABLED")
    return {"umask": old, **{name: os.environ.get(name) for name in names}}

worker = ray.get(ray.remote(look).remote())
daemons = [p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid() and mentions(p, "cmdline")]
token = Path(os.environ["HOME"], ".ray", "auth_token")
found = {
    "worker": worker, "daemons": len(daemons), "environ": "".join(map(environ, daemons)),
    "room": mode(folder.parent), "token": mode(token), "told": token.read_text(),
    "kept": os.environ.get("SPINEAGE_KEY"), "handover": room_name if (room_name := os.environ.get("SPINEAGE_HANDOVER")) else "",
    "counts": dict(run_rows([{"scan_id": "s", "source_digest": "d"}], [Step(Fails, name="fails")], Step(Sink))),
}
session.disconnect()
found["left"] = folder.parent.exists()
print(json.dumps(found))
"""  # noqa: E501


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """One session of a user whose token was open to all, and what can be seen of it."""
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text(TOKEN)
    (home / ".ray" / "auth_token").chmod(0o644)
    script = home / "look.py"
    script.write_text(LOOK)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "XDG_"))}
    secrets = {
        "SPINEAGE_KEY": "planted-person-key", "AWS_SECRET_ACCESS_KEY": "planted-cloud-key",
        "MLFLOW_TRACKING_PASSWORD": "planted-login", "GITHUB_TOKEN": "planted-token",
    }  # fmt: skip
    (scratch := home / "a path that is longer than sockets can have where Ray adds its own").mkdir()
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=240, cwd=home,
        env={**kept, **secrets, "HOME": str(home), "PYTHONPATH": root, "RAY_TMPDIR": str(scratch)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1]), done.stdout + done.stderr, home


@pytest.mark.slow
def test_daemons_of_a_session_inherit_no_secret(looked: tuple[dict[str, Any], str, Path]) -> None:
    found, _, _ = looked
    assert found["daemons"] >= 3
    assert "PATH=" in found["environ"]
    assert "planted" not in found["environ"]
    assert found["kept"] == "planted-person-key", "this process keeps its own environment"
    assert found["handover"] == ""


@pytest.mark.slow
def test_workers_get_the_credentials_of_storage_and_write_private_files(
    looked: tuple[dict[str, Any], str, Path],
) -> None:
    assert looked[0]["worker"] == {
        "umask": 0o077, "AWS_SECRET_ACCESS_KEY": "planted-cloud-key", "SPINEAGE_KEY": None,
        "MLFLOW_TRACKING_PASSWORD": None, "RAY_USAGE_STATS_ENABLED": "0",
    }  # fmt: skip


@pytest.mark.slow
def test_nobody_else_enters_the_folder_and_nothing_of_it_is_left(
    looked: tuple[dict[str, Any], str, Path],
) -> None:
    assert looked[0]["room"] == 0o700
    assert not looked[0]["left"]
    [scratch] = looked[2].glob("a path*")
    assert not list(scratch.iterdir())


@pytest.mark.slow
def test_a_token_that_was_open_is_closed_before_ray_reads_it(
    looked: tuple[dict[str, Any], str, Path],
) -> None:
    assert looked[0]["token"] == 0o600
    assert looked[0]["told"] == TOKEN


@pytest.mark.slow
def test_what_an_unexpected_error_of_a_worker_said_is_in_a_private_log_only(
    looked: tuple[dict[str, Any], str, Path],
) -> None:
    found, said, home = looked
    assert found["counts"] == {"bug": 1}
    assert "unexpected ValueError in fails at " in said
    assert "MUELLER" not in said
    assert "Traceback" not in said
    logs = list((home / ".local/state/spineage/logs").iterdir())
    assert logs
    assert all("MUELLER" in log.read_text() for log in logs)
    assert {log.stat().st_mode & 0o777 for log in logs} == {0o600}


@pytest.mark.parametrize(
    ("name", "is_needed"),
    [
        ("PATH", True), ("PYTHONPATH", True), ("OMP_NUM_THREADS", True), ("CUDA_VISIBLE_DEVICES", True),
        ("RAY_AUTH_MODE", True), ("RAY_AUTH_TOKEN", True), ("LC_ALL", True), ("nnUNet_n_proc_DA", True),
        ("SPINEAGE_KEY", False), ("SPINEAGE_KEY_FILE", False), ("AWS_ACCESS_KEY_ID", False),
        ("RAY_REDIS_PASSWORD", False), ("MLFLOW_TRACKING_URI", False), ("SLURM_JWT_TOKEN", False),
        ("GOOGLE_APPLICATION_CREDENTIALS", False), ("https_proxy", False), ("DATABASE_URL", False),
    ],
)  # fmt: skip
def test_only_what_programs_need_to_run_is_inherited(name: str, is_needed: bool) -> None:
    assert room.is_needed(name) is is_needed


def test_a_new_token_is_private_from_its_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "ray" / "token"))
    before = os.umask(0)
    try:
        room.close_token()
    finally:
        os.umask(before)
    assert (tmp_path / "ray").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "ray" / "token").stat().st_mode & 0o777 == 0o600
    assert len((tmp_path / "ray" / "token").read_text()) == 64


def test_the_folder_is_short_enough_for_sockets_and_lies_where_temporary_files_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tmp_path / ("long" * 30)
    base.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(base))
    made = room.open_room()
    session = "session_2026-11-26_01-22-12_655123_1234567"
    longest = room.MAX_BASE - len(room.SHORT_BASE)
    assert longest + len(f"{made}/{session}/sockets/plasma_store") <= 107
    real = made.resolve()
    assert real.is_relative_to(base)
    assert {stat.S_IMODE(folder.stat().st_mode) for folder in (made.parent, real.parent)} == {0o700}
    room.close_room(made)
    assert not made.parent.exists()
    assert not list(base.iterdir())


def test_what_a_killed_run_left_is_removed_by_the_next_and_what_is_in_use_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    code = (
        "import os\nfrom spineage.engine import room\nmade = room.open_room()\n"
        "with room.only_what_is_needed(made): pass\n"
        "print(made.parent, made.resolve().parent, flush=True)\nos.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    short, left = map(Path, done.stdout.split())
    assert (short / "handover.json").exists()
    in_use = room.open_room()
    assert not short.exists()
    assert not left.exists()
    another = room.open_room()
    assert in_use.parent.exists()
    for made in (in_use, another):
        room.close_room(made)
