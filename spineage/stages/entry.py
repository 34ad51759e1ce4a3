"""The way in, shared by the CLI and the jobs: read the study, run stages, end with the right exit code.

0 done (refused scans are counted, not an error), 2 nothing started, 3 stopped early, 130 interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from spineage.engine import session
from spineage.errors import BadStudy, StoppedEarly
from spineage.stages.context import Context
from spineage.stages.runner import run_stages
from spineage.study import Study, read_study


def guarded(work: Callable[[], None]) -> int:
    """Run it; what a user can act on becomes one sentence and an exit code. A bug crashes."""
    try:
        work()
    except BadStudy as error:
        print(f"spineage: {error}", file=sys.stderr)
        return 2
    except StoppedEarly as error:
        print(f"spineage: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("spineage: interrupted; what is done is kept, run again to go on", file=sys.stderr)
        return 130
    finally:
        session.disconnect()
    return 0


def open_study(study: str, workspace: str | None = None, ray: str | None = None) -> Study:
    """The study file with execution options laid over it."""
    found = read_study(study, workspace=workspace)
    if ray:
        found = found.model_copy(update={"cluster": found.cluster.model_copy(update={"ray": ray})})
    return found


def run_job(stages: Sequence[str], description: str) -> int:
    """What a file in `jobs/` does: parse, connect, run, exit."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--study", required=True, help="the study file")
    parser.add_argument("--workspace", help="folder or URI of the results; default: the study's")
    parser.add_argument("--ray", help="address of a Ray cluster; default: the job's own")
    options = parser.parse_args()

    def work() -> None:
        study = open_study(options.study, options.workspace, options.ray)
        last_lines(run_stages(Context(study, say=say), stages))

    return guarded(work)


def say(text: str) -> None:
    """One line at once, also into a pipe."""
    print(text, flush=True)


def last_lines(counts: dict[str, dict[str, int]]) -> None:
    """How many were scored, refused (by code) and left: the last thing a run says."""
    for stage, found in counts.items():
        refused = {key: n for key, n in found.items() if key.startswith("refused:")}
        rest: dict[str, Any] = {key: n for key, n in found.items() if key not in refused}
        say(
            f"{stage:10s} "
            + (", ".join(f"{n} {key}" for key, n in rest.items()) or "nothing to do")
        )
        for key, n in sorted(refused.items()):
            say(f"{'':10s} {n} refused: {key.removeprefix('refused:')}")
