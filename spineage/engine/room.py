"""The private room of a Ray session started here: its folder, its token, and what its processes are told.

Ray makes its folders open to all (0777) and its token as open as the process lets it; and its daemons inherit
all of the environment, keys and passwords of clouds too, which anybody who may look at one daemon can read.
So a session gets a folder within one that only its user can enter, a token that only its user can read, and
of the environment what programs need to run. Credentials of storage reach the workers, which open inputs and
workspaces, by a file in that folder; the key of the person hashes is handed over with the work itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from spineage.errors import BadStudy
from spineage.privacy import keep_private, write_private

HANDOVER: Final = "SPINEAGE_HANDOVER"
SETTLE: Final = "spineage.engine.room.settle"
PREFIX: Final = "spineage-ray-"
LOCK: Final = "in-use"
_locks: dict[Path, IO[str]] = {}
"""Held for as long as this process lives."""
SHORT_BASE: Final = "/tmp"
MAX_BASE: Final = 18
"""Bytes of the path that it lies in: 88 come to it, and a socket's path has 107 at most."""
_NEEDED: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TERM|TMPDIR|PWD|VIRTUAL_ENV|XDG_\w+"
    r"|(PYTHON|CONDA_|LD_|DYLD_|RAY_|OMP_|KMP_|MKL_|OPENBLAS_|BLIS_|NUMEXPR_|NUMBA_|TORCH|PYTORCH_|CUDA_|CUDNN_"
    r"|ATEN_|ONEDNN_|DNNL_|NPY_|CUBLAS_|NVIDIA_|NCCL_|GLOO_|ROCR_|HIP_|HSA_|TRITON_|MPL|nnUNet_|MALLOC_|GLIBC_|SLURM_|SSL_CERT_)\w*"
)
_STORAGE: Final = re.compile(
    r"(AWS|S3|GOOGLE|GCS|GCLOUD|AZURE|FSSPEC|HADOOP|BOTO|OSS|SWIFT|OS|CURL|REQUESTS)_\w+"
    r"|CLOUDSDK_\w+|STORAGE_EMULATOR_HOST|(HTTPS?|FTP|ALL|NO)_PROXY|KRB5\w*|JAVA_HOME|CLASSPATH|SSH_AUTH_SOCK",
    re.IGNORECASE,
)
"""What fsspec's file systems and the clients below them read."""
_SECRET: Final = re.compile(r"(?i)key|secret|passw|credential|(?<!RAY_AUTH_)token")


def open_room() -> Path:
    """A new folder for Ray, within one that nobody else can enter, where temporary files go.

    Where that path is too long for sockets, a link to it from a short one.
    """
    base = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    try:
        room = _own_folder(base) / "r"
        if len(base.encode()) <= MAX_BASE:
            return room
        room.mkdir()
        short = _own_folder(SHORT_BASE) / "r"
        short.symlink_to(room)
        return short
    except OSError as error:
        raise BadStudy(
            f"no folder for Ray can be made in {base} ({error.strerror}): set RAY_TMPDIR to a folder of yours"
        ) from None


def _own_folder(base: str) -> Path:
    _remove_abandoned(Path(base))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
    _locks[folder] = (folder / LOCK).open("w")
    fcntl.flock(_locks[folder], fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder


def close_room(room: Path) -> None:
    """Remove the folder, with Ray's logs and the handed over credentials."""
    for folder in {room.resolve().parent, room.parent}:
        shutil.rmtree(folder, ignore_errors=True)
        if folder in _locks:
            _locks.pop(folder).close()


def _remove_abandoned(base: Path) -> None:
    """Rooms of this user's killed runs: nobody holds their lock, and credentials lie in them."""
    for lock in base.glob(f"{PREFIX}*/{LOCK}"):
        with contextlib.suppress(OSError):
            if lock.stat().st_uid != os.getuid():
                continue
            with lock.open("w") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent, ignore_errors=True)


def close_token() -> None:
    """Ray's token is its user's alone before Ray reads it: whoever has it runs code in the session."""
    if (
        os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
        or "RAY_AUTH_TOKEN" in os.environ
    ):
        return
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        if not path.exists():
            write_private(path, secrets.token_hex(32).encode())
        elif path.stat().st_mode & 0o077:
            path.chmod(0o600)
    except FileExistsError:
        return  # another session of this user has just made it
    except OSError as error:
        raise BadStudy(
            f"Ray's token {path} cannot be kept private ({error.strerror}): set RAY_AUTH_TOKEN_PATH to a "
            "file of yours"
        ) from None


@contextmanager
def only_what_is_needed(room: Path) -> Iterator[None]:
    """While Ray starts its daemons, the environment holds what they need; the rest lies in the room."""
    whole = dict(os.environ)
    kept = {name: value for name, value in whole.items() if is_needed(name)}
    handed = {name: value for name, value in whole.items() if _STORAGE.fullmatch(name)}
    path = room.parent / "handover.json"
    write_private(path, json.dumps(handed).encode())
    try:
        os.environ.clear()
        os.environ.update({**kept, HANDOVER: str(path)})
        yield
    finally:
        os.environ.pop(HANDOVER, None)
        os.environ.update({name: value for name, value in whole.items() if name not in kept})


def is_needed(name: str) -> bool:
    """Whether a program needs this variable to run; none that sounds like a secret is."""
    return bool(_NEEDED.fullmatch(name)) and not _SECRET.search(name)


def settle() -> None:
    """What a worker does before its first task: private files, and the credentials of storage."""
    keep_private()
    path = os.environ.pop(HANDOVER, None)
    if path:
        os.environ.update(json.loads(Path(path).read_text()))
