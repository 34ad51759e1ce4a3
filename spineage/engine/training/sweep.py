"""Many trainings beside each other: a grid where every arm ends, and a search that stops the hopeless.

Ray Tune underneath. A grid uses no early stopping: it would favour arms that learn fast, and with them
small data. A search trains each trial in its own process: a trial of several workers that is stopped
early would leave their placement groups behind when Ray runs without its dashboard, and a small cluster
would wait for ever.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from spineage.engine.places import Need, wait_for
from spineage.engine.quiet import in_a_sentence, plain_bad_study

Report = Callable[[dict[str, float]], None]
Trial = Callable[[dict[str, Any], Report], None]
"""An importable function of a configuration and a report function; it is called in a process of its own."""

Hear = Callable[[str, Mapping[str, Any], Mapping[str, Any]], None]
"""Of a trial: what Tune calls it, its configuration, and what it reports; at its end it reports nothing."""

WAITING_BYTES = 1_000_000
"""What a trial takes that only waits for its own workers; Tune places none that takes nothing."""
METRIC, TIME = "smooth_mae_years", "epoch"


@dataclass(frozen=True)
class Outcome:
    """How one trial of a search ended: what was drawn, and its last report."""

    parameters: dict[str, float]
    metrics: dict[str, float]


def run_grid(
    trial: Trial,
    configs: Sequence[dict[str, Any]],
    *,
    storage: str,
    name: str,
    inside: Need | None = None,
    say: Callable[[int, int], None] = lambda done, total: None,
    hear: Hear = lambda trial, config, metrics: None,
) -> None:
    """Run the trial once for each configuration, as many at once as the cluster holds. `hear` hears each
    report as it comes.

    inside: the workers that each trial will start. A trial keeps its result itself, so
    that a run that is killed loses only what was running. An exception in a trial is raised here, after
    the others ended.
    """
    need = inside or Need("a training", 1, 1.0)
    wait_for([need], "train with fewer workers")
    have, takes = ray.cluster_resources(), (("CPU", need.cpus), ("GPU", need.gpus))
    at_once = [have.get(kind, 0.0) // (need.workers * n) for kind, n in takes if n]
    own: dict[str, float] = {"CPU": 0, "memory": WAITING_BYTES} if inside else {"CPU": 1}
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(_of_configs(trial), configs=list(configs)), own),
        # a number: Tune writes and sends what is drawn beside every report
        param_space={"number": tune.grid_search(list(range(len(configs))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=max(1, int(min(at_once)))),
        run_config=_run_config(storage, name, len(configs), say, _of_grid(hear, configs)),
    )
    _raise_first(_fit(tuner))


def search(
    trial: Trial,
    config: dict[str, Any],
    space: dict[str, tuple[float, float, bool]],
    *,
    num_trials: int,
    max_epochs: int,
    grace_epochs: int,
    seed: int,
    storage: str,
    name: str,
    gpus: float = 0.0,
    at_once: int | None = None,
    say: Callable[[int, int], None] = lambda done, total: None,
    hear: Hear = lambda trial, config, metrics: None,
) -> list[Outcome]:
    """The parameters with the lowest `smooth_mae_years`: Optuna's TPE proposes, ASHA stops the hopeless.

    space: name -> (low, high, is_logarithmic). The trial gets {**config, "parameters": {name: value}} and
    reports `epoch` and `smooth_mae_years` after every epoch. A killed search with this name goes on (its
    state is a pickle of our own under `storage`: nobody else may write there). With one trial at a time
    it is repeatable by seed. `hear` hears each report as it comes.
    """
    wait_for([Need("a trial", 1, 1.0, gpus)], "lower cluster.gpus_per_worker")
    domains = {
        key: tune.loguniform(low, high) if is_log else tune.uniform(low, high)
        for key, (low, high, is_log) in space.items()
    }
    function = tune.with_resources(_reporting(trial, config), {"CPU": 1, "GPU": gpus})
    run_config = _run_config(storage, name, num_trials, say, hear)
    path = f"{storage}/{name}"
    if tune.Tuner.can_restore(path):
        tuner = tune.Tuner.restore(path, function, resume_unfinished=True, restart_errored=True)
    else:
        tuner = tune.Tuner(
            function,
            param_space=domains,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="min",
                num_samples=num_trials,
                search_alg=OptunaSearch(seed=seed),
                scheduler=ASHAScheduler(
                    time_attr=TIME, max_t=max_epochs, grace_period=min(grace_epochs, max_epochs)
                ),
                max_concurrent_trials=at_once,
            ),
            run_config=run_config,
        )
    results = _raise_first(_fit(tuner))
    ended = [results[i] for i in range(len(results))]
    told = [(one.config or {}, one.metrics or {}) for one in ended]
    return [
        Outcome(
            {key: float(drawn[key]) for key in space},
            {key: float(metrics[key]) for key in (TIME, METRIC)},
        )
        for drawn, metrics in told
        if math.isfinite(metrics.get(METRIC, math.nan))
    ]


def _of_configs(trial: Trial) -> Callable[..., None]:
    def run(drawn: dict[str, Any], configs: Sequence[dict[str, Any]]) -> None:
        with in_a_sentence("a trial"):
            trial(configs[drawn["number"]], tune.report)

    return run


def _reporting(trial: Trial, config: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    def run(parameters: dict[str, Any]) -> None:
        with in_a_sentence("a trial"):
            trial({**config, "parameters": parameters}, tune.report)

    return run


_listeners: dict[str, tuple[Callable[[int, int], None], Hear]] = {}
"""By name of the experiment: Tune pickles its callbacks, and who listens is of one process."""


class _Progress(tune.Callback):
    """Counts trials that ended, and hands on what they report."""

    def __init__(self, name: str, total: int) -> None:
        self._name, self._total, self._done = name, total, 0

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._hear(trial, result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._done += 1
        if self._name in _listeners:
            _listeners[self._name][0](self._done, self._total)
        self._hear(trial, {})

    def _hear(self, trial: Any, metrics: Mapping[str, Any]) -> None:
        if self._name in _listeners:
            _listeners[self._name][1](str(trial.trial_id), trial.config, metrics)


def _of_grid(hear: Hear, configs: Sequence[dict[str, Any]]) -> Hear:
    """With the configuration as it was given."""
    return lambda trial, drawn, metrics: hear(trial, configs[drawn["number"]], metrics)


def _run_config(
    storage: str, name: str, total: int, say: Callable[[int, int], None], hear: Hear
) -> tune.RunConfig:
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner ignores verbose=0
    # it would swallow an interrupt, and end as if all were well with what there is
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
    _listeners[name] = say, hear
    callbacks: list[Any] = [_Progress(name, total)]
    return tune.RunConfig(name=name, storage_path=storage, verbose=0, callbacks=callbacks)


def _fit(tuner: tune.Tuner) -> tune.ResultGrid:
    """Tune takes a signal for itself that the lease listens to, and does not give it back."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGUSR1)
    try:
        return tuner.fit()
    finally:
        if is_main:
            signal.signal(signal.SIGUSR1, before)


def _raise_first(results: tune.ResultGrid) -> tune.ResultGrid:
    for error in results.errors:
        with plain_bad_study():
            raise error
    return results
