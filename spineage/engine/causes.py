"""What a worker raised, out of the wrappings that Ray puts around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from spineage.errors import BadStudy


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
