"""One DICOM file's header, read without its pixels. Nothing that names a person leaves this file.

Ids become keyed hashes; descriptions and coded tags become words of closed lists; vendor and model become
known names or a hash. Of dates nothing is left that can be turned back without the key: birth dates become an
age in tenths of a year and a code that only tells equal from different; days and times of day are moved by
an offset of the person's own, so that they can be told apart and put in order, and no more.
"""

from __future__ import annotations

import datetime
import io
import re
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, Final, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from spineage.errors import BadScan
from spineage.io.dicom.alike import Pattern, pattern_of
from spineage.io.dicom.frames import first_groups, frames_of
from spineage.io.dicom.scanners import model_of, vendor_of
from spineage.io.dicom.start import plain_stream
from spineage.io.dicom.values import (
    id_of,
    number_of,
    numbers_of,
    quietly,
    terms_of,
    text_of,
)
from spineage.io.files.bounded import Bounded
from spineage.io.files.seals import seal_of
from spineage.io.people.identity import Keyed
from spineage.io.people.labels import data_set_above, is_label
from spineage.science.people.age import age_between, age_from_text
from spineage.science.people.sex import sex_of
from spineage.science.scan.series import (
    FAT_SUPPRESSION,
    IMAGE_TYPES,
    About,
    Header,
    Physics,
    dixon_part,
    milliseconds_of,
    modality_of,
)
from spineage.science.scan.slices import Vector
from spineage.science.scan.words import words_in

TAGS: Final = [
    Tag(keyword)
    for keyword in (
        "SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID", "StudyDate", "SeriesDate",
        "AcquisitionTime", "SeriesTime", "ContentTime", "AccessionNumber", "Modality", "Manufacturer",
        "InstitutionName", "StudyDescription", "SeriesDescription", "ManufacturerModelName", "PatientID",
        "PatientBirthDate", "PatientSex", "PatientAge", "BodyPartExamined", "ScanningSequence",
        "ScanOptions", "RepetitionTime", "EchoTime", "InversionTime", "MagneticFieldStrength",
        "ProtocolName", "SequenceName", "PulseSequenceName", "EchoPulseSequence", "InversionRecovery",
        "EchoPlanarPulseSequence", "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber",
        "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID",
        "TemporalPositionIdentifier", "SamplesPerPixel", "PhotometricInterpretation", "NumberOfFrames",
        "Rows", "Columns", "PixelSpacing", "BitsAllocated", "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence", "BurnedInAnnotation",
    )
]  # fmt: skip

SERIES_IDS: Final = ("StudyInstanceUID", "SeriesInstanceUID")
OWN_TAGS: Final = frozenset({Tag("SOPInstanceUID"), Tag("ImagePositionPatient")})
SHARED_TAGS: Final = frozenset(TAGS) - OWN_TAGS
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
PIXEL_TAGS: Final = {(0x7FE0, 0x0008), (0x7FE0, 0x0009), (0x7FE0, 0x0010)}
SAMPLE_BYTES: Final = 4096
HEAD_BYTES: Final = 1 << 16  # holds nearly every header; one read instead of a thousand
UNDEFINED: Final = 0xFFFFFFFF
MAX_HEADER_BYTES: Final = 1 << 28  # 20,000 frames of 10 KB each
MAX_ELEMENT_BYTES: Final = 1 << 26  # a sequence of known length is one element
MAX_FRAGMENTS: Final = 200_000  # of compressed pixels: ten for each frame


NO_IDS: Final = frozenset({
    "anon", "anonym", "anonymous", "anonymized", "anonymised", "deidentified", "unknown", "none", "null",
    "na", "nan", "noid", "nopatientid", "notavailable", "patient", "patientid", "id", "removed", "test",
    "redacted", "hidden",
})  # fmt: skip
"""PatientIDs that are nobody's, in small letters and digits."""


