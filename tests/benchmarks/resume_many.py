"""Segment, prepare and score again with nothing missing: seconds and memory of 100,000 scans on disk, and
the requests of as many on an object store.

    python -m tests.benchmarks.resume_many [--model WORKSPACE_OF_A_DEMO]

Prints one JSON line. Without --model a small demo is made first for its model. Its workspace is copied, and
one of its scans is multiplied under other names: a row in the tables of ingest, a part of masks and of
tensors, and scores as runs of the study's own settings leave them. Memory is that of all processes of the
command, each at its highest. The object store is moto, which counts.

- 2026-11-26: 18,070 scans took 47 s, 29 CPU-seconds and 2,578 MiB when each stage opened every part.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from spineage.io.storage.compact import compact
from spineage.io.storage.index import part_name
from spineage.io.storage.parquet import encode, write_part
from spineage.run.context import Context
from spineage.study import read_study
from spineage.tables import KEY, MASKS, SCORES, TABLES, TENSORS
from tests.made import processes
from tests.made.demo_workspace import Demo, environment

NUM = 100_000
AT_ONCE = 8
LINKS = 1_000
"""Names of one file: the disk need not hold 100,000 masks."""
MAX_SECONDS, MAX_MIB, SCANS_A_REQUEST = 20.0, 600.0, 500
STAGES = ("segment", "prepare", "score")


def key_of(i: int) -> tuple[str, str]:
    return f"{i:016x}", f"{i:08x}" * 8


def change_scans(context: Context, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Other rows in the tables of ingest that name scans."""
    folder = context.tables_folder("ingest")
    for table in ("scans", "sources"):
        rows = change(context.read(table))
        context.store.remove_all(context.store.list(f"{folder}/{table}", ".parquet"))
        write_part(context.store, folder, TABLES[table], rows, "part-0")
    about = {name: value for name, value in context.done(folder).items() if name != "parts"}
    context.finish(folder, about)


def multiply(context: Context, num: int, *, readable: bool = False) -> float:
    """In all tables the first scan that has a score becomes `num` scans; seconds of merging their scores.

    readable: a part of masks and tensors holds the scan that it is named by, and not the first one.
    """
    scores = context.read("scores").iloc[:1]
    [key] = scores[KEY].to_numpy().tolist()

    def repeated(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[(rows.scan_id == key[0]) & (rows.source_digest == key[1])]
        many = rows.loc[rows.index.repeat(num)].reset_index(drop=True)
        many[KEY] = pd.DataFrame([key_of(i) for i in range(num)])
        return many

    change_scans(context, repeated)
    for stage, table in (("segment", MASKS), ("prepare", TENSORS)):
        of_one = context.store.read(
            f"{context.folder(stage)}/{table.name}/{part_name(*key)}.parquet"
        )
        [row_of_one] = pq.read_table(pa.BufferReader(of_one)).to_pylist()
        places = [
            Path(
                context.store.root,
                context.folder(stage),
                table.name,
                f"{part_name(*key_of(i))}.parquet",
            )
            for i in range(num)
        ]
        for i, place in enumerate(places):
            if readable:
                renamed = dict(zip(KEY, key_of(i), strict=True))
                place.write_bytes(encode(table, [{**row_of_one, **renamed}]))
            elif i % LINKS:
                os.link(places[i - i % LINKS], place)
            else:
                place.write_bytes(of_one)
    shutil.rmtree(Path(context.store.root, context.folder("score"), "scores"))
    Path(context.store.root, context.folder("score"), "scores").mkdir()
    [row] = scores.to_dict("records")
    for start in range(0, num, AT_ONCE):  # a run writes one a part: merged, they are the same
        keys = [key_of(i) for i in range(start, min(start + AT_ONCE, num))]
        rows = [{**row, "scan_id": scan_id, "source_digest": digest} for scan_id, digest in keys]
        name = f"{context.folder('score')}/scores/part-{start}.parquet"
        Path(context.store.root, name).write_bytes(encode(SCORES, rows))
    started = time.monotonic()
    compact(
        context.store, context.folder("score"), SCORES
    )  # as the run that wrote them does at its end
    return time.monotonic() - started


def run(folder: Path, stage: str) -> dict[str, float]:
    """Seconds, CPU-seconds and peak MiB of all processes of a command."""
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "spineage.cli", stage], cwd=folder,
        env=environment(), stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    peaks: dict[int, float] = {}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    watch = threading.Thread(target=_watch, args=(process.pid, peaks), daemon=True)
    watch.start()
    out, _ = process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(f"spineage {stage} ended with {process.returncode}: {out[-2000:]}")
    assert "0 new" in out or "already" in out, out
    return {
        "seconds": round(time.monotonic() - started, 1),
        "cpu_s": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "mib": round(sum(peaks.values())),
    }


