"""One NIfTI file: where it lies, what its name, sidecar and values say, and its voxels.

NIfTI keeps neither contrast nor modality: the BIDS suffix or name, a JSON sidecar and the `TE=` that
converters leave in the description stand in for them, and the values are looked at for what they betray.
"""

from __future__ import annotations

import json
import logging
import math
import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, BinaryIO, Final

import nibabel
import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.io.files.archive import MARK
from spineage.io.files.bounded import inflate_at_most, inflate_start, read_at_most
from spineage.io.files.described import IMAGE_ENDS
from spineage.io.files.listing import open_above, open_beside, open_bytes
from spineage.io.files.seals import check_seal, seal_of
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.people.labels import DERIVATIVES, data_set_above, data_set_beside
from spineage.science.scan.geometry import reorient
from spineage.science.scan.series import (
    FAT_SUPPRESSION,
    IMAGE_TYPES,
    About,
    Header,
    Physics,
    milliseconds_of,
    modality_of,
)
from spineage.science.scan.slices import SliceGrid
from spineage.science.scan.values import value_fault
from spineage.science.scan.words import words_in

MAX_VOXELS: Final = 250_000_000  # a whole spine at 0.5 mm is 140 million
MAX_BYTES: Final = 8 * MAX_VOXELS + (1 << 20)  # as float64, and a header with extensions
START_BYTES: Final = 544  # NIfTI-2's header is 540, NIfTI-1's 348
BESIDE_BYTES: Final = 1 << 20  # what may follow the voxels
OWN_SPACES: Final = frozenset(
    {"orig", "original", "individual", "native", "scanner", "other", "t1w", "t2w", "acpc"}
)
TEMPLATE_CODES: Final = frozenset({3, 4})  # Talairach, MNI: NIfTI-1's xform codes
MAX_APART_MM: Final = 5.0
"""Of a corner by sform and by qform: quaternions are rounded, an sform may hold a gantry's shear."""
SPACE_AND_TIME_UNITS: Final = {1: 1000.0, 2: 1.0, 3: 0.001}  # metres, millimetres, micrometres


def read_header(stream: BinaryIO, seen: Seen, file_id: str, keyed: Keyed) -> Header:
    """What a NIfTI file says about its volume. Reads the voxels once, for their values.

    stream: the file that was seen, at its start.
    Raises BadScan unreadable, truncated, too_large, no_geometry, geometry_conflict, bad_pixels.
    """
    raw = read_at_most(stream, MAX_BYTES)
    image, data = _parsed(raw)
    content = seal_of([data], keyed.seal_key)  # packed or not it is the same volume
    sidecar, name = _sidecar(seen), seen.name
    stem = _stem(name)
    grid, (fault, pixels) = _grid(image), _judge_values(image, keyed)
    described = (str(sidecar.get(key, "")) for key in ("SeriesDescription", "ProtocolName"))
    about = _about(name, content, keyed, sidecar)
    return Header(
        file_id=file_id,
        kind="nifti",
        series_id=keyed.series(f"nifti:{about.person_id}:{content}"),
        object_id=keyed.series(f"object:{about.person_id}:{content}"),
        digest=seal_of([raw], keyed.seal_key),
        about=about,
        physics=_physics(sidecar),
        words=words_in(_described_by_name(stem), *described),
        body_part=words_in(str(sidecar.get("BodyPartExamined", ""))),
        grid=grid,
        echo_ms=_echo_ms(sidecar, image),
        value_fault=fault or _space_fault(stem),
        chunk_of=_chunk_of(stem, about, keyed),
        note=_template_note(image),
        pixels=pixels,
        is_derived=DERIVATIVES in PurePosixPath(name.replace(MARK, "/")).parts[:-1],
    )


def read_voxels(
    location: str, seal: str = "", key: bytes = b""
) -> tuple[NDArray[np.float32], SliceGrid]:
    """The scaled voxels [i, j, k] and where they lie.

    seal, key: what `read_header` gave as digest, and the key of it; without one nothing is compared, as for
    files that no ingest has seen. Raises BadScan as read_header does, and changed_since_ingest.
    """
    raw = open_bytes(location, MAX_BYTES)
    if seal:
        check_seal(seal_of([raw], key), seal)
    image, _ = _parsed(raw)
    return _voxels(image), _grid(image)


def _parsed(raw: bytes) -> tuple[Any, bytes]:
    """The image in memory, and the bytes of its file unpacked. Raises BadScan when it is no volume of a size
    that MR has."""
    is_packed = raw[:2] == b"\x1f\x8b"
    kind, needed = _claims(_start_of(raw) if is_packed else raw[:START_BYTES])
    data = inflate_at_most(raw, needed + BESIDE_BYTES, wbits=31) if is_packed else raw
    if needed > len(data):
        raise BadScan("truncated", "the file ends before its voxels do")
    with _silently():
        try:
            return kind.from_bytes(data), data
        except Exception as error:  # nibabel raises many types; their texts quote values
            raise _unparsed(error) from None


