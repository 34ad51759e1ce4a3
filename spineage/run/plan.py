"""What a run would do: what is done, what remains, by which kinds of work, and how long that will take.

Nothing is written but a copy of a model that is named and not in the workspace yet, and no worker starts.
How long goes by what earlier runs in this workspace took (`rates.py`).
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from spineage.engine.rows import Step
from spineage.errors import BadStudy, NotYet
from spineage.flow import STAGES, module_of
from spineage.io.storage.index import keys_of, parts_of_scans
from spineage.run.checks import check_before
from spineage.run.context import Context
from spineage.run.fill import given_up, lasting_faults, without
from spineage.run.progress import span
from spineage.run.rates import Rate, Work, measured_on, rates_of, scaled_s, seconds_for
from spineage.tables import Table


@dataclass(frozen=True)
class Plan:
    """Of one stage. of: what it does, "" for one that publishes as a whole.

    done, refused (by code), given_up, remaining: how many of them. work: what remains, by
    kind. seconds: how long it will take, None where nothing like it was measured; `measured` says when that
    was. waits_for: why nothing can be known yet, as a sentence.
    """

    stage: str
    done: int = 0
    remaining: int = 0
    of: str = "scans"
    refused: Mapping[str, int] = field(default_factory=dict)
    given_up: int = 0
    work: Mapping[str, Work] = field(default_factory=dict)
    seconds: float | None = None
    measured: str = ""
    waits_for: str = ""

    def line(self) -> str:
        """For people."""
        if self.waits_for:
            return f"not known before it can begin: {self.waits_for}"
        if not self.of:
            return f"to be done; {self._how_long()}" if self.remaining else "done"
        refused = ", ".join(f"{n} {code}" for code, n in sorted(self.refused.items()))
        parts = [f"{self.done} {self.of} done"]
        if refused:
            parts.append(f"{sum(self.refused.values())} refused ({refused})")
        if self.given_up:
            parts.append(f"{self.given_up} left alone")
        parts.append(f"{self.remaining} remain" if self.remaining else "nothing remains")
        work = ", ".join(
            f"{name} {one.rows} by {one.workers} {'worker' if one.workers == 1 else 'workers'}"
            + ("" if one.is_on_cores else " on GPUs")
            for name, one in self.work.items()
            if one.rows
        )
        text = ", ".join(parts) + (f"; {work}" if work and self.remaining else "")
        return f"{text}; {self._how_long()}" if self.remaining else text

    def _how_long(self) -> str:
        if self.seconds is None:
            return "how long is not known: no run of this kind was measured in this workspace"
        return f"about {span(self.seconds)}, as measured on {self.measured[:10]}"


def tell_plan(context: Context, names: Sequence[str], say: Callable[[str], None]) -> list[Plan]:
    """Say the plan of these stages in order, and what they take together. Raises BadStudy for what would stop
    them before work."""
    for name in names:
        if name not in STAGES:
            raise BadStudy(f"there is no stage {name!r}; stages are {', '.join(STAGES)}")
    check_before(context, set(names))
    plans = []
    for i, name in enumerate(names, start=1):
        plan = plan_stage(context, name, names[: i - 1])
        say(f"[{i}/{len(names)}] {name}: {plan.line()}")
        plans.append(plan)
    if plans[0].stage == "ingest" and plans[0].remaining and len(plans) > 1:
        say(
            "what ingest finds in these files is work for the stages after it, which is not counted here: "
            "run ingest first, and ask again"
        )
    left = [plan for plan in plans if plan.remaining or plan.waits_for]
    known = [plan.seconds for plan in left if plan.seconds is not None]
    if not left:
        say("nothing remains to be done")
    elif len(known) == len(left):
        say(f"in all about {span(sum(known))}")
    elif known:
        say(
            f"in all about {span(sum(known))} and what is not known of {len(left) - len(known)} stages"
        )
    return plans


def plan_stage(context: Context, name: str, before: Collection[str] = ()) -> Plan:
    """Of one stage that runs after those `before`, in the same run."""
    module = module_of(name)
    try:
        if hasattr(module, "plan"):
            plan: Plan = module.plan(context, before)
            return plan
        return _plan_at_once(context, name)
    except NotYet as waits:
        return Plan(name, waits_for=str(waits))


def _plan_at_once(context: Context, stage: str) -> Plan:
    """A stage that publishes its result as a whole."""
    done = context.is_done(stage)
    rates = rates_of(context.store, [stage])
    seconds = None if done else scaled_s(size_of(context, stage), rates)
    return Plan(stage, int(done), int(not done), "", seconds=seconds, measured=measured_on(rates))


def size_of(context: Context, stage: str) -> float:
    """How much a stage that publishes as a whole has to do, in a measure of its own that compares runs."""
    module = module_of(stage)
    if hasattr(module, "size"):
        return float(module.size(context))
    return float(len(context.read("scans", ["scan_id"])))


def plan_missing(
    context: Context,
    stage: str,
    table: Table,
    scans: pd.DataFrame,
    steps: Callable[[pd.DataFrame], Sequence[Step]],
) -> Plan:
    """Of a stage that fills in what is missing. steps: of the scans that remain."""
    scans = context.in_shard(scans)
    folder, keys = context.folder(stage), keys_of(scans)
    made = parts_of_scans(context.store, folder, table, keys).keys()
    faults = lasting_faults(context.store, folder)
    codes = dict(zip(keys_of(faults), faults["code"], strict=True))
    refused = {key: codes[key] for key in keys if key in codes and key not in made}
    rest = without(scans, made | refused.keys())
    alone = given_up(context, stage, rest)
    todo = without(rest, set(alone))
    plan = Plan(
        stage,
        len(keys) - len(rest),
        len(todo),
        refused=Counter(refused.values()),
        given_up=len(alone),
    )
    plan = replace(plan, done=plan.done - len(refused))
    return timed(context, plan, steps(todo) if len(todo) else [])


def timed(context: Context, plan: Plan, steps: Sequence[Step]) -> Plan:
    """The plan with the work of these steps and how long it will take."""
    work = {
        step.work: Work(
            plan.remaining if step.num_rows is None else step.num_rows,
            step.workers,
            not step.num_gpus,
        )
        for step in steps
    }
    rates = rates_of(context.store, ["segment", "prepare", "score"])
    rates.sort(
        key=lambda rate: (rate.stage != plan.stage, rate.address != context.folder(plan.stage))
    )
    cores = 0.0 if context.is_alone else _cores(context, rates)
    return replace(
        plan, work=work, seconds=seconds_for(work, cores, rates), measured=measured_on(rates)
    )


def _cores(context: Context, rates: Sequence[Rate]) -> float:
    """Of this machine; of a cluster that is named, those that it had when it was measured."""
    measured = [rate.pace.cores for rate in rates if rate.pace and rate.pace.cores]
    if context.study.cluster.ray and measured:
        return measured[0]
    return float(os.cpu_count() or 1)