def _watch(pid: int, peaks: dict[int, float]) -> None:
    """The highest resident MiB of the process and of each below it, until it is gone."""
    while pid in (stats := processes.stats()):
        for each in {pid} | processes.below(pid, stats):
            with suppress(OSError):
                peaks[each] = processes.peak_mib(each)
        time.sleep(0.1)


@contextmanager
def counting_s3() -> Iterator[tuple[str, list[str]]]:
    """(endpoint, the requests that came in) of an object store in this process."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server, seen = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False), list[str]()
    server.start()
    assert server._server
    application = server._server.app

    def counted(environ: dict[str, Any], start: Any) -> Any:
        seen.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        return application(environ, start)

    server._server.app = counted
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}", seen
    server.stop()


def requests_on_s3(folder: Path) -> dict[str, int]:
    """By stage, of a workspace that has been copied to the object store."""
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    requests = {}
    with counting_s3() as (endpoint, seen):
        os.environ.update(
            AWS_ENDPOINT_URL=endpoint, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="us-east-1",
        )  # fmt: skip
        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        backend.create_bucket("many", "us-east-1")
        for path in folder.rglob("*"):
            if path.is_file():
                backend.put_object("many", str(path.relative_to(folder)), path.read_bytes())
        study = folder / "study.yaml"
        study.write_text(study.read_text().replace(f"workspace: {folder}", "workspace: s3://many"))
        assert "s3://many" in study.read_text()
        for stage in STAGES:
            seen.clear()
            run(folder, stage)
            requests[stage] = len(seen)
    return requests


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="workspace of a finished demo")
    parser.add_argument("--scans", type=int, default=NUM, help="on disk")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        model = Path(options.model).absolute() if options.model else place / "demo"
        if not options.model:
            command = [
                sys.executable,
                "-m",
                "spineage.cli",
                "demo",
                "--people",
                "24",
                "--workspace",
            ]
            subprocess.run([*command, str(model)], check=True, stdout=subprocess.DEVNULL)
        demo, disk, s3 = Demo(model, {}, ""), {}, {}
        for num, folder in ((options.scans, place / "disk"), (NUM, place / "s3")):
            demo.copy(folder, without=("report", "explain", "associate"))
            context = Context(read_study(folder / "study.yaml"), say=lambda text: None)
            merging_s = multiply(context, num)
            if folder.name == "disk":
                disk = {stage: run(folder, stage) for stage in STAGES}
            else:
                s3 = requests_on_s3(folder)
            shutil.rmtree(folder)
    seconds, mib = sum(d["seconds"] for d in disk.values()), max(d["mib"] for d in disk.values())
    most = max(s3.values())
    print(
        json.dumps(
            {
                "name": "resume_many",
                "scans": [options.scans, NUM],
                "disk": disk,
                "merging_s": round(merging_s, 1),
                "seconds": round(seconds, 1),
                "mib": mib,
                "requests": s3,
                "allowed_requests": NUM // SCANS_A_REQUEST,
                "target": {
                    "seconds": MAX_SECONDS,
                    "mib": MAX_MIB,
                    "scans_a_request": SCANS_A_REQUEST,
                },
                "met": seconds <= MAX_SECONDS and mib <= MAX_MIB and most <= NUM // SCANS_A_REQUEST,
            }
        )
    )


if __name__ == "__main__":
    main()
