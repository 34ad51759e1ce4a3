"""What every stage is handed: the study, the workspace, and the addresses of all results.

A per-scan stage writes to `<stage>/<fingerprint>/` and fills in what is missing there. A whole-population
stage publishes once: its tables first, `done.json` last; what has no `done.json` does not exist.
`ingest` keeps generations of its tables and points at the current one of each input.
"""

from __future__ import annotations

import datetime
import hashlib
import importlib
import importlib.metadata
import json
import platform
import re
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as pads

import spineage
from spineage.engine import session
from spineage.engine.tally import Pace
from spineage.errors import BadStudy, NotYet
from spineage.flow import STAGES, module_of
from spineage.io.storage import pointers
from spineage.io.storage.index import keys_of, parts_of_scans
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.parts import DamagedParts
from spineage.io.storage.store import Store
from spineage.run import refusals
from spineage.run.attempts import digest_of_program
from spineage.study import Study
from spineage.tables import KEY, TABLES
from spineage.uris import digest_of_place, strip_logins

PACKAGES = (
    "ray", "torch", "nnunetv2", "monai", "pydicom", "pyarrow", "umap-learn", "hdbscan", "scikit-learn",
    "statsmodels", "numpy", "pandas", "scipy", "mlflow",
)  # fmt: skip


KEPT_STUDY = "study.resolved.yaml"
"""The study as it ran, in its workspace."""
PART = re.compile(r"[\w-]{1,100}\.parquet")


