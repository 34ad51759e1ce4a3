"""Run stages in order, keep a record of each, and say how it went."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

import yaml

from spineage.engine import session
from spineage.errors import BadStudy
from spineage.flow import STAGES, module_of
from spineage.io.storage.lease import held
from spineage.run.checks import check_before, check_registry, check_scans, check_sites
from spineage.run.context import KEPT_STUDY, Context, writer_of
from spineage.run.counts import Counts
from spineage.run.log import logged
from spineage.run.nodes import visit_nodes
from spineage.run.plan import size_of
from spineage.run.rates import Rate, keep_rate
from spineage.unexpected import enter_stage
from spineage.uris import strip_logins


def run_stages(context: Context, names: Sequence[str]) -> dict[str, Counts]:
    """Run the named stages; returns the counts of each.

    Raises BadStudy before any work when a stage is unknown, or the named Ray or MLflow does not answer.
    """
    for name in names:
        if name not in STAGES:
            raise BadStudy(f"there is no stage {name!r}; stages are {', '.join(STAGES)}")
    _preflight(context, set(names))
    if num := context.store.remove_drafts():
        context.say(f"removed {num} unfinished files of a run that was killed")
    total, counts = len(names), dict[str, Counts]()
    with logged(context, names):
        for i, name in enumerate(names, start=1):
            if name not in ("ingest", "conditions"):
                check_scans(context)
            if name in ("conditions", "cohort") and "cohort" in names[i - 1 :]:
                check_sites(context)
            counts[name] = _run(context, name, f"[{i}/{total}]")
    return counts


def _preflight(context: Context, names: set[str]) -> None:
    """What would fail after hours fails now."""
    check_before(context, names)
    needs = {need for name in names for need in STAGES[name].needs}
    if "mlflow" in needs:
        check_registry(context.study)
    cluster = context.study.cluster
    if context.is_alone:
        return
    is_named = cluster.ray or ("ray" in needs and session.is_submitted())
    if is_named or cluster.gpus_per_worker:  # else Ray starts here, when there is work
        context.connect()
        if session.is_joined():
            section = context.study.segment
            visit_nodes(context.store, "" if section.masks else section.weights, context.say)


def _run(context: Context, name: str, place: str) -> Counts:
    context.forget()
    context.tables_read.clear()
    context.paces.clear()
    context.work_done = 0.0
    enter_stage(name, context.store.root if context.store.is_local else None)
    started = datetime.datetime.now(datetime.UTC)
    context.say(f"{place} {name}: {STAGES[name].does}")
    with _alone(context, name):
        context.forget()  # a run that was waited for has changed what is there
        is_new = not (hasattr(module_of(name), "plan") or context.store.list(context.folder(name)))
        counts: Counts = module_of(name).run(context)
        context.forget()
        context.write_record(name, started, counts.flat())
        seconds = (datetime.datetime.now(datetime.UTC) - started).total_seconds()
        _keep_rate(context, name, started, seconds, is_new=is_new)
    _keep_study(context)
    summary = ", ".join(f"{key.replace('_', ' ')} {n}" for key, n in counts.flat().items())
    context.say(f"{place} {name}: {summary or 'done'} ({seconds:.1f} s)")
    return counts


def _keep_rate(
    context: Context, name: str, started: datetime.datetime, seconds: float, *, is_new: bool
) -> None:
    """Keep what the stage took, unless it had nothing to do or went on from the middle."""
    if context.is_alone:
        return  # another kind of run than those that plans are for
    with suppress(Exception):  # the stage is done: a plan that knows less is no reason to fail it
        if size := size_of(context, name) if is_new else context.work_done:
            pace = max(context.paces, key=lambda pace: pace.rows, default=None)
            when = started.isoformat(timespec="seconds")
            keep_rate(context.store, Rate(name, context.folder(name), when, seconds, size, pace))


@contextmanager
def _alone(context: Context, name: str) -> Iterator[None]:
    """The only run on the stage's folder, and on those that it fills."""
    stages = {name, *map(writer_of, STAGES[name].fills)}
    with ExitStack() as stack:
        for folder in sorted(context.folder(stage) for stage in stages):
            shard = context.shard.name if context.shard else ""
            stack.enter_context(held(context.store, folder, context.say, shard))
        yield


def _keep_study(context: Context) -> None:
    """The study as it ran, in the workspace, without logins: `spineage show --workspace` reads it."""
    values = strip_logins(context.study.model_dump(mode="json", by_alias=True))
    text = yaml.safe_dump(values, sort_keys=False)
    context.store.write(KEPT_STUDY, text.encode())
