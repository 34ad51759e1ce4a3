"""The log of a run: every line that it says, with its time, in a file of the workspace."""

from __future__ import annotations

import datetime
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from spineage import unexpected
from spineage.errors import SpineageError
from spineage.io.storage.store import Store
from spineage.run.context import KEPT_STUDY, Context
from spineage.uris import without_logins

FOLDER: Final = "logs"
EVERY_S: Final = 5.0
"""Between two writes of the file: an object store takes it whole each time."""
MOST_LINES: Final = 100_000


@contextmanager
def logged(context: Context, stages: Sequence[str]) -> Iterator[None]:
    """What the run says within is also written, and how it ended when it did not end well."""
    name = stages[0] if len(stages) == 1 else f"{stages[0]}-{stages[-1]}"
    before, log = context.say, _Log(context.store, name)

    def say(text: str) -> None:
        before(text)
        log.note(text)

    context.say = say
    try:
        yield
        log.note("done")
    except SpineageError as error:
        log.note(f"ended: {getattr(error, 'cause', None) or error}")
        raise
    except BaseException as error:
        log.note(
            f"ended: {unexpected.describe(error)}" if isinstance(error, Exception) else "stopped"
        )
        raise
    finally:
        context.say = before
        log.close()


class _Log:
    def __init__(self, store: Store, name: str) -> None:
        now = f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}"
        self._store = store
        self._file = f"{FOLDER}/{now}-{name}-{uuid.uuid4().hex[:6]}.log"
        self._lines: list[str] = []
        self._written, self._may_write = -math.inf, False

    def note(self, text: str) -> None:
        """Keep the lines of a text; now and then all are written."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        if len(self._lines) < MOST_LINES:
            self._lines += [f"{now} {line}" for line in without_logins(text).splitlines()]
        if time.monotonic() - self._written > EVERY_S:
            self.close()

    def close(self) -> None:
        """Write the file, once some stage has ended in this workspace: a run that is refused leaves none."""
        self._written = time.monotonic()
        with suppress(Exception):  # a log is no reason to lose the work
            self._may_write = self._may_write or self._store.exists(KEPT_STUDY)
            if self._may_write:
                self._store.write(self._file, ("\n".join(self._lines) + "\n").encode())
