"""What a series is, measured from the headers of its files: contrast, planes, stack, place.

`accept.py` asks afterwards whether that is a sagittal T2 of the spine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spineage.errors import BadScan
from spineage.science.scan.slices import (
    Frame,
    SliceGrid,
    arrange,
    is_parallel,
    orientations,
    plane_of,
)

MOST_PLANNING = 3
LEAST_TIMES = 3
"""How many slices of another place or size are no part of a stack, which has so many times more."""
ISOTROPIC_RATIO = 1.25  # voxel edges that agree within a quarter were not sliced in any plane


@dataclass(frozen=True)
class Physics:
    """How the picture was made; None and empty mean that the header does not say."""

    modality: str = "MR"
    is_colour: bool = False
    image_type: frozenset[str] = frozenset()  # defined terms of IMAGE_TYPES only
    sequence: frozenset[str] = frozenset()  # of SE, GR, EP, IR
    repetition_ms: float | None = None
    inversion_ms: float | None = None
    is_fat_suppressed: bool = False
    has_text_burned_in: bool = False  # the header says so: BurnedInAnnotation YES


@dataclass(frozen=True)
class About:
    """Whose picture it is, in hashes, and where and when it was made; nothing here names a person.

    age_years: of the header's PatientAge; age_by_dates_years: study date minus birth date; to a tenth;
    age_is_withheld: there was one, above what the study shows.
    born: codes that are equal where the year and the day of birth are, for one person; a code may be "".
    label_of: a code of the data set whose label person_id stands for; None where ids hold everywhere.
    study_day, acquired_s: the day, None when unknown, and seconds from its begin, both moved by an offset of
    the person's own: only what is compared within one person means anything; has_time: the header says when.
    """

    person_id: str
    exam_id: str
    frame_of_reference: str | None = None
    age_years: float | None = None
    age_by_dates_years: float | None = None
    age_is_withheld: bool = False
    born: tuple[str, str] | None = None
    label_of: str | None = None
    sex: str | None = None
    site: str | None = None
    vendor: str | None = None
    model: str | None = None
    field_tesla: float | None = None
    study_day: int | None = None
    acquired_s: float = 0.0
    has_time: bool = False
    is_phantom: bool = False


@dataclass(frozen=True)
class Header:
    """What one file says about its pictures.

    object_id: equal for two copies of one object; digest: the file's seal, see `io/files/seals.py`.
    words, study_words, body_part: which words of `words.py` the series' and the study's descriptions and
    the attribute of that name hold.
    chunk_of: what several NIfTI files of one session are the stations of. note: what was made of its series.
    frames: DICOM slices; grid: a NIfTI volume, value_fault what its values say against it, pixels a code that
    is equal for equal voxels at any order of axes, is_derived whether it lies below `derivatives` of BIDS.
    """

    file_id: str
    kind: str  # dicom or nifti
    series_id: str
    object_id: str
    digest: str
    about: About
    physics: Physics
    words: frozenset[str] = frozenset()
    study_words: frozenset[str] = frozenset()
    body_part: frozenset[str] = frozenset()
    frames: tuple[Frame, ...] = ()
    grid: SliceGrid | None = None
    echo_ms: float | None = None
    value_fault: tuple[str, str] | None = None
    chunk_of: str | None = None
    note: str = ""
    pixels: str = ""
    is_derived: bool = False


_PLAIN_NOT_IMAGES = frozenset(
    {"PHASE", "PHASE MAP", "P", "R", "I", "REAL", "IMAGINARY", "FIELD MAP", "B0 MAP", "ADC", "FA", "TRACEW",
     "T1 MAP", "T2 MAP", "T2_STAR MAP", "T2STAR MAP", "R2 MAP", "R2_STAR MAP", "R2STAR MAP",
     "PROTON DENSITY MAP", "DIFFUSION_ANISO", "MIP", "MIN IP", "PROJECTION IMAGE", "SUBTRACTION",
     "SCREEN SAVE", "MASK", "ERROR", "VELOCITY MAP", "FAT FRACTION", "FAT_FRAC", "FF", "PDFF"}
)  # fmt: skip
NOT_IMAGES = _PLAIN_NOT_IMAGES | {term.replace(" ", "_") for term in _PLAIN_NOT_IMAGES}
"""Defined terms and vendors' own, which write them with blanks or underscores."""
FAT_SUPPRESSION = frozenset({"FS", "FATSAT", "FAT_SAT", "FATSUP", "SPAIR", "SPIR", "STIR"})
"""Of ScanOptions: the defined term, and what vendors write."""
TILED = frozenset({"MOSAIC", "VFRAME"})
DIXON_PARTS = {
    "WATER": "water", "W": "water", "FAT": "fat", "F": "fat",
    "IN_PHASE": "in phase", "IP": "in phase", "INPHASE": "in phase",
    "OUT_PHASE": "opposed", "OPP_PHASE": "opposed", "OP": "opposed", "OPPOSED_PHASE": "opposed",
    "OUT_OF_PHASE": "opposed",
}  # fmt: skip
"""Terms of ImageType and FrameType by which vendors tell the images of a Dixon acquisition apart."""
IMAGE_TYPES = NOT_IMAGES | TILED | DIXON_PARTS.keys() | {"LOCALIZER"}
"""The values of ImageType that are looked at; the reader drops any other."""


