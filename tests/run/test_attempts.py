"""A scan that fails in run after run is left alone, until the program changes or --retry. Bugs end with 1."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from spineage.engine.rows import Step
from spineage.engine.tally import Manifest
from spineage.errors import BadStudy, MetBugs
from spineage.io.storage.store import Store
from spineage.run import attempts, entry, fill
from spineage.run.attempts import Attempts
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.stages.segment import MASKS
from spineage.study import study_from
from tests.chaos.population import mask_of
from tests.made.clusters import ROOT
from tests.made.fakes import Buggy, WriteLines
from tests.made.toy_study import pin_upstream

KEY = ("a", "d")
KILLED = """
import sys
from pathlib import Path
from spineage.engine.rows import Step
from spineage.engine.tally import Manifest
from spineage.run import fill
from spineage.stages.segment import MASKS
from tests.made.fakes import Double, WriteLines
from tests.run.test_attempts import context_of

context, _ = context_of(Path(sys.argv[1]), is_alone=True)
rows = Manifest([{"scan_id": "kill", "source_digest": "d", "value": 1}])
fill.fill(context, "segment", MASKS, rows, [Step(Double)], Step(WriteLines, {"folder": sys.argv[1]}))
"""
FOLDER = "segment/toy-segment"


def context_of(folder: Path, **options: Any) -> tuple[Context, list[str]]:
    said: list[str] = []
    study = study_from({"workspace": str(folder), "cluster": {"give_up_after": 2}})
    context = Context(study, said.append, **options)
    pin_upstream(context)
    return context, said


def test_runs_are_counted_one_by_one(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for runs in (1, 2, 3):
        Attempts(store, FOLDER).add(
            {KEY: "crashed", ("b", "d"): "empty_mask", ("c", "d"): "damaged_part"}
        )
        found = Attempts(store, FOLDER)
        assert found.given_up(after=runs) == {KEY: "crashed"}
        assert not found.given_up(after=runs + 1)


def test_a_scan_at_work_when_its_process_died_counts_as_crashed(tmp_path: Path) -> None:
    store, other = Store(str(tmp_path)), ("b", "d")
    for runs in (1, 2):
        died = Attempts(store, FOLDER, "1-of-2")
        died.begin(other)
        died.begin(KEY)  # and no word after it
        assert Attempts(store, FOLDER, "1-of-2").given_up(after=runs) == {KEY: "crashed"}
    ended = Attempts(store, FOLDER, "1-of-2")
    ended.forget({KEY})
    ended.begin(KEY)
    ended.add({})
    assert not Attempts(store, FOLDER).given_up(after=1)


def test_who_tries_a_share_again_forgets_no_other_share(tmp_path: Path) -> None:
    store, other = Store(str(tmp_path)), ("b", "d")
    Attempts(store, FOLDER).add({KEY: "bug", other: "bug"})
    Attempts(store, FOLDER, "2-of-2").add({other: "crashed"})
    Attempts(store, FOLDER, "1-of-2").forget({KEY})
    assert Attempts(store, FOLDER).given_up(after=1).keys() == {other}


def test_shares_that_are_tried_again_at_once_all_forget(tmp_path: Path) -> None:
    store, other = Store(str(tmp_path)), ("b", "d")
    Attempts(store, FOLDER).add({KEY: "bug", other: "bug"})
    one, two = (Attempts(store, FOLDER, f"{n}-of-2") for n in (1, 2))
    one.forget({KEY})
    two.forget({other})
    one.begin(("c", "d"))
    one.add({})
    two.add({})
    assert not Attempts(store, FOLDER).given_up(after=1)
    two.add({other: "crashed"})
    assert Attempts(store, FOLDER).given_up(after=1) == {other: "crashed"}


def test_the_scan_that_another_share_is_at_counts_for_nobody_else(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    for _ in range(3):
        at_work = Attempts(store, FOLDER, "1-of-2")
        at_work.begin(KEY)
        beside = Attempts(store, FOLDER, "2-of-2")
        assert KEY not in beside.given_up(after=1)
        beside.begin(("b", "d"))
        beside.add({("b", "d"): "deadline"})
        at_work.add({})  # stopped: it says nothing of the scan
    assert Attempts(store, FOLDER).given_up(after=1) == {("b", "d"): "deadline"}


def test_without_ray_a_scan_that_kills_the_process_is_left_alone_after_some_runs(
    tmp_path: Path,
) -> None:
    alone = [sys.executable, "-c", KILLED, str(tmp_path)]
    for _ in range(2):
        died = subprocess.run(alone, capture_output=True, text=True, check=False, cwd=ROOT)
        assert died.returncode == 139, died.stderr
    context, said = context_of(tmp_path)
    scans = pd.DataFrame({"scan_id": ["kill", "well"], "source_digest": "d"})
    assert list(fill.missing(context, "segment", MASKS, scans)["scan_id"]) == ["well"]
    assert "1 scans are left alone, which failed in 2 runs (1 crashed)" in said[-1]


def test_another_program_tries_them_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(str(tmp_path))
    Attempts(store, FOLDER).add({KEY: "bug"})
    monkeypatch.setattr(attempts, "digest_of_program", lambda: "mended")
    assert not Attempts(store, FOLDER).given_up(after=1)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"scans": 1}',
        '{"scans": [["a", "d", "many", "bug"], ["a", "d", 9, "no_code"], 7]}',
    ],
)
def test_what_is_no_list_of_attempts_gives_nobody_up(content: str, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    program = f'"program": "{attempts.digest_of_program()}"'
    store.write(
        f"{FOLDER}/attempts.json", content.replace('{"scans"', f'{{{program}, "scans"').encode()
    )
    assert not Attempts(store, FOLDER).given_up(after=1)


def test_a_scan_that_is_given_up_is_no_work_until_somebody_asks(tmp_path: Path) -> None:
    scans = pd.DataFrame({"scan_id": ["a", "b"], "source_digest": "d"})
    context, said = context_of(tmp_path)
    for _ in range(2):
        assert len(fill.missing(context, "segment", MASKS, scans)) == 2
        Attempts(context.store, FOLDER).add({KEY: "crashed"})
    assert list(fill.missing(context, "segment", MASKS, scans).scan_id) == ["b"]
    assert said[-1].startswith(
        "  1 scans are left alone, which failed in 2 runs (1 crashed): another version"
    )
    asked, _ = context_of(tmp_path, retry=True)
    assert len(fill.missing(asked, "segment", MASKS, scans)) == 2
    counts = fill.fill_missing(context, "segment", MASKS, "segmented", scans[:1], list)
    assert counts == Counts({"already": 0, "given_up": 1})


@pytest.mark.slow
def test_a_bug_is_counted_apart_named_by_its_place_and_ends_the_run_with_1(
    tmp_path: Path,
    ray_session: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    context, _ = context_of(tmp_path)
    place = {"root": context.store.root, "folder": FOLDER, "table": "masks"}
    sink = Step(fill.WriteEach, place, "write", num_cpus=0.25)
    rows = [
        {"scan_id": name, "source_digest": "d", "value": 1, **mask_of(1)}
        for name in ("a", "bug", "b")
    ]

    def run_stages(context: Context, stages: object) -> dict[str, Counts]:
        ended = fill.fill(
            context, "segment", MASKS, Manifest(rows), [Step(Buggy, name="buggy")], sink
        )
        assert ended == {"ok": 2, "bug": 1}
        return {"segment": Counts({"segmented": ended["ok"]}, left=ended["bug"])}

    monkeypatch.setattr(entry, "run_stages", run_stages)
    with pytest.raises(
        MetBugs, match=r"unexpected RuntimeError in buggy at .* \(1 scans\); the private logs"
    ):
        entry.run_all(context, ["segment"])
    assert entry.guarded(lambda: entry.run_all(context, ["segment"])) == 1
    out, err = capsys.readouterr()
    assert "segment    2 segmented, 1 left" in out, "what is done is told first"
    assert "cuDNN" not in out + err
    kept = json.loads((tmp_path / FOLDER / "attempts.json").read_text())
    assert [row[:4] for row in kept["scans"]] == [["bug", "d", 2, "bug"]]


@pytest.mark.slow
def test_rows_that_cannot_be_seen_from_the_driver_end_the_run_with_a_sentence(
    tmp_path: Path, ray_session: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose disk is its own says that it wrote."""
    monkeypatch.setattr(fill, "SEEN_WITHIN_S", 1.0)
    (tmp_path / "out").mkdir()
    context, _ = context_of(tmp_path)
    sink = Step(WriteLines, {"folder": str(tmp_path / "out")}, "write", num_cpus=0.25)
    rows = [{"scan_id": name, "source_digest": "d", "value": 1} for name in ("a", "b")]
    with pytest.raises(BadStudy, match=r"^workers wrote masks of 2 scans, and 0 are in segment/"):
        fill.fill(context, "segment", MASKS, Manifest(rows), [Step(Buggy, name="step")], sink)


def test_a_file_that_met_a_bug_ends_the_run_with_1_after_all_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, _ = context_of(tmp_path)
    counts = {"ingest": Counts({"scans": 3}, unused={"bug": 2}), "score": Counts({"scored": 3})}
    monkeypatch.setattr(entry, "run_stages", lambda context, stages: counts)
    with pytest.raises(
        MetBugs, match=r"bugs to report: 2 files of the input: `spineage show files`"
    ):
        entry.run_all(context, ["ingest", "score"])
