"""Masks that somebody has drawn already, and which scan each belongs to.

They are found by their names, which the tools make of the image's (BIDS entities, or what stands before the
tool's own endings), or named by a table. Names and places are private: they may name people.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Final

import fsspec

from spineage.errors import BadScan, BadStudy
from spineage.io import nifti
from spineage.io.files.described import IMAGE_ENDS
from spineage.io.files.listing import LOCAL_SCHEMES, lost_since_ingest, open_bytes, walk_input
from spineage.io.files.seals import seal_of
from spineage.io.files.seen import Seen
from spineage.io.people.csv_shape import read_table_bytes, text_table
from spineage.io.people.identity import Keyed
from spineage.io.storage.trouble import reason_of
from spineage.science.scan.geometry import Volume, reorient
from spineage.uris import strip_logins

KEY: Final = "segment.masks"
PARTS: Final = {
    "spineps-veridah": (r"seg-vert", r"seg-(spine|subreg)"),
    "totalsegmentator": (r"vertebrae_mr", r"total_mr"),
}
"""Of tools whose mask is two files: what the names, or folders, of the first and of the second say."""
FINAL: Final = "step2_output"
"""TotalSpineSeg's folder of final labels, beside those of its earlier steps."""
NOT_OF_IMAGES: Final = frozenset({"seg", "mod", "label", "desc", "space", "res", "den", "chunk"})
"""Entities that a mask's name has and its image's has not, or that number the stations of one scan."""
ENDINGS: Final = re.compile(
    r"_(0000|T2w|vertebrae_mr|total_mr|seg-\w+|d?seg|msk|mask|labels?|levels|step2)$"
)
CONTRAST: Final = re.compile(
    r"(?:mod-)?([A-Za-z0-9]*(?:T1|T2|T2star|PD|STIR|FLAIR)w?)", re.IGNORECASE
)
"""What a BIDS name says of the image: its suffix, or the entity `mod-` of a mask."""
COLUMNS: Final = ("mask", "tissues", "scan", "person", "exam")
STAT_THREADS: Final = 16

Name = str | tuple[frozenset[str], str]
"""The stem, or the entities of BIDS and the contrast, "" where the name says none."""
Drawn = tuple[str, ...]
"""Where the files of one mask lie: of tools that need two, the named one first."""


@dataclass(frozen=True)
class Given:
    """Masks by what they are called, by place of a file of their scan, and by person and exam as hashed."""

    by_name: Mapping[Name, Drawn] = field(default_factory=dict)
    by_place: Mapping[str, Drawn] = field(default_factory=dict)
    by_person: Mapping[tuple[str, str], Drawn] = field(default_factory=dict)
    num_doubled: int = 0

    @property
    def num(self) -> int:
        return len({*self.by_name.values(), *self.by_place.values(), *self.by_person.values()})

    def of(self, images: Sequence[str], person_id: str, exam_id: str) -> Drawn:
        """The mask of a scan of these files, () when there is none."""
        for image in images if self.by_place else ():
            found = next(
                (self.by_place[at] for at in _and_above(image) if at in self.by_place), None
            )
            if found:
                return found
        for key in ((person_id, exam_id), (person_id, "")):
            if key in self.by_person:
                return self.by_person[key]
        names = {_name_of(image) for image in images if image.endswith(IMAGE_ENDS)}
        if len(names) != 1:
            return ()
        name = names.pop()
        plain = name if isinstance(name, str) else (name[0], "")
        return self.by_name.get(name) or self.by_name.get(plain, ())


def list_given(location: str) -> list[Seen]:
    """The mask files of a folder or pattern, or of a table the table itself and the files that it names, each
    with its size and stamp. Raises BadStudy when there are none."""
    if location.endswith(".csv"):
        data = read_table_bytes(location, KEY)
        table = text_table(data, KEY, KEY)
        columns = [table[name] for name in ("mask", "tissues") if name in table]
        named = sorted({_below(_folder_of(location), name) for c in columns for name in c if name})
        with ThreadPoolExecutor(STAT_THREADS) as pool:
            return [Seen("", location, len(data), seal_of([data], b"")), *pool.map(_stat, named)]
    base, pattern = _folder_and_pattern(location)
    try:
        files = [s for s in walk_input(base) if s.name.endswith(IMAGE_ENDS) and not s.trouble]
    except BadStudy as error:
        raise BadStudy(str(error).replace("inputs.scans", "segment.masks")) from None
    if pattern:
        files = [seen for seen in files if fnmatch.fnmatchcase(seen.name, pattern)]
    final = [seen for seen in files if FINAL in PurePosixPath(seen.name).parts[:-1]]
    if not files:
        raise BadStudy(f"segment.masks: no NIfTI file in {strip_logins(location)}")
    return final or files


