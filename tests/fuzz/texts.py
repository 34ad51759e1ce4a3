"""Damage to texts that people and programs write: YAML, CSV and JSON."""

from __future__ import annotations

from collections.abc import Callable

from tests.fuzz.damage import BYTEWISE, Draw

VALUES: tuple[bytes, ...] = (
    b".inf", b"-.inf", b".nan", b"NaN", b"Infinity", b"1e400", b"-1", b"0", b"1" * 400, b"0x7f", b"null",
    b"~", b"true", b"[]", b"{}", b"[0]", b"[[[[]]]]", b"''", b'"', b"'", b"[" * 3000, b"{a: " * 3000,
    b"!!python/object/apply:os.system ['false']", b"!!binary x", b"!!set {1, 2}", b"&a [*a, *a]", b"*a",
    b"<<: *a", b"2020-01-01", b"12:30:45", b"0o17", b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80",
    b"../../../etc", b"/dev/zero", b"s3://nowhere/x", b"=1+1", b",,,,,,,,", b";;;;", b"\t\t\t", b"\r", b"\n",
    b"\n\n", b"9" * 20, b"1e9", b"x" * 100_000, "é".encode("latin-1"), "\u2028".encode(),
)  # fmt: skip
SEPARATORS = b":, ;\n\t[]{}\"'"
BOMB = b"bomb: [" + b",".join([b"&l0 [x, x]", *(
    f"&l{i} [{', '.join([f'*l{i - 1}'] * 9)}]".encode() for i in range(1, 11)
)]) + b"]\n"  # fmt: skip


def damaged_text(data: bytes, rng: Draw) -> bytes:
    """One to three kinds of damage, one after the other."""
    text = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        KINDS[int(rng.integers(len(KINDS)))](text, rng)
    return bytes(text)


def _token(text: bytearray, rng: Draw) -> tuple[int, int]:
    """Where a value begins and ends: between two separators."""
    at = int(rng.integers(0, len(text) + 1))
    low = max((text.rfind(bytes([s]), 0, at) for s in SEPARATORS), default=-1) + 1
    highs = [h for s in SEPARATORS if (h := text.find(bytes([s]), at)) >= 0]
    return low, min(highs, default=len(text))


def replace_value(text: bytearray, rng: Draw) -> None:
    low, high = _token(text, rng)
    text[low:high] = VALUES[int(rng.integers(len(VALUES)))]


def swap_values(text: bytearray, rng: Draw) -> None:
    (a, b), (c, d) = sorted([_token(text, rng), _token(text, rng)])
    if b <= c:
        first, second = bytes(text[a:b]), bytes(text[c:d])
        text[c:d] = first
        text[a:b] = second


def _lines(change: Callable[[list[bytes], int, Draw], None]) -> Callable[[bytearray, Draw], None]:
    def damage(text: bytearray, rng: Draw) -> None:
        lines = bytes(text).split(b"\n")
        change(lines, int(rng.integers(len(lines))), rng)
        text[:] = b"\n".join(lines)

    return damage


def _drop(lines: list[bytes], at: int, rng: Draw) -> None:
    del lines[at]


def _double(lines: list[bytes], at: int, rng: Draw) -> None:
    lines.insert(at, lines[at])


def _move(lines: list[bytes], at: int, rng: Draw) -> None:
    lines.insert(int(rng.integers(len(lines))), lines.pop(at))


def _indent(lines: list[bytes], at: int, rng: Draw) -> None:
    lines[at] = (b"  ", b"\t", b"")[int(rng.integers(3))] + lines[at].lstrip()


def add_bomb(text: bytearray, rng: Draw) -> None:
    """Aliases of aliases, seldom: nine to the tenth."""
    if rng.random() < 0.05:
        text += BOMB


KINDS: tuple[Callable[[bytearray, Draw], None], ...] = (
    replace_value, replace_value, replace_value, swap_values, _lines(_drop), _lines(_double),
    _lines(_move), _lines(_indent), add_bomb, *BYTEWISE,
)  # fmt: skip
