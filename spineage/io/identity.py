"""Keyed hashes: the only form in which a person, an exam or a series is ever named.

Without the key nobody can test a guessed id against a table; with it the owner of the archive can find a
person again. The same raw id gives the same hash in images and in tables, which is how they are joined.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from spineage.errors import BadStudy
from spineage.study import Study

MIN_KEY_BYTES = 16


@dataclass(frozen=True, repr=False)
class Keyed:
    """Hashes raw ids with one key: blake2b, 64 bits as 16 hex digits, one domain for each kind of id.

    64 bits make a collision among a million ids less likely than 1 in 30 million.
    """

    key: bytes

    def person(self, raw: str) -> str:
        """A patient id, or the `person` column of a table."""
        return self._hash("person", raw.strip())

    def exam(self, raw: str) -> str:
        """A StudyInstanceUID (or accession number), or the `exam` column of a table."""
        return self._hash("exam", raw.strip())

    def series(self, raw: str) -> str:
        """A SeriesInstanceUID."""
        return self._hash("series", raw.strip())

    def scan(self, *series_ids: str) -> str:
        """The (already hashed) series a scan is assembled from, in any order."""
        return self._hash("scan", "+".join(sorted(series_ids)))

    def file(self, location: str) -> str:
        """A location below the input folder; file names hold names too."""
        return self._hash("file", location)

    def word(self, domain: str, raw: str) -> str:
        """A short stand-in for free text that tells equal from different: `site-1f0c9a2b`."""
        return f"{domain}-{self._hash(domain, raw.strip().lower())[:8]}"

    @property
    def key_id(self) -> str:
        """Names the key without giving it away: results of two keys never share an address."""
        return self._hash("key", "id")

    def _hash(self, domain: str, raw: str) -> str:
        data = f"spineage:{domain}:{raw}".encode("utf-8", "surrogatepass")  # names of any bytes
        return hashlib.blake2b(data, key=self.key[:64], digest_size=8).hexdigest()


def load_key(study: Study) -> bytes:
    """The key from $SPINEAGE_KEY, $SPINEAGE_KEY_FILE or `inputs.key_file`, in that order.

    Raises BadStudy when there is none, or it is too short to resist guessing.
    """
    key = os.environ.get("SPINEAGE_KEY", "").encode()
    path = os.environ.get("SPINEAGE_KEY_FILE") or study.inputs.key_file
    if not key and not path:
        raise BadStudy(
            "no key for the person hashes: set SPINEAGE_KEY or SPINEAGE_KEY_FILE, or inputs.key_file "
            "in the study; keep the key as long as results are to be traced back to people"
        )
    if not key and path:
        key = _read_key(path)
    if len(key) < MIN_KEY_BYTES:
        raise BadStudy(f"the key has {len(key)} bytes, must have at least {MIN_KEY_BYTES}")
    return hashlib.sha256(key).digest()


def _read_key(path: str) -> bytes:
    try:
        return Path(path).read_bytes().strip()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise BadStudy(f"the key file cannot be read ({reason}): check inputs.key_file") from None
