"""Slices of a series differ in ids and places: what their headers have in common is parsed once.

A pattern is the chain of elements of a header that pydicom has parsed. Another file of the same chain, whose
elements that matter hold the same bytes, needs no parser: walking along the chain finds the few values that
are its own. Whatever deviates, by a byte, is parsed. Explicit and implicit little endian (PS3.5 7.1).
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_sequence
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

PREFIX: Final = slice(128, 132)
META_START: Final = 132
PIXELS: Final = b"\xe0\x7f\x10\x00"
UNDEFINED: Final = 0xFFFFFFFF
LONG: Final = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
SYNTAX: Final = Tag("TransferSyntaxUID")


@dataclass(frozen=True)
class Element:
    """Where one element of a header begins, where its value begins and where it ends, in bytes."""

    tag: BaseTag
    start: int
    value: int
    end: int
    width: int  # bytes that hold the length, right before the value


@dataclass(frozen=True)
class Stretch:
    """Some elements that are the same in every file (`same`), then one that is each file's own.

    start: the own element's tag, VR and reserved bytes; width: bytes of its length; own: it is asked for.
    """

    same: bytes
    start: bytes
    width: int
    own: BaseTag | None


@dataclass(frozen=True)
class Pattern:
    """The chain of a header. is_implicit: of the dataset; the elements of group 0002 never are."""

    steps: tuple[Stretch, ...]
    rest: bytes
    is_implicit: bool

    def match(self, head: bytes) -> tuple[Dataset, int] | None:
        """The elements that are the file's own, and the length of its header; None when it is unlike.

        head: the first bytes of the file, the whole header and the pixels' tag among them.
        """
        if head[PREFIX] != b"DICM":
            return None
        at, own = META_START, {}
        for step in self.steps:
            if not head.startswith(step.same + step.start, at):
                return None
            value = at + len(step.same) + len(step.start) + step.width
            at = value + int.from_bytes(head[value - step.width : value], "little")
            if step.own is not None:
                own[step.own] = self._raw(step, head[value:at])
        if not head.startswith(self.rest + PIXELS, at):
            return None
        return Dataset(dict(own)), at + len(self.rest)

    def _raw(self, step: Stretch, value: bytes) -> RawDataElement:
        assert step.own is not None
        vr = None if self.is_implicit else step.start[4:6].decode()
        return RawDataElement(step.own, vr, len(value), value, 0, self.is_implicit, True)


def pattern_of(
    head: bytes, parsed: Dataset, shared: Collection[BaseTag], own: Collection[BaseTag]
) -> Pattern | None:
    """The chain of a header that pydicom parsed with `shared` and `own` as specific tags.

    None for what is never matched: big endian, no preamble, elements that come twice or are sequences, and
    whatever this walk reads otherwise than pydicom did.
    """
    is_implicit, is_little = parsed.original_encoding
    if head[PREFIX] != b"DICM" or not is_little or is_implicit is None:
        return None
    try:
        elements = list(_walk(head, is_implicit))
    except (IndexError, ValueError, EOFError):
        return None
    if not _agree(head, elements, parsed, {*shared, *own}):
        return None
    steps, same = [], META_START
    for element in elements:
        is_fixed = element.tag in shared or element.tag == SYNTAX
        if not is_fixed and head[element.value - element.width : element.value] != b"\xff" * 4:
            start = head[element.start : element.value - element.width]
            asked = element.tag if element.tag in own else None
            steps.append(Stretch(head[same : element.start], start, element.width, asked))
            same = element.end
    return Pattern(tuple(steps), head[same : elements[-1].end], is_implicit)


def _walk(head: bytes, is_implicit: bool) -> Iterator[Element]:
    """Every top-level element up to the pixels. Raises ValueError where the bytes are no elements."""
    at = META_START
    while not head.startswith(PIXELS, at):
        tag = Tag(
            int.from_bytes(head[at : at + 2], "little"),
            int.from_bytes(head[at + 2 : at + 4], "little"),
        )
        implicit = is_implicit and tag.group != 2
        vr = b"" if implicit else head[at + 4 : at + 6]
        if not implicit and not (len(vr) == 2 and vr.isalpha() and vr.isupper()):
            raise ValueError("no VR")
        width = 4 if implicit or vr in LONG else 2
        value = at + (8 if implicit or width == 2 else 12)
        length = int.from_bytes(head[value - width : value], "little")
        end = value + length if length != UNDEFINED or width == 2 else _end(head, value, implicit)
        if end > len(head):
            raise EOFError
        yield Element(tag, at, value, end, width)
        at = end


def _end(head: bytes, value: int, is_implicit: bool) -> int:
    """Where a sequence of no stated length ends."""
    stream = io.BytesIO(head)
    stream.seek(value)
    try:
        read_sequence(stream, is_implicit, True, UNDEFINED, "iso8859")
    except Exception:  # pydicom raises a dozen types
        raise ValueError("no sequence") from None
    return stream.tell()


def _agree(
    head: bytes, elements: list[Element], parsed: Dataset, tags: Collection[BaseTag]
) -> bool:
    """Whether the walk found just the elements that pydicom did, each once and with the same bytes."""
    found = [element for element in elements if element.tag in tags]
    kept = {element.tag: head[element.value : element.end] for element in found}
    raw = {tag: parsed.get_item(tag) for tag in parsed.keys()}  # noqa: SIM118 - items would convert
    if len(kept) < len(found) or set(kept) != set(raw):
        return False
    return all(
        isinstance(e, RawDataElement) and (e.value or b"") == kept[t] for t, e in raw.items()
    )
