"""Turn a foreign nnU-Net v2 result folder into a segmenter of ours: `spineage import-segmenter`."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.segmenter.folder import in_words, require_usable
from spineage.segmenter.published.adopt import import_segmenter

MAP: Final = '{"name in dataset.json": "our name"}'


def convert(
    model: str,
    out_folder: str,
    *,
    trust: bool,
    orientation: str | None = None,
    layout: str | None = None,
    label_map: str | None = None,
    folds: str | None = None,
    checkpoint: str | None = None,
    domain: str = "human",
    isolated: bool = True,
) -> str:
    """Import a model; the sentences that say what came of it. `label_map`: a JSON file {name in
    dataset.json: our name}; `folds`: "0,1"; the rest as `nnunet_import.import_segmenter`.

    Raises BadStudy in one sentence for everything that does not fit.
    """
    names = tuple(fold.strip() for fold in folds.split(",")) if folds else None
    manifest = import_segmenter(
        model,
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
    words = f"{out_folder}: {in_words(manifest)}; "
    try:
        require_usable(out_folder)
    except BadStudy as error:
        why = str(error).removeprefix("segment.weights: ")
        return f"{words}`spineage segment` will refuse it: {why}"
    return f"{words}set segment.weights to this folder"


def read_map(path: str) -> dict[str, str]:
    """A label map from its JSON file. Raises BadStudy when it is none."""
    names = read_table_file(Path(path), f"label map {path}", f"expected {MAP}")
    if not all(isinstance(name, str) for name in names.values()):
        raise BadStudy(f"label map {path}: expected {MAP}")
    return names
