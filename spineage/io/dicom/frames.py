"""Where the frames of one DICOM object lie: classic images, and multi-frame with functional groups.

Functional groups: DICOM PS3.3 C.7.6.16. A value is looked for in the frame's own groups, then in the shared
ones, then at the top level, where classic objects keep it and some multi-frame writers too.
"""

from __future__ import annotations

from typing import cast

from pydicom.dataset import Dataset

from spineage.errors import BadScan
from spineage.io.dicom.values import (
    item_of,
    items_of,
    number_of,
    numbers_of,
    terms_of,
)
from spineage.science.scan.series import NOT_IMAGES, dixon_part, milliseconds_of
from spineage.science.scan.slices import Frame, Vector

MAX_FRAMES = 20_000
MAX_ACQUISITION = 1_000_000
MAX_SIDE = 8_192  # pixels; no MR matrix is larger, and a forged one costs memory


class Groups:
    """Looks a value up in the functional groups of one frame."""

    def __init__(self, dataset: Dataset, own: Dataset | None, shared: Dataset | None) -> None:
        self.places = (own, shared)
        self.dataset = dataset

    def numbers(self, group: str, keyword: str, count: int) -> tuple[float, ...] | None:
        """`count` numbers of a keyword in a group, or at the top level."""
        for place in self.places:
            values = numbers_of(item_of(place, group), keyword, count)
            if values:
                return values
        return numbers_of(self.dataset, keyword, count)

    def number(self, group: str, keyword: str) -> float | None:
        """One number of a keyword in a group, or at the top level."""
        values = self.numbers(group, keyword, 1)
        return values[0] if values else None

    def terms(self, group: str, keyword: str) -> frozenset[str]:
        """Defined terms of a keyword in a group, or at the top level."""
        for place in self.places:
            terms = terms_of(item_of(place, group), keyword)
            if terms:
                return terms
        return terms_of(self.dataset, keyword)


def first_groups(dataset: Dataset) -> Groups:
    """The groups of the first frame: what holds for the object as far as the contrast is concerned."""
    own = item_of(dataset, "PerFrameFunctionalGroupsSequence")
    return Groups(dataset, own, item_of(dataset, "SharedFunctionalGroupsSequence"))


def frames_of(dataset: Dataset) -> tuple[Frame, ...]:
    """All frames in stored order. Raises BadScan bad_pixels when sizes or counts are impossible."""
    rows, columns = number_of(dataset, "Rows"), number_of(dataset, "Columns")
    count = number_of(dataset, "NumberOfFrames") or 1.0
    if not rows or not columns or not 0 < rows <= MAX_SIDE or not 0 < columns <= MAX_SIDE:
        raise BadScan("bad_pixels", f"rows and columns must be 1 to {MAX_SIDE}")
    if not 1 <= count <= MAX_FRAMES:
        raise BadScan("bad_pixels", f"the number of frames must be 1 to {MAX_FRAMES}")
    own = items_of(dataset, "PerFrameFunctionalGroupsSequence")
    if own and len(own) != int(count):
        raise BadScan("bad_pixels", f"{int(count)} frames but {len(own)} frame descriptions")
    shared = item_of(dataset, "SharedFunctionalGroupsSequence")
    size = (int(rows), int(columns))
    return tuple(
        _frame(number, size, Groups(dataset, own[number] if own else None, shared), int(count))
        for number in range(int(count))
    )


def _frame(number: int, size: tuple[int, int], groups: Groups, count: int) -> Frame:
    position = groups.numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    if count > 1:  # one position, shared or at the top level, cannot be that of several frames
        own = item_of(groups.places[0], "PlanePositionSequence")
        position = numbers_of(own, "ImagePositionPatient", 3)
    axes = groups.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    echo_ms = groups.number("MREchoSequence", "EffectiveEchoTime")
    if echo_ms is None:
        echo_ms = number_of(groups.dataset, "EchoTime")
    echo_ms = milliseconds_of(echo_ms)
    return Frame(
        number=number,
        rows=size[0],
        columns=size[1],
        position_mm=cast(Vector | None, position),
        across=cast(Vector | None, axes[:3] if axes else None),
        down=cast(Vector | None, axes[3:] if axes else None),
        pixel_mm=cast(
            "tuple[float, float] | None",
            groups.numbers("PixelMeasuresSequence", "PixelSpacing", 2),
        ),
        echo_ms=round(echo_ms, 1) if echo_ms else None,
        is_magnitude=_is_magnitude(groups),
        acquisition=_acquisition(groups),
        dixon=_dixon(groups) if count > 1 else "",
    )


def _is_magnitude(groups: Groups) -> bool:
    """The frame's own type where there is one, else the object's."""
    frame_type = groups.terms("MRImageFrameTypeSequence", "FrameType")
    component = groups.terms("MRImageFrameTypeSequence", "ComplexImageComponent")
    terms = frame_type or terms_of(groups.dataset, "ImageType")
    return not terms & NOT_IMAGES and not component & {"PHASE", "REAL", "IMAGINARY"}


def _dixon(groups: Groups) -> str:
    return dixon_part(groups.terms("MRImageFrameTypeSequence", "FrameType"), frozenset())


def _acquisition(groups: Groups) -> int:
    """The time point a frame belongs to; 0 when nothing says, or a number that may be a date."""
    number = _acquisition_number(groups)
    return number if abs(number) < MAX_ACQUISITION else 0


def _acquisition_number(groups: Groups) -> int:
    for keyword in ("TemporalPositionIndex", "FrameAcquisitionNumber"):
        number = groups.number("FrameContentSequence", keyword)
        if number is not None:
            return int(number)
    for keyword in ("TemporalPositionIdentifier", "AcquisitionNumber"):
        number = number_of(groups.dataset, keyword)
        if number is not None:
            return int(number)
    return 0