def find_given(location: str, tool: str, scans: str, keyed: Keyed) -> Given:
    """All masks of `segment.masks`.

    tool: as `segment.masks_of` names it; scans: `inputs.scans`, below which a table's column `scan` lies, and
    in which a name that is no BIDS name must be one file's: the mask of somebody's `t2.nii.gz` is not
    another's. Raises BadStudy when there are none, or the table does not say which is whose.
    """
    if location.endswith(".csv"):
        return _from_table(location, tool, scans, keyed)
    parts: dict[Name, dict[int, list[str]]] = {}
    for seen in list_given(location):
        number = _part_of(seen.name, tool)
        if number is not None:
            parts.setdefault(_name_of(seen.name), {}).setdefault(number, []).append(seen.location)
    num_parts = len(PARTS.get(tool, ("",)))
    whole = {name: found for name, found in parts.items() if len(found) == num_parts}
    shared = _shared_names(scans) if any(isinstance(name, str) for name in whole) else set()
    doubled = {name for name, found in whole.items() if any(len(one) > 1 for one in found.values())}
    doubled |= shared & whole.keys()
    return Given(
        by_name={
            name: tuple(found[n][0] for n in range(num_parts))
            for name, found in whole.items()
            if name not in doubled
        },
        num_doubled=len(doubled),
    )


def seals_of(drawn: Drawn, keyed: Keyed) -> list[dict[str, str]]:
    """Where the files of a mask lie, with the seal of each and its key. Raises BadStudy for one that cannot
    be read now: what is not sealed could be exchanged unseen."""
    return [{"location": at, "seal": _seal(at, keyed), "key": keyed.seal_key.hex()} for at in drawn]


def read_given(file: Mapping[str, Any]) -> Volume:
    """The values of a mask's file as they are, [R, A, S]. Raises BadScan: changed_since_ingest, unavailable,
    and what no NIfTI volume is."""
    try:
        voxels, grid = nifti.read_voxels(file["location"], file["seal"], bytes.fromhex(file["key"]))
    except OSError as error:
        raise lost_since_ingest(error) from None
    return reorient(voxels, grid.affine_RAS)


def require_one_each(drawn: Iterable[str]) -> None:
    """drawn: for each scan that has a mask the JSON of its files. Raises BadStudy when two share one."""
    shared = [text for text, num in Counter(drawn).items() if num > 1]
    if shared:
        raise BadStudy(
            f"segment.masks: {len(shared)} masks fit more than one scan each by their names: name them by a "
            f"table of {', '.join(COLUMNS)}"
        )


def _seal(location: str, keyed: Keyed) -> str:
    try:
        return seal_of([open_bytes(location, nifti.MAX_BYTES)], keyed.seal_key)
    except OSError as error:
        raise BadStudy(
            f"segment.masks: a mask cannot be read ({reason_of(error)}): run again"
        ) from None
    except BadScan as fault:
        raise BadStudy(f"segment.masks: a mask cannot be read ({fault})") from None


def _stat(location: str) -> Seen:
    """Size and stamp of a file that a table names."""
    try:
        if "://" not in location:
            status = os.stat(location)
            stamp = f"{status.st_mtime_ns}:{status.st_ctime_ns}"
            return Seen("", location, status.st_size, stamp)
        filesystem, path = fsspec.core.url_to_fs(location)
        about = {k: str(v) for k, v in sorted(filesystem.info(path).items()) if k != "name"}
        return Seen("", location, int(about.get("size") or 0), str(about))
    except FileNotFoundError:
        raise BadStudy("segment.masks: the table names a file that is not there") from None
    except Exception as error:  # every protocol raises its own
        raise BadStudy(
            f"segment.masks: a file that the table names cannot be looked at ({type(error).__name__})"
        ) from None


