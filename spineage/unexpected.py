"""What nobody foresaw, in one sentence: its type, the stage and the place in the code.

The message of a foreign exception may quote what it was given, and that may be a name or a date: so it is
printed nowhere. The traceback, which holds it, goes to a file that only its owner can read.
"""

from __future__ import annotations

import datetime
import re
import sys
import threading
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from spineage.errors import SpineageError
from spineage.privacy import state_folder, write_private
from spineage.uris import without_logins

PACKAGE: Final = Path(__file__).parent
FRAME: Final = re.compile(r'File "([^"\n]+)", line (\d+), in ([\w<>]+)')
SENTENCE: Final = re.compile(
    r"unexpected [\w()]+(?: in [\w -]+?)? at "
    r"(?:spineage/[\w/]+\.py:\d+ \([\w<>]+\)|a place outside spineage): a bug, [\w ]+; what it said is in "
    r"[^\n]+?, which may hold data of people: look before you send it"
)
"""What `describe` makes: found again in the text of an error that another process described."""
MAX_LOGS: Final = 20
"""Of one process: a bug that every scan meets fills no disk."""


class Unexpected(SpineageError):
    """A bug met in another process; the message says what the log file there has more of."""


@dataclass
class Here:
    """Where this process is, for the sentence: its stage, and the folder for logs where it has one."""

    stage: str = ""
    logs: Path | None = None
    num_logs: int = 0


HERE = Here()


def enter_stage(stage: str, workspace: str | None) -> None:
    """From now on errors are of this stage; logs go into the workspace when it is a local folder."""
    HERE.stage = stage
    HERE.logs = Path(workspace) / "logs" if workspace else None


def describe(error: BaseException, stage: str = "") -> str:
    """One sentence for people; what the error said is in the file that it names, and only there.

    An error of another process that was described there already is passed on as it is.
    """
    text = "".join(traceback.format_exception(error))
    if sentence := described_in(text):
        return sentence
    kind = type(
        getattr(error, "cause", None) or error
    ).__name__  # Ray's has that of the task itself
    stage = stage or HERE.stage
    return (
        f"unexpected {kind}{f' in {stage}' if stage else ''} at {_place(text)}: a bug, or a machine out of "
        f"order; what it said is in {_keep(text)}, which may hold data of people: look before you send it"
    )


def described_in(text: str) -> str:
    """The sentence that another process made of the error whose text this is, or ""."""
    found = SENTENCE.findall(text)
    return found[-1] if found else ""


def type_and_place(sentence: str) -> str:
    """What of such a sentence may stand in a table: "unexpected KeyError in name at spineage/a.py:1 (f)"."""
    return sentence.partition(": a bug")[0]


def as_unexpected(error: BaseException, stage: str) -> Unexpected:
    """The same as an exception: what may leave a worker."""
    return Unexpected(describe(error, stage))


def install() -> None:
    """Whatever nobody catches in this process, in any thread, ends as the sentence and exit code 1."""

    def last(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, trace)
            return
        print(f"spineage: {describe(error)}", file=sys.stderr)

    def last_of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            print(f"spineage: {describe(args.exc_value)}", file=sys.stderr)

    sys.excepthook = last
    threading.excepthook = last_of_thread


def _place(text: str) -> str:
    """The innermost line of ours; what is no file of this package is not quoted."""
    for path, line, function in reversed(FRAME.findall(text)):
        inside = path.rpartition("/spineage/")[2]
        if inside != path and (PACKAGE / inside).is_file():
            return f"spineage/{inside}:{line} ({function})"
    return "a place outside spineage"


def _keep(text: str) -> str:
    if HERE.num_logs >= MAX_LOGS:
        return "an earlier log file"
    HERE.num_logs += 1
    now = datetime.datetime.now(datetime.UTC)
    name = f"error-{now:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}.log"
    for folder in (HERE.logs, None):
        path = (folder or state_folder() / "logs") / name
        try:
            write_private(path, without_logins(text).encode("utf-8", "backslashreplace"))
        except OSError:
            continue
        return str(path)
    return "no file, for none could be written"
