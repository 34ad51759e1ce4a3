"""Keyed hashes: the only form in which a person, an exam or a series is ever named.

Without the key nobody can test a guessed id against a table; with it the owner of the archive can find a
person again. The same raw id gives the same hash in images and in tables, which is how they are joined.
"""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spineage.errors import BadStudy
from spineage.io.storage.trouble import reason_of
from spineage.privacy import write_private
from spineage.study import Study

MIN_KEY_BYTES = 16
SALT: Final = b"spineage person key, 1"
"""The same for everybody, since the same key must give the same ids; the number goes up when ids change."""
ROUNDS: Final = 1 << 15
BLOCK: Final = 8
"""scrypt (RFC 7914): 32 MiB and a tenth of a second for each guess of a key; asked once a process."""


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

    def day_offset(self, person_id: str) -> int:
        """Days to add to the dates of a person: 0 to a thousand million, so that no sum hints at a date."""
        return int(self._hash("days", person_id), 16) % 1_000_000_000

    def second_offset(self, person_id: str) -> int:
        """Seconds to add to the times of day of a person: 0 to a day."""
        return int(self._hash("seconds", person_id), 16) % 86_400

    def birth(self, person_id: str, raw: str) -> str:
        """A birth date, or a year: tells equal from different for one person, and nothing across people."""
        return self._hash("birth", f"{person_id}:{raw}")[:8]

    def data_set(self, person_id: str, folder: str) -> str:
        """Where a person's label is from: tells equal from different for one person, and nothing across."""
        return self._hash("data set", f"{person_id}:{folder}")[:8]

    def source(self, seals: Iterable[str]) -> str:
        """The content of a scan by the seals of its files, in any order: 64 hex digits."""
        digest = hashlib.blake2b(key=self.key[:64], digest_size=32)
        digest.update(b"spineage:source:")
        digest.update("+".join(sorted(seals)).encode())
        return digest.hexdigest()

    @property
    def seal_key(self) -> bytes:
        """Of `files/seals.py`: made of the key one way, it gives no id away."""
        return hashlib.blake2b(b"spineage:seal", key=self.key[:64], digest_size=32).digest()

    @property
    def key_id(self) -> str:
        """Names the key without giving it away: results of two keys never share an address."""
        return self._hash("key", "id")

    def _hash(self, domain: str, raw: str) -> str:
        data = f"spineage:{domain}:{raw}".encode("utf-8", "surrogatepass")  # names of any bytes
        return hashlib.blake2b(data, key=self.key[:64], digest_size=8).hexdigest()


def load_key(study: Study) -> bytes:
    """The key from $SPINEAGE_KEY, $SPINEAGE_KEY_FILE or `inputs.key_file`, in that order.

    It is stretched: who has a table of ids and guesses at a weak key pays for each guess. Raises BadStudy
    when there is none, or it is too short.
    """
    key = os.environ.get("SPINEAGE_KEY", "").encode()
    path = os.environ.get("SPINEAGE_KEY_FILE") or study.inputs.key_file
    if not key and not path:
        raise BadStudy(
            "no key for the person hashes: set SPINEAGE_KEY or SPINEAGE_KEY_FILE, or inputs.key_file "
            "in the study, and make one with `spineage new-key`; keep it as long as results are to be "
            "traced back to people"
        )
    if not key and path:
        key = _read_key(path)
    if len(key) < MIN_KEY_BYTES:
        raise BadStudy(
            f"the key has {len(key)} bytes, must have at least {MIN_KEY_BYTES}: make one with "
            "`spineage new-key`"
        )
    return stretch(key)


@functools.lru_cache(maxsize=4)
def stretch(key: bytes) -> bytes:
    """32 bytes that are as slow to guess as the key, whatever it looks like."""
    memory = 2 * 128 * ROUNDS * BLOCK
    return hashlib.scrypt(key, salt=SALT, n=ROUNDS, r=BLOCK, p=1, maxmem=memory, dklen=32)


def make_key(path: str) -> None:
    """Write a new random key that only its owner can read. Raises BadStudy when something stands there."""
    try:
        write_private(Path(path), secrets.token_hex(32).encode() + b"\n")
    except FileExistsError:
        raise BadStudy(
            f"{path} exists already, and a key that is lost cannot be made again: name another file"
        ) from None
    except OSError as error:
        raise BadStudy(
            f"{path} cannot be written ({reason_of(error)}): name another file"
        ) from None


def require_private_key(study: Study) -> None:
    """Raise BadStudy when others on this machine can read the file that the key is in."""
    path = os.environ.get("SPINEAGE_KEY_FILE") or study.inputs.key_file
    if os.environ.get("SPINEAGE_KEY") or not path:
        return
    if Path(path).stat().st_mode & 0o077:
        raise BadStudy(
            "others on this machine can read the key file, and with it turn ids back into people: "
            "take their rights with `chmod 600`"
        )


def _read_key(path: str) -> bytes:
    try:
        return Path(path).read_bytes().strip()
    except OSError as error:
        raise BadStudy(
            f"the key file cannot be read ({reason_of(error)}): check inputs.key_file"
        ) from None
