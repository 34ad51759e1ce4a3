"""Before an S3 server of the tests: sees every write of its clients, and kills a process at a chosen one."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from moto.server import ThreadedMotoServer

App = Callable[..., Iterable[bytes]]


@dataclass(frozen=True)
class Moment:
    """The write that a process does not survive: the `number`-th whose key matches from its begin to its end.

    is_kept: whether the object was stored before the process died, or nothing was.
    """

    key: str
    number: int = 1
    is_kept: bool = False


class Gate:
    """Stands before the server's application from now on, and lets everything else through."""

    def __init__(self, server: ThreadedMotoServer, root: str) -> None:
        self._root = root.removeprefix("s3:/").rstrip("/")
        self._lock = threading.Lock()
        self._moment: Moment | None = None
        self._victim, self._num_seen = 0, 0
        assert server._server
        self._app: App = server._server.app  # type: ignore[assignment]
        server._server.app = self  # type: ignore[assignment]

    def kill(self, process: int, moment: Moment) -> None:
        """Kill the process, by SIGKILL, when the moment comes."""
        with self._lock:
            self._moment, self._victim, self._num_seen = moment, process, 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        moment = self._come(environ)
        if moment is None:
            return self._app(environ, start_response)
        answer = list(self._app(environ, start_response)) if moment.is_kept else []
        os.kill(self._victim, signal.SIGKILL)
        if not moment.is_kept:
            start_response("503 Slow Down", [("Content-Length", "0")])
        return answer

    def _come(self, environ: dict[str, Any]) -> Moment | None:
        """The moment, when this request is it."""
        key = environ["PATH_INFO"].removeprefix(f"{self._root}/")
        with self._lock:
            moment = self._moment
            if moment is None or environ["REQUEST_METHOD"] != "PUT":
                return None
            self._num_seen += bool(re.fullmatch(moment.key, key))
            if self._num_seen < moment.number:
                return None
            self._moment = None
            return moment
