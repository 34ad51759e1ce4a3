"""A few workers that stay: one function over many items, all with the same large value beside them.

A process compiles UMAP for ten seconds before it can use it: so the workers of a crew are actors, and what
runs alone runs on the first of them. Results come as they finish; at most one item a worker is in flight. An
item whose worker is lost goes to another one, once; Ray's own ActorPool keeps no count of lost workers, and
raises what a dead one left behind for every item that it is then given.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any

import ray

from spineage.engine.places import Need, wait_for
from spineage.errors import StoppedEarly

PLACED_WITHIN_S = 60.0
MOST_TRIES, STARTING = 2, -1
LOST = (
    ray.exceptions.RayActorError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.ObjectLostError,
)


class _Worker:
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Crew:
    """Workers of one core each, started when first needed, gone at the end of the `with` block.

    num_workers: 0 is one a core of the cluster. environment: variables that each worker is started with.
    greet: what each worker is asked before any work; what it raises is raised here, and `answers` holds what
    they said.
    """

    def __init__(
        self,
        num_workers: int = 0,
        environment: Mapping[str, str] | None = None,
        greet: Callable[[], Any] | None = None,
    ) -> None:
        self.num_workers = num_workers or _cores()
        self.answers: list[Any] = []
        self._environment = dict(environment or {})
        self._greet = greet or _here
        self._workers: list[Any] = []

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            ray.kill(worker)
        self._workers.clear()

    def alone(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call an importable function once and wait; its own exception is raised here."""
        for _ in range(MOST_TRIES):
            is_new = not self._workers
            worker = self._hire() if is_new else self._workers[0]
            try:
                if is_new:
                    self.answers.append(_result(worker.call.remote(self._greet), "a start"))
                return _result(worker.call.remote(function, *args), function.__name__)
            except LOST as error:
                self._dismiss(worker)
                lost = error
        raise _killed(function.__name__, lost)

    def each(
        self, function: Callable[[Any, Any], Any], items: Iterable[Any], shared: Any
    ) -> Iterator[tuple[Any, Any]]:
        """(item, function(item, shared)) for every item; `shared` crosses to each machine once.

        An exception in the function is raised here, and says for which item. Raises StoppedEarly when an item
        killed its worker twice.
        """
        todo, here = deque(enumerate(items)), ray.put(shared)
        tries: Counter[int] = Counter()
        idle: list[Any] = []
        flying: dict[Any, tuple[Any, tuple[int, Any] | None]] = {}  # no job: a worker that starts

        def give(worker: Any) -> None:
            if not todo:
                idle.append(worker)
                return
            job = todo.popleft()
            flying[worker.call.remote(function, job[1], here)] = worker, job

        for worker in self._placed(min(self.num_workers, len(todo))):
            give(worker)
        while todo or any(job for _, job in flying.values()):
            [ready], _ = ray.wait(list(flying), num_returns=1)
            worker, job = flying.pop(ready)
            number, item = job or (STARTING, "a start")
            try:
                result = _result(ready, str(item))
            except LOST as error:
                self._dismiss(worker)
                tries[number] += 1
                if tries[number] == MOST_TRIES:
                    raise _killed(str(item), error) from None
                if job:
                    todo.appendleft(job)
                if idle:
                    give(idle.pop())
                another = self._hire()
                flying[another.call.remote(self._greet)] = another, None
                continue
            if not job:
                del tries[STARTING]  # only in a row do they count
                self.answers.append(result)
            give(worker)  # before the result is looked at, which may take its reader a while
            if job:
                yield item, result

    def _placed(self, num: int) -> list[Any]:
        """As many workers as the cluster has room for within a minute, one at least.

        An item given to a worker that waits for a core would wait with it.
        """
        if not num:
            return []
        while len(self._workers) < num:
            self._hire()
        answers = {worker.call.remote(self._greet): worker for worker in self._workers[:num]}
        there, _ = ray.wait(list(answers), num_returns=len(answers), timeout=PLACED_WITHIN_S)
        if not there:
            there, _ = ray.wait(list(answers), num_returns=1)
        for answer, worker in answers.items():
            if answer not in there:
                self._dismiss(worker)
        started = []
        for answer in there:
            try:
                self.answers.append(_result(answer, "a start"))
                started.append(answers[answer])
            except LOST:
                self._dismiss(answers[answer])
        if not started:
            raise StoppedEarly(
                "every worker died when it started: the machine is out of memory, or ill"
            )
        return started

    def _hire(self) -> Any:
        if not self._workers:
            wait_for([Need("a cohort", 1, 1.0)], "one node needs a core")
        started_with = {"env_vars": self._environment} if self._environment else {}
        worker = ray.remote(num_cpus=1, runtime_env=started_with)(_Worker).remote()
        self._workers.append(worker)
        return worker

    def _dismiss(self, worker: Any) -> None:
        ray.kill(worker)
        self._workers.remove(worker)


def _here() -> None:
    """What a worker that has its core answers."""


def _result(reference: Any, what: str) -> Any:
    """Raises the function's own exception, or what LOST names."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        cause.add_note(f"at {what}")
        raise cause from None


def _killed(what: str, error: BaseException) -> StoppedEarly:
    return StoppedEarly(
        f"{what} killed its worker twice ({type(error).__name__}): most likely it ran out of memory; "
        "what is done is kept, so run again with fewer workers at once (cluster.cohort_workers)"
    )


def _cores() -> int:
    return max(1, int(ray.cluster_resources().get("CPU", 1.0)))