@dataclass(frozen=True)
class Shard:
    """A share of the scans, by a hash of their ids: number 1 to `of`."""

    number: int
    of: int

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.number}-of-{self.of}"

    def has(self, scan_id: str) -> bool:
        """Whether the scan is in this share; each is in one, however many there are."""
        digest = hashlib.blake2b(scan_id.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1


def read_shard(text: str) -> Shard:
    """A share such as 3/16. Raises BadStudy."""
    found = re.fullmatch(r"([1-9][0-9]{0,5})/([1-9][0-9]{0,5})", text)
    if not found or int(found[1]) > int(found[2]):
        raise BadStudy(f"--shard {text!r} is no share: write 3/16 for the third of 16")
    return Shard(int(found[1]), int(found[2]))


class Context:
    """A study at work in its workspace."""

    def __init__(
        self,
        study: Study,
        say: Callable[[str], None] = print,
        *,
        retry: bool = False,
        is_alone: bool = False,
        shard: Shard | None = None,
    ) -> None:
        self.study = study
        self.is_alone = is_alone  # no Ray: rows are served in this process
        self.shard = shard  # the share of the scans that this run does; none is all
        self.say = say
        self.retry = retry  # scans that were given up, too
        self.bugs: Counter[str] = Counter()  # met by scans, by type and place
        self.store = Store(study.workspace)
        self._fingerprints: dict[str, str] = {}
        self._generations: dict[str, str] = {}
        self.tables_read: set[str] = set()  # since a stage began, but for addresses
        self.work_done = 0.0  # since a stage began, in its own measure
        self.paces: list[Pace] = []  # since a stage began
        self.resolved: dict[
            str, str
        ] = {}  # model names -> digests: an alias is looked up once a process

    def connect(self) -> None:
        """Join or start Ray, unless this run is without; only the stages that need it pay for it."""
        if self.is_alone:
            return
        cluster = self.study.cluster
        session.connect(cluster.ray, gpus_needed=cluster.gpus_per_worker, grows=cluster.grows)

    def in_shard(self, scans: pd.DataFrame) -> pd.DataFrame:
        """Those of the scans that this run does."""
        if self.shard is None:
            return scans
        mine = [self.shard.has(scan_id) for scan_id in scans["scan_id"]]
        return scans[np.array(mine, dtype=bool)].reset_index(drop=True)

    # addresses

    def recipe(self, stage: str) -> dict[str, Any]:
        """Everything that changes the stage's answer."""
        recipe: dict[str, Any] = module_of(stage).recipe(self)
        return recipe

    def fingerprint(self, stage: str) -> str:
        """16 hex digits that name the stage's result."""
        if stage not in self._fingerprints:
            before = set(self.tables_read)
            self._fingerprints[stage] = digest_of(self.recipe(stage))
            self.tables_read = before
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
            if not self.store.exists(self.pointer(stage)):
                return folder
            self._generations[folder] = self._generation(stage, self.pointer(stage))
        return f"{folder}/{self._generations[folder]}"

    def pointer(self, stage: str) -> str:
        """The file that names the current generation, of the input that this study names, and of the masks
        that it gives."""
        segment, place = self.study.segment, digest_of_place(self.study.inputs.scans)
        if segment.masks:
            place += f"-{digest_of_place(segment.masks)}-{digest_of({'masks_of': segment.masks_of})[:16]}"
        return f"{self.folder(stage)}/latest-{place}.json"

    def _generation(self, stage: str, pointer: str) -> str:
        remedy = f"run `spineage {stage}` again, which writes it anew"
        name = pointers.read_object(self.store, pointer, remedy).get("generation")
        if not isinstance(name, str) or not pointers.ADDRESS.fullmatch(name):
            raise pointers.damaged(pointer, remedy)
        return name

    def forget(self) -> None:
        """Upstream results have changed: compute the addresses again when next asked."""
        self._fingerprints.clear()
        self._generations.clear()

    def identity(self, stage: str) -> dict[str, str]:
        """What made a result, as the tags of its run: code, seed, and the recipe with its inputs' digests."""
        recipe = self.recipe(stage)
        inputs = {f"input.{k}": v for k, v in recipe.items() if isinstance(v, str)}
        return {
            "spineage.stage": stage,
            "spineage.version": spineage.__version__,
            "spineage.program": digest_of_program(),
            "spineage.seed": str(self.study.seed),
            "spineage.recipe": json.dumps(recipe, sort_keys=True)[:5000],
            **{f"spineage.{name}": value for name, value in inputs.items()},
        }

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
        self.tables_read.add(table)
        stage = stage or writer_of(table)
        folder = self.tables_folder(stage)
        parts = self.store.list(f"{folder}/{table}", ".parquet")
        self._require_all(folder, table, parts)
        if not parts and table != "faults":
            raise NotYet(self.why_none(table))
        names = TABLES[table].schema.names
        wanted, keys = list(columns or names), KEY if {*KEY} <= {*names} else []
        both = list(dict.fromkeys([*wanted, *keys]))
        data = read_table(self.store, folder, TABLES[table], both, where, listed=parts)
        return (data.drop_duplicates(keys, ignore_index=True) if keys else data)[wanted]

    def parts_of(self, table: str, scans: pd.DataFrame) -> pd.Series:
        """The part of a per-scan table that holds each of these scans, "" where none does; their index."""
        keys = keys_of(scans)
        found = parts_of_scans(self.store, self.folder_of(table), TABLES[table], keys)
        return pd.Series([found.get(key, "") for key in keys], scans.index, dtype=object)

    def having(self, table: str, scans: pd.DataFrame, part: str = "part") -> pd.DataFrame:
        """Those of the scans that have a row in a per-scan table, with its part in a column of that name.
        Raises NotYet when none has."""
        found = scans.assign(**{part: self.parts_of(table, scans)})
        found = found[found[part] != ""].reset_index(drop=True)
        if found.empty:
            raise NotYet(self.why_none(table))
        return found

    def why_none(self, table: str) -> str:
        """The sentence for a table without rows."""
        return (
            refusals.why_empty(self.store, self.folder, table)
            or f"there is no {table} table for this study yet: run `spineage {writer_of(table)}` first"
        )

    def folder_of(self, table: str) -> str:
        """The folder of a per-scan table that is about to be read row by row."""
        self.tables_read.add(table)
        return self.folder(writer_of(table))

    def _require_all(self, folder: str, table: str, parts: Sequence[str]) -> None:
        """What was published of the table is there. Raises DamagedParts."""
        try:
            done = self.done(folder)
        except FileNotFoundError:
            return
        gone = set(done.get("parts", {}).get(table, [])) - {p.rpartition("/")[2] for p in parts}
        if gone:
            raise DamagedParts({f"{folder}/{table}/{name}": "is gone" for name in sorted(gone)})

    def done(self, folder: str) -> dict[str, Any]:
        """What `done.json` of a published folder says. Raises FileNotFoundError, BadStudy."""
        stage = folder.split("/")[0]
        remedy = f"remove the folder {folder} and run `spineage {stage}` again"
        found = pointers.read_object(self.store, f"{folder}/done.json", remedy)
        if not _are_parts(found.get("parts", {})):
            raise pointers.damaged(f"{folder}/done.json", remedy)
        return found

    def finish(self, folder: str, about: Mapping[str, Any]) -> None:
        """Write `done.json`: what it is about, and which parts each table has, so that one is missed."""
        parts: dict[str, list[str]] = {}
        for part in self.store.list(folder, ".parquet"):
            *_, table, name = part.split("/")
            parts.setdefault(table, []).append(name)
        self.store.write(f"{folder}/done.json", _json({**about, "parts": parts}))

    def has(self, table: str, stage: str | None = None) -> bool:
        """Whether the table of this study exists."""
        folder = self.tables_folder(stage or writer_of(table))
        return bool(self.store.list(f"{folder}/{table}", ".parquet"))

    def require_scans(self, num_scans: int) -> None:
        """Raise BadStudy when ingest accepted nothing: no later stage has anything to do."""
        if not num_scans:
            raise BadStudy(refusals.why_no_scans(self.read("series", ["code"])["code"]))

    def asset(self, stage: str, name: str) -> bytes:
        """A file a stage published beside its tables; JSON is known to be some."""
        folder = self.folder(stage)
        remedy = f"remove the folder {folder} and run `spineage {stage}` again"
        try:
            content = self.store.read(f"{folder}/{name}")
        except FileNotFoundError:
            if self.is_done(stage):
                raise pointers.damaged(f"{folder}/{name}", remedy) from None
            raise NotYet(
                f"{stage} has not published {name}: run `spineage {stage}` first"
            ) from None
        if name.endswith(".json"):
            pointers.parse(content, f"{folder}/{name}", remedy)
        return content

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
        self.finish(folder, {"recipe": self.recipe(stage)})

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
            "read": sorted(self.tables_read - set(STAGES[stage].writes)),
        }
        name = f"{started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}.json"
        self.store.write(f"{self.folder(stage)}/runs/{name}", _json(strip_logins(record)))

    def records(self, stage: str) -> list[dict[str, Any]]:
        """The run records of a stage's result, oldest first."""
        names = self.store.list(f"{self.folder(stage)}/runs", ".json")
        return [pointers.read_object(self.store, name, "remove it") for name in names]


def digest_of(value: Any) -> str:
    """16 hex digits over canonical JSON; what JSON cannot hold has no address and fails loudly."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def writer_of(table: str) -> str:
    """The stage that writes a table; the first of them, where several do."""
    assert writers_of(table), f"no stage writes {table}"
    return writers_of(table)[0]


def writers_of(table: str) -> list[str]:
    """The stages that write a table, in the order of the road."""
    return [stage.name for stage in STAGES.values() if table in stage.writes]


def _are_parts(found: Any) -> bool:
    """Names of parts by table, as `finish` writes them."""
    return isinstance(found, dict) and all(
        isinstance(names, list) and all(isinstance(n, str) and PART.fullmatch(n) for n in names)
        for names in found.values()
    )


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True).encode()
