"""What a run may hold and what it shows: bytes in flight, sick workers, metrics."""

from __future__ import annotations

import pathlib
import pickle
import time
import urllib.request

import pytest
import ray

from spineage.engine.rows import Step, _Serve, run_rows
from spineage.errors import BadStudy
from spineage.unexpected import describe
from tests.made.fakes import Buggy, Double, Heavy, MadeByBug, NeverMade, Slow, WriteLines

pytestmark = pytest.mark.usefixtures("ray_session")

ROW_BYTES = 8_000_000


def manifest(*names: str) -> list[dict[str, object]]:
    return [
        {"scan_id": n, "source_digest": "d", "value": i, "num_voxels": 1000 - i}
        for i, n in enumerate(names)
    ]


def most_in_flight(folder: pathlib.Path, num_rows: int) -> int:
    """Rows that were made and not used yet, at the worst moment of a run."""
    (folder / "out").mkdir(parents=True)
    steps = [
        Step(Heavy, {"folder": str(folder), "num_bytes": ROW_BYTES}, "heavy", num_cpus=0.5),
        Step(Slow, {"folder": str(folder), "seconds": 0.15}, "slow", num_cpus=0.5),
    ]
    sink = Step(WriteLines, {"folder": str(folder / "out")}, "write", num_cpus=0.25)
    names = [f"s{i:02d}" for i in range(num_rows)]
    counts = run_rows(manifest(*names), steps, sink, bytes_a_worker=4 * ROW_BYTES)
    assert counts == {"ok": num_rows}
    events = [(float(p.read_text()), 1) for p in folder.glob("*.made")]
    events += [(float(p.read_text()), -1) for p in folder.glob("*.used")]
    flying, most = 0, 0
    for _, change in sorted(events):
        flying += change
        most = max(most, flying)
    return most


def test_bytes_in_flight_are_bounded_however_many_scans_there_are(tmp_path: pathlib.Path) -> None:
    """Unbounded, half of the rows wait for the slow step: 23 of 48 were measured."""
    most = most_in_flight(tmp_path / "many", 32)
    assert most * ROW_BYTES <= 3 * 4 * ROW_BYTES / 2, "half of the room: Ray counts inputs twice"


@pytest.mark.slow
def test_a_worker_that_raised_what_nobody_declared_serves_no_other_scan(
    tmp_path: pathlib.Path,
) -> None:
    """The device may be ill: what it answers afterwards is not believed."""
    (tmp_path / "out").mkdir()
    sink = Step(WriteLines, {"folder": str(tmp_path / "out")}, "write", num_cpus=0.25)
    heard: list[tuple[str, str, str]] = []
    counts = run_rows(
        manifest("a", "bug", "b", "c"), [Step(Buggy, name="buggy", num_cpus=0.5)], sink,
        hear=lambda key, code, message: heard.append((key[0], code, message)),
    )  # fmt: skip
    [(scan_id, code, message)] = heard
    assert (scan_id, code) == ("bug", "bug")
    assert message.startswith("unexpected RuntimeError in buggy at ")
    assert "cuDNN" not in message, "what a foreign error says may name a person"
    assert counts == {"ok": 3, "bug": 1}
    written = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert written == {"a": ":0", "b": ":2", "c": ":3", "bug": "bug:"}


def test_a_worker_that_cannot_be_made_is_one_sentence(tmp_path: pathlib.Path) -> None:
    sink = Step(WriteLines, {"folder": str(tmp_path)}, "write", num_cpus=0.25)
    with pytest.raises(BadStudy, match=r"^a worker could not start: segmenter w lacks plans\.json"):
        run_rows(manifest("a"), [Step(NeverMade, num_cpus=0.5)], sink)


def test_a_worker_that_meets_a_bug_while_it_is_made_quotes_nothing(tmp_path: pathlib.Path) -> None:
    sink = Step(WriteLines, {"folder": str(tmp_path)}, "write", num_cpus=0.25)
    with pytest.raises(ray.exceptions.RayError) as raised:
        run_rows(manifest("a"), [Step(MadeByBug, name="makes", num_cpus=0.5)], sink)
    assert "MUELLER" not in str(raised.value)
    assert describe(raised.value).startswith("unexpected KeyError in makes at spineage/engine/rows")


def test_busy_seconds_and_their_share_reach_rays_metrics() -> None:
    serve = _Serve(Step(Double, name="shown"))
    for name in ("slow1", "b"):
        serve({"cell": pickle.dumps(manifest(name)[0])})
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline = time.monotonic() + 60
    found: dict[str, float] = {}
    while len(found) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
        lines = urllib.request.urlopen(address, timeout=10).read().decode().splitlines()
        shown = [line for line in lines if 'step="shown"' in line]
        found = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in shown}
    assert found["ray_spineage_busy_s_total"] >= 3.0
    assert 0.9 < found["ray_spineage_busy_share"] <= 1.0
