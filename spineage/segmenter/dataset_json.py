"""What the numbers in an nnU-Net model's output mean: its dataset.json read the way nnU-Net reads it.

A *final value* is a number in the label volume that nnU-Net writes: for plain labels the value in
dataset.json, for overlapping regions the entry of `regions_class_order` (later regions are painted over
earlier ones, so a region's final value means: in it, and in no later one).
"""

from __future__ import annotations

import re
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.science.spine.labels import SCHEMAS

READERS: Final = frozenset({
    "SimpleITKIO", "SimpleITKIOWithReorient", "NibabelIO", "NibabelIOWithReorient", "NaturalImage2DIO",
    "Tiff3DIO",
})  # fmt: skip
"""nnU-Net's readers of images, which its files may name: it looks them up by that name and calls them."""


def check_dataset(dataset: Any) -> None:
    """Raise BadStudy for a dataset.json that nnU-Net could not have trained with, or that names a reader
    outside nnU-Net's own: it is looked up by its name and called."""
    if not isinstance(dataset, dict):
        raise BadStudy("dataset.json is no table; take the one the model was trained with")
    reader = dataset.get("overwrite_image_reader_writer", "NibabelIO")
    if not isinstance(reader, str) or reader not in READERS:
        raise BadStudy(
            f"dataset.json names {str(reader)[:80]!r} as overwrite_image_reader_writer, which is not one of "
            f"{', '.join(sorted(READERS))}: anything else would be code from a file; take the line out"
        )
    ending = dataset.get("file_ending", ".nii.gz")
    if not isinstance(ending, str) or not re.fullmatch(r"(\.[A-Za-z0-9]{1,8}){1,2}", ending):
        raise BadStudy(
            "dataset.json: file_ending is no ending of a file; expected .nii.gz or the like"
        )
    channel_names(dataset)
    values = final_values(dataset)
    ignored = dataset["labels"].get("ignore")
    if not (ignored is None or type(ignored) is int) or not all(
        _is_label(value) for value in dataset["labels"].values()
    ):
        raise BadStudy(
            "dataset.json: a label's value is no whole number or list of them; take the dataset.json the "
            "model was trained with"
        )
    if ignored is not None and ignored <= max(values.values()):
        raise BadStudy(
            "dataset.json: 'ignore' must be the highest label; take the one trained with"
        )


def _is_label(value: Any) -> bool:
    parts = value if isinstance(value, list) and value else [value]
    return all(type(part) is int and 0 <= part <= 65535 for part in parts)


def channel_names(dataset: dict[str, Any]) -> list[str]:
    """The input channels in order. Raises BadStudy when dataset.json names none."""
    channels = dataset.get("channel_names") or dataset.get("modality") or {}
    if (
        not isinstance(channels, dict)
        or not channels
        or sorted(channels) != sorted(str(i) for i in range(len(channels)))
    ):
        raise BadStudy(
            'dataset.json names no input channels; expected "channel_names": {"0": "T2"}: '
            "take the dataset.json the model was trained with"
        )
    return [str(name) for _, name in sorted(channels.items(), key=lambda item: int(item[0]))]


def has_regions(dataset: dict[str, Any]) -> bool:
    """Whether any label is a set of several values."""
    return any(isinstance(v, list) and len(v) > 1 for v in dataset["labels"].values())


def final_values(dataset: dict[str, Any]) -> dict[str, int]:
    """{name in dataset.json: final value}, background included, 'ignore' not.

    Raises BadStudy when dataset.json is not one that nnU-Net could have trained with.
    """
    labels = dataset.get("labels")
    if not isinstance(labels, dict) or labels.get("background") != 0:
        raise BadStudy(
            'dataset.json has no labels with "background": 0; take the one the model was trained with'
        )
    foreground = {n: v for n, v in labels.items() if n not in ("ignore", "background")}
    if has_regions(dataset):
        order = dataset.get("regions_class_order")
        if (
            not isinstance(order, list)
            or len(order) != len(foreground)
            or not all(type(value) is int for value in order)
        ):
            raise BadStudy(
                f"dataset.json has {len(foreground)} overlapping regions and regions_class_order "
                f"{order}: expected one number a region; take the one the model was trained with"
            )
        return {"background": 0, **{n: int(v) for n, v in zip(foreground, order, strict=True)}}
    values = {n: v[0] if isinstance(v, list) and v else v for n, v in foreground.items()}
    odd = [n for n, v in values.items() if isinstance(v, bool) or not isinstance(v, int)]
    if odd or sorted(values.values()) != list(range(1, len(values) + 1)):
        raise BadStudy(
            f"dataset.json: labels {', '.join(odd[:4] or list(values)[:4])} are not the consecutive whole "
            "numbers from 1 that nnU-Net trains on; take the dataset.json the model was trained with"
        )
    return {"background": 0, **values}


def our_labels(
    dataset: dict[str, Any], label_map: dict[str, str] | None
) -> tuple[str, dict[str, str]]:
    """(schema, {final value as text: our name}); every label must have a name of ours.

    label_map: name in dataset.json to our name; needed where they differ, and for every region, because
    the name of a region covers more than its final value. Raises BadStudy for what has no name.
    """
    foreign, names = final_values(dataset), label_map or {}
    unheard = sorted(set(names) - set(foreign))
    if unheard:
        raise BadStudy(
            f"label map: dataset.json has no {', '.join(unheard[:6])}; it has {_some(foreign)}"
        )
    unsaid = sorted(set(foreign) - set(names) - {"background"})
    if has_regions(dataset) and unsaid:
        raise BadStudy(
            f"the model was trained on overlapping regions, and the label map lacks {', '.join(unsaid[:6])}: "
            "say for every region what is in it and in no later one of regions_class_order"
        )
    ours = {name: names.get(name, name) for name in foreign}
    for schema, known in SCHEMAS.items():
        if set(ours.values()) <= set(known):
            return schema, {str(foreign[name]): ours[name] for name in foreign}
    unknown = sorted(
        {name for name in foreign if not any(ours[name] in known for known in SCHEMAS.values())}
    )
    if not unknown:
        raise BadStudy(
            "the labels mix the semantic and the levels schema (a model of levels has vertebrae and discs "
            "by name only); map all of them to one"
        )
    raise BadStudy(
        f"labels {', '.join(unknown[:6])} are in neither the semantic nor the levels schema: map each to "
        f"one of {', '.join(SCHEMAS['semantic'])} (or to names such as C2, disc_below_C2) with a label map "
        "(see `spineage import-segmenter --help`)"
    )


def _some(names: dict[str, int]) -> str:
    shown = list(names)[:8]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
