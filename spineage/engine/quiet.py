"""What Ray says on its own: nothing that quotes a row, and nothing that the stages say already."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from spineage.errors import BadStudy, SpineageError
from spineage.privacy import PRIVATE_FILE, PRIVATE_FOLDER, UNASKED, state_folder
from spineage.unexpected import as_unexpected, described_in

QUOTING: Final = (
    "ray.data.exceptions",
    "ray.data._internal.execution.streaming_executor",
    "ray.data._internal.execution.streaming_executor_state",
)
"""Loggers that print the error of a block with its message and traceback on the driver."""
NATIVE_LOG: Final = "ray.log"
"""In the folder of this user's logs: what Ray's native code has said in all runs."""
MAX_LOG_BYTES: Final = 1_000_000
ENVIRONMENT: Final = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",  # of tasks in flight when another one failed
    **UNASKED,
}


class OnlySentences(logging.Filter):
    """Of an error, only the sentence that a worker made of it; every other error has a row, or is raised."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            return record.levelno < logging.ERROR
        sentence = described_in(str(error))
        record.msg, record.args, record.exc_info, record.exc_text = sentence, (), None, None
        return bool(sentence)


def quieten() -> None:
    """Ray's own talk, before it starts; what the environment says goes first."""
    for name in ("train", "tune"):
        logging.getLogger(f"ray.{name}").setLevel(logging.ERROR)
    for name in QUOTING:
        logger = logging.getLogger(name)
        if not any(isinstance(found, OnlySentences) for found in logger.filters):
            logger.addFilter(OnlySentences())
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    warnings.filterwarnings(
        "ignore", category=UserWarning, module="ray.data"
    )  # of a pass of few rows


def quieten_data() -> None:
    """Ray Data lays out its log when it is imported: the session's file keeps all of it, a console errors."""
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.ERROR)


@contextmanager
def native_talk_kept() -> Iterator[None]:
    """For a whole process: what native code says on stderr (Ray's C++ does, of a healthy run too) goes to a
    private file. Python's own stderr is where it was; one that somebody has replaced is left alone."""
    before, own = sys.stderr, sys.__stderr__
    if own is None or before is not own:
        yield
        return
    own.flush()
    console = os.dup(2)
    try:
        kept = _open_log()
    except OSError:
        kept = os.open(os.devnull, os.O_WRONLY)
    os.dup2(kept, 2)
    os.close(kept)
    sys.stderr = open(  # noqa: SIM115 - whoever logs to it may outlive this
        console, "w", buffering=1, encoding=own.encoding, errors=own.errors, closefd=False
    )
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(console, 2)
        sys.stderr = before


def _open_log() -> int:
    folder = state_folder() / "logs"
    folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
    path = folder / NATIVE_LOG
    is_long = path.exists() and path.stat().st_size > MAX_LOG_BYTES
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_TRUNC if is_long else 0)
    return os.open(path, flags, PRIVATE_FILE)


@contextmanager
def in_a_sentence(stage: str) -> Iterator[None]:
    """Around a worker's work: of an unexpected error only the sentence leaves it, and reaches logs."""
    try:
        yield
    except SpineageError:
        raise
    except Exception as error:
        raise as_unexpected(error, stage) from None


def call(function: Callable[..., Any], *args: Any) -> Any:
    """Call it as a task of its own name, whose unexpected error is a sentence."""
    with in_a_sentence(getattr(function, "__name__", "a task")):
        return function(*args)


@contextmanager
def plain_bad_study() -> Iterator[None]:
    """A BadStudy that a worker met is raised here as it was: one sentence, without the worker's traceback."""
    try:
        yield
    except Exception as error:
        if (found := _study_error(error)) is None or found is error:
            raise
        raise found from None


def _study_error(error: BaseException) -> BadStudy | None:
    met: set[int] = set()
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BadStudy) and not hasattr(one, "cause"):
            return one
        met.add(id(one))
        failures = getattr(one, "worker_failures", {})  # Ray Train's, by rank
        inner = (getattr(one, "cause", None), one.__cause__, one.__context__, *failures.values())
        waiting += [e for e in inner if isinstance(e, BaseException) and id(e) not in met]
    return None
