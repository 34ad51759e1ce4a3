"""What a segmenter is on disk, and that it is whole. Light to import: the driver needs no more than this.

A segmenter is a folder of four files: `weights.safetensors` (tensors named `fold_<k>/<parameter>`),
nnU-Net's own `plans.json` and `dataset.json`, and our `manifest.json` (what they leave unsaid: orientation,
label map, origin).
"""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

from spineage.errors import BadStudy
from spineage.science.labels import LEVELS, SEMANTIC

FILES = ("weights.safetensors", "plans.json", "dataset.json")
IDENTITY = ("configuration", "orientation", "schema", "labels", "domain")
"""Manifest keys that change the answer: the digest covers them too. The rest tells where the model is
from."""

SCHEMAS: dict[str, dict[str, int]] = {"semantic": SEMANTIC, "levels": LEVELS}


def folder_of(weights: str) -> Path:
    """'demo' is the segmenter that ships with the package; anything else is a folder of
    `import-segmenter`."""
    if weights == "demo":
        return Path(str(resources.files("spineage") / "segmenters" / "demo"))
    return Path(weights)


def digest_of(folder: Path, manifest: dict[str, Any]) -> str:
    """sha256 over weights, plans, dataset and the identity part of the manifest."""
    digest = hashlib.sha256()
    for name in FILES:
        digest.update(hashlib.sha256((folder / name).read_bytes()).digest())
    digest.update(json.dumps({key: manifest[key] for key in IDENTITY}, sort_keys=True).encode())
    return digest.hexdigest()


def read_manifest(weights: str) -> dict[str, Any]:
    """The manifest of a segmenter, its digest verified.

    Raises BadStudy when a file is missing, the digest is wrong, or the labels are in neither of our
    schemas.
    """
    folder = folder_of(weights)
    what = "the demo segmenter" if weights == "demo" else f"segmenter {weights}"
    missing = [name for name in (*FILES, "manifest.json") if not (folder / name).is_file()]
    if missing:
        raise BadStudy(
            f"{what} lacks {', '.join(missing)}: give a folder written by `spineage import-segmenter`"
        )
    try:
        manifest = dict(json.loads((folder / "manifest.json").read_text()))
    except ValueError:
        raise BadStudy(f"{what}: manifest.json is not JSON; import the model again") from None
    lacking = sorted({*IDENTITY, "digest"} - set(manifest))
    if lacking:
        raise BadStudy(f"{what}: manifest.json lacks {', '.join(lacking)}; import the model again")
    found = digest_of(folder, manifest)
    if found != manifest["digest"]:
        raise BadStudy(
            f"{what}: its files have digest {found[:12]}, the manifest says {str(manifest['digest'])[:12]}; "
            "they were changed after the import: import the model again"
        )
    schema = SCHEMAS.get(manifest["schema"])
    if schema is None or not set(manifest["labels"].values()) <= set(schema):
        raise BadStudy(
            f"{what}: labels must be in the semantic or the levels schema; import it with a label map"
        )
    return manifest
