"""Submit a stage or a stretch of the road to a Ray cluster, and follow it: one job a study and workspace.

What is uploaded is the study file alone, with its places made absolute: code is what is installed on the
cluster, data stay where they are, and secrets are the cluster's own.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import yaml

import spineage
from spineage.engine.jobs import Jobs
from spineage.errors import BadStudy
from spineage.flow import STAGES
from spineage.run.entry import Stopped
from spineage.study import Study
from spineage.uris import digest_of_place, strip_logins

JOBS: Final = ("rescore", "run", *STAGES)
STUDY_FILE: Final = "study.yaml"


def submit(
    job: str,
    study: Study,
    *,
    address: str | None,
    options: Sequence[str],
    wait: bool,
    with_code: bool,
    say: Callable[[str], None],
) -> int:
    """Start the job, or find it at work, and follow it to its end; its exit code, 0 if it is not waited for.

    Raises BadStudy when there is no such job, or the cluster does not answer or let us in.
    """
    beginning, jobs = _named(job, study), Jobs(address)
    earlier = jobs.ids(beginning)
    if earlier and jobs.is_at_work(earlier[-1]):
        name = earlier[-1]
        say(f"{name} is at work on this study already: it is followed, nothing is submitted")
    else:
        values = study.model_dump(mode="json", by_alias=True)
        if strip_logins(values) != values:
            raise BadStudy(
                "an address in the study has a login, and what is submitted lies open on the cluster: take "
                "it out, and give the cluster's nodes MLFLOW_TRACKING_USERNAME and _PASSWORD, or the "
                "storage's own variables"
            )
        text = yaml.safe_dump(values, sort_keys=False)
        name = jobs.submit(
            beginning,
            ["spineage.cli", job, "--study", STUDY_FILE, *options],
            {STUDY_FILE: text.encode()},
            [str(Path(spineage.__file__).parent)] if with_code else [],
        )
        again = ", which goes on where the one before ended" if earlier else ""
        say(f"{name} is submitted to {jobs.address}{again}")
    if not wait:
        say("the same command without --no-wait follows it, with --stop it ends it")
        return 0
    try:
        return jobs.follow(name, _write)
    except Stopped:
        raise
    except KeyboardInterrupt:
        say(f"{name} goes on: the same command follows it again, and --stop ends it")
        return 130


def stop(job: str, study: Study, *, address: str | None, say: Callable[[str], None]) -> int:
    """End the job of this study that is at work; what it said of its end is shown, without what Ray
    says after it."""
    jobs = Jobs(address)
    at_work = [name for name in jobs.ids(_named(job, study))[-1:] if jobs.is_at_work(name)]
    if not at_work:
        say(f"no {job} of this study is at work")
        return 0
    jobs.stop(at_work[0])
    kept: list[str] = []
    jobs.follow(at_work[0], kept.append)
    ours = [line for line in "".join(kept).splitlines() if line.startswith("spineage:")]
    say(f"{at_work[0]} is stopped; it said: {ours[-1] if ours else 'nothing'}")
    return 0


def _named(job: str, study: Study) -> str:
    """The beginning of its submission ids: of one study and workspace."""
    if job not in JOBS:
        raise BadStudy(f"there is no job {job!r}; jobs are {', '.join(JOBS)}")
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", study.name).strip("-")
    return f"{name}-{job}-{digest_of_place(study.workspace)[:6]}"


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
