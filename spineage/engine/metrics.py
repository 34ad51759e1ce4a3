"""What Prometheus reads among Ray's own metrics: how busy workers are, and how far a stage has come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge

SCANS, RATE, LEFT_S = "spineage_scans", "spineage_scans_per_s", "spineage_left_s"
_gauges: dict[str, Gauge] = {}


class Busy:
    """Of one worker: seconds at work in each step, and their share of the time since its first row."""

    def __init__(self, step: str) -> None:
        self._tags = {"step": step}
        self._seconds = Counter("spineage_busy_s", "seconds a step was at work", ("step",))
        self._share = Gauge("spineage_busy_share", "of the time since its first row", ("step",))
        self._began, self._total_s = 0.0, 0.0

    def show(self, began: float, ended: float) -> None:
        """One row was served from `began` to `ended`, seconds of the epoch."""
        self._began = self._began or began
        self._total_s += ended - began
        self._seconds.inc(ended - began, self._tags)
        self._share.set(self._total_s / max(ended - self._began, 1e-9), self._tags)


def show_progress(
    stage: str, outcomes: Mapping[str, int], num_left: int, per_s: float, left_s: float
) -> None:
    """How far the driver sees a stage: scans by outcome (a fault code, `ok`, and `left`), scans a second, and
    seconds to go. Shown while Ray runs; it is forgotten with the process."""
    if not ray.is_initialized():
        return
    for outcome, num in {**outcomes, "left": num_left}.items():
        _gauge(SCANS, "scans of this run by outcome", ("stage", "outcome")).set(
            num, {"stage": stage, "outcome": outcome}
        )
    for name, value, meaning in (
        (RATE, per_s, "scans that end in a second"),
        (LEFT_S, left_s, "seconds to go at this rate"),
    ):
        _gauge(name, meaning, ("stage",)).set(value, {"stage": stage})


def _gauge(name: str, meaning: str, tags: tuple[str, ...]) -> Any:
    if name not in _gauges:
        _gauges[name] = Gauge(name, meaning, tags)
    return _gauges[name]