def _claims(start: bytes) -> tuple[Any, int]:
    """By the header alone: which NIfTI it is, and how many bytes it needs. Raises as _parsed does."""
    is_second = start[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
    kind = nibabel.Nifti2Image if is_second else nibabel.Nifti1Image
    size = 540 if is_second else 348
    with _silently():
        try:
            header = kind.header_class(start[:size], check=False)
            shape = [float(n) for n in header.get_data_shape()]
            offset, bits = int(header["vox_offset"]), int(header["bitpix"])
        except Exception as error:
            raise _unparsed(error) from None
    if len(shape) < 3 or min(shape) < 1 or math.prod(shape) > MAX_VOXELS or not 0 < bits <= 64:
        raise BadScan("bad_pixels", "not a volume of a size that MR has")
    if not 0 <= offset <= BESIDE_BYTES:
        raise BadScan("bad_pixels", "the voxels do not follow the header")
    return kind, offset + int(math.prod(shape)) * bits // 8


def _start_of(packed: bytes) -> bytes:
    try:
        return inflate_start(packed, START_BYTES)
    except zlib.error:
        raise BadScan("unreadable", "the packed stream is damaged") from None


def _unparsed(error: Exception) -> BadScan:
    return BadScan("unreadable", f"not to be parsed as NIfTI ({type(error).__name__})")


@contextmanager
def _silently() -> Iterator[None]:
    """Neither a warning nor a log line of nibabel leaves this block."""
    logger = logging.getLogger("nibabel.global")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def _grid(image: Any) -> SliceGrid:
    """In millimetres: by the sform, else by the qform. An sform that is not invertible stands behind a sound
    qform; two sound ones must agree.

    Raises BadScan no_geometry when neither says where it is, geometry_conflict when they disagree.
    """
    header = image.header
    codes = {name: int(header[f"{name}_code"]) for name in ("sform", "qform")}
    said = [name for name, code in codes.items() if code > 0]
    if not said:
        raise BadScan("no_geometry", "neither sform nor qform says where the volume lies")
    scale = SPACE_AND_TIME_UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    affines = {}
    for name in said:
        affine = np.array(_form(image, name), dtype=np.float64)
        affine[:3] *= scale
        if np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) >= 1e-6:
            affines[name] = affine
    if not affines:
        raise BadScan("no_geometry", f"the affine is not invertible ({' and '.join(said)})")
    i, j, k = (int(n) for n in image.shape[:3])
    if len(affines) == 2:
        _require_agreement(affines["sform"], affines["qform"], (i, j, k), codes)
    return SliceGrid((i, j, k), next(iter(affines.values())))


def _form(image: Any, name: str) -> Any:
    """The affine of the sform or the qform; NaN where nibabel can make none of a damaged quaternion."""
    with _silently():
        try:
            return image.header.get_sform() if name == "sform" else image.header.get_qform()
        except Exception:  # nibabel raises several types
            return np.full((4, 4), np.nan)


def _require_agreement(
    sform: NDArray[np.float64],
    qform: NDArray[np.float64],
    shape: tuple[int, int, int],
    codes: dict[str, int],
) -> None:
    """Raises BadScan geometry_conflict when the one puts a corner of the volume elsewhere than the other."""
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], float)
    corners[:, :3] *= np.array(shape) - 1
    apart_mm = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
    if apart_mm > MAX_APART_MM:
        axes = [form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform)]
        cosines = np.clip((axes[0] * axes[1]).sum(axis=0), -1, 1)
        degrees = float(np.degrees(np.arccos(cosines)).max())
        raise BadScan(
            "geometry_conflict",
            f"sform (code {codes['sform']}) and qform (code {codes['qform']}) put a corner {apart_mm:.0f} mm "
            f"apart and axes {degrees:.0f} degrees; at most {MAX_APART_MM:g} mm is expected: set both to "
            "the right one",
        )


def _voxels(image: Any) -> NDArray[np.float32]:
    if any(n > 1 for n in image.shape[3:]):
        raise BadScan("not_an_image", "several volumes in one file")
    try:
        voxels = np.asarray(image.get_fdata(dtype=np.float32, caching="unchanged"))
    except Exception as error:
        raise BadScan("bad_pixels", f"voxels cannot be read ({type(error).__name__})") from None
    return voxels.reshape(voxels.shape[:3])


def _sidecar(seen: Seen) -> dict[str, Any]:
    """What JSON files say of it, by the inheritance principle of BIDS: its own last; {} when none does."""
    beside = (open_beside(seen.location, suffix, ".json") for suffix in IMAGE_ENDS)
    said: dict[str, Any] = {}
    for data in (*map(open_above, seen.above), next(filter(None, beside), b"")):
        said |= _object(data)
    return said