def read_header(
    stream: BinaryIO, size: int, name: str, file_id: str, keyed: Keyed, exam_key: str
) -> Header:
    """What the file says about its pictures.

    stream: at its start, seekable; name: the path below the input folder; exam_key: the tag that holds the
    exam's id.
    Raises BadScan: unreadable, directory, no_pixels, truncated, bad_pixels, too_large.
    """
    with quietly():
        stream, size = plain_stream(stream, size)
        head = stream.read(HEAD_BYTES)
        parsed = _like_before(head, (keyed, exam_key))
        if parsed:
            _check_pixels_are_there(stream, parsed.claim, parsed.num_bytes, size)
        else:
            parsed = _parsed(stream, head, size, keyed, exam_key)
        return replace(
            parsed.header,
            file_id=file_id,
            about=replace(parsed.header.about, label_of=_label_of(parsed, name, keyed)),
            object_id=keyed.series(f"object:{parsed.header.about.person_id}:{parsed.object_uid}"),
            digest=_seal(stream, head, parsed.num_bytes, size, keyed.seal_key),
        )


def seal_of_object(stream: BinaryIO, size: int, key: bytes) -> str:
    """The digest that `read_header` gives the same bytes. Raises BadScan as it does for what is no DICOM."""
    with quietly():
        stream, size = plain_stream(stream, size)
        head = stream.read(HEAD_BYTES)
        _, num_bytes = _parse(stream, head, size)
        return _seal(stream, head, num_bytes, size, key)


def _seal(stream: BinaryIO, head: bytes, num_bytes: int, size: int, key: bytes) -> str:
    header, samples = _bytes_at(stream, head, num_bytes), _pixel_samples(stream, size)
    return seal_of([header, samples, str(size).encode()], key)


@dataclass(frozen=True)
class Claim:
    """What a header says of its pixels: `order` of bytes, `<` or `>`, and how many it `needs`."""

    order: str
    needs: int
    sop_class: str
    syntax: str


@dataclass(frozen=True)
class Parsed:
    """One file's header without what its name and digest tell, how long it is, and the object's own uid.

    label: the PatientID where it has the form of a BIDS label, else "".
    """

    header: Header
    claim: Claim
    num_bytes: int
    object_uid: str
    label: str


def _parsed(stream: BinaryIO, head: bytes, size: int, keyed: Keyed, exam_key: str) -> Parsed:
    """By pydicom, its pixels checked; the next slices of the series will be known by it."""
    dataset, num_bytes = _parse(stream, head, size)
    object_uid = id_of(dataset, "SOPInstanceUID") or _meta(dataset, "MediaStorageSOPInstanceUID")
    claim = _claim_of(dataset)
    if not claim.sop_class or not object_uid:
        raise BadScan("unreadable", "the header ends before it says what the object is")
    _check_pixels_are_there(stream, claim, num_bytes, size)
    header = _header(dataset, object_uid, keyed, exam_key)
    patient = id_of(dataset, "PatientID").strip()
    label = patient if is_label(patient) else ""
    parsed = Parsed(header, claim, num_bytes, object_uid, label)
    has_ids = all(text_of(dataset, name) for name in (*SERIES_IDS, exam_key))
    if has_ids and len(parsed.header.frames) == 1:
        pattern = pattern_of(head, dataset, SHARED_TAGS, OWN_TAGS)
        if pattern:
            _LATELY.appendleft(((keyed, exam_key), pattern, parsed))
    return parsed


_LATELY: Final[deque[tuple[tuple[Keyed, str], Pattern, Parsed]]] = deque(maxlen=8)
"""Of series lately met, the last first: as many as are often told apart by nothing but their slices."""


def _like_before(head: bytes, reader: tuple[Keyed, str]) -> Parsed | None:
    """A slice of a series that was met lately: only its id and its place are read."""
    for met_by, pattern, parsed in _LATELY:
        match = pattern.match(head) if met_by == reader else None
        if match:
            own, num_bytes = match
            object_uid = id_of(own, "SOPInstanceUID")
            position_mm = cast(Vector | None, numbers_of(own, "ImagePositionPatient", 3))
            frame = replace(parsed.header.frames[0], position_mm=position_mm)
            header = replace(parsed.header, frames=(frame,))
            if not object_uid:
                return None
            return replace(parsed, header=header, num_bytes=num_bytes, object_uid=object_uid)
    return None


ELSEWHERE: Final = "//"
"""No folder's name: of files that lie in no folder of their label, whose ids are one archive's."""


def _label_of(parsed: Parsed, name: str, keyed: Keyed) -> str | None:
    """The data set of a PatientID that is a BIDS label: the one that it lies in, as a NIfTI file does."""
    if not parsed.label:
        return None
    data_set = data_set_above(name, parsed.label)
    return keyed.data_set(
        parsed.header.about.person_id, ELSEWHERE if data_set is None else data_set
    )


