"""Who works on a result: one run at a time, known alive by its heartbeat, taken over when it is dead.

A lease is a numbered file, made only where it is not there yet (an exclusive create on a disk, a conditional
put on an object store); the highest number holds. Its owner alone writes it again, every few seconds. Whoever
sees it unchanged for long enough by his own clock, or its process gone from this machine, makes the next
number. An owner that finds a higher number, or another's word in its own, has lost, and stops.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from spineage.errors import BadStudy, StoppedEarly
from spineage.io.storage import drafts
from spineage.io.storage.pointers import parse_object
from spineage.io.storage.store import Store

BEAT_S: Final = 10.0
DEAD_AFTER_S: Final = 90.0
"""Without a beat; a file system of several machines may show a file a minute late."""
LOOK_S: Final = 2.0
SAY_S: Final = 60.0
FOLDER: Final = "leases"
LOST: Final = signal.SIGUSR1
"""Wakes the main thread; the signal of Ctrl-C is ignored by what a shell runs in the background."""
SUBMITTED: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells a submitted job's driver what it is."""
_held: list[_Lease] = []


@contextmanager
def held(store: Store, folder: str, say: Callable[[str], None], shard: str = "") -> Iterator[None]:
    """Work on a folder of the store as its only run; waits aloud for a run that is there before.

    shard: its name, of a run that does a share of the scans. Runs of other shards may be there, a run of all
    scans may not: it waits for shards, and they wait for it.
    Raises StoppedEarly when another run has taken over meanwhile: this one had not been heard of.
    """
    lease = _acquired(store, folder, say, shard)
    if threading.current_thread() is threading.main_thread():
        signal.signal(LOST, _wake)
    _held.append(lease)
    lost = StoppedEarly(
        f"another run has taken over {folder}: this one was not heard of for {DEAD_AFTER_S:.0f} s, asleep "
        "or cut off from the workspace; what is done is kept"
    )
    try:
        yield
        if lease.is_lost:
            raise lost
    except KeyboardInterrupt:
        if not lease.is_lost:
            raise
        raise lost from None
    finally:
        _held.remove(lease)
        lease.release()


def _wake(number: int, frame: object) -> None:
    if any(lease.is_lost for lease in _held):
        raise KeyboardInterrupt


def _acquired(store: Store, folder: str, say: Callable[[str], None], shard: str) -> _Lease:
    """The lease, once nobody is there that excludes this run; none is kept when the wait is interrupted."""
    while True:
        lease, whole = _Lease(store, f"{folder}/{shard}", say), _Lease(store, folder, say)
        taken = lease if shard else whole
        try:
            taken.acquire()
            if not shard:
                _wait_for_shards(store, folder, say)
                return whole
            if not whole.is_held_by_another():
                return lease
        except BaseException:
            taken.release()
            raise
        lease.release()  # who came first may be waiting for this shard
        try:
            whole.acquire()
        finally:
            whole.release()


def _wait_for_shards(store: Store, folder: str, say: Callable[[str], None]) -> None:
    """Take over each shard's lease in turn, which waits for its run, and let go of it."""
    place = f"{FOLDER}/{folder}/"
    files = (file.removeprefix(place) for file in store.list(f"{FOLDER}/{folder}", ".json"))
    for shard in sorted({file.rpartition("/")[0] for file in files if "/" in file}):
        lease = _Lease(store, f"{folder}/{shard}", say)
        try:
            lease.acquire()
        finally:
            lease.release()


