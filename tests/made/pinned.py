"""A process of its own that computes with the cohort's arithmetic, as the stage's workers do."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from spineage.science.cohort.arithmetic import pinned_environment
from spineage.study import Cohort

ARITHMETIC = Cohort().arithmetic
CALL = (
    "import pickle, sys; function, args = pickle.load(sys.stdin.buffer); "
    "sys.stdout.buffer.write(b'ANSWER' + pickle.dumps(function(*args)))"
)


def pinned(function: Callable[..., Any], *args: Any, machine: dict[str, str] | None = None) -> Any:
    """function(*args), an importable one. machine: variables that make this machine another one, which the
    pinned ones must outdo."""
    return called(
        function, *args, environment={**(machine or {}), **pinned_environment(ARITHMETIC)}
    )


def called(function: Callable[..., Any], *args: Any, environment: dict[str, str]) -> Any:
    """function(*args) in a process started with these variables."""
    said = subprocess.run(
        [sys.executable, "-c", CALL],
        input=pickle.dumps((function, args)),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
    ).stdout
    return pickle.loads(said.split(b"ANSWER", 1)[1])