def _shared_names(scans: str) -> set[Name]:
    """Names without BIDS entities that several images of the input have."""
    seen = (one.name for one in walk_input(scans) if one.name.endswith(IMAGE_ENDS))
    num = Counter(name for name in map(_name_of, seen) if isinstance(name, str))
    return {name for name, n in num.items() if n > 1}


def _part_of(name: str, tool: str) -> int | None:
    """Which of a tool's files it is, None for one that is not asked for."""
    patterns = PARTS.get(tool)
    if patterns is None:
        return 0
    return next((n for n, pattern in enumerate(patterns) if re.search(pattern, name)), None)


def _name_of(location: str) -> Name:
    """What an image and its mask have in common in their names."""
    base = PurePosixPath(location).name
    stem = base.removesuffix(".gz").removesuffix(".nii")
    if stem.startswith("sub-"):
        parts = stem.split("_")
        entities = [part for part in parts if "-" in part]
        said = [match[1] for part in parts if (match := CONTRAST.fullmatch(part))]
        own = frozenset(one for one in entities if one.split("-")[0] not in NOT_OF_IMAGES)
        return own, said[0].lower() if said else ""
    while (shorter := ENDINGS.sub("", stem)) not in (stem, ""):
        stem = shorter
    return stem


def _folder_and_pattern(location: str) -> tuple[str, str]:
    """The folder before the first wildcard, and the pattern of names below it; "" when there is none."""
    parts = location.split("/")
    first = next((n for n, part in enumerate(parts) if re.search(r"[*?\[]", part)), None)
    if first is None:
        return location, ""
    return "/".join(parts[:first]) or ("/" if location.startswith("/") else "."), "/".join(
        parts[first:]
    )


def _from_table(location: str, tool: str, scans: str, keyed: Keyed) -> Given:
    table = text_table(read_table_bytes(location, KEY), KEY, KEY)
    unknown = [name for name in table if name not in COLUMNS]
    needs_two = tool in PARTS
    if unknown or "mask" not in table or needs_two != ("tissues" in table):
        raise BadStudy(
            f"segment.masks: the table needs a column mask, {'' if needs_two else 'no column '}tissues "
            f"({tool}), and scan, or person with exam; it may have no other"
        )
    if "scan" not in table and "person" not in table:
        raise BadStudy("segment.masks: the table needs a column scan, or person")
    folder, base = _folder_of(location), _as_listed(scans)
    by_place: dict[str, Drawn] = {}
    by_person: dict[tuple[str, str], Drawn] = {}
    for row in table.to_dict("records"):
        drawn = tuple(_below(folder, row[part]) for part in ("mask", "tissues") if part in row)
        place = _below(base, row["scan"]).rstrip("/") if row.get("scan") else ""
        key = (
            keyed.person(row.get("person", "")),
            keyed.exam(row["exam"]) if row.get("exam") else "",
        )
        if not place and not row.get("person"):
            raise BadStudy("segment.masks: a row of the table names neither scan nor person")
        if not all(drawn) or (place in by_place if place else key in by_person):
            raise BadStudy(
                "segment.masks: a row of the table names no mask, or a scan a second time"
            )
        if place:
            by_place[place] = drawn
        else:
            by_person[key] = drawn
    return Given(by_place=by_place, by_person=by_person)


def _as_listed(scans: str) -> str:
    """A folder or URI as the listing of its files spells it."""
    scheme = next((s for s in LOCAL_SCHEMES if scans.startswith(s)), "")
    if "://" not in scans or scheme:
        return os.path.abspath(scans.removeprefix(scheme))
    filesystem, path = fsspec.core.url_to_fs(scans)
    return str(filesystem.unstrip_protocol(path)).rstrip("/")


def _and_above(location: str) -> Iterator[str]:
    while location:
        yield location
        location = location.rpartition("/")[0]


def _folder_of(location: str) -> str:
    return location.rpartition("/")[0]


def _below(folder: str, name: str) -> str:
    if "://" in name or name.startswith("/") or not name or not folder:
        return name
    return f"{folder.rstrip('/')}/{name}"
