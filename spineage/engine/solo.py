"""One function, alone, on a worker of the cluster: the head node of a cluster is no place for UMAP."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray


def run_alone(function: Callable[..., Any], *args: Any, num_cpus: float = 1.0) -> Any:
    """Call an importable function once as a Ray task and wait; its own exception is raised here."""
    remote = ray.remote(num_cpus=num_cpus, max_retries=1)(function)
    try:
        return ray.get(remote.remote(*args))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
