"""What `spineage train-segmenter` is told, checked and handed on to `train_folds`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from spineage.errors import BadStudy

if TYPE_CHECKING:
    from spineage.stages.train_sources import Source


def train(
    out: str,
    *,
    images: str | None,
    labels: str | None,
    tool: str,
    raw: str | None,
    label_map: str | None,
    study: str | None,
    workspace: str | None,
    work: str | None,
    folds: str,
    configuration: str,
    epochs: int,
    domain: str,
    workers: int,
    use_gpu: bool,
    processes: int,
    mlflow: str | None,
    ray: str | None,
    say: Callable[[str], None],
) -> str:
    """Train on one's own scans; the sentence that says what came of it.

    Raises BadStudy when not exactly one kind of source is named, and as `train_folds.train_folds`.
    """
    named = [bool(images or labels), bool(raw), bool(study)]
    if sum(named) != 1 or bool(images) != bool(labels):
        raise BadStudy(
            "name one source of scans: --images with --labels, or --raw, or --study (its masks)"
        )
    if work is None:
        raise BadStudy(
            "name a folder that all machines see with --work; a killed run goes on from it"
        )
    if domain not in ("human", "phantom") or epochs < 1 or workers < 1 or processes < 1:
        raise BadStudy(
            "domain is human or phantom; epochs, workers and processes are 1 or more; got "
            f"{domain}, {epochs}, {workers} and {processes}"
        )
    from spineage.engine import (
        session,  # after the checks: torch and nnU-Net take seconds to import
    )
    from spineage.io.nnunet_folds import Recipe
    from spineage.io.segmenters import in_words
    from spineage.stages import train_folds

    source = _source(images, labels, tool, raw, label_map, study, workspace)
    session.connect(ray, gpus_needed=float(workers * use_gpu))
    manifest: dict[str, Any] = train_folds.train_folds(
        source,
        out,
        work,
        recipe=Recipe(configuration=configuration, epochs=epochs),
        folds=[fold.strip() for fold in folds.split(",")],
        machines=train_folds.Machines(
            workers, use_gpu, processes, processes if use_gpu else 0, mlflow=mlflow
        ),
        domain=domain,
        say=say,
    )
    return f"{out}: {in_words(manifest)}; set segment.weights to this folder"


def _source(
    images: str | None,
    labels: str | None,
    tool: str,
    raw: str | None,
    label_map: str | None,
    study: str | None,
    workspace: str | None,
) -> Source:
    from spineage.stages import train_sources
    from spineage.stages.context import Context
    from spineage.stages.entry import open_study
    from spineage.stages.import_segmenter import read_map

    if images and labels:
        return train_sources.from_folders(images, labels, tool)
    if raw:
        return train_sources.from_raw(raw, read_map(label_map) if label_map else None)
    assert study is not None
    return train_sources.from_masks(Context(open_study(study, workspace)))