def _object(data: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _judge_values(image: Any, keyed: Keyed) -> tuple[tuple[str, str] | None, str]:
    """What the values say against a magnitude MR image, and a code that is equal for equal voxels, however
    their axes run."""
    try:
        voxels = _voxels(image)
    except BadScan as fault:
        return (fault.code, str(fault)), ""
    fault_of_values = value_fault(voxels)
    if fault_of_values:
        return fault_of_values, ""
    volume = reorient(voxels, _grid(image).affine_RAS).voxels_RAS
    return None, seal_of([str(volume.shape).encode(), volume.tobytes()], keyed.seal_key)


def _space_fault(stem: str) -> tuple[str, str] | None:
    """Of a BIDS name whose entity `space-` is no image of the person's own."""
    found = re.search(r"_space-([^_]+)", stem) if stem.startswith("sub-") else None
    if found is None or found[1].lower() in OWN_SPACES:
        return None
    return (
        "not_an_image",
        "it was moved into another space (space- in its name), where sizes are no person's",
    )


def _template_note(image: Any) -> str:
    """What is to be said of an accepted file whose codes claim a template's space."""
    codes = {int(image.header[f"{name}_code"]) for name in ("sform", "qform")}
    claimed = sorted(codes & TEMPLATE_CODES)
    if not claimed:
        return ""
    return f"; its code {claimed[0]} says a template's space: if it was warped to one, sizes are no person's"


def _physics(sidecar: dict[str, Any]) -> Physics:
    """BIDS keeps seconds; what the sidecar does not say is unknown."""
    sequence = str(sidecar.get("ScanningSequence", "")).upper()
    return Physics(
        modality=modality_of(str(sidecar.get("Modality", "MR"))),
        image_type=_terms(sidecar.get("ImageType")) & IMAGE_TYPES,
        sequence=frozenset(re.findall(r"SE|GR|EP|IR", sequence)),
        repetition_ms=_milliseconds(sidecar.get("RepetitionTime")),
        inversion_ms=_milliseconds(sidecar.get("InversionTime")),
        is_fat_suppressed=bool(_terms(sidecar.get("ScanOptions")) & FAT_SUPPRESSION),
    )


def _terms(value: Any) -> frozenset[str]:
    """Of a list, or of a text with backslashes between, as converters write either."""
    texts = value if isinstance(value, list) else str(value or "").split("\\")
    return frozenset(str(text).strip().upper() for text in texts)


def _echo_ms(sidecar: dict[str, Any], image: Any) -> float | None:
    """The sidecar's EchoTime (s), else the `TE=` that dcm2niix writes into the description (ms)."""
    from_sidecar = _milliseconds(sidecar.get("EchoTime"))
    if from_sidecar:
        return from_sidecar
    described = bytes(image.header["descrip"]).decode("ascii", "replace")
    found = re.search(r"TE=([0-9.]+(?:e[+-]?\d+)?)", described)
    return milliseconds_of(float(found[1])) or None if found else None


def _milliseconds(seconds: Any) -> float | None:
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return float(seconds) * 1000 if is_number and 0 < seconds < 1000 else None


def _described_by_name(stem: str) -> str:
    """The name itself; of a BIDS name the suffix and what `acq-`, `desc-`, `part-` and `rec-` say.

    Other BIDS entities number things (`label-6`) and would be taken for words.
    """
    parts = stem.split("_")
    if not parts[0].startswith("sub-"):
        return stem
    spoken = [part for part in parts if part.startswith(("acq-", "desc-", "part-", "rec-"))]
    return " ".join([*(part.split("-", 1)[1] for part in spoken), parts[-1]])


def _about(name: str, content: str, keyed: Keyed, sidecar: dict[str, Any]) -> About:
    """Person and exam from the BIDS entities `sub-` and `ses-`; without them a file is its own person."""
    stem = _stem(name)
    person = re.search(
        r"(?:^|_)(sub-[^_]+)", stem
    )  # all of a label: sub-north-1 is not sub-north-2
    session = re.search(r"_(ses-[^_]+)", stem)
    who = person[1] if person else f"file:{content}"
    field = sidecar.get("MagneticFieldStrength")
    person_id = keyed.person(who)
    return About(
        person_id=person_id,
        exam_id=keyed.exam(f"{who}_{session[1]}" if session else who),
        label_of=keyed.data_set(person_id, _data_set(name, who)) if person else None,
        field_tesla=float(field) if isinstance(field, int | float) and 0 < field < 20 else None,
    )


def _chunk_of(stem: str, about: About, keyed: Keyed) -> str | None:
    """BIDS: files that differ in nothing but `chunk-` are parts of one acquisition, such as stations."""
    whole, num = re.subn(r"_chunk-[^_]+", "", stem)
    return keyed.series(f"chunks:{about.person_id}:{about.label_of}:{whole}") if num else None


def _data_set(name: str, label: str) -> str:
    """The folder in which a `sub-` label is one person's: the one that holds the people's folders, or the
    files where there are none."""
    above = data_set_above(name, label)
    return data_set_beside(name) if above is None else above


def _stem(name: str) -> str:
    return PurePosixPath(name).name.split(".nii")[0]
