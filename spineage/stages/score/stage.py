"""score: a spine age and a gap for every scan, segmenting and preparing what is missing.

The address covers the model bundle and the recipes before it, and not the list of scans: a run fills in
what is not there, so a killed run, next month's exams and a new model are one mechanism.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from spineage.engine.rows import Step
from spineage.engine.tally import Manifest
from spineage.errors import TRANSIENT, BadStudy
from spineage.io.models.bundle import BUNDLE_FILES, Bundle, bundle_of, read_bundle, read_files
from spineage.io.models.tracking import open_tracking
from spineage.io.storage.index import keys_of, parts_of_scans
from spineage.io.storage.parts import read_sound
from spineage.io.storage.store import Store
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.run.fill import (
    Key,
    Row,
    compact_table,
    fill,
    given_up,
    lasting_faults,
    missing,
    rows_of,
    without,
    write_each,
)
from spineage.run.plan import Plan, plan_missing
from spineage.science.gap.score import require_self_test, self_test
from spineage.science.network.network import load_network
from spineage.segmenter.folder import segmenter_of
from spineage.stages import prepare, segment
from spineage.stages.calibrate import latest_bundle
from spineage.stages.score.sink import WriteScores
from spineage.stages.score.steps import (
    AssembleMissing,
    DrawMissing,
    InputStep,
    NameMissing,
    PredictStep,
    PrepareFromMask,
    PrepareMissing,
)
from spineage.stages.score.work import Work, work_rows
from spineage.tables import FAULTS, KEY, SCORES

SCHEMA = 1
ROWS_PER_BLOCK = 16
"""Of scans whose tensors are there: the network answers for one sooner than Ray Data passes a block on. So
many are also written at once."""


@dataclass(frozen=True)
class ChosenBundle:
    """The bundle that scores: where it lies in the workspace, and its digest."""

    folder: str
    digest: str


def recipe(context: Context) -> dict[str, Any]:
    """Which bundle, and how its input is made."""
    return {
        "schema": SCHEMA,
        "bundle": choose(context).digest,
        "segment": context.fingerprint("segment"),
        "prepare": context.fingerprint("prepare"),
    }


def choose(context: Context) -> ChosenBundle:
    """This study's own bundle, one of the registry, or a folder; a name is looked up once a process.

    A bundle from elsewhere is copied to `models/<digest>/`, where every worker finds it and nobody
    changes it. Raises BadStudy when there is none, or it is not whole.
    """
    name = context.study.score.model
    if name is None:
        return ChosenBundle(*latest_bundle(context))
    if name not in context.resolved:
        context.resolved[name] = _bring(context, name)
    digest = context.resolved[name]
    return ChosenBundle(f"models/{digest}", digest)


def _bring(context: Context, name: str) -> str:
    """Copy a bundle into the workspace; its digest. What is checked in memory is what is written."""
    if name.startswith("models:/"):
        tracking = open_tracking(context.study.cluster.mlflow, context.store, context.study.name)
        _, expected = tracking.resolve(name)
        if _is_whole(context.store, expected):
            return expected
        files = tracking.fetch(name, BUNDLE_FILES)
        _, digest = bundle_of(files, expected)
    else:
        files = read_files(Store(name), "")
        _, digest = bundle_of(files)
    if not _is_whole(context.store, digest):
        for file in BUNDLE_FILES:
            context.store.write(f"models/{digest}/{file}", files[file])
    return digest


def _is_whole(store: Store, digest: str) -> bool:
    """Whether the workspace holds this bundle already: a copy that was cut short is fetched again."""
    try:
        read_bundle(store, f"models/{digest}", digest)
    except BadStudy:
        return False
    return True


def run(context: Context) -> Counts:
    """Score what is not scored: how many of the study's scans are scored, refused and left.

    Raises BadStudy before any work when the bundle does not fit the study, and StoppedEarly when too many
    scans fail alike.
    """
    chosen = choose(context)
    bundle, _ = read_bundle(context.store, chosen.folder, chosen.digest)
    require_fit(context, bundle)
    model = load_network(bundle.weights, bundle.network)
    require_self_test(self_test(model, tuple(bundle.prepare["shape"])), bundle.self_test_years)
    scans = context.read("scans", KEY)
    context.require_scans(len(scans))
    scans = context.in_shard(scans)
    segment.refuse_without_mask(context, scans)
    todo = missing(context, "score", SCORES, scans)
    if not todo.empty:
        wanted = context.read("scans").merge(todo, on=KEY)
        _score_all(context, chosen, bundle, wanted, len(scans) - len(todo))
    for stage in ("segment", "prepare", "score"):
        compact_table(context, stage, FAULTS)
    compact_table(context, "score", SCORES)
    return _totals(context, scans, new=len(todo))


def plan(context: Context, before: Collection[str] = ()) -> Plan:
    """Of the scans that ingest knows; masks and tensors that stages before it will make are not made here."""
    chosen = choose(context)
    bundle, _ = read_bundle(context.store, chosen.folder, chosen.digest)
    require_fit(context, bundle)
    scans = context.read("scans", KEY)
    refused = Counter[str]()

    def steps(todo: pd.DataFrame) -> list[Step]:
        left = without(todo, _given_up_before(context, todo))
        earlier = _refused_before(context, left)
        refused.update(earlier["code"])
        left = without(left, set(keys_of(earlier)))
        masks, tensors = (context.parts_of(table, left) for table in ("masks", "tensors"))
        num_unprepared = 0 if "prepare" in before else int(((masks == "") | (tensors == "")).sum())
        num_unsegmented = 0 if "segment" in before else int((masks == "").sum())
        return _steps(context, chosen, bundle.region, len(left), num_unsegmented, num_unprepared)

    found = plan_missing(context, "score", SCORES, scans, steps)
    num = refused.total()
    return replace(found, refused=refused + Counter(found.refused), remaining=found.remaining - num)


def require_fit(context: Context, bundle: Bundle) -> None:
    """A network sees what it was trained on: the same preparation, from the same segmenter, or BadStudy."""
    ours = context.study.recipe("prepare")["prepare"]
    other = [f"prepare.{k}: {v}" for k, v in bundle.prepare.items() if ours.get(k) != v]
    if other or set(ours) != set(bundle.prepare):
        raise BadStudy(
            "the model was trained on tensors prepared otherwise: set "
            f"{', '.join(other) or 'prepare'} in the study"
        )
    found = segmenter_of(context.study.segment)["digest"]
    if found != bundle.segmenter["digest"]:
        raise BadStudy(
            f"the model was trained on masks of segmenter {bundle.segmenter['digest'][:12]}, segment.weights "
            f"is {found[:12]}: name the former, or train and calibrate with the latter"
        )
    section = context.study.segment
    for key, before in (("mode", "exact"), ("mirror", False)):  # of bundles that do not say
        theirs = bundle.segmenter.get(key, before)
        if getattr(section, key) != theirs:
            raise BadStudy(
                f"the model was trained on masks drawn with segment.{key}: {theirs}, the study says "
                f"{getattr(section, key)}: set it so, or train and calibrate with the study's"
            )


# which scans


def _inherit_faults(context: Context, todo: pd.DataFrame) -> pd.DataFrame:
    """Scans that segment or prepare have refused are refused here with the same words; the others are
    returned."""
    refused = _refused_before(context, todo)
    if not refused.empty:
        write_each(context.store, context.folder("score"), FAULTS, rows_of(refused))
    return without(todo, set(keys_of(refused)) | _given_up_before(context, todo))


def _refused_before(context: Context, todo: pd.DataFrame) -> pd.DataFrame:
    """The faults that segment or prepare keep of these scans."""
    earlier = pd.concat(
        [context.read("faults", stage=stage) for stage in ("segment", "prepare")], ignore_index=True
    )
    earlier = earlier[~earlier["code"].isin(TRANSIENT)].drop_duplicates(KEY)
    return earlier.merge(todo[KEY], on=KEY)


def _given_up_before(context: Context, todo: pd.DataFrame) -> set[Key]:
    return {key for stage in ("segment", "prepare") for key in given_up(context, stage, todo)}


# the work


def _score_all(
    context: Context, chosen: ChosenBundle, bundle: Bundle, todo: pd.DataFrame, already: int
) -> None:
    """A second time what met a damaged part of another stage: the first time has set it aside."""
    for _ in range(2):
        if "damaged_part" not in _score(context, chosen, bundle, todo, already):
            return
        todo = missing(context, "score", SCORES, todo)


def _score(
    context: Context, chosen: ChosenBundle, bundle: Bundle, todo: pd.DataFrame, already: int
) -> dict[str, int]:
    """How many ended how: `ok`, or a fault code."""
    num = Counter[str]()

    def counted() -> Iterator[Row]:
        num.clear()
        for row in work_rows(context, _inherit_faults(context, todo), bundle):
            work: Work = row["work"]
            num.update(unsegmented=work.needs_mask, unprepared=work.needs_tensor)
            yield row

    rows = read_sound(lambda: Manifest(counted()), context.store, context.say)
    if not len(rows):
        return {}
    num_unsegmented, num_unprepared = num["unsegmented"], num["unprepared"]
    context.connect()
    context.say(
        f"  {len(rows)} scans to score, {num_unprepared} of them to prepare, {num_unsegmented} to segment"
    )
    steps = _steps(context, chosen, bundle.region, len(rows), num_unsegmented, num_unprepared)
    folders = {stage: context.folder(stage) for stage in ("segment", "prepare", "score")}
    sink = Step(
        WriteScores, {"root": context.store.root, "folders": folders}, "score", num_cpus=0.25
    )
    return fill(
        context, "score", SCORES, rows, steps, sink,
        rows_per_part=ROWS_PER_BLOCK,
        rows_per_block=1 if num_unprepared else ROWS_PER_BLOCK,
        already=already,
    )  # fmt: skip


def _steps(
    context: Context,
    chosen: ChosenBundle,
    region: str,
    num_scans: int,
    num_unsegmented: int,
    num_unprepared: int,
) -> list[Step]:
    """From a scan to its prediction, as far as some of them need it."""
    filling = _filling_steps(context, num_unsegmented, num_unprepared)
    predicting = _predicting_steps(context, chosen, region)
    return [*filling, *(replace(step, num_rows=num_scans) for step in predicting)]


def _filling_steps(context: Context, num_unsegmented: int, num_unprepared: int) -> list[Step]:
    """No more than the scans need: each is a process that loads its libraries and weights."""
    if not num_unprepared:
        return []
    root = context.store.root
    masks, tensors = (
        {"root": root, "folder": context.folder(stage)} for stage in ("segment", "prepare")
    )
    from_sources = prepare.step(context)
    if not num_unsegmented:
        kwargs = {"place": tensors, "prepare": from_sources.kwargs}
        return [replace(from_sources, make=PrepareFromMask, kwargs=kwargs, num_rows=num_unprepared)]
    assemble, draw, name = (
        replace(step, num_rows=num_unsegmented) for step in segment.steps(context.study)
    )
    named = {"place": masks, "name": {**name.kwargs, "keep_voxels": True}}
    prepared = {"place": tensors, "prepare": prepare.prepare_kwargs(context.study)}
    return [
        replace(assemble, make=AssembleMissing, num_rows=num_unprepared),
        replace(draw, make=DrawMissing),
        replace(name, make=NameMissing, kwargs=named),
        replace(
            from_sources,
            make=PrepareMissing,
            kwargs=prepared,
            does="prepare",
            num_rows=num_unprepared,
        ),
    ]


def _predicting_steps(context: Context, chosen: ChosenBundle, region: str) -> list[Step]:
    """The network; for one on a GPU others make the input ready. On a CPU it does so itself: to pass a tensor
    on costs more."""
    cluster = context.study.cluster
    places = {
        "root": context.store.root,
        "masks": context.folder("segment"),
        "tensors": context.folder("prepare"),
    }
    model = {"folder": chosen.folder, "digest": chosen.digest, "device": cluster.device}
    network = Step(
        PredictStep, {"places": places, **model}, "score", does="predict", workers=cluster.predict_workers,
        num_gpus=cluster.gpus_per_worker, deadline_s=cluster.deadline_s, labels=cluster.labels_of("predict"),
    )  # fmt: skip
    if not cluster.gpus_per_worker:
        return [network]
    reading = Step(
        InputStep, {"places": places, "region": region}, "score", does="read", workers=cluster.cpu_workers,
        deadline_s=cluster.deadline_s, labels=cluster.labels_of("cpu"),
    )  # fmt: skip
    return [reading, network]


# how it went


def _totals(context: Context, scans: pd.DataFrame, *, new: int) -> Counts:
    """Of the study's scans: scored, refused by code, and left for the next run (transient faults)."""
    folder = context.folder("score")
    wanted = set(keys_of(scans))
    scored = parts_of_scans(context.store, folder, SCORES, wanted).keys()
    faults = lasting_faults(context.store, folder)
    code_of = dict(zip(keys_of(faults), faults["code"], strict=True))
    refused = {key: code_of[key] for key in wanted - scored if key in code_of}
    unanswered = scans[[key not in scored and key not in refused for key in keys_of(scans)]]
    alone = {k for s in ("segment", "prepare", "score") for k in given_up(context, s, unanswered)}
    done = {"scored": len(scored), "new": new} | ({"given_up": len(alone)} if alone else {})
    return Counts(done, Counter(refused.values()), left=len(unanswered) - len(alone))