def _bytes_at(stream: BinaryIO, head: bytes, num_bytes: int) -> bytes:
    """The first bytes of the file, of which `head` has been read."""
    if num_bytes <= len(head):
        return head[:num_bytes]
    stream.seek(0)
    return stream.read(num_bytes)


def _parse(stream: BinaryIO, head: bytes, size: int) -> tuple[Dataset, int]:
    """The header's elements that matter, and where the pixels begin. head: the first bytes of the stream."""
    parsed = _parse_head(head)
    if parsed:
        return parsed
    stream.seek(0)
    bounded = cast(BinaryIO, Bounded(stream, size, MAX_ELEMENT_BYTES))
    try:
        dataset = _elements(bounded)
    except BadScan:
        raise
    except Exception as error:  # pydicom raises a dozen types; their texts quote values
        raise BadScan("unreadable", f"not to be parsed as DICOM ({type(error).__name__})") from None
    end = min(stream.tell(), size)  # an element may claim to end beyond the file
    if end > MAX_HEADER_BYTES:
        raise BadScan("too_large", f"the header is longer than {MAX_HEADER_BYTES} bytes")
    return dataset, end


def _parse_head(head: bytes) -> tuple[Dataset, int] | None:
    """The same from memory, when all of the header is there; None when it is not, or not sound.

    A parse that ends at the pixels has met no element that reaches beyond these bytes.
    """
    stream = io.BytesIO(head)
    try:
        dataset = _elements(stream)
    except Exception:  # the stream may tell more: it is asked again from its start
        return None
    end = stream.tell()
    order = _claim_of(dataset).order
    is_whole = len(head) >= end + 4 and struct.unpack_from(f"{order}HH", head, end) in PIXEL_TAGS
    return (dataset, end) if is_whole else None


def _elements(stream: BinaryIO) -> Dataset:
    return pydicom.dcmread(stream, stop_before_pixels=True, specific_tags=TAGS, force=True)


def _claim_of(dataset: Dataset) -> Claim:
    syntax = text_of(getattr(dataset, "file_meta", None), "TransferSyntaxUID")
    order = ">" if syntax == BIG_ENDIAN else "<"
    return Claim(order, _uncompressed_bytes(dataset), _sop_class(dataset), syntax)


def _sop_class(dataset: Dataset) -> str:
    return text_of(dataset, "SOPClassUID") or _meta(dataset, "MediaStorageSOPClassUID")


def _meta(dataset: Dataset, keyword: str) -> str:
    """What the file meta says where an anonymiser has emptied the object's own attribute."""
    return text_of(getattr(dataset, "file_meta", None), keyword)


def _check_pixels_are_there(stream: BinaryIO, claim: Claim, num_bytes: int, size: int) -> None:
    """Pixel data follow the header and are as long as they say they are."""
    stream.seek(num_bytes)
    start = stream.read(12)
    if len(start) < 8 or struct.unpack(f"{claim.order}HH", start[:4]) not in PIXEL_TAGS:
        if "Image Storage" in pydicom.uid.UID(claim.sop_class).name:
            raise BadScan("truncated", "an image object that ends before its pixels")
        raise BadScan("no_pixels", "a DICOM object of a kind without a picture")
    has_vr = start[4:6] in (b"OW", b"OB", b"OF", b"OD")
    length = struct.unpack(f"{claim.order}I", start[8:12] if has_vr else start[4:8])[0]
    stream.seek(num_bytes + (12 if has_vr else 8))
    if length == UNDEFINED:
        if not is_known_syntax(claim.syntax):
            raise BadScan("bad_pixels", "compressed pixels, and no transfer syntax that says how")
        _check_fragments(stream, size)
        return
    if stream.tell() + length > size:
        raise BadScan("truncated", "the file ends before its pixels do")
    if length < claim.needs:
        shown = min(claim.needs, 10**12)  # what the header claims may have hundreds of digits
        raise BadScan("bad_pixels", f"{length} bytes of pixels, the header needs {shown}")


def is_known_syntax(text: str) -> bool:
    """Whether it is a transfer syntax of the standard: of a private one nobody knows how pixels are packed,
    but that they are not where their length says so."""
    uid = pydicom.uid.UID(text)
    return uid.is_transfer_syntax and not uid.is_private and uid.name != text


