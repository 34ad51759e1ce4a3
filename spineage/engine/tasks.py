"""One function in tasks, a light call each that keeps nothing: over many items, alone, once on each node."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from spineage.engine.labels import Labels
from spineage.engine.places import Need, wait_for
from spineage.engine.quiet import call, plain_bad_study

LOOK_S: Final = 1.0
"""Between two looks whether a node that owes an answer lives."""


def spread(
    function: Callable[[Any], Any], items: Iterable[Any], *, at_once: int | None = None
) -> Iterator[Any]:
    """Call an importable function on every item in parallel tasks; results come as they finish.

    Each takes a core. At most `at_once`, by default four times the cluster's cores, are in flight: memory
    does not grow with the items.
    An exception in the function is a bug, raised here as a sentence, or a BadStudy, raised as it was.
    """
    wait_for([Need(function.__name__, 1, 1.0)], "one node needs a core")
    remote = ray.remote(num_cpus=1, max_retries=2)(call)
    room = at_once or max(2, int(4 * ray.cluster_resources().get("CPU", 1.0)))
    flying: list[ray.ObjectRef[Any]] = []
    for item in items:
        if len(flying) >= room:
            ready, flying = ray.wait(flying, num_returns=1)
            yield _get(ready[0])
        flying.append(remote.remote(function, item))
    while flying:
        ready, flying = ray.wait(flying, num_returns=1)
        yield _get(ready[0])


def run_alone(
    function: Callable[..., Any],
    *args: Any,
    num_gpus: float = 0.0,
    labels: Labels | None = None,
) -> Any:
    """Call an importable function once on a worker and wait: the head of a cluster is no place for UMAP.

    What a user can act on is raised here as it is, any other exception as a sentence.
    """
    need = Need(function.__name__, 1, 1.0, num_gpus, labels or {})
    wait_for([need], "lower cluster.gpus_per_worker")
    remote = ray.remote(
        num_cpus=1, num_gpus=num_gpus, label_selector=dict(labels or {}), max_retries=1
    )(call)
    try:
        return ray.get(remote.remote(function, *args))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None


@dataclass(frozen=True)
class Visited:
    """What a node answered: None when it has not in time, the error when it cannot run the function at all.

    name: its number and address, for people.
    """

    name: str
    answer: Any


def on_each_node(function: Callable[..., Any], *args: Any, within_s: float) -> list[Visited]:
    """Call an importable function once on every node that lives, however busy it is; it takes no core.

    A node that dies meanwhile is none of the cluster any more, and has no answer here.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    # hard: a visit to another node says nothing; again: a worker may have been killed for memory
    remote = ray.remote(num_cpus=0, max_retries=2)(call)
    asked = [
        remote.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(function, *args)
        for node in nodes
    ]
    until = time.monotonic() + within_s
    visited = []
    for number, (node, asking) in enumerate(zip(nodes, asked, strict=True), start=1):
        name = f"node {number} of {len(nodes)} ({node['NodeManagerAddress']})"
        answer = _answer_of(node["NodeID"], asking, until)
        if not isinstance(answer, _Dead):
            visited.append(Visited(name, answer))
    return visited


class _Dead:
    """In place of the answer of a node that died."""


def _answer_of(node_id: str, asking: ray.ObjectRef[Any], until: float) -> Any:
    """What the task returned or raised; None when it does neither in time, and _Dead() for a dead node."""
    while True:
        left_s = until - time.monotonic()
        ready, _ = ray.wait([asking], timeout=min(LOOK_S, max(0.0, left_s)))
        try:
            answer = _get(asking) if ready else None
        except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
            return error
        except ray.exceptions.RayError as error:  # what a dying node leaves behind has many names
            answer = error
            time.sleep(min(LOOK_S, max(0.0, left_s)))
        if ready and not isinstance(answer, Exception):
            return answer
        if not any(node["Alive"] for node in ray.nodes() if node["NodeID"] == node_id):
            return _Dead()
        if left_s <= 0:
            return answer


def _get(answer: ray.ObjectRef[Any]) -> Any:
    with plain_bad_study():
        return ray.get(answer)
