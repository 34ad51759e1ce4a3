"""Ingest: read headers in parallel, group files into series and series into scans, refuse with a reason.

Headers are kept on storage (`scan.py`); then each person's are brought together and judged
(`groups.py`). Neither step holds the archive in memory. The folder holds one generation of tables
per state of the input (names, sizes and times of all files, the participants table, the overrides); a
pointer names the current one and is replaced last, so that a reader sees either the old generation or the
new one, whole. Where the input lies is no part of the address, for an archive may move: so each place has a
pointer of its own, and studies of several archives can share a workspace.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.people.overrides import read_overrides
from spineage.io.people.tables import digest_of_file
from spineage.io.people.words import list_unknown_sexes, tell_open_end
from spineage.io.scans.given import list_given, require_one_each
from spineage.io.storage import pointers
from spineage.io.storage.parquet import read_parts
from spineage.io.storage.parts import read_sound
from spineage.run.context import Context, digest_of
from spineage.run.counts import Counts, read_counts
from spineage.run.plan import Plan
from spineage.run.rates import measured_on, rates_of, scaled_s
from spineage.stages.ingest.groups import check_tables, given_of, judge_groups
from spineage.stages.ingest.prune import prune
from spineage.stages.ingest.scan import Scanned, count_files, scan_headers
from spineage.tables import KEY, SOURCES

SCHEMA = 6  # raise it when the same headers give other tables
PARTICIPANTS = ("in_participants", "at_other_exams", "other_sex", "other_age")
"""Counts of scans by what the participants table says of them."""


def recipe(context: Context) -> dict[str, Any]:
    """The ingest section, and which key: its name, never the key."""
    inputs = context.study.inputs
    return {
        "schema": SCHEMA,
        **context.study.recipe("ingest"),
        "exam_key": inputs.exam_key,
        "max_age_shown": inputs.max_age_shown,
        "key": Keyed(load_key(context.study)).key_id,
    }


def run(context: Context) -> Counts:
    """Write the tables of the input as it is now; nothing is read again when it has not changed.

    Raises BadStudy for a missing or empty input, a missing key, or a participants or overrides table that
    does not fit.
    """
    keyed = Keyed(load_key(context.study))
    _refuse_workspace_in_input(context)
    check_tables(context.study, keyed)
    generation = read_sound(lambda: _judged(context, keyed), context.store, context.say)
    counts = _flat_counts(context, f"{context.folder('ingest')}/{generation}")
    _tell_overrides(context, counts.pop("overrides", 0))
    _tell_participants(
        context, {name: counts.pop(name, 0) for name in PARTICIPANTS}, counts["scans"]
    )
    pointer = json.dumps({"generation": generation}).encode()
    context.store.point(context.pointer("ingest"), pointer)
    context.forget()
    _tell_masks(context, keyed, f"{context.folder('ingest')}/{generation}")
    if num_removed := prune(context.store, context.folder("ingest")):
        context.say(
            f"  removed {num_removed} states of the input that nothing has named for a week"
        )
    return read_counts(counts)


def plan(context: Context, before: Collection[str] = ()) -> Plan:
    """Of the files of the input as it is listed now; what they hold is known when they are read."""
    num = count_files(context, Keyed(load_key(context.study)))
    rates = rates_of(context.store, ["ingest"])
    seconds, measured = scaled_s(num["read"], rates), measured_on(rates)
    return Plan("ingest", num["known"], num["read"], "files", seconds=seconds, measured=measured)


def _flat_counts(context: Context, folder: str) -> Counter[str]:
    counts = {name: n for name, n in context.done(folder).items() if name != "parts"}
    if "scans" not in counts or not all(isinstance(n, int) for n in counts.values()):
        remedy = f"remove the folder {folder} and run `spineage ingest` again"
        raise pointers.damaged(f"{folder}/done.json", remedy)
    return Counter(counts)


def _judged(context: Context, keyed: Keyed) -> str:
    """Read what is new, judge what has changed; the generation that holds it. Raises DamagedParts."""
    scanned = scan_headers(context, keyed)
    context.work_done = scanned.num_read
    if 0 < scanned.num_read < scanned.num_files:
        context.say(f"  read {scanned.num_read} of {scanned.num_files} files, the others are known")
    generation = _generation(context, scanned)
    folder = f"{context.folder('ingest')}/{generation}"
    if not context.store.exists(f"{folder}/done.json"):
        counts = judge_groups(context, keyed, scanned, folder)
        require_one_each(_drawn(context, folder))
        context.finish(folder, counts)
    return generation


def _drawn(context: Context, folder: str) -> list[str]:
    """Of each scan of a generation that has a mask the JSON of its files."""
    if not context.study.segment.masks:
        return []
    paths = context.store.list(f"{folder}/{SOURCES.name}", ".parquet")
    table = read_parts(context.store, paths, SOURCES, ["masks_json"])
    return [str(text) for text in table.column("masks_json").to_pylist() if text != "[]"]


def _refuse_workspace_in_input(context: Context) -> None:
    """A run would find the files of the run before."""
    scans = context.study.inputs.scans
    if context.store.is_local and scans and "://" not in scans:
        inside = Path(context.store.root).resolve()
        if inside.is_relative_to(Path(scans).resolve()):
            raise BadStudy("the workspace lies inside inputs.scans: put it beside")


def _generation(context: Context, scanned: Scanned) -> str:
    """Names a state of the input."""
    inputs = context.study.inputs
    tables = {"participants": inputs.participants, "overrides": inputs.overrides}
    return digest_of(
        {
            "headers": digest_of([scanned.folder, *scanned.parts]),
            **{name: digest_of_file(at, name) if at else "" for name, at in tables.items()},
            **_masks(context),
            "sites": sorted(
                context.study.cohort.test_sites
            ),  # shown as they are, however few people
        }
    )


def _masks(context: Context) -> dict[str, Any]:
    """What names the masks that are given: where they lie, their names, sizes and times, and the tool."""
    section = context.study.segment
    if not section.masks:
        return {}
    seen = [[one.name, one.location, one.bytes, one.stamp] for one in list_given(section.masks)]
    return {"masks": digest_of({"files": seen}), "masks_of": section.masks_of}


def _tell_masks(context: Context, keyed: Keyed, folder: str) -> None:
    """Say so when scans have no mask, or masks no scan."""
    given = given_of(context.study, keyed)
    if given is None:
        return
    num_scans, num_used = len(context.read("sources", KEY)), len(_drawn(context, folder))
    if num_scans > num_used:
        context.say(f"  {num_scans - num_used} of {num_scans} scans have no mask in segment.masks")
    if given.num > num_used:
        context.say(
            f"  {given.num - num_used} of {given.num} masks of segment.masks belong to no scan"
        )
    if given.num_doubled:
        context.say(
            f"  {given.num_doubled} names in segment.masks have several masks or images, and none is taken: "
            "narrow them down by a pattern, or name them by a table"
        )


def _tell_participants(context: Context, num: Mapping[str, int], num_scans: int) -> None:
    """Say so when the table has nothing on some scans' people, or contradicts the headers: ids of another
    kind match nobody, and ids that slipped by a row match others."""
    inputs = context.study.inputs
    if not inputs.participants:
        return
    for trouble in (list_unknown_sexes(inputs.participants), tell_open_end(inputs.participants)):
        if trouble:
            context.say(f"  participants: {trouble}")
    if num_unknown := num_scans - num["in_participants"] - num["at_other_exams"]:
        of_scans = f"{num_unknown} of {num_scans} scans"
        context.say(f"  the participants table has nothing on the people of {of_scans}")
    if num["at_other_exams"]:
        context.say(
            f"  the participants table has the people of {num['at_other_exams']} of {num_scans} scans, but "
            f"not these exams, so none of its values: its column exam must hold the {inputs.exam_key}"
        )
    for name, what in (
        ("other_sex", "another sex than the header"),
        ("other_age", "an age over a year from the header's"),
    ):
        if num[name]:
            context.say(
                f"  the participants table gives {what} in {num[name]} of {num_scans} scans: are its rows "
                "the right people's? `spineage show series` says which"
            )


def _tell_overrides(context: Context, num_used: int) -> None:
    """Say so when a decision names no series: a mistyped id must not look obeyed."""
    location = context.study.inputs.overrides
    wanted = read_overrides(location) if location else {}
    if num_unknown := len(wanted) - num_used:
        context.say(f"  {num_unknown} of {len(wanted)} overrides name no series of this input")
