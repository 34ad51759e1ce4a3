"""Damage by number: the same seed and number give the same bytes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LONG_VRS = (b"OB", b"OW", b"OF", b"SQ", b"UN", b"UT", b"OD", b"OL", b"UC", b"UR")
VRS = (
    b"AE",
    b"CS",
    b"DS",
    b"IS",
    b"LO",
    b"PN",
    b"SQ",
    b"UI",
    b"UL",
    b"UN",
    b"US",
    b"FD",
    b"OW",
    b"AT",
)
LENGTHS = (0, 1, 3, 0x7FFF, 0xFFFE, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF)
HEADER_BYTES = 3000
Draw = np.random.Generator
Damage = Callable[[bytearray, Draw], None]


@dataclass(frozen=True)
class Element:
    """One element of an explicit little endian dataset: where it, its length and its value begin and end."""

    start: int
    length_at: int
    length_bytes: int
    value: int
    end: int


def damaged(sources: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """Which source, and what became of it: one to three kinds of damage, one after the other."""
    rng = np.random.default_rng([seed, number])
    name = list(sources)[number % len(sources)]
    data = bytearray(sources[name])
    for _ in range(int(rng.integers(1, 4))):
        is_dicom = bytes(data[128:132]) == b"DICM"
        kinds = BYTEWISE + (BY_ELEMENT if is_dicom else ())
        kinds[int(rng.integers(len(kinds)))](data, rng)
    return name, bytes(data)


def _at(data: bytearray, rng: Draw) -> int:
    """Mostly in the header, where meaning is dense; now and then at the end or anywhere."""
    where = rng.random()
    if where < 0.7:
        return int(rng.integers(0, max(1, min(len(data), HEADER_BYTES))))
    low = max(0, len(data) - 300) if where < 0.85 else 0
    return int(rng.integers(low, max(low + 1, len(data))))


def flip(data: bytearray, rng: Draw) -> None:
    for _ in range(int(rng.choice([1, 2, 5, 30]))):
        at = _at(data, rng)
        if at < len(data):
            data[at] = int(rng.integers(0, 256))


def cut_out(data: bytearray, rng: Draw) -> None:
    at = _at(data, rng)
    del data[at : at + int(rng.integers(1, 20))]


def put_in(data: bytearray, rng: Draw) -> None:
    at = _at(data, rng)
    data[at:at] = rng.bytes(int(rng.integers(1, 12)))


def cut_off(data: bytearray, rng: Draw) -> None:
    if rng.random() < 0.3:
        del data[int(rng.integers(0, len(data) + 1)) :]


def write_number(data: bytearray, rng: Draw) -> None:
    """A telling number over two or four bytes: lengths and dimensions of any format."""
    at = _at(data, rng) & ~1
    value = int(rng.choice(LENGTHS))
    size = int(rng.choice([2, 4]))
    data[at : at + size] = struct.pack("<I", value)[:size]


def elements_of(data: bytes) -> list[Element]:
    """The top-level elements, as far as they can be followed."""
    found, at = [], 132
    while at + 8 <= len(data):
        is_long = bytes(data[at + 4 : at + 6]) in LONG_VRS
        length_at, size = (at + 8, 4) if is_long else (at + 6, 2)
        length = int.from_bytes(data[length_at : length_at + size], "little")
        value = length_at + size
        if value + length > len(data):
            break
        found.append(Element(at, length_at, size, value, value + length))
        at = value + length
    return found


def _drawn(data: bytearray, rng: Draw) -> Element | None:
    found = elements_of(data)
    return found[int(rng.integers(len(found)))] if found else None


def remove_tag(data: bytearray, rng: Draw) -> None:
    if one := _drawn(data, rng):
        del data[one.start : one.end]


def double_tag(data: bytearray, rng: Draw) -> None:
    if one := _drawn(data, rng):
        data[one.end : one.end] = data[one.start : one.end]


def swap_tags(data: bytearray, rng: Draw) -> None:
    """The values of two elements change places, with their lengths."""
    one, other = _drawn(data, rng), _drawn(data, rng)
    if one is None or other is None or one.end > other.start:
        return
    first, second = bytes(data[one.length_at : one.end]), bytes(data[other.length_at : other.end])
    data[other.length_at : other.end] = first
    data[one.length_at : one.end] = second


def retype_tag(data: bytearray, rng: Draw) -> None:
    if one := _drawn(data, rng):
        data[one.start + 4 : one.start + 6] = VRS[int(rng.integers(len(VRS)))]


def wrong_length(data: bytearray, rng: Draw) -> None:
    if one := _drawn(data, rng):
        value = int(rng.choice(LENGTHS))
        data[one.length_at : one.value] = struct.pack("<I", value)[: one.length_bytes]


def other_value(data: bytearray, rng: Draw) -> None:
    """Random bytes, or a number of digits beyond all reason, in place of a value of the same length."""
    one = _drawn(data, rng)
    if one and one.end - one.value < HEADER_BYTES:
        size = one.end - one.value
        text = [rng.bytes(size), b"9" * size, b"-" + b"1" * size, b"1e308\\nan\\inf " * size]
        data[one.value : one.end] = text[int(rng.integers(4))][:size]


BYTEWISE: tuple[Damage, ...] = (flip, cut_out, put_in, cut_off, write_number)
BY_ELEMENT: tuple[Damage, ...] = (
    remove_tag, double_tag, swap_tags, retype_tag, wrong_length, other_value, remove_tag, wrong_length,
)  # fmt: skip
