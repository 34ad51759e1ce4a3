"""What `spineage status` says of runs that work, that died, and that ended."""

from __future__ import annotations

import datetime
import json
import os
from dataclasses import replace
from pathlib import Path

from spineage.io.storage import drafts, lease
from spineage.io.storage.lease import held
from spineage.io.storage.store import Store
from spineage.run.progress import Progress, pace_of, span
from spineage.verbs.status import Worker, look
from tests.made.command_line import spineage

ADDRESS = "score/0123456789abcdef"


def test_a_run_at_work_says_how_far_it_is_and_who_it_is(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with held(store, ADDRESS, print):
        say = Progress(store, "score", ADDRESS, already=40, total=10)
        say({"ok": 3, "no_spine": 1}, 10)
        (status,) = look(store)
    assert (status.state, status.done, status.left, status.already) == ("works", 3, 6, 40)
    assert status.faults == {"no_spine": 1}
    assert f"process {os.getpid()} of this machine" in status.line()
    assert "3 done (40 before), 6 left; 1 no_spine" in status.line()
    (ended,) = look(store)
    assert ended.state == "ended"


def test_who_works_on_what_is_told(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with held(store, ADDRESS, print):
        say = Progress(store, "score", ADDRESS, already=0, total=20)
        for worker, num in (("one/7", 3), ("two/8", 2)):
            for _ in range(num):
                say.see("draw", worker)
        for n in range(8):
            say.see("decode", f"one/{n}")
        say({"ok": 20}, 20)
        now = datetime.datetime.now(datetime.UTC)
        (status,) = look(store, now + datetime.timedelta(minutes=1))
        (later,) = look(store, now + datetime.timedelta(minutes=11))
    silent = Worker("draw", "one/7", 3, heard_s=700.0)
    lines = list(replace(status, crew=(*status.crew, silent)).crew_lines())
    assert lines[0].endswith("1 not heard of for 10 min: gone, or at one scan")
    assert later.state == "died"
    assert not list(later.crew_lines())
    assert {(w.work, w.worker, w.scans) for w in status.crew if w.work == "draw"} == {
        ("draw", "one/7", 3), ("draw", "two/8", 2),
    }  # fmt: skip
    draw, decode = status.crew_lines()
    assert draw.startswith("  draw: ")
    assert "two/8 2 scans (1 min" in draw
    assert decode.endswith(", 2 more")
    (ended,) = look(store)
    assert not list(ended.crew_lines()), "nobody works"


def test_stages_that_a_run_fills_in_are_no_runs_of_their_own(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with held(store, ADDRESS, print), held(store, "segment/0123456789abcdef", print):
        assert [one.stage for one in look(store)] == ["score"]
        Progress(store, "score", ADDRESS, already=0, total=10)
        (status,) = look(store)
    assert (status.stage, status.done, status.left) == ("score", 0, 10)
    assert "/s" not in status.line(), "no rate is known yet"


def test_a_stage_that_counts_no_scans_is_at_work_after_one_that_did(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with held(store, "segment/a", print):
        Progress(store, "segment", "segment/a", 0, 5)({"ok": 5}, 5)
    with held(store, "train/b", print):
        states = {one.stage: (one.state, one.done) for one in look(store)}
    assert states == {"segment": ("ended", 5), "train": ("works", None)}


def test_a_run_whose_process_is_gone_has_died(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    gone = {"machine": drafts.machine(), "process": 2**22 + 1, "seen": "2026-01-01T00:00:00+00:00"}
    store.write(f"{lease.FOLDER}/{ADDRESS}/1.json", json.dumps(gone).encode())
    (status,) = look(store)
    assert status.state == "died"
    assert "run it again to go on" in status.line()


def test_a_run_of_another_machine_that_is_silent_has_died(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    now = datetime.datetime.now(datetime.UTC)
    for age_s, state in ((20, "works"), (200, "died")):
        seen = (now - datetime.timedelta(seconds=age_s)).isoformat()
        record = {"machine": "another", "process": 7, "seen": seen}
        store.write(f"{lease.FOLDER}/{ADDRESS}/1.json", json.dumps(record).encode())
        (status,) = look(store, now)
        assert status.state == state, age_s


def test_shards_have_a_line_each(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with held(store, ADDRESS, print, "1-of-2"), held(store, ADDRESS, print, "2-of-2"):
        for shard in ("1-of-2", "2-of-2"):
            Progress(store, "score", ADDRESS, 0, 2, shard=shard)({"ok": 1}, 2)
        assert [(s.stage, s.state) for s in look(store)] == [
            ("score 1-of-2", "works"), ("score 2-of-2", "works"),
        ]  # fmt: skip


def test_the_verb_reads_a_workspace_without_a_study(tmp_path: Path) -> None:
    result = spineage("status", "--workspace", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 0
    assert "nothing has run in this workspace yet" in result.stdout
    with held(Store(str(tmp_path)), ADDRESS, print):
        found = json.loads(
            spineage("status", "--workspace", str(tmp_path), "--json", cwd=tmp_path).stdout
        )
    assert [one["stage"] for one in found] == ["score"]


def test_a_progress_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("a file where a folder should be")
    Progress(Store(str(tmp_path)), "score", ADDRESS, 0, 1)({"ok": 1}, 1)


def test_spans_of_time_are_for_people() -> None:
    assert [span(s) for s in (0.4, 42, 60, 185, 7800, 273_600)] == [
        "0 s", "42 s", "1 min", "3 min 5 s", "2 h 10 min", "3 d 4 h",
    ]  # fmt: skip
    assert pace_of(7, 22, 2, 100.0, 110.0) == (0.5, 30.0)
    assert pace_of(2, 22, 2, 100.0, 100.0) == (0.0, 0.0), "nothing is known yet"
