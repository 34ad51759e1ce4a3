"""Jobs of a Ray cluster, by its Jobs API: submitted once, followed to their end, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import aiohttp
import ray.exceptions
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from spineage.engine.session import TOKEN_REMEDY
from spineage.errors import BadStudy
from spineage.uris import strip_logins, without_logins

HERE: Final = "http://127.0.0.1:8265"
FROM_ENVIRONMENT: Final = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""In Ray's order; Ray lets them win over an address that is given, which nobody expects."""
ANSWERS_WITHIN_S: Final = 5.0
AGENT_WITHIN_S: Final = 60.0
"""A fresh head answers before it can start a job."""
LOOK_S: Final = 1.0
LETS_GO_WITHIN_S: Final = 60
"""Ray kills a job that is stopped after three seconds, which is less than a busy machine needs to let go."""
AWAY_S: Final = 120.0
"""How long a dashboard may be away from those who follow a job."""
REFUSALS: Final = (RuntimeError, ConnectionError, ValueError)
STOPPED: Final = 143


class Jobs:
    """The jobs of the cluster whose dashboard is at `address`, of this machine by default.

    Raises BadStudy within seconds when nothing answers there, or it does not take the token.
    """

    def __init__(self, address: str | None = None) -> None:
        known = (os.environ.get(name) for name in FROM_ENVIRONMENT)
        self.address = address or next(filter(None, known), HERE)
        logging.getLogger("ray.dashboard").setLevel(logging.ERROR)
        if self.address.startswith(("http://", "https://")):
            _require_answer(self.address)
        with self._one_sentence(), _without(FROM_ENVIRONMENT):
            self._client = JobSubmissionClient(self.address)

    def ids(self, beginning: str) -> list[str]:
        """Submission ids `beginning-N`, by their number."""
        with self._one_sentence():
            found = [
                str(job.submission_id) for job in self._client.list_jobs() if job.submission_id
            ]
        return sorted(
            (one for one in found if _number(one, beginning)), key=lambda o: _number(o, beginning)
        )

    def is_at_work(self, job: str) -> bool:
        """Whether it has not ended, one that waits for its start too."""
        return not self._details(job).status.is_terminal()

    def submit(
        self,
        beginning: str,
        arguments: Sequence[str],
        files: Mapping[str, bytes],
        modules: Sequence[str] = (),
    ) -> str:
        """Start `python -m ARGUMENTS` in a folder of these files, and of nothing else; its submission id.

        beginning: of the id, which ends in the number of the try. modules: folders of packages that the job
        imports from here; without them it has what is installed on the cluster.
        """
        number = 1 + max((_number(one, beginning) for one in self.ids(beginning)), default=0)
        with tempfile.TemporaryDirectory(prefix="spineage-") as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            environment: dict[str, Any] = {
                "working_dir": folder,
                "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(LETS_GO_WITHIN_S)},
            }
            if modules:
                environment |= {"py_modules": [*modules], "excludes": ["__pycache__"]}
            return self._begin(
                f"{beginning}-{number}", shlex.join(["python", "-m", *arguments]), environment
            )

    def _begin(self, job: str, entrypoint: str, environment: dict[str, Any]) -> str:
        deadline = time.monotonic() + AGENT_WITHIN_S
        while True:
            try:
                with self._one_sentence():
                    return self._client.submit_job(
                        entrypoint=entrypoint, submission_id=job, runtime_env=dict(environment)
                    )
            except BadStudy as error:
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(LOOK_S)

    def follow(self, job: str, write: Callable[[str], None]) -> int:
        """Write what it says until it ends; its own exit code, STOPPED for one that was stopped.

        A connection that breaks is taken up where it was.
        """
        num_written = 0
        while True:
            for text in _until_it_breaks(_tail(self._client, job, num_written)):
                num_written += len(text)
                write(text)
            details = self._patient_details(job)
            if details.status.is_terminal():
                break
            time.sleep(LOOK_S)
        with suppress(*REFUSALS, OSError):  # what came after the tail was cut
            write(self._client.get_job_logs(job)[num_written:])
        return _exit_code(details, write)

    def stop(self, job: str) -> None:
        """End it as `ray job stop` does, and wait until it has let go."""
        with self._one_sentence():
            self._client.stop_job(job)
        deadline = time.monotonic() + 2 * LETS_GO_WITHIN_S
        while self.is_at_work(job) and time.monotonic() < deadline:
            time.sleep(LOOK_S)

    def _details(self, job: str) -> JobDetails:
        with self._one_sentence():
            return self._client.get_job_info(job)

    def _patient_details(self, job: str) -> JobDetails:
        """A dashboard that is away for a while ends no watch. BadStudy when it stays away."""
        deadline = time.monotonic() + AWAY_S
        with self._one_sentence():
            while True:
                try:
                    return self._client.get_job_info(job)
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(LOOK_S)

    @contextmanager
    def _one_sentence(self) -> Iterator[None]:
        named = strip_logins(self.address)
        try:
            yield
        except ray.exceptions.AuthenticationError as error:
            raise BadStudy(
                f"the Ray cluster at {named} does not take this token ({_first(error)}): {TOKEN_REMEDY}"
            ) from None
        except (*REFUSALS, OSError) as error:
            raise BadStudy(f"the Ray cluster at {named} refuses: {_first(error)}") from None


def _exit_code(details: JobDetails, write: Callable[[str], None]) -> int:
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        return STOPPED
    if details.driver_exit_code is None:  # it never ran, or its node died with it
        write(f"spineage: Ray ended the job: {_first(details.message or 'no reason is given')}\n")
        return 1
    return int(details.driver_exit_code) or 1


def _tail(client: JobSubmissionClient, job: str, num_known: int) -> Iterator[str]:
    """What the job says after so many characters, as it comes."""

    async def pull(stream: Any) -> str | None:
        return await anext(stream, None)

    stream = client.tail_job_logs(job)
    with asyncio.Runner() as runner:  # ends what is pending, also when ^C comes in between
        while (text := runner.run(pull(stream))) is not None:
            fresh, num_known = text[num_known:], max(0, num_known - len(text))
            if fresh:
                yield fresh


def _until_it_breaks(stream: Iterator[str]) -> Iterator[str]:
    """What comes; what goes wrong with who takes it is none of this."""
    with suppress(*REFUSALS, OSError, aiohttp.ClientError):
        yield from stream


def _require_answer(address: str) -> None:
    try:
        url = f"{strip_logins(address).rstrip('/')}/api/version"
        urllib.request.urlopen(url, timeout=ANSWERS_WITHIN_S).close()
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is asked next
    except (OSError, ValueError) as error:
        reason = without_logins(str(getattr(error, "reason", error)))
        raise BadStudy(
            f"no Ray dashboard answers at {strip_logins(address)} ({reason}): start a cluster with "
            "`ray start --head`, or name the address with --address, such as http://HEAD:8265"
        ) from None


@contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """These environment variables are not there."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _number(job: str, beginning: str) -> int:
    found = re.fullmatch(rf"{re.escape(beginning)}-([0-9]{{1,9}})", job)
    return int(found[1]) if found else 0


def _first(error: object) -> str:
    return without_logins(" ".join(str(error).split()))[:100]
