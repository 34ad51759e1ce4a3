"""Reading single values out of a DICOM dataset: what is malformed is absent, and pydicom stays silent.

pydicom's warnings and log lines quote the offending value, which may be a name: none may get out.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pydicom
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset

MAX_VALUE_BYTES: Final = 1 << 16


@contextmanager
def quietly() -> Iterator[None]:
    """No warning and no log line of pydicom or its decoders leaves this block."""
    logger = logging.getLogger("pydicom")
    was_disabled, mode = logger.disabled, pydicom.config.settings.reading_validation_mode
    logger.disabled = True  # setLevel would empty every logger's cache: half a millisecond a file
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled
        pydicom.config.settings.reading_validation_mode = mode


def value_of(dataset: Dataset | None, keyword: str) -> Any:
    """The value, or None when absent, empty, absurdly long or not to be parsed."""
    tag = tag_for_keyword(keyword)
    if dataset is None or tag is None or tag not in dataset:
        return None
    try:
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and _is_absurd(element, tag):
            return None
        value = dataset[tag].value
    except Exception:  # pydicom raises whatever its converters raise on a malformed element
        return None
    return None if value is None or value == "" else value


def _is_absurd(element: RawDataElement, tag: int) -> bool:
    """Longer than any text or list of numbers: a million values cost a hundred times their bytes."""
    return len(element.value or b"") > MAX_VALUE_BYTES and dictionary_VR(tag) != "SQ"


def text_of(dataset: Dataset | None, keyword: str) -> str:
    """The value as text, "" when absent; several values are joined by a backslash."""
    value = value_of(dataset, keyword)
    if value is None:
        return ""
    try:
        return (
            str(value)
            if isinstance(value, str) or not _is_many(value)
            else "\\".join(map(str, value))
        )
    except Exception:
        return ""


def terms_of(dataset: Dataset | None, keyword: str) -> frozenset[str]:
    """The defined terms of a multi-valued code string, in upper case."""
    return frozenset(term.strip().upper() for term in text_of(dataset, keyword).split("\\") if term)


def numbers_of(dataset: Dataset | None, keyword: str, count: int) -> tuple[float, ...] | None:
    """Exactly `count` finite numbers, or None."""
    value = value_of(dataset, keyword)
    try:
        numbers = [float(number) for number in (value if _is_many(value) else [value])]
    except (TypeError, ValueError):
        return None
    is_good = len(numbers) == count and all(math.isfinite(number) for number in numbers)
    return tuple(numbers) if is_good else None


def number_of(dataset: Dataset | None, keyword: str) -> float | None:
    """One finite number, or None."""
    numbers = numbers_of(dataset, keyword, 1)
    return numbers[0] if numbers else None


def items_of(dataset: Dataset | None, keyword: str) -> list[Dataset]:
    """The items of a sequence, [] when absent."""
    value = value_of(dataset, keyword)
    return list(value) if isinstance(value, pydicom.Sequence) else []


def item_of(dataset: Dataset | None, keyword: str) -> Dataset | None:
    """The first item of a sequence."""
    items = items_of(dataset, keyword)
    return items[0] if items else None


def _is_many(value: Any) -> bool:
    return isinstance(value, pydicom.multival.MultiValue | list | tuple)
