"""Reading in pieces of a bounded size: a length in a file is a claim, and memory must not depend on it."""

from __future__ import annotations

import zlib
from typing import BinaryIO, Final

from spineage.errors import BadScan

PIECE_BYTES: Final = 1 << 20
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
    members, one after the other (RFC 1952, 2.2), as bgzip writes them."""
    data = bytearray()
    while True:
        stream = zlib.decompressobj(wbits=wbits)
        data += stream.decompress(packed, limit - len(data))
        if len(data) >= limit or not stream.eof:
            return bytes(data), stream.eof
        packed = stream.unused_data
        if wbits != GZIP or not packed.startswith(GZIP_START):
            return bytes(data), True
