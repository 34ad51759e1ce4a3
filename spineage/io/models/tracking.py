"""MLflow: the log of runs and the registry of model bundles.

Without an address it is sqlite in the workspace (`mlflow.db`); files of a sqlite database lie beside it, in
`mlartifacts/`. Only the driver talks to it: sqlite has one writer, and workers get a bundle's digest and
files, never a name to look up. `mlflow` takes 1-3 s to import and 2.5 s to create its first sqlite database
(measured, two cores), so it is imported when a `Tracking` is opened and not with this file.
"""

from __future__ import annotations

import logging
import math
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spineage.errors import BadStudy, NotYet
from spineage.io.models.database import SCHEME, follow_move, locked, require_database
from spineage.io.models.places import is_on_a_server, is_served_by, lies_within
from spineage.io.storage.store import Store
from spineage.privacy import UNASKED
from spineage.uris import strip_logins, without_logins

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

MODEL = "spine-age"
CHAMPION = "champion"
ANSWER_WITHIN_S = 5
MAX_FILE_BYTES = 2**31
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # 7 with back-off is minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    **UNASKED,
}
QUIET = (("mlflow.store.db.utils", "CRITICAL"),)
"""It logs the traceback of what it raises as well."""
PARENT_TAG = "mlflow.parentRunId"
SOURCE = {"mlflow.source.name": "spineage", "mlflow.source.type": "PROJECT"}
"""What its page shows as the source of a run."""
KEY_TAG, DIGEST_TAG = "spineage.address", "spineage.bundle_digest"


