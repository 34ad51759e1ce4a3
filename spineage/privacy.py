"""What every process of ours does first: what it writes is its user's alone, and nobody is told about it."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Final

UNASKED: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # 1 lets Ray report how it is used
    "MLFLOW_DISABLE_TELEMETRY": "true",  # false lets MLflow
}
PRIVATE_FILE: Final = 0o600
PRIVATE_FOLDER: Final = 0o700


def keep_private() -> None:
    """Files are made for their owner alone; usage statistics are off unless the environment asks for them;
    figures look the same wherever one stands."""
    os.umask(0o077)
    for name, value in UNASKED.items():
        os.environ.setdefault(name, value)
    _import_matplotlib_elsewhere()


def _import_matplotlib_elsewhere() -> None:
    """Where it is first imported, matplotlib reads a file `matplotlibrc`, before the one that MATPLOTLIBRC
    names and with no way to forbid it. In a folder that holds one, perhaps somebody's archive, it is imported
    at once, standing in a folder of ours."""
    if os.path.lexists("matplotlibrc") and "matplotlib" not in sys.modules:
        with contextlib.chdir(Path(__file__).parent):
            import matplotlib  # noqa: F401


def private(path: str, flags: int) -> int:
    """An opener for `open`: whatever the umask is, what it makes is for its owner alone."""
    return os.open(path, flags, PRIVATE_FILE)


def write_private(path: Path, data: bytes, *, replace: bool = False) -> None:
    """A file that nobody else could read at any moment. Raises FileExistsError unless it may be replaced."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
    exclusive = 0 if replace else os.O_EXCL
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | exclusive, PRIVATE_FILE)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, PRIVATE_FILE)  # one that stood there may have been open to others
        file.write(data)


def state_folder() -> Path:
    """Where this user's programs keep logs (XDG base directories); a private temporary one without a home."""
    named = os.environ.get("XDG_STATE_HOME", "")
    with contextlib.suppress(RuntimeError, OSError):
        folder = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
        folder = folder / "spineage"
        folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE_FOLDER)
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="spineage-"))
