"""Turn a foreign nnU-Net v2 result folder into a segmenter of ours: `spineage import-segmenter`."""

from __future__ import annotations

import json
from pathlib import Path

from spineage.errors import BadStudy
from spineage.io.nnunet_import import import_segmenter
from spineage.io.segmenters import in_words


def convert(
    model_folder: str,
    out_folder: str,
    *,
    trust: bool,
    orientation: str | None = None,
    layout: str | None = None,
    label_map: str | None = None,
    folds: str | None = None,
    checkpoint: str = "checkpoint_final.pth",
    domain: str = "human",
    isolated: bool = True,
) -> str:
    """Import a model; the sentences that say what came of it. `label_map`: a JSON file {name in
    dataset.json: our name}; `folds`: "0,1"; the rest as `nnunet_import.import_segmenter`.

    Raises BadStudy in one sentence for everything that does not fit.
    """
    names = tuple(fold.strip() for fold in folds.split(",")) if folds else None
    manifest = import_segmenter(
        model_folder,
        out_folder,
        trust=trust,
        orientation=orientation,
        layout=layout,
        label_map=read_map(label_map) if label_map else None,
        folds=names,
        checkpoint=checkpoint,
        domain=domain,
        isolated=isolated,
    )
    return f"{out_folder}: {in_words(manifest)}; set segment.weights to this folder"


def read_map(path: str) -> dict[str, str]:
    """A label map from its JSON file. Raises BadStudy when it is none."""
    try:
        names = json.loads(Path(path).read_text())
    except OSError as error:
        raise BadStudy(f"label map {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise BadStudy(f"label map {path} is not JSON") from None
    if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
        raise BadStudy(f'label map {path}: expected {{"name in dataset.json": "our name"}}')
    return names