class Tracking:
    """One MLflow server or database, and the study's experiment in it."""

    def __init__(self, uri: str, experiment: str, artifacts: str | None) -> None:
        self.uri = uri
        self.model = model_of(experiment)
        self._client = _connect(uri)
        with _one_sentence(uri):
            experiment_there = self._client.get_experiment_by_name(experiment)
            self._experiment_id = (
                experiment_there.experiment_id
                if experiment_there
                else self._client.create_experiment(experiment, artifact_location=artifacts)
            )

    # runs

    @contextmanager
    def running(
        self,
        name: str,
        address: str,
        *,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> Iterator[str]:
        """The id of the run that makes the result at `address`; how the block ends is how the run ends:
        FINISHED, KILLED when it is interrupted, FAILED otherwise."""
        run_id = self.open_run(name, address, tags=tags, parent=parent)
        self.log_params(run_id, params or {})
        try:
            yield run_id
        except BaseException as error:
            with suppress(Exception):  # what happened is worth more than what is told of it
                self.close_run(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        self.close_run(run_id)

    def open_run(
        self,
        name: str,
        address: str,
        *,
        tags: Mapping[str, str] | None = None,
        parent: str | None = None,
    ) -> str:
        """The id of the run that made the result at `address`: the same run again after a restart.

        parent: the id of the run that it is a part of.
        """
        place = {KEY_TAG: address, **({PARENT_TAG: parent} if parent else {})}
        tags = {**SOURCE, **(tags or {}), **place}
        from mlflow.entities import RunTag

        with _one_sentence(self.uri):
            earlier_runs = self._client.search_runs(
                [self._experiment_id],
                filter_string=f"tags.`{KEY_TAG}` = '{address}'",
                max_results=1,
            )
            if earlier_runs:
                run_id = str(earlier_runs[0].info.run_id)
                self._client.update_run(run_id, status="RUNNING")
                self._client.log_batch(run_id, tags=[RunTag(k, v[:5000]) for k, v in tags.items()])
                return run_id
            run = self._client.create_run(self._experiment_id, run_name=name, tags=tags)
            return str(run.info.run_id)

    def log_params(self, run_id: str, params: Mapping[str, Any]) -> None:
        """Log nested parameters under dotted names. Logging the same values again is fine."""
        from mlflow.entities import Param

        flat = dict(_flat(params))
        with _one_sentence(self.uri):
            known = self._client.get_run(run_id).data.params
            new = [Param(k, str(v)[:6000]) for k, v in flat.items() if k not in known]
            self._client.log_batch(run_id, params=new)

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log figures, of now; those that do not exist (NaN) are left out."""
        self.log_history(run_id, [(step, metrics)])

    def log_while_it_runs(self, run_id: str, metrics: Mapping[str, float], step: int) -> bool:
        """The same; whether they could be logged. A server that is away for a while stops no training."""
        try:
            self.log_metrics(run_id, metrics, step)
        except BadStudy:
            return False
        return True

    def log_history(self, run_id: str, history: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log figures of many steps (epochs) at once."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [
            Metric(name, float(value), now, step)
            for step, metrics in history
            for name, value in metrics.items()
            if value is not None and math.isfinite(value)
        ]
        with _one_sentence(self.uri):
            for start in range(0, len(rows), 1000):
                self._client.log_batch(run_id, metrics=rows[start : start + 1000])

    def log_missing(self, run_id: str, history: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        """Log the steps of a history that the run has not: of a killed process it may have some."""
        if not history:
            return
        known = self.steps_of(run_id, next(iter(history[0][1])))
        self.log_history(run_id, [row for row in history if row[0] not in known])

    def steps_of(self, run_id: str, name: str) -> set[int]:
        """The steps at which a run has this metric."""
        with _one_sentence(self.uri):
            return {metric.step for metric in self._client.get_metric_history(run_id, name)}

    def answers(self) -> bool:
        """Whether MLflow is there, which is asked within seconds."""
        try:
            check(self.uri)
        except BadStudy:
            return False
        return True

    def log_files(self, run_id: str, files: Mapping[str, bytes], folder: str = "") -> None:
        """Keep files with the run. Raises BadStudy when it keeps them on a server of somebody else."""
        with tempfile.TemporaryDirectory(prefix="spineage-") as draft, _one_sentence(self.uri):
            place = str(self._client.get_run(run_id).info.artifact_uri)
            if is_on_a_server(place) and not is_served_by(place, self.uri):
                raise BadStudy(
                    f"the experiment of this study keeps its files at {strip_logins(place)[:200]}, which is "
                    f"not MLflow at {strip_logins(self.uri)}: nothing is sent there; ask who keeps the server"
                )
            for name, content in files.items():
                path = Path(draft) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(run_id, draft, artifact_path=folder or None)

    def close_run(self, run_id: str, status: str = "FINISHED") -> None:
        """Mark how the run ended: FINISHED, FAILED or KILLED."""
        with _one_sentence(self.uri):
            self._client.set_terminated(run_id, status)

    # models

    def register(
        self,
        run_id: str,
        files: Mapping[str, bytes],
        digest: str,
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> str:
        """Publish a bundle as a version of the study's model, make it the champion, and return the version.

        The version carries the bundle's digest, and `tags`; a bundle that is already registered gets no
        second version.
        """
        from mlflow.exceptions import MlflowException

        with _one_sentence(self.uri):
            try:
                self._client.create_registered_model(self.model)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
        version = self._version_of(digest)
        if version is None:
            self.log_files(run_id, files, "bundle")
            version = self._create_version(run_id, digest, tags or {}, description)
        with _one_sentence(self.uri):
            self._client.set_registered_model_alias(self.model, CHAMPION, version)
        return version

    def _create_version(
        self, run_id: str, digest: str, tags: Mapping[str, str], description: str
    ) -> str:
        with _one_sentence(self.uri):
            source = f"{self._client.get_run(run_id).info.artifact_uri}/bundle"
            version = self._client.create_model_version(
                self.model, source, run_id=run_id, tags={**tags, DIGEST_TAG: digest},
                description=description,
            )  # fmt: skip
            return str(version.version)

    def _version_of(self, digest: str) -> str | None:
        with _one_sentence(self.uri):
            versions = self._client.search_model_versions(
                f"name = '{self.model}' and tags.`{DIGEST_TAG}` = '{digest}'", max_results=1
            )
            return str(versions[0].version) if versions else None

    def resolve(self, name: str) -> tuple[str, str]:
        """`models:/spine-age@champion` or `models:/spine-age/3` as (version, bundle digest): asked once,
        on the driver."""
        version = self._find(name)
        number, digest = str(version.version), version.tags.get(DIGEST_TAG)
        if not re.fullmatch(r"[0-9]{1,9}", number):
            raise BadStudy(f"{name} has a version that is no number: ask who keeps the registry")
        if not digest:
            raise BadStudy(
                f"{name} is version {number}, which was not published by spineage calibrate"
            )
        if not re.fullmatch(r"[0-9a-f]{64}", str(digest)):
            raise BadStudy(
                f"{name} is version {number}, whose tag {DIGEST_TAG} is no digest of 64 hex digits: somebody "
                "changed it; ask who keeps the registry, or publish again with `spineage calibrate`"
            )
        return number, str(digest)

    def fetch(self, name: str, files: Sequence[str]) -> dict[str, bytes]:
        """These files of a registered bundle, read into memory; what is in them is for the reader to check.
        Runs no code.

        Raises BadStudy when the version names a place where this tracking server keeps nothing.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        version = self._find(name)
        with tempfile.TemporaryDirectory(prefix="spineage-") as copy, _one_sentence(self.uri):
            keeper = get_artifact_repository(
                self._place_of(name, version), tracking_uri=self.uri, registry_uri=self.uri
            )
            sizes = {entry.path: entry.file_size for entry in keeper.list_artifacts()}
            contents = {}
            for number, file in enumerate(files):
                _require_size(name, file, sizes.get(file) or 0)
                apart = Path(copy) / str(number)
                apart.mkdir()
                path = Path(keeper.download_artifacts(file, dst_path=str(apart)))
                if not path.is_file():
                    raise BadStudy(f"{name} has no file {file}: publish it again")
                _require_size(name, file, path.stat().st_size)
                contents[file] = path.read_bytes()
            return contents

    def _place_of(self, name: str, version: ModelVersion) -> str:
        """Where a version's files lie: on the tracking server, or where the version's run or its experiment
        keeps files."""
        place = str(self._client.get_model_version_download_uri(version.name, version.version))
        run_id = version.run_id
        if by_run := re.fullmatch(r"runs:/([^/]+)/(.+)", place):
            run_id = by_run[1]
            place = f"{self._client.get_run(run_id).info.artifact_uri}/{by_run[2]}"
        if is_on_a_server(place):
            is_kept = is_served_by(place, self.uri)
        else:
            is_kept = lies_within(place, self._folders_of(run_id))
        if not is_kept:
            raise BadStudy(
                f"{name} names {strip_logins(place)[:200]} as the place of its files, which is not where "
                f"MLflow at {strip_logins(self.uri)} keeps those of its run: nothing is fetched from there; "
                "ask who keeps the registry, or publish again with `spineage calibrate`"
            )
        return place

    def _folders_of(self, run_id: str | None) -> list[str]:
        if not run_id:
            return []
        run = self._client.get_run(run_id).info
        return [
            str(run.artifact_uri),
            str(self._client.get_experiment(run.experiment_id).artifact_location),
        ]

    def _find(self, name: str) -> ModelVersion:
        model, at, alias = name.removeprefix("models:/").partition("@")
        if not at:
            model, _, number = model.partition("/")
        if not model or not (alias if at else number):
            raise BadStudy(
                f"{name!r} names no model: expected models:/{MODEL}@{CHAMPION} or models:/{MODEL}/1"
            )
        from mlflow.exceptions import MlflowException

        with _one_sentence(self.uri):
            try:
                if at:
                    return self._client.get_model_version_by_alias(model, alias)
                return self._client.get_model_version(model, number)
            except MlflowException as error:
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                raise NotYet(
                    f"{name} is not in the registry: publish a model with `spineage calibrate`"
                ) from None


def model_of(study: str) -> str:
    """What a study's model is registered as: studies that share a registry are no champions of each other.
    A study that was given no name of its own has the plain one."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", study).strip("-")
    return MODEL if name in ("spineage", "") else f"{MODEL}-{name}"


def open_tracking(uri: str | None, workspace: Store, experiment: str) -> Tracking:
    """The tracking of a study: its server, or sqlite in a workspace on disk.

    Raises BadStudy within seconds when a server does not answer.
    """
    address = tracking_uri(uri, workspace)
    folder = _folder_of_database(address)
    if folder is None:
        return Tracking(address, experiment, None)
    folder.mkdir(parents=True, exist_ok=True)
    files = f"file://{folder}/mlartifacts"
    with _one_sentence(address):
        require_database(address)
        follow_move(address, files)
    return Tracking(address, experiment, files)


def _folder_of_database(address: str) -> Path | None:
    """Where a sqlite file lies; None for a server. MLflow itself would keep files in whatever folder it is
    called from."""
    path = address.removeprefix(SCHEME)
    return None if path == address else Path(path).absolute().parent


def tracking_uri(uri: str | None, workspace: Store) -> str:
    """The address that is named, or sqlite in the workspace; BadStudy for a workspace on object storage,
    where a database cannot live."""
    if uri:
        return uri
    if not workspace.is_local:
        raise BadStudy(
            "the workspace is on object storage, where MLflow's database cannot live: set cluster.mlflow to "
            "the address of a server"
        )
    return f"{SCHEME}{workspace.root}/mlflow.db"


def check(uri: str) -> None:
    """Raise BadStudy within seconds when there is no MLflow at this address; writes nothing."""
    client = _connect(uri)
    with _one_sentence(uri):
        client.search_experiments(max_results=1)


def _connect(uri: str) -> MlflowClient:
    """A client that gives up in seconds and keeps its own talk to itself; what the environment says goes
    first."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    _require_answer(uri)
    require_database(uri)
    from mlflow.tracking import MlflowClient

    for talker, level in (("mlflow", "WARNING"), ("alembic", "WARNING"), *QUIET):
        logging.getLogger(talker).setLevel(level)
    with _one_sentence(uri):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def _require_answer(uri: str) -> None:
    """Ask an http server for its health once: MLflow's own client would retry for minutes."""
    if not uri.startswith(("http://", "https://")):
        return
    try:
        address = strip_logins(uri).rstrip("/")  # urllib takes a login for a port, and quotes it
        urllib.request.urlopen(f"{address}/health", timeout=ANSWER_WITHIN_S).close()
    except urllib.error.HTTPError:
        return  # it answers; whether it lets us in is asked next
    except (OSError, ValueError, HTTPException) as error:
        reason = without_logins(_reason(error))
        raise BadStudy(
            f"no MLflow server answers at {strip_logins(uri)} ({reason}): start one, or leave "
            "cluster.mlflow empty to use sqlite in the workspace"
        ) from None


@contextmanager
def _one_sentence(uri: str) -> Iterator[None]:
    """What MLflow refuses, or cannot reach, becomes one sentence."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except BadStudy:
        raise
    except (MlflowException, OSError) as error:
        if "database is locked" in str(error):
            raise BadStudy(locked(uri)) from None
        sentence = without_logins(" ".join(str(error).split()))[:300]
        raise BadStudy(f"MLflow at {strip_logins(uri)} refuses: {sentence}") from None
    except Exception as error:  # its client raises what its parsers of answers raise
        raise BadStudy(
            f"MLflow at {strip_logins(uri)} answers what its client cannot read ({type(error).__name__}): "
            "is cluster.mlflow the address of an MLflow server of a version that fits?"
        ) from None


def _require_size(name: str, file: str, num_bytes: int) -> None:
    if num_bytes > MAX_FILE_BYTES:
        raise BadStudy(
            f"{file} of {name} is larger than {MAX_FILE_BYTES:,} bytes, which no bundle is: ask who keeps "
            "the registry"
        )


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
