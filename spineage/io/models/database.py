"""MLflow's sqlite file, asked before MLflow is: whether it is a database, and whether it answers now."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from spineage.errors import BadStudy

SCHEME = "sqlite:///"
FILE = "file://"
WAIT_S = 5.0
KEEPING = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow's tables name the places of files."""


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


def follow_move(uri: str, files: str) -> None:
    """Have a sqlite database name `files`, the folder beside it, where it names another of that name that is
    gone: MLflow keeps absolute places, and a workspace may have moved."""
    path = Path(uri.removeprefix(SCHEME))
    if not path.exists() or not Path(files.removeprefix(FILE)).is_dir():
        return
    name = files.rpartition("/")[2]
    with contextlib.closing(sqlite3.connect(path, timeout=WAIT_S)) as database, database:
        places = database.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        for (old,) in places:
            if not str(old).startswith(FILE) or not str(old).endswith(f"/{name}") or old == files:
                continue
            if Path(str(old).removeprefix(FILE)).exists():
                continue
            for table, column in KEEPING:
                database.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (files, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
