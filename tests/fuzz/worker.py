"""Runs inputs first..last of a target and seed in one process of bounded memory; dies by an alarm when one
hangs.

Prints one JSON line an input, before the next is begun: the number, how it ended, or what is wrong.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
import tempfile
from pathlib import Path

from tests.fuzz import bundles, images, people, studies, workspaces

TARGETS = {
    "images": images.make,
    "studies": studies.make,
    "people": people.make,
    "bundles": bundles.make,
    "workspaces": workspaces.make,
}
MEMORY_BYTES = 2 << 30  # address space beyond what libraries and sources take
SECONDS = 10.0  # of processor time for one input


def main(target: str, seed: int, first: int, last: int, with_real: bool) -> None:
    """Ends by SIGPROF's default, death, when an input takes longer than it may, even in a decoder."""
    with tempfile.TemporaryDirectory() as folder:
        trial = TARGETS[target](Path(folder), with_real=with_real)
        most = _address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in range(first, last):
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            answer = trial(seed, number)
            signal.setitimer(signal.ITIMER_PROF, 0)
            print(json.dumps({"number": number, **answer}), flush=True)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps({"peak_mb": peak_mb}), flush=True)


def _address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "real")