def _pixel_samples(stream: BinaryIO, size: int) -> bytes:
    """A little of the middle and of the end: reconstructed or edited pixels differ nearly everywhere."""
    samples = b""
    for start in (size // 2, size - SAMPLE_BYTES):
        stream.seek(max(start, 0))
        samples += stream.read(SAMPLE_BYTES)
    return samples


def _check_fragments(stream: BinaryIO, size: int) -> None:
    """Walk the fragments of encapsulated pixels (PS3.5 A.4) up to their end mark, reading 8 bytes of each."""
    for _ in range(MAX_FRAGMENTS):
        if stream.tell() + 8 > size:
            raise BadScan("truncated", "the file ends before its compressed pixels do")
        group, element, length = struct.unpack("<HHI", stream.read(8))
        if (group, element) == (0xFFFE, 0xE0DD):
            return
        if (group, element) != (0xFFFE, 0xE000) or length == UNDEFINED:
            raise BadScan("bad_pixels", "the compressed pixels are not in fragments")
        stream.seek(length, 1)
    raise BadScan("bad_pixels", f"the compressed pixels are in more than {MAX_FRAGMENTS} fragments")


def _uncompressed_bytes(dataset: Dataset) -> int:
    counts = [
        number_of(dataset, k) for k in ("Rows", "Columns", "BitsAllocated", "SamplesPerPixel")
    ]
    rows, columns, bits, samples = (int(number or 0) for number in counts)
    return (
        rows * columns * bits * (samples or 1) * int(number_of(dataset, "NumberOfFrames") or 1) // 8
    )


def _header(dataset: Dataset, object_uid: str, keyed: Keyed, exam_key: str) -> Header:
    study_uid = id_of(dataset, "StudyInstanceUID") or object_uid
    exam_raw = id_of(dataset, exam_key) or study_uid
    frames = frames_of(dataset)
    series_uid = id_of(dataset, "SeriesInstanceUID")
    about, physics = _about(dataset, keyed, exam_raw, study_uid), _physics(dataset)
    return Header(
        file_id="",
        kind="dicom",
        series_id=keyed.series(f"{about.person_id}:{series_uid or object_uid}{_part_of(physics)}"),
        object_id="",
        digest="",
        about=about,
        physics=physics,
        words=words_in(*(text_of(dataset, k) for k in ("SeriesDescription", "ProtocolName"))),
        body_part=words_in(text_of(dataset, "BodyPartExamined")),
        study_words=words_in(text_of(dataset, "StudyDescription")),
        frames=frames,
        echo_ms=frames[0].echo_ms,
    )


def _part_of(physics: Physics) -> str:
    """Of a series that holds several images of a Dixon acquisition each is a series of its own, and so are
    screenshots among its slices."""
    if physics.is_colour:
        return ":picture"
    part = dixon_part(physics.image_type, frozenset())
    return f":{part}" if part not in ("", "in phase") else ""


def _physics(dataset: Dataset) -> Physics:
    """Classic attributes and those of enhanced MR (PS3.3 C.8.13) in the same words."""
    groups = first_groups(dataset)
    sequence = set(terms_of(dataset, "ScanningSequence") & {"SE", "GR", "EP", "IR"})
    pulse = text_of(dataset, "EchoPulseSequence").upper()
    sequence |= {"SPIN": {"SE"}, "GRADIENT": {"GR"}, "BOTH": {"SE", "GR"}}.get(pulse, set())
    if text_of(dataset, "EchoPlanarPulseSequence").upper() == "YES":
        sequence.add("EP")
    if "YES" in groups.terms("MRModifierSequence", "InversionRecovery"):
        sequence.add("IR")
    suppressed = groups.terms("MRModifierSequence", "SpectrallySelectedSuppression")
    excited = groups.terms("MRModifierSequence", "SpectrallySelectedExcitation")
    photometric = text_of(dataset, "PhotometricInterpretation").upper()
    return Physics(
        modality=modality_of(text_of(dataset, "Modality")),
        is_colour=(number_of(dataset, "SamplesPerPixel") or 1) > 1
        or not photometric.startswith("MONOCHROME")
        or _sop_class(dataset).startswith(SECONDARY_CAPTURE),
        image_type=terms_of(dataset, "ImageType") & IMAGE_TYPES,
        sequence=frozenset(sequence),
        repetition_ms=milliseconds_of(
            groups.number("MRTimingAndRelatedParametersSequence", "RepetitionTime")
        ),
        inversion_ms=milliseconds_of(
            _inversion(groups.numbers("MRModifierSequence", "InversionTimes", 1))
            or number_of(dataset, "InversionTime")
        ),
        is_fat_suppressed=bool(terms_of(dataset, "ScanOptions") & FAT_SUPPRESSION)
        or bool(suppressed & {"FAT", "WATER", "FAT_AND_WATER"})
        or "WATER" in excited,
        has_text_burned_in=text_of(dataset, "BurnedInAnnotation").strip().upper() == "YES",
    )


def _inversion(times: Sequence[float] | None) -> float | None:
    return times[0] if times else None


def is_no_id(patient: str) -> bool:
    """Whether a PatientID is empty, or what anonymisers write into all: then each exam is a person."""
    plain = "".join(letter for letter in patient.lower() if letter.isalnum())
    return not plain.strip("0x") or plain in NO_IDS


def _about(dataset: Dataset, keyed: Keyed, exam_raw: str, study_uid: str) -> About:
    """Who, when and where, in hashes and known names; see the head of this file for dates and times."""
    study_day = _day(text_of(dataset, "StudyDate") or text_of(dataset, "SeriesDate"))
    birth_day = _day(text_of(dataset, "PatientBirthDate"))
    acquired_s = _seconds(text_of(dataset, "AcquisitionTime") or text_of(dataset, "SeriesTime"))
    vendor_text = id_of(dataset, "Manufacturer")
    patient, frame_of_reference = (id_of(dataset, k) for k in ("PatientID", "FrameOfReferenceUID"))
    site = id_of(dataset, "InstitutionName")
    person_id = keyed.person(f"exam:{study_uid}" if is_no_id(patient) else patient)
    return About(
        person_id=person_id,
        exam_id=keyed.exam(exam_raw),
        frame_of_reference=keyed.series(f"frame:{frame_of_reference}")
        if frame_of_reference
        else None,
        age_years=age_from_text(text_of(dataset, "PatientAge")),
        age_by_dates_years=age_between(birth_day, study_day),
        born=_born(birth_day, person_id, keyed),
        sex=sex_of(text_of(dataset, "PatientSex")),
        site=keyed.word("site", site) if site.strip() else None,
        vendor=vendor_of(vendor_text, keyed),
        model=model_of(id_of(dataset, "ManufacturerModelName"), keyed),
        field_tesla=_tesla(number_of(dataset, "MagneticFieldStrength")),
        study_day=None if study_day is None else study_day + keyed.day_offset(person_id),
        acquired_s=acquired_s + keyed.second_offset(person_id),
        has_time=acquired_s > 0,
        is_phantom=vendor_text.strip().lower() == "spineage-phantom",
    )


def _born(birth_day: int | None, person_id: str, keyed: Keyed) -> tuple[str, str] | None:
    """Codes of the year and of the day of birth; the day's is "" for 1 January, which often stands for all of
    a year. None when unknown, or before 1901, which stands for unknown."""
    date = None if birth_day is None else datetime.date.fromordinal(birth_day)
    if date is None or date.year <= 1900:
        return None
    day = "" if (date.month, date.day) == (1, 1) else keyed.birth(person_id, date.isoformat())
    return keyed.birth(person_id, str(date.year)), day


def _tesla(field: float | None) -> float | None:
    """Some writers give gauss; anything beyond 20 T is taken as that, as no scanner reaches it."""
    if field is None or not 0 < field <= 20 * 10_000:
        return None
    return field / 10_000 if field > 20 else field


def _day(text: str) -> int | None:
    """A DICOM date (`20180107`, or the old `2018.01.07`) as a day number."""
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text.strip())
    try:
        return datetime.date(*map(int, match.groups())).toordinal() if match else None
    except ValueError:
        return None


def _seconds(text: str) -> float:
    """A DICOM time (`134502.25`) as seconds of the day, 0 when unknown: it only breaks ties."""
    match = re.match(r"(\d{2}):?(\d{2})?:?(\d{2})?", text.strip())
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    return float(hours * 3600 + minutes * 60 + seconds)
