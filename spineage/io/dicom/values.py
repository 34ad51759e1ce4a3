"""Reading single values out of a DICOM dataset: what is malformed is absent, and pydicom stays silent.

pydicom's warnings and log lines quote the offending value, which may be a name: none may get out.
"""

from __future__ import annotations

import functools
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag

UNDECODED: Final = "\N{REPLACEMENT CHARACTER}"
"""What pydicom writes for bytes that the character set does not hold."""
MAX_VALUE_BYTES: Final = 1 << 16
"""Longer than any text or list of numbers: a million values cost a hundred times their bytes."""


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


MAX_REMEMBERED = 256
"""Bytes of a value: longer ones are seldom met twice."""


def value_of(dataset: Dataset | None, keyword: str) -> Any:
    """The value, or None when absent, empty, absurdly long or not to be parsed.

    Shared between files: not to be changed.
    """
    if dataset is None:
        return None
    try:
        value = _value(dataset, _tag(keyword))
    except Exception:  # pydicom raises whatever its converters raise on a malformed element
        return None
    return None if value is None or value == "" else value


def _value(dataset: Dataset, tag: BaseTag) -> Any:
    element = dataset.get_item(tag)
    if element is None:
        return None
    if not isinstance(element, RawDataElement) or dictionary_VR(tag) == "SQ":
        return dataset[tag].value
    if len(element.value or b"") > MAX_VALUE_BYTES:
        return None
    if len(element.value or b"") > MAX_REMEMBERED:
        return dataset[tag].value
    charset = dataset.original_character_set
    named = charset if isinstance(charset, str) else tuple(charset)
    return _converted(element._replace(value_tell=0), named)


@functools.cache
def _tag(keyword: str) -> BaseTag:
    return Tag(keyword)


@functools.lru_cache(maxsize=16_384)
def _converted(element: RawDataElement, charset: str | tuple[str, ...]) -> Any:
    """Files of a series repeat nearly all of their values: converting was two thirds of reading a header."""
    encoding = charset if isinstance(charset, str) else list(charset)
    return convert_raw_data_element(element, encoding=encoding).value


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


def id_of(dataset: Dataset, keyword: str) -> str:
    """Text that tells one from another: as `text_of`, but its bytes (as Latin-1) where the character set that
    the file names cannot hold them, since ids that differ in an umlaut would become one."""
    element = dataset.get_item(_tag(keyword))
    text = text_of(dataset, keyword)
    if UNDECODED not in text or not isinstance(element, RawDataElement):
        return text
    return bytes(element.value or b"").decode("latin-1").rstrip(" \0")


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
