"""Prometheus scrapes a run, and every panel of the dashboard has data; the alerts are rules that it takes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.made.clusters import ROOT, Node, environment, free_port, running
from tests.made.processes import daemon

GRAFANA = ROOT / "cluster" / "grafana"
NO_PROMETHEUS = "no Prometheus is installed (Debian's package is called prometheus)"
PANELS: list[dict[str, Any]] = json.loads((GRAFANA / "dashboard.json").read_text())["panels"]
ROWS = """
import sys
from spineage.engine import session
from spineage.engine.rows import Step, run_rows
from spineage.io.storage.store import Store
from spineage.run.progress import Progress
from tests.made.fakes import Wait, WriteLines

session.connect(sys.argv[1])
rows = [{"scan_id": str(i), "source_digest": "d", "value": i} for i in range(4000)]
steps = [Step(Wait, {"seconds": 0.05}, does="draw", num_cpus=0.5)]
say = Progress(Store(sys.argv[2]), "score", "score/a", 0, len(rows), steps)
run_rows(rows, steps, Step(WriteLines, {"folder": sys.argv[2]}, num_cpus=0.25), say=say)
"""


def test_every_panel_has_a_title_a_meaning_a_unit_and_a_query() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert all(target["expr"] for target in panel["targets"])
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in PANELS]
    assert len(set(places)) == len(places), "none hides another"


@pytest.mark.skipif(not shutil.which("promtool"), reason=NO_PROMETHEUS)
def test_prometheus_takes_the_alerts() -> None:
    checked = subprocess.run(
        ["promtool", "check", "rules", str(GRAFANA / "alerts.yaml")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stderr
    assert "4 rules found" in checked.stdout


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("prometheus"), reason=NO_PROMETHEUS)
def test_every_panel_has_data_while_a_run_works(tmp_path: Path) -> None:
    port = free_port()
    with running([Node(2)], tmp_path / "log") as cluster:
        targets = Path(cluster.folder) / "prom_metrics_service_discovery.json"
        config = {
            "global": {"scrape_interval": "2s"},
            "scrape_configs": [{"job_name": "ray", "file_sd_configs": [{"files": [str(targets)]}]}],
            "rule_files": [str(GRAFANA / "alerts.yaml")],
        }
        (tmp_path / "prometheus.yml").write_text(json.dumps(config))
        (tmp_path / "out").mkdir()
        prometheus = [
            "prometheus", f"--config.file={tmp_path}/prometheus.yml",
            f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}",
        ]  # fmt: skip
        driver = [sys.executable, "-c", ROWS, cluster.address, str(tmp_path / "out")]
        env = {**environment(), "PYTHONPATH": str(ROOT)}
        log = tmp_path / "daemons"
        with daemon(prometheus, log, env=env), daemon(driver, log, env=env, cwd=ROOT):
            empty = dict.fromkeys(query for panel in PANELS for query in queries(panel))
            until = time.monotonic() + 150
            while empty and time.monotonic() < until:
                time.sleep(2)
                empty = {query: None for query in empty if not answer(port, query)}
            assert not empty, list(empty)
            assert answer(port, 'ray_spineage_scans{outcome="ok"} > 0')
            assert answer(port, 'ray_spineage_scans{outcome="left"} > 0')


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def answer(port: int, query: str) -> list[Any]:
    url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            result: list[Any] = json.load(found)["data"]["result"]
            return result
    except OSError:
        return []
