"""What `spineage train-segmenter` is told, checked and handed on to `segmenter_folds`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from spineage.errors import BadStudy
from spineage.run.checks import require_lasting

if TYPE_CHECKING:
    from spineage.verbs.segmenter_sources import Source


@dataclass(frozen=True)
class Options:
    """One field an option of the command; the command says what each means.

    One source of scans: images with labels (schema says what these hold), raw (with label_map), or study
    (with workspace).
    """

    out: str
    images: str | None = None
    labels: str | None = None
    schema: str = "levels"
    raw: str | None = None
    label_map: str | None = None
    study: str | None = None
    workspace: str | None = None
    work: str | None = None
    folds: str = "0,1,2,3,4"
    configuration: str = "3d_fullres"
    epochs: int = 1000
    domain: str = "human"
    workers: int = 1
    gpu: bool = False
    processes: int = 8
    mlflow: str | None = None
    ray: str | None = None


def train(options: Options, say: Callable[[str], None]) -> str:
    """Train on one's own scans; the sentence that says what came of it. One run at a time works in --work.

    Raises BadStudy when not exactly one source is named, and as `segmenter_folds.train_folds`.
    """
    work = _checked(options)
    from spineage.engine import (
        session,  # after the checks: torch and nnU-Net take seconds to import
    )
    from spineage.io.storage.lease import held
    from spineage.io.storage.store import Store
    from spineage.run.nodes import visit_nodes
    from spineage.segmenter.folder import in_words
    from spineage.segmenter.training.folds import FoldRecipe
    from spineage.verbs import segmenter_folds

    source, store = _source(options), Store(work)
    session.connect(options.ray, gpus_needed=float(options.workers * options.gpu))
    if session.is_joined():
        visit_nodes(store, "", say)
    with held(store, "folds", say):
        manifest = segmenter_folds.train_folds(
            source,
            options.out,
            work,
            recipe=FoldRecipe(configuration=options.configuration, epochs=options.epochs),
            folds=[fold.strip() for fold in options.folds.split(",")],
            machines=segmenter_folds.Machines(
                options.workers,
                options.gpu,
                options.processes,
                options.processes if options.gpu else 0,
                mlflow=options.mlflow,
            ),
            domain=options.domain,
            say=say,
        )
    return f"{options.out}: {in_words(manifest)}; set segment.weights to this folder"


def _checked(options: Options) -> str:
    """The work folder of options that make sense, or BadStudy."""
    o = options
    sources = [bool(o.images or o.labels), bool(o.raw), bool(o.study)]
    if sum(sources) != 1 or bool(o.images) != bool(o.labels):
        raise BadStudy(
            "name one source of scans: --images with --labels, or --raw, or --study (its masks); the demo's "
            "segmenter, which learns from synthetic people, is made by `spineage train-demo-segmenter`"
        )
    if o.work is None:
        raise BadStudy(
            "name a folder that all machines see with --work; a killed run goes on from it"
        )
    if o.domain not in ("human", "phantom") or o.epochs < 1 or o.workers < 1 or o.processes < 1:
        raise BadStudy(
            "domain is human or phantom; epochs, workers and processes are 1 or more; got "
            f"{o.domain}, {o.epochs}, {o.workers} and {o.processes}"
        )
    places = {"--work": o.work, "--out": o.out, "--mlflow": o.mlflow}
    require_lasting({name: _absolute(place) for name, place in places.items()})
    return o.work


def _absolute(place: str | None) -> str | None:
    return place if place is None or "://" in place else str(Path(place).absolute())


def _source(options: Options) -> Source:
    from spineage.run.context import Context
    from spineage.run.entry import open_study
    from spineage.verbs import segmenter_sources
    from spineage.verbs.import_segmenter import read_map

    if options.images and options.labels:
        return segmenter_sources.from_folders(options.images, options.labels, options.schema)
    if options.raw:
        named = read_map(options.label_map) if options.label_map else None
        return segmenter_sources.from_raw(options.raw, named)
    assert options.study is not None
    return segmenter_sources.from_masks(Context(open_study(options.study, options.workspace)))
