"""What can be known before any work is said before any work: by the runner, and by the doctor."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from spineage.errors import BadStudy
from spineage.io.models import tracking
from spineage.io.models.database import require_database
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.tables import read_findings, read_lifestyle, read_splits
from spineage.io.storage.store import Store
from spineage.run.context import Context
from spineage.segmenter.folder import require_segmenter
from spineage.study import Study

COPY: Final = "/runtime_resources/working_dir_files/"
"""In the path of what `ray job submit --working-dir` unpacked; named by its content, and collected."""
RELATIVE_DATABASE: Final = "sqlite:///"


def check_before(context: Context, stages: Collection[str]) -> None:
    """Raise BadStudy for what would stop one of these stages whatever the stages before it find."""
    for names, check in CHECKS:
        if names & set(stages):
            check(context)


def check_sites(context: Context) -> None:
    """Raise BadStudy when cohort.test_sites names a site where nobody was scanned; needs ingest's tables."""
    wanted = context.study.cohort.test_sites
    sites = sorted(set(context.read("scans", ["site"])["site"].dropna())) if wanted else []
    for site in wanted:
        if site not in sites:
            near = difflib.get_close_matches(site, sites, n=1, cutoff=0.0)
            raise BadStudy(
                f"cohort.test_sites names {site!r}, where nobody was scanned"
                + (f": did you mean {near[0]!r}?" if near else "; no scan says where it was made")
            )


def check_findings(context: Context) -> None:
    """The cohort's rule has the findings it needs, and they can be read."""
    location = findings_of(context.study)
    if location and not context.is_done("conditions"):
        read_findings(location, Keyed(load_key(context.study)))


def findings_of(study: Study) -> str | None:
    """Where the findings lie; None when there are none and the cohort's rule needs none, else BadStudy."""
    location, rule = study.inputs.findings, study.cohort.rule
    if not location and rule != "everyone":
        raise BadStudy(
            f"inputs.findings is not set, and cohort.rule {rule!r} needs findings: name the table, or set "
            "cohort.rule to 'everyone'"
        )
    return location


def check_splits(context: Context) -> None:
    """The list of splits that is to be kept can be read."""
    if location := context.study.inputs.splits:
        read_splits(location)


def check_model(context: Context) -> None:
    """The segmenter is whole, and one that `segment` takes."""
    require_segmenter(context.study.segment)


def check_bundle(context: Context) -> None:
    """A model that is named by its folder is there, and whole."""
    name = context.study.score.model
    if name and not name.startswith("models:/"):
        from spineage.io.models.bundle import read_bundle  # torch takes a second to import

        read_bundle(Store(name), "")


def check_registry(study: Study) -> None:
    """MLflow answers at the address that is named, or can live in the workspace."""
    uri = tracking.tracking_uri(study.cluster.mlflow, Store(study.workspace))
    if study.cluster.mlflow:
        tracking.check(uri)
    else:
        require_database(uri)


def check_scans(context: Context) -> None:
    """Once ingest has run there are scans to work on."""
    if context.has("scans"):
        context.require_scans(len(context.read("scans", ["scan_id"])))


def check_lifestyle(context: Context) -> None:
    """The factors that are to be tested are in the table."""
    if location := context.study.inputs.lifestyle:
        read_lifestyle(location, Keyed(load_key(context.study)), context.study.associate.lifestyle)


def require_lasting(places: Mapping[str, Any]) -> None:
    """Raise BadStudy for the first place in the copy of its folder that a submitted job runs in, and that
    Ray throws away. places: by key, sections within; what is
    no text is no place."""
    for key, place in _flat(places):
        if _is_thrown_away(place):
            raise BadStudy(
                f"{key} is relative, and a submitted job runs in a copy of the folder that Ray removes: "
                "write an absolute path that every node sees, or a URI such as s3://bucket/folder"
            )


def _is_thrown_away(place: str) -> bool:
    if place.startswith(RELATIVE_DATABASE):
        place = os.path.abspath(place.removeprefix(RELATIVE_DATABASE))
    return COPY in f"{Path(place)}/"


def _flat(places: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for key, value in places.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        elif isinstance(value, str):
            yield f"{before}{key}", value


CHECKS: tuple[tuple[set[str], Callable[[Context], None]], ...] = (
    ({"conditions", "cohort"}, check_findings),
    ({"cohort"}, check_splits),
    ({"segment", "prepare", "score"}, check_model),
    ({"score"}, check_bundle),
    ({"associate"}, check_lifestyle),
)
