"""Reading in pieces of a bounded size: a length in a file is a claim, and memory must not depend on it."""

from __future__ import annotations

import zlib
from typing import BinaryIO, Final

from spineage.errors import BadScan

PIECE_BYTES: Final = 1 << 20
FIRST_BYTES: Final = 1 << 10
MAX_MEMBERS: Final = 1 << 17  # of 64 kB each, as bgzip cuts, they hold four times what a volume may
GZIP: Final = 31  # wbits
GZIP_START: Final = b"\x1f\x8b"


class Bounded:
    """A stream of `size` bytes for readers that take lengths on trust.

    A piece beyond `limit` bytes is BadScan too_large; beyond the file, unreadable. One of no stated length
    is all that is left, and only for readers that `may_read_rest`.
    """

    def __init__(
        self, stream: BinaryIO, size: int, limit: int, *, may_read_rest: bool = False
    ) -> None:
        self._may_read_rest = may_read_rest
        self.seek, self.tell = stream.seek, stream.tell
        self._read, self._limit = stream.read, limit
        self._most = max(size, PIECE_BYTES)  # readers may ask for a buffer more than there is

    def read(self, count: int = -1) -> bytes:
        if count < 0 and self._may_read_rest:
            count = min(self._most, self._limit)
        if count > self._most:
            raise BadScan("unreadable", "one part claims more bytes than the file has")
        if not 0 <= count <= self._limit:
            raise BadScan("too_large", f"one part claims more than {self._limit} bytes")
        return self._read(count)

    def seekable(self) -> bool:
        return True


def read_at_most(stream: BinaryIO, limit: int) -> bytes:
    """The rest of the stream. Raises BadScan too_large when it is longer than `limit` bytes."""
    data = bytearray()
    while piece := stream.read(PIECE_BYTES):
        data += piece
        if len(data) > limit:
            raise BadScan("too_large", f"more than {limit} bytes, which no exam holds")
    return bytes(data)


def inflate_at_most(packed: bytes, limit: int, *, wbits: int) -> bytes:
    """A deflated stream (wbits 31: gzip, -15: raw) unpacked, never to more than `limit` bytes.

    Raises BadScan: unreadable (damaged), truncated, too_large.
    """
    try:
        data, is_whole = _inflated(packed, limit + 1, wbits)
    except zlib.error:
        raise BadScan("unreadable", "the packed stream is damaged") from None
    if len(data) > limit:
        raise BadScan("too_large", f"it unpacks to more than {limit} bytes")
    if not is_whole:
        raise BadScan("truncated", "the packed stream ends early")
    return data


def inflate_start(packed: bytes, limit: int) -> bytes:
    """The first bytes of a gzip file of which the beginning is given. Raises zlib.error."""
    return _inflated(packed, limit, GZIP)[0]


def _inflated(packed: bytes, limit: int, wbits: int) -> tuple[bytes, bool]:
    """At most so many bytes, and whether the stream ends in what is given. A gzip file may have several
    members, one after the other (RFC 1952, 2.2), as bgzip writes them; what follows them is let be. Fed in
    pieces, small at first: what a member leaves of its piece is copied. Raises zlib.error."""
    data, view, at = bytearray(), memoryview(packed), 0
    for _ in range(MAX_MEMBERS):
        stream, size = zlib.decompressobj(wbits=wbits), FIRST_BYTES
        while not stream.eof:
            piece = stream.unconsumed_tail or view[at : at + size]
            if not stream.unconsumed_tail:
                at, size = at + len(piece), min(4 * size, PIECE_BYTES)
            if not len(piece) or len(data) >= limit:
                return bytes(data), False
            data += stream.decompress(piece, limit - len(data))
        at -= len(stream.unused_data)
        if wbits != GZIP or bytes(view[at : at + 2]) != GZIP_START or len(data) >= limit:
            return bytes(data), True
    raise zlib.error("more members than any file has")
