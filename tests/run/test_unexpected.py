"""An error nobody foresaw: one sentence without what it quotes, the rest in a file of its owner's."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from spineage import unexpected
from spineage.errors import BadStudy
from spineage.io.storage.store import Store
from spineage.privacy import keep_private, write_private
from spineage.run import entry
from spineage.unexpected import describe, described_in

PERSON = "MÜLLER Anna 1950-01-02"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(unexpected, "HERE", unexpected.Here())


def fails() -> None:
    try:
        int(PERSON)
    except ValueError as error:
        raise KeyError(PERSON) from error


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_one_sentence_with_its_type_stage_and_place_and_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unexpected.enter_stage("segment", str(tmp_path / "w"))
    assert entry.guarded(fails) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert "unexpected KeyError in segment at spineage/run/entry.py:" in said.err
    assert "Anna" not in said.err
    assert "1950" not in said.err
    [log] = (tmp_path / "w" / "logs").iterdir()
    assert str(log) in said.err
    assert PERSON in log.read_text()
    assert "KeyError" in log.read_text()
    assert mode(log) == 0o600
    assert mode(log.parent) == 0o700


def test_without_a_workspace_the_log_is_in_the_users_state_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.guarded(fails) == 1
    [log] = (tmp_path / "state" / "spineage" / "logs").iterdir()
    assert mode(log) == 0o600
    assert str(log) in capsys.readouterr().err


def test_where_the_workspace_cannot_be_written_the_state_folder_can(tmp_path: Path) -> None:
    (tmp_path / "w").write_text("a file, so no folder can be in it")
    unexpected.enter_stage("ingest", str(tmp_path / "w"))
    assert str(tmp_path / "state") in describe(ValueError(PERSON))


def test_a_bug_that_everything_meets_fills_no_disk(tmp_path: Path) -> None:
    for _ in range(3 * unexpected.MAX_LOGS):
        describe(ValueError(PERSON))
    assert len(list((tmp_path / "state" / "spineage" / "logs").iterdir())) == unexpected.MAX_LOGS


def test_a_message_that_looks_like_a_place_in_the_code_is_not_quoted() -> None:
    forged = ValueError(f'File "/x/spineage/{PERSON}.py", line 7, in Anna')
    sentence = describe(forged)
    assert "a place outside spineage" in sentence
    assert "Anna" not in sentence


def test_a_sentence_is_found_in_the_text_of_the_error_that_carried_it() -> None:
    sentence = describe(ValueError(PERSON), "a trial")
    carried = RuntimeError(f"ray::run()\nspineage.unexpected.Unexpected: {sentence}\nmore")
    assert described_in(str(carried)) == sentence
    assert describe(carried) == sentence
    assert described_in(f"unexpected {PERSON} in it at spineage/x.py:1 (y): a bug") == ""


@pytest.mark.parametrize("thread", [False, True])
def test_what_nobody_catches_ends_alike_in_any_thread(thread: bool, tmp_path: Path) -> None:
    code = (
        "import threading\nfrom spineage import unexpected\nunexpected.install()\n"
        f"def fail(): raise ValueError({PERSON!r})\n"
        + ("t = threading.Thread(target=fail); t.start(); t.join()" if thread else "fail()")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == (0 if thread else 1)
    assert re.fullmatch(r"spineage: unexpected ValueError at .*\n", done.stderr)
    assert "Anna" not in done.stderr


def test_a_login_in_what_went_wrong_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse() -> None:
        raise BadStudy("no answer from ftp://anna:s3cret@host/archive?token=t0ken at all")

    assert entry.guarded(refuse) == 2
    assert capsys.readouterr().err == "spineage: no answer from ftp://host/archive at all\n"


def test_every_verb_writes_for_its_user_alone(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        keep_private()
        (tmp_path / "w").mkdir()
        Store(str(tmp_path / "w")).write("a/b.json", b"{}")
        assert mode(tmp_path / "w" / "a" / "b.json") == 0o600
        assert mode(tmp_path / "w" / "a") == 0o700
    finally:
        os.umask(before)


def test_a_private_file_is_private_whatever_stood_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("old")
    (tmp_path / "key").chmod(0o644)
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "key", b"new")
    write_private(tmp_path / "key", b"new", replace=True)
    assert mode(tmp_path / "key") == 0o600
    assert (tmp_path / "key").read_text() == "new"