class _Lease:
    def __init__(self, store: Store, folder: str, say: Callable[[str], None]) -> None:
        self.is_lost = False
        self._store, self._folder, self._say = store, folder, say
        self._number = 0
        self._ended = threading.Event()
        self._beats = threading.Thread(target=self._beat, daemon=True)
        self._record: dict[str, Any] = {
            "run": uuid.uuid4().hex,
            "machine": drafts.machine(),
            "process": os.getpid(),
            "job": submission_id(),
            "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "beat": 0,
        }

    def acquire(self) -> None:
        """Returns when the lease is ours."""
        seen, since, said = None, time.monotonic(), -SAY_S
        while True:
            number, record = self._highest()
            mark = number, record.get("run"), record.get("beat")
            if mark != seen:
                seen, since = mark, time.monotonic()
            is_dead = is_gone(record) or time.monotonic() - since > DEAD_AFTER_S
            if (not number or is_dead) and self._take(number + 1):
                if number:
                    self._say(f"  the run that worked on {self._folder} has died: it is taken over")
                return
            if number and not is_dead and time.monotonic() - said >= SAY_S:
                said = time.monotonic()
                self._say(
                    f"  {self._folder}: another run ({describe(record)}) works on it; waiting for its end"
                )
            time.sleep(LOOK_S)

    def is_held_by_another(self) -> bool:
        """Whether a run that is not known to be gone holds it."""
        number, record = self._highest()
        return bool(number) and not is_gone(record)

    def release(self) -> None:
        """Let go; what another run holds by now is left alone. Of one that was never acquired, nothing."""
        if not self._number:
            return
        self._ended.set()
        self._beats.join(
            timeout=DEAD_AFTER_S
        )  # a beat on its way would bring the lease back to life
        if not self.is_lost:
            with contextlib.suppress(Exception):  # storage is gone: whoever comes next sees no beat
                self._store.remove(self._file(self._number))

    def _take(self, number: int) -> bool:
        if not self._store.create(self._file(number), self._content()):
            return False
        self._number = number
        for before in self._numbers():
            if before < number:
                self._store.remove(self._file(before))
        self._beats.start()
        return True

    def _beat(self) -> None:
        """Whatever storage raises is no answer: so nobody else sees the workspace, or this beat."""
        while not self._ended.wait(LOOK_S if self.is_lost else BEAT_S):
            with contextlib.suppress(Exception):
                self.is_lost = self.is_lost or self._is_another_run_here()
                if self.is_lost and signal.getsignal(LOST) is _wake:
                    signal.pthread_kill(_main_thread(), LOST)  # again, until somebody hears it
                if not self.is_lost:
                    self._record["beat"] += 1
                    self._store.write(self._file(self._number), self._content())

    def _is_another_run_here(self) -> bool:
        """A higher number, another's word in ours, or none any more: taken over, and ended."""
        number, record = self._highest()
        if number < self._number:
            time.sleep(LOOK_S)  # a file system of several machines may show a file late
            number, record = self._highest()
        return (
            number != self._number or record.get("run", self._record["run"]) != self._record["run"]
        )

    def _highest(self) -> tuple[int, dict[str, Any]]:
        """0 when nobody holds it. What cannot be read is being written, or is nobody's for long."""
        number = max(self._numbers(), default=0)
        try:
            content = self._store.read(self._file(number)) if number else b"{}"
            return number, parse_object(content, self._file(number), "")
        except (FileNotFoundError, BadStudy):
            return number, {}

    def _numbers(self) -> list[int]:
        files = self._store.list(f"{FOLDER}/{self._folder}", ".json")
        place = f"{FOLDER}/{self._folder}/"
        names = (file.removeprefix(place).removesuffix(".json") for file in files)
        return [int(name) for name in names if name.isdecimal()]

    def _file(self, number: int) -> str:
        return f"{FOLDER}/{self._folder}/{number}.json"

    def _content(self) -> bytes:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        return json.dumps({**self._record, "seen": now}).encode()


def _main_thread() -> int:
    number = threading.main_thread().ident
    assert number is not None
    return number


def is_gone(record: dict[str, Any]) -> bool:
    """Whether the process of a record was one of this machine, and is no more."""
    process = record.get("process")
    return (
        record.get("machine") == drafts.machine()
        and isinstance(process, int)
        and not drafts.is_running(process)
    )


def describe(record: dict[str, Any]) -> str:
    """Who holds a lease, or keeps another record of the same kind."""
    where = "this machine" if record.get("machine") == drafts.machine() else "another machine"
    job = f"Ray job {record['job']}, " if record.get("job") else ""
    return f"{job}process {record.get('process')} of {where}, since {record.get('started')}"


def submission_id() -> str:
    """The id that Ray gave the job that this process is, "" when it is none."""
    try:
        return str(json.loads(os.environ[SUBMITTED])["metadata"]["job_submission_id"])
    except (KeyError, TypeError, ValueError):
        return ""
