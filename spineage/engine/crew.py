"""A few workers that stay: one function over many items, all with the same large value beside them.

A process compiles UMAP for ten seconds before it can use it: so the workers of a crew are actors, and what
runs alone runs on the first of them. Results come as they finish; at most one item a worker is in flight.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Any

import ray

from spineage.errors import StoppedEarly

PLACED_WITHIN_S = 60.0


class _Worker:
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)


class Crew:
    """Workers of one core each, started when first needed, gone at the end of the `with` block.

    num_workers: 0 is one a core of the cluster, or of this machine when Ray was started here with more slots
    than it has cores.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self.num_workers = num_workers or _cores()
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
        return _result(self._hire(1)[0].call.remote(function, *args), function.__name__)

    def each(
        self, function: Callable[[Any, Any], Any], items: Iterable[Any], shared: Any
    ) -> Iterator[tuple[Any, Any]]:
        """(item, function(item, shared)) for every item; `shared` crosses to each machine once.

        An exception in the function is raised here, and says for which item. Raises StoppedEarly when an item
        killed its worker twice.
        """
        items = list(items)
        waiting, here = iter(items), ray.put(shared)
        flying: dict[Any, tuple[Any, Any]] = {}
        workers = self._placed(min(self.num_workers, len(items)))
        for worker, item in zip(workers, waiting, strict=False):
            flying[worker.call.remote(function, item, here)] = worker, item
        while flying:
            [ready], _ = ray.wait(list(flying), num_returns=1)
            worker, item = flying.pop(ready)
            yield item, _result(ready, str(item))
            for following in waiting:
                flying[worker.call.remote(function, following, here)] = worker, following
                break

    def _placed(self, num: int) -> list[Any]:
        """As many workers as the cluster has room for within a minute, one at least.

        An item given to a worker that waits for a core would wait with it.
        """
        if not num:
            return []
        answers = {worker.call.remote(_here): worker for worker in self._hire(num)}
        there, _ = ray.wait(list(answers), num_returns=len(answers), timeout=PLACED_WITHIN_S)
        if not there:
            there, _ = ray.wait(list(answers), num_returns=1)
        for answer, worker in answers.items():
            if answer not in there:
                ray.kill(worker)
        self._workers = [answers[answer] for answer in there]
        return self._workers

    def _hire(self, num: int) -> list[Any]:
        kind = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=1)(_Worker)
        while len(self._workers) < num:
            self._workers.append(kind.remote())
        return self._workers


def _here() -> None:
    """What a worker that has its core answers."""


def _result(reference: Any, what: str) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        cause = error.cause
        cause.add_note(f"at {what}")
        raise cause from None
    except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
        raise StoppedEarly(
            f"{what} killed its worker twice ({type(error).__name__}): most likely it ran out of memory; "
            "what is done is kept, so run again with fewer workers at once (cluster.cohort_workers)"
        ) from None


def _cores() -> int:
    slots = int(ray.cluster_resources().get("CPU", 1.0))
    alive = sum(1 for node in ray.nodes() if node["Alive"])
    return max(1, min(slots, os.cpu_count() or 1) if alive == 1 else slots)
