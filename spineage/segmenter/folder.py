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
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.science.spine.foreign import TOOLS, Foreign, from_map
from spineage.science.spine.labels import SCHEMAS
from spineage.segmenter.dataset_json import channel_names

FILES = ("weights.safetensors", "plans.json", "dataset.json")
IDENTITY = ("configuration", "orientation", "schema", "labels", "domain")
"""Manifest keys that change the answer: the digest covers them too, and `mirror_axes` where it is said. The
rest tells where the model is from."""
ADAPTER_SCHEMA: Final = 1  # raise it when the same given masks become other labels
_VALUES: Final = frozenset(map(str, range(256)))
"""Labels are written as uint8."""


def folder_of(weights: str) -> Path:
    """'demo' is the segmenter that ships with the package; anything else is a folder of
    `import-segmenter`."""
    if weights == "demo":
        return Path(str(resources.files("spineage") / "data" / "demo_segmenter"))
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
    manifest = read_table_file(
        folder / "manifest.json", f"manifest.json of {what}", "import the model again"
    )
    lacking = sorted({*IDENTITY, "digest"} - set(manifest))
    if lacking:
        raise BadStudy(f"{what}: manifest.json lacks {', '.join(lacking)}; import the model again")
    found = digest_of(folder, manifest)
    if found != manifest["digest"]:
        raise BadStudy(
            f"{what}: its files have digest {found[:12]}, the manifest says {str(manifest['digest'])[:12]}; "
            "they were changed after the import: import the model again"
        )
    odd = _odd_values(manifest)
    if odd:
        raise BadStudy(
            f"{what}: manifest.json holds under {', '.join(odd)} what no import writes there; import the "
            "model again"
        )
    schema = SCHEMAS.get(manifest["schema"])
    if schema is None or not set(manifest["labels"].values()) <= set(schema):
        raise BadStudy(
            f"{what}: labels must be in the semantic or the levels schema; import it with a label map"
        )
    return manifest


def segmenter_of(section: Any) -> dict[str, Any]:
    """What a study's masks are drawn by, from its section `segment`: the manifest of its segmenter, or the
    like of one for masks that are given. Raises BadStudy when it is not whole, or not known."""
    if not section.masks:
        return read_manifest(section.weights)
    known = given_by(section.masks_of)
    labels = {str(value): name for value, name in known.names.items()}
    is_mapped = section.masks_of.endswith(".json")
    tool = "a map of one's own" if is_mapped else section.masks_of
    said = {"tool": tool, "labels": labels, "schema": known.schema, "adapter": ADAPTER_SCHEMA}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return {
        "digest": digest,
        "schema": known.schema,
        "labels": labels,
        "domain": "human",
        "given_by": tool,
    }


def given_by(masks_of: str) -> Foreign:
    """The table of a tool, or of a JSON file of values and our names. Raises BadStudy for neither."""
    if masks_of.endswith(".json"):
        return from_map(
            read_table_file(Path(masks_of), "segment.masks_of", "expected values and names")
        )
    if masks_of not in TOOLS:
        raise BadStudy(
            f"segment.masks_of: {masks_of!r} is not known; expected a JSON file or one of {', '.join(TOOLS)}"
        )
    return TOOLS[masks_of]


def require_segmenter(section: Any) -> None:
    """Raise BadStudy when nothing can draw, or the tool of the masks that are given is not known."""
    if section.masks:
        given_by(section.masks_of)
    else:
        require_usable(section.weights)


def channels_of(weights: str) -> list[str]:
    """The images that a segmenter looks at together, by dataset.json. Raises BadStudy when it says none."""
    path = folder_of(weights) / "dataset.json"
    what = f"dataset.json of segmenter {weights}"
    return channel_names(read_table_file(path, what, "import the model again"))


def require_usable(weights: str) -> None:
    """A scan is one T2 image, and levels are counted along the canal: raise BadStudy when the model looks at
    several images together or draws no canal."""
    manifest = read_manifest(weights)
    channels = channels_of(weights)
    if len(channels) != 1:
        raise BadStudy(
            f"segment.weights: the model looks at {len(channels)} images of a person together "
            f"({', '.join(channels)}) and a scan is one T2 image: name a model of one channel"
        )
    if "canal" not in manifest["labels"].values():
        raise BadStudy(
            "segment.weights: the model draws no canal, along which levels are counted and whose fluid "
            "signals are relative to, so every scan would be refused: name a model that draws it"
        )


def is_shown(text: Any) -> bool:
    """Text that may be printed as it is: one line, nothing that moves a terminal's cursor, no essay."""
    return isinstance(text, str) and len(text) <= 200 and text.isprintable()


def has_three_axes(orientation: Any) -> bool:
    """Three axis codes, one of each axis, such as RAS or PIR."""
    if not isinstance(orientation, str) or not all(code in "LRPAIS" for code in orientation):
        return False
    axes = [next(axis for axis in ("LR", "PA", "IS") if code in axis) for code in orientation]
    return sorted(axes) == ["IS", "LR", "PA"]


def _odd_values(manifest: dict[str, Any]) -> list[str]:
    """Keys whose values no import writes: who can write a manifest can write its digest too."""
    labels, mirror = manifest["labels"], manifest.get("mirror_axes", [])
    origin = manifest.get("origin", {})
    fits = {
        "configuration": is_shown(manifest["configuration"]),
        "orientation": has_three_axes(manifest["orientation"]),
        "schema": is_shown(manifest["schema"]),
        "labels": isinstance(labels, dict)
        and all(value in _VALUES and is_shown(name) for value, name in labels.items()),
        "domain": manifest["domain"] in ("phantom", "human"),
        "mirror_axes": isinstance(mirror, list)
        and all(type(axis) is int and 0 <= axis <= 2 for axis in mirror)
        and len(set(mirror)) == len(mirror),
        "layout": is_shown(manifest.get("layout", "")),
        "trained_by": is_shown(manifest.get("trained_by", "")),
        **{
            key: _are_shown(manifest.get(key, []))
            for key in ("folds", "channels", "lacks", "without")
        },
        **{key: is_shown(manifest.get(key, "")) for key in ("checkpoint", "dice")},
        "origin": isinstance(origin, dict) and type(origin.get("num_cases", 0)) is int,
    }
    return sorted(key for key, is_right in fits.items() if not is_right)


def _are_shown(texts: Any) -> bool:
    return isinstance(texts, list) and len(texts) <= 64 and all(map(is_shown, texts))


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
    told.append(f"Dice {manifest.get('dice', 'unknown')}")
    if manifest.get("checkpoint") == "checkpoint_best.pth":
        told.append("by checkpoint_best.pth")
    if manifest.get("without"):
        told.append(f"not as its own tool uses it: {'; '.join(manifest['without'])}")
    if manifest.get("lacks"):
        told.append(
            f"draws no {', '.join(manifest['lacks'])}, so what is measured on them, levels counted along "
            "the canal included, will be refused"
        )
    return ", ".join(text for text in told if text)
