"""A script: rows through a long chain on a cluster of nodes of the given cores, some of which are held.

    python -m tests.made.small_cluster FOLDER NUM_ROWS CORES [CORES ...] [--held SECONDS]

Prints one JSON line: how the rows ended, what was told, and the seconds that it took.
"""

from __future__ import annotations

import argparse
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.cluster_utils import Cluster

from spineage.engine.quiet import quieten
from spineage.engine.rows import Step, run_rows
from tests.made.fakes import Double, WriteLines


@contextmanager
def cluster_of(nodes: list[int]) -> Iterator[str]:
    """A head and more nodes on loopback, each with so many cores; its address."""
    quieten()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": nodes[0]})
    try:
        for cores in nodes[1:]:
            cluster.add_node(num_cpus=cores)
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


@ray.remote(num_cpus=1)
class _Holder:
    """Another job's worker."""

    def here(self) -> None:
        return


@contextmanager
def held(cores: int, seconds: float) -> Iterator[None]:
    """All cores taken by others, for a while."""
    holders = [_Holder.remote() for _ in range(cores if seconds else 0)]
    ray.get([holder.here.remote() for holder in holders])
    timer = threading.Timer(seconds, lambda: [ray.kill(holder) for holder in holders])
    timer.start()
    try:
        yield
    finally:
        timer.join()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("num_rows", type=int)
    parser.add_argument("nodes", type=int, nargs="+")
    parser.add_argument("--held", type=float, default=0.0)
    options = parser.parse_args()
    rows = [
        {"scan_id": f"s{i:03d}", "source_digest": "d", "value": i} for i in range(options.num_rows)
    ]
    steps = [Step(Double, name=f"step {i}", workers=1 + (i == 1)) for i in range(4)]
    sink = Step(WriteLines, {"folder": options.folder}, "write", num_cpus=0.25)
    told: list[str] = []
    with cluster_of(options.nodes), held(sum(options.nodes), options.held):
        began = time.monotonic()
        counts = run_rows(rows, steps, sink, tell=told.append)
        seconds = time.monotonic() - began
    print(json.dumps({"counts": counts, "told": told, "seconds": seconds}))


if __name__ == "__main__":
    main()
