"""The way in, shared by the CLI and the jobs: read the study, run stages, end with the right exit code
(EXIT_CODES)."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from spineage import unexpected
from spineage.engine import session
from spineage.engine.quiet import native_talk_kept
from spineage.errors import BadStudy, MetBugs, StoppedEarly
from spineage.flow import STAGES
from spineage.io.storage.store import Store
from spineage.io.storage.trouble import SURELY_OF_DISKS, describe
from spineage.privacy import keep_private
from spineage.run.checks import require_lasting
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.run.plan import tell_plan
from spineage.run.runner import run_stages
from spineage.study import Study, on_ray, places_of, read_study
from spineage.uris import without_logins

EXIT_CODES: Final = """\
0    done; refused scans are counted in the last lines
1    a bug, or the head of the cluster was lost
2    the study or a place is at fault
3    stopped early: too many scans failed alike, or nothing went on
130  interrupted
143  stopped: `ray job stop`, a scheduler; submit it again to go on"""
HELP_WIDTH: Final = 100
PLAN: Final = "only say what is done, what remains and how long it will take"
RETRY: Final = "also try scans that were given up after they failed in run after run"


class Stopped(KeyboardInterrupt):
    """SIGTERM: everything on the way lets go as it does for an interrupt."""


def _stop(number: int, frame: object) -> None:
    """Say it first, past all buffers: `ray job stop` kills what is still letting go, by default after three
    seconds."""
    _on_sigterm(signal.SIG_DFL)  # a second one ends the process at once
    with suppress(OSError, ValueError):
        os.write(
            sys.stderr.fileno(), b"spineage: stopped; what is done is kept, run again to go on\n"
        )
    raise Stopped


def guarded(work: Callable[[], None]) -> int:
    """Run it; whatever goes wrong becomes one sentence and an exit code, a bug too."""
    keep_private()
    before = signal.getsignal(signal.SIGTERM)
    _on_sigterm(_stop)
    try:
        with native_talk_kept():
            try:
                work()
            finally:
                session.disconnect()
    except BadStudy as error:
        _complain(_own_words(error))
        return 2
    except StoppedEarly as error:
        _complain(_own_words(error))
        return 3
    except Stopped:
        return 143
    except MetBugs as error:
        _complain(_own_words(error))
        return 1
    except KeyboardInterrupt:
        _complain("interrupted; what is done is kept, run again to go on")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the reader has seen enough (`| head`)
        return 1
    except Exception as error:
        if isinstance(error, OSError) and error.errno in SURELY_OF_DISKS:  # wherever it was met
            _complain(f"a file cannot be read or written: {describe(error)}")
            return 2
        _complain(unexpected.describe(error))
        return 1
    finally:
        _on_sigterm(before)
    return 0


def _on_sigterm(handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _own_words(error: Exception) -> str:
    """What the error says; of one that Ray carried here, without the traceback that Ray adds."""
    return str(getattr(error, "cause", None) or error)


def _complain(sentence: str) -> None:
    print(f"spineage: {without_logins(sentence)}", file=sys.stderr)


def open_study(study: str, workspace: str | None = None, ray: str | None = None) -> Study:
    """The study file with execution options laid over it. Raises BadStudy for places that do not last."""
    found = read_study(study, workspace=workspace)
    require_lasting(places_of(found))
    return on_ray(found, ray) if ray else found


def open_store(study: str, workspace: str | None) -> Store:
    """The workspace alone: the one that is named, else the study's."""
    return Store(workspace or open_study(study).workspace)


def run_job(stages: Sequence[str], description: str) -> int:
    """What a file in `jobs/` does: parse, connect, run, exit."""
    unexpected.install()
    parser = argparse.ArgumentParser(
        description=description,
        epilog=specification(stages),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--study", required=True, help="the study file")
    parser.add_argument("--workspace", help="folder or URI of the results; default: the study's")
    parser.add_argument("--retry", action="store_true", help=RETRY)
    parser.add_argument("--plan", action="store_true", help=PLAN)
    parser.add_argument("--ray", help="address of a Ray cluster; default: the job's own")
    options = parser.parse_args()

    def work() -> None:
        study = open_study(options.study, options.workspace, options.ray)
        run_all(Context(study, say=say, retry=options.retry), stages, only_plan=options.plan)

    return guarded(work)


def specification(stages: Sequence[str]) -> str:
    """What a job takes and leaves, from the road itself: for people who write a scheduler's file."""
    chosen = [STAGES[name] for name in stages]
    made = {table for stage in chosen for table in (*stage.writes, *stage.fills)}
    told = {
        "stages": list(stages),
        "files of the study": [f"inputs.{name}" for stage in chosen for name in stage.files],
        "tables it needs": [t for stage in chosen for t in stage.reads if t not in made],
        "tables it fills in": [t for stage in chosen for t in stage.fills],
        "tables it writes": [t for stage in chosen for t in stage.writes],
        "needs an answer from": [place for stage in chosen for place in stage.needs],
    }
    width = max(map(len, told))
    lines = [
        textwrap.fill(
            f"{what:{width}}  {', '.join(dict.fromkeys(names)) or '-'}",
            HELP_WIDTH,
            subsequent_indent=" " * (width + 2),
        )
        for what, names in told.items()
    ]
    return "\n".join(["the job:", *lines, "", "exit codes:", EXIT_CODES])


def run_all(context: Context, stages: Sequence[str], *, only_plan: bool = False) -> None:
    """Run the stages and say how they went, or only say what they would do. Raises MetBugs when some scan or
    file met one."""
    if only_plan:
        tell_plan(context, stages, say)
        return
    counts = run_stages(context, stages)
    last_lines(counts)
    bugs = [f"{place} ({n} scans)" for place, n in context.bugs.most_common()]
    if num := sum(ended.unused.get("bug", 0) for ended in counts.values()):
        bugs.append(f"{num} files of the input: `spineage show files` says where of each")
    if bugs:
        raise MetBugs(
            f"all that could be done is done, but there are bugs to report: {'; '.join(bugs)}; the private "
            "logs of the workers have the tracebacks"
        )


def say(text: str) -> None:
    """One line at once, also into a pipe; an address in it has no login."""
    print(without_logins(text), flush=True)


def last_lines(counts: Mapping[str, Counts]) -> None:
    """How many were scored, refused (by code) and left: the last thing a run says."""
    for stage, ended in counts.items():
        rest = replace(ended, refused={}).flat()
        say(
            f"{stage:10s} "
            + (", ".join(f"{n} {key}" for key, n in rest.items()) or "nothing to do")
        )
        for code, n in sorted(ended.refused.items()):
            say(f"{'':10s} {n} refused: {code}")