def dixon_part(image_type: frozenset[str], words: frozenset[str]) -> str:
    """Which image of a Dixon acquisition it is: water, fat, opposed, in phase, "" for none or an unnamed one.

    ImageType says it where it says one; else the description or name, which may list several: then it says
    nothing.
    """
    by_type = {DIXON_PARTS[term] for term in image_type & DIXON_PARTS.keys()}
    by_name = {part for part in ("water", "fat", "opposed", "in phase") if part in words}
    said = by_type or by_name
    return said.pop() if len(said) == 1 else ""


MODALITIES = frozenset(
    {"MR", "CT", "CR", "DX", "US", "PT", "NM", "XA", "RF", "MG", "OT", "SC", "SR", "SEG", "PR", "KO", "REG",
     "DOC", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTIMAGE", "ECG", "ES", "GM", "SM", "XC", "BMD", "PX"}
)  # fmt: skip
"""Defined terms of Modality (PS3.3 C.7.3.1.1.1) that are kept as they are."""


def modality_of(text: str) -> str:
    """The defined term, "" when there is none, "other" for any other text, which may be anything."""
    term = text.strip().upper()
    return term if term in MODALITIES or not term else "other"


MAX_MS = 1e6
"""A quarter of an hour; TR is some seconds."""


def milliseconds_of(value: float | None) -> float | None:
    """A time of a pulse sequence; None for what no sequence has: a number may be a date, too."""
    return value if value is not None and 0 <= value <= MAX_MS else None


@dataclass(frozen=True)
class SeriesLimits:
    """What counts as a sagittal T2 of the spine: the `ingest` section of the study, which says why."""

    min_echo_ms: float
    min_repetition_ms: float
    max_tilt_degrees: float
    min_slices: int
    max_slice_gap_error_mm: float
    min_extent_mm: float
    max_width_mm: float
    max_pixel_mm: float
    max_slice_mm: float


@dataclass(frozen=True)
class View:
    """All that was measured on one series before it is judged.

    first: of the files that hold the slices to judge the first by its object's id, never by its name; files:
    one of those files for each of the different things that they say of themselves, in words and times.
    planes: one for each orientation met; grid: of the stack, or of its first slice where stack_fault says
    why there is none; slices: (file_id, frame number) in order along the stack.
    """

    first: Header
    files: tuple[Header, ...]
    headers: tuple[Header, ...]
    num_slices: int
    num_images: int  # frames that are magnitude images
    planes: tuple[str, ...] = ()
    is_isotropic: bool = False
    has_geometry: bool = True
    echo_ms: float | None = None
    in_plane_mm: float | None = None
    gap_mm: float | None = None
    grid: SliceGrid | None = None
    slices: tuple[tuple[str, int], ...] = ()
    stack_fault: BadScan | None = None
    num_planning: int = 0  # images that lie otherwise than the stack, left out

    @property
    def plane(self) -> str:
        """The plane, "unknown" when there are several or none."""
        return self.planes[0] if len(set(self.planes)) == 1 else "unknown"


Slice = tuple[str, Frame]  # file_id and where it lies


def has_text_burned_in(view: View) -> bool:
    """Whether any file's header says that text, perhaps a name, is part of the picture."""
    return any(header.physics.has_text_burned_in for header in view.headers)


def look(headers: Sequence[Header], limits: SeriesLimits) -> View:
    """Measure one series; `headers` are all its files in any order, at least one."""
    files = tuple(sorted(headers, key=lambda header: (header.object_id, header.file_id)))
    return _look_at_volume(files, limits) if files[0].grid else _look_at_slices(files, limits)


def _look_at_volume(files: tuple[Header, ...], limits: SeriesLimits) -> View:
    """A NIfTI file: the slice axis is the one with clearly the longest voxel edge.

    Isotropic voxels were not sliced in any plane and can be read sagittally: plane "unknown".
    """
    first = files[0]
    assert first.grid is not None
    spacing = np.array(first.grid.spacing_mm)
    cut = int(np.argmax(spacing))
    is_isotropic = bool(spacing[cut] < ISOTROPIC_RATIO * np.delete(spacing, cut).max())
    plane = plane_of(first.grid.affine_RAS[:3, cut], limits.max_tilt_degrees)
    if is_isotropic:
        cut, plane = int(np.argmax(np.abs(first.grid.affine_RAS[0, :3]))), "unknown"
    return View(
        first,
        files[:1],
        files,
        num_slices=first.grid.shape[cut],
        num_images=first.grid.shape[cut],
        planes=(plane,),
        is_isotropic=is_isotropic,
        echo_ms=first.echo_ms,
        in_plane_mm=float(np.delete(spacing, cut).max()),
        gap_mm=float(spacing[cut]),
        grid=first.grid,
        slices=((first.file_id, 0),),
    )


def _look_at_slices(files: tuple[Header, ...], limits: SeriesLimits) -> View:
    """DICOM: of all frames the magnitude images of one echo and one acquisition, set in order."""
    every: list[Slice] = [(h.file_id, frame) for h in files for frame in h.frames]
    images = [(file_id, frame) for file_id, frame in every if frame.is_magnitude]
    stack = _without_planning(images)
    chosen, echo_ms = _one_echo(stack, limits)
    chosen = _one_acquisition(chosen)
    placed = [(i, frame) for i, frame in chosen if frame.has_geometry]
    groups = orientations([frame for _, frame in placed])
    planes = tuple(plane_of(group[0].normal, limits.max_tilt_degrees) for group in groups)
    judged = {file_id for file_id, _ in chosen or every}
    saying = _unlike([header for header in files if header.file_id in judged])
    view = View(
        saying[0],
        saying,
        files,
        num_slices=len(chosen) or len(every),
        num_images=len(images),
        planes=planes,
        has_geometry=len(placed) == len(chosen),
        echo_ms=echo_ms,
        num_planning=len(images) - len(stack),
    )
    return _stacked(view, placed, limits) if len(groups) == 1 else view


def _without_planning(images: list[Slice]) -> list[Slice]:
    """Without the few slices that lie otherwise than a stack of most, or are of another size: on them the
    stack was planned, or they are a picture of where it lies."""
    if not all(frame.has_geometry for _, frame in images):
        return images
    directions = [group[0] for group in orientations([frame for _, frame in images])]
    groups: dict[object, list[Slice]] = {}
    for file_id, frame in images:
        number = next(n for n, first in enumerate(directions) if is_parallel(frame, first))
        pixel = tuple(np.round(frame.in_place[2], 3).tolist())
        likeness = (number, frame.rows, frame.columns, pixel)
        groups.setdefault(likeness, []).append((file_id, frame))
    most = max(groups.values(), key=len, default=images)
    num_others = len(images) - len(most)
    return most if 0 < num_others <= min(MOST_PLANNING, len(most) / LEAST_TIMES) else images


def _unlike(files: Sequence[Header]) -> tuple[Header, ...]:
    """The first of all files that say the same."""
    first: dict[object, Header] = {}
    for header in files:
        said = (header.physics, header.words, header.study_words, header.body_part)
        first.setdefault(said, header)
    return tuple(first.values())


def _stacked(view: View, placed: list[Slice], limits: SeriesLimits) -> View:
    frames = [frame for _, frame in placed]
    fault: BadScan | None = None
    try:
        stack = arrange(frames, max_gap_error_mm=limits.max_slice_gap_error_mm)
    except BadScan as uneven:
        fault, stack = uneven, arrange(frames[:1], max_gap_error_mm=0.0)
    changes = {
        "in_plane_mm": max(frames[0].pixel_mm or (0.0,)),
        "gap_mm": stack.gap_mm if len(stack.order) > 1 else None,
        "grid": stack.grid,
        "slices": tuple((placed[i][0], placed[i][1].number) for i in stack.order),
        "stack_fault": fault,
    }
    return View(**{**view.__dict__, **changes})


def _one_echo(slices: list[Slice], limits: SeriesLimits) -> tuple[list[Slice], float | None]:
    """Of a double echo (proton density and T2 at the same places) the shortest T2-weighted one.

    Different echo times at different places are no double echo but two series in one: all are kept, the
    shortest stands for them, and the orientation or spacing gives them away.
    """
    echoes: dict[float, list[Slice]] = {}
    for file_id, frame in slices:
        if frame.echo_ms is not None:
            echoes.setdefault(frame.echo_ms, []).append((file_id, frame))
    if not echoes:
        return slices, None
    places = [sorted({f.position_mm or () for _, f in group}) for group in echoes.values()]
    if len(echoes) == 1 or any(place != places[0] for place in places):
        return slices, min(echoes)
    chosen = min([echo for echo in echoes if echo >= limits.min_echo_ms], default=max(echoes))
    return echoes[chosen], chosen


def _one_acquisition(slices: list[Slice]) -> list[Slice]:
    """Where every position was acquired several times (repeats, time points), the first of them."""
    runs: dict[int, list[Slice]] = {}
    for file_id, frame in slices:
        runs.setdefault(frame.acquisition, []).append((file_id, frame))
    if len(runs) < 2:
        return slices
    first = runs[min(runs)]
    places = {frame.position_mm for _, frame in first}
    is_repeated = all({f.position_mm for _, f in run} == places for run in runs.values())
    return first if is_repeated else slices
