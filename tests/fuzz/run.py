"""make fuzz: damaged files of every kind; each is accepted, or refused in one sentence or with a code.

python -m tests.fuzz.run [inputs] [seed] [target ...]; one JSON line of counts a target; exit code 1 when
anything is wrong. Half of the inputs are images, the others study files, tables about people, model bundles
and workspaces. A failing input again: python -m tests.fuzz.worker TARGET SEED NUMBER NUMBER+1 real
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

BATCH = 250  # inputs for one process
WALL_SECONDS = 900.0  # for one process, on a machine with other work
PROCESSES = 2
SHARES = {"images": 8, "studies": 2, "people": 2, "bundles": 2, "workspaces": 2}
"""Of sixteen inputs; those who send images send most."""

Answers = list[dict[str, Any]]


def fuzz(
    target: str, inputs: int, seed: int, *, with_real: bool = True, batch: int = BATCH
) -> dict[str, Any]:
    """How `inputs` damaged inputs ended: counts by code, and the (seed, number) of what went wrong."""
    start = time.monotonic()
    firsts = range(0, inputs, batch)
    with ThreadPoolExecutor(PROCESSES) as pool:
        batches = pool.map(
            lambda at: _batch(target, seed, at, min(at + batch, inputs), with_real), firsts
        )
        answers = [answer for batch_answers in batches for answer in batch_answers]
    ends = Counter(code for answer in answers for code in answer.get("ends", ()))
    wrong = [{"seed": seed, **answer} for answer in answers if "wrong" in answer]
    return {
        "target": target,
        "inputs": sum("number" in answer for answer in answers),
        "accepted": ends.pop("accepted", 0),
        "refused": dict(sorted(ends.items())),
        "wrong": wrong,
        "peak_mb": max((answer.get("peak_mb", 0) for answer in answers), default=0),
        "seconds": round(time.monotonic() - start, 1),
    }


def _batch(target: str, seed: int, first: int, last: int, with_real: bool) -> Answers:
    """Goes on behind an input that killed its process."""
    answers: Answers = []
    while first < last:
        lines, code = _process(target, seed, first, last, with_real)
        answers += lines
        first += sum("number" in line for line in lines)
        if first < last:
            if len(lines) == 0 and code == 1:
                raise RuntimeError("the worker does not start")
            answers.append({"number": first, "wrong": f"killed its process ({code})"})
            first += 1
    return answers


def _process(
    target: str, seed: int, first: int, last: int, with_real: bool
) -> tuple[Answers, int | str]:
    command = [sys.executable, "-m", "tests.fuzz.worker", target, *map(str, (seed, first, last))]
    command.append("real" if with_real else "synthetic")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WALL_SECONDS)
        out, code = done.stdout, done.returncode
    except subprocess.TimeoutExpired as late:
        out, code = (late.stdout or b"").decode(), "no end"
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")], code


def main(inputs: int, seed: int, targets: Sequence[str]) -> int:
    """Fuzz some targets, in their shares of the inputs; 1 when anything is wrong."""
    whole = sum(SHARES[target] for target in targets)
    is_wrong = False
    for target in targets:
        found = fuzz(target, inputs * SHARES[target] // whole, seed)
        print(json.dumps(found), flush=True)
        is_wrong |= bool(found["wrong"])
    return int(is_wrong)


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    named = [argument for argument in sys.argv[1:] if not argument.isdigit()]
    sys.exit(main(*(numbers + [20_000, 1][len(numbers) :]), named or list(SHARES)))
