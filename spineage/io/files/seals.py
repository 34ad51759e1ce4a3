"""Is a file still the one that ingest saw? Its seal says so: a keyed digest of what lies in it.

Of DICOM the whole header (the object's and the person's ids are in it), the size, and samples of the
pixels; of NIfTI every byte. Whoever opens voxels takes the seal of the very bytes that it decodes, so that
there is no moment between the check and the use. Paths, sizes and times prove nothing: files are replaced.

The key of the seals is derived from the study's key and lies in the private table `sources`, since the
workers that decode have no other. Nobody who has a file alone can find its row by it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from spineage.errors import BadScan

SEAL_BYTES: Final = 32


def seal_of(parts: list[bytes], key: bytes) -> str:
    """64 hex digits over the parts in order; where one ends and the next begins counts."""
    digest = hashlib.blake2b(key=key, digest_size=SEAL_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def check_seal(found: str, expected: str) -> None:
    """Raise BadScan changed_since_ingest when the bytes at hand are others than ingest saw."""
    if found != expected:
        raise BadScan(
            "changed_since_ingest",
            "a file is not the one that ingest saw: its ids, header, size or pixels are others; "
            "run ingest again",
        )
