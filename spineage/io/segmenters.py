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
"""Manifest keys that change the answer: the digest covers them too, and `mirror_axes` where it is said. The
rest tells where the model is from."""

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
    keys = (*IDENTITY, *(("mirror_axes",) if "mirror_axes" in manifest else ()))
    digest.update(json.dumps({key: manifest[key] for key in keys}, sort_keys=True).encode())
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


def in_words(manifest: dict[str, Any]) -> str:
    """One line about a segmenter: for whoever imported it, and for the doctor."""
    folds, channels = manifest.get("folds", []), manifest.get("channels", ["T2"])
    told = [
        f"segmenter {manifest['digest'][:12]}",
        manifest.get("layout") or manifest.get("trained_by", ""),
        f"{manifest['configuration']} of {len(folds)} fold{'s' * (len(folds) != 1)}",
        f"{manifest['schema']} labels",
        f"orientation {manifest['orientation']}",
        f"trained on {manifest['domain']} scans",
    ]
    if len(channels) > 1:
        told.append(f"{len(channels)} input channels ({', '.join(channels)})")
    if manifest.get("lacks"):
        told.append(
            f"draws no {', '.join(manifest['lacks'])}, so what is measured on them, levels counted along "
            "the canal included, will be refused"
        )
    return ", ".join(text for text in told if text)
