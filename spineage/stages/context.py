"""What every stage is handed: the study, the workspace, and the addresses of all results.

A per-scan stage writes to `<stage>/<fingerprint>/` and fills in what is missing there. A whole-population
stage publishes once: its tables first, `done.json` last; what has no `done.json` does not exist.
`ingest` keeps generations of its tables and points at the current one in `latest.json`.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import importlib.metadata
import json
import platform
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
import pyarrow.dataset as pads

import spineage
from spineage.engine import session
from spineage.errors import BadStudy
from spineage.flow import ROAD, SIDE_ROADS
from spineage.io.parquet import read_table, write_part
from spineage.io.store import Store
from spineage.study import Study
from spineage.tables import TABLES

PACKAGES = (
    "ray", "torch", "nnunetv2", "monai", "pydicom", "pyarrow", "umap-learn", "hdbscan", "scikit-learn",
    "statsmodels", "numpy", "pandas", "scipy", "mlflow",
)  # fmt: skip


class Context:
    """A study at work in its workspace."""

    def __init__(self, study: Study, say: Callable[[str], None] = print) -> None:
        self.study = study
        self.say = say
        self.store = Store(study.workspace)
        self._fingerprints: dict[str, str] = {}
        self._generations: dict[str, str] = {}
        self.resolved: dict[
            str, str
        ] = {}  # model names -> digests: an alias is looked up once a process

    def connect(self) -> None:
        """Join or start Ray; only the stages that need it pay for it."""
        cluster = self.study.cluster
        session.connect(cluster.ray, gpus_needed=cluster.gpus_per_worker)

    # addresses

    def recipe(self, stage: str) -> dict[str, Any]:
        """Everything that changes the stage's answer."""
        recipe: dict[str, Any] = importlib.import_module(f"spineage.stages.{stage}").recipe(self)
        return recipe

    def fingerprint(self, stage: str) -> str:
        """16 hex digits that name the stage's result."""
        if stage not in self._fingerprints:
            self._fingerprints[stage] = digest_of(self.recipe(stage))
        return self._fingerprints[stage]

    def folder(self, stage: str) -> str:
        """Where the stage's result lies, relative to the workspace."""
        return f"{stage}/{self.fingerprint(stage)}"

    def tables_folder(self, stage: str) -> str:
        """Where its tables lie: the folder, or the generation in it that was current when first asked.

        A stage reads one generation, whatever an ingest beside it does meanwhile.
        """
        folder = self.folder(stage)
        if folder not in self._generations:
            if not self.store.exists(f"{folder}/latest.json"):
                return folder
            latest = json.loads(self.store.read(f"{folder}/latest.json"))
            self._generations[folder] = latest["generation"]
        return f"{folder}/{self._generations[folder]}"

    def forget(self) -> None:
        """Upstream results have changed: compute the addresses again when next asked."""
        self._fingerprints.clear()
        self._generations.clear()

    # reading

    def read(
        self,
        table: str,
        columns: Sequence[str] | None = None,
        *,
        stage: str | None = None,
        where: pads.Expression | None = None,
    ) -> pd.DataFrame:
        """A table of this study, one row per key. Raises BadStudy when it is not there yet."""
        stage = stage or writer_of(table)
        folder = self.tables_folder(stage)
        if not self.store.list(f"{folder}/{table}", ".parquet"):
            if table == "faults":
                return read_table(self.store, folder, TABLES[table], columns)
            raise BadStudy(
                f"there is no {table} table for this study yet: run `spineage {stage}` first"
            )
        data = read_table(self.store, folder, TABLES[table], columns, where)
        keys = [c for c in ("scan_id", "source_digest") if c in data.columns]
        return data.drop_duplicates(keys, ignore_index=True) if len(keys) == 2 else data

    def has(self, table: str, stage: str | None = None) -> bool:
        """Whether the table of this study exists."""
        folder = self.tables_folder(stage or writer_of(table))
        return bool(self.store.list(f"{folder}/{table}", ".parquet"))

    def asset(self, stage: str, name: str) -> bytes:
        """A file a stage published beside its tables."""
        try:
            return self.store.read(f"{self.folder(stage)}/{name}")
        except FileNotFoundError:
            raise BadStudy(
                f"{stage} has not published {name}: run `spineage {stage}` first"
            ) from None

    def table_digest(
        self, table: str, stage: str | None = None, columns: Sequence[str] = ()
    ) -> str:
        """Over the rows of a per-scan table: which scans, in which version, and the named columns."""
        rows = self.read(table, ["scan_id", "source_digest", *columns], stage=stage)
        return digest_of(
            sorted(rows.astype(object).where(rows.notna(), None).values.tolist(), key=str)
        )

    # writing

    def is_done(self, stage: str) -> bool:
        """Whether a whole-population stage has published."""
        return self.store.exists(f"{self.folder(stage)}/done.json")

    def publish(
        self,
        stage: str,
        tables: Mapping[str, pd.DataFrame],
        assets: Mapping[str, bytes] | None = None,
    ) -> None:
        """Write tables and assets, then `done.json`: from then on the result exists and never changes."""
        folder = self.folder(stage)
        assert not self.is_done(stage), f"{folder} is immutable"
        for name, data in tables.items():
            write_part(self.store, folder, TABLES[name], data, "part-0")
        for name, content in (assets or {}).items():
            self.store.write(f"{folder}/{name}", content)
        self.store.write(f"{folder}/done.json", _json({"recipe": self.recipe(stage)}))

    def write_record(
        self, stage: str, started: datetime.datetime, counts: Mapping[str, int]
    ) -> None:
        """The run record beside the result: who cannot be told, what, with which code, when, how many."""
        now = datetime.datetime.now(datetime.UTC)
        record = {
            "stage": stage,
            "recipe": self.recipe(stage),
            "seed": self.study.seed,
            "version": spineage.__version__,
            "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
            "python": platform.python_version(),
            "machine": {"system": platform.system(), "architecture": platform.machine()},
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((now - started).total_seconds(), 1),
            "counts": dict(counts),
        }
        name = f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}.json"
        self.store.write(f"{self.folder(stage)}/runs/{name}", _json(record))

    def records(self, stage: str) -> list[dict[str, Any]]:
        """The run records of a stage's result, oldest first."""
        names = self.store.list(f"{self.folder(stage)}/runs", ".json")
        return [json.loads(self.store.read(name)) for name in names]


def digest_of(value: Any) -> str:
    """16 hex digits over canonical JSON; what JSON cannot hold has no address and fails loudly."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def writer_of(table: str) -> str:
    """The stage that writes a table."""
    writers = [stage.name for stage in (*ROAD, *SIDE_ROADS) if table in stage.writes]
    assert writers, f"no stage writes {table}"
    return writers[0]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
