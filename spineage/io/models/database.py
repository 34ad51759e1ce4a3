"""MLflow's sqlite file, asked before MLflow is: whether it is a database, and whether it answers now."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from spineage.errors import BadStudy

SCHEME = "sqlite:///"
WAIT_S = 5.0


def require_database(uri: str) -> None:
    """Raise BadStudy when the file of a sqlite address is no database, or another process holds it.

    MLflow itself would try a locked one for twenty seconds, and print tracebacks.
    """
    if not uri.startswith(SCHEME):
        return
    path = Path(uri.removeprefix(SCHEME))
    if not path.exists():
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_S)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            database.rollback()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BadStudy(locked(uri)) from None
        raise BadStudy(
            f"{path} cannot be opened ({error}): check its rights and the disk"
        ) from None
    except sqlite3.DatabaseError:
        raise BadStudy(
            f"{path} is damaged, or no database of MLflow: move it away, and a new one is made; runs and "
            "registered models in it are lost, bundles in the workspace are not"
        ) from None


def locked(uri: str) -> str:
    """The sentence for a database that another process holds."""
    return (
        f"{uri.removeprefix(SCHEME)} is locked by another process (another run, or `mlflow ui`): wait "
        "until it ends, then run again; many runs at once need an MLflow server, see cluster.mlflow"
    )
