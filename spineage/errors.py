"""Two kinds of trouble. Everything else is a bug and crashes."""

from __future__ import annotations

import traceback
import unicodedata

# The closed set of fault codes: what can be wrong with one file, series or scan, and what to do about it.
FAULTS: dict[str, str] = {
    # files
    "not_imaging": "the file is neither DICOM nor NIfTI; nothing to do",
    "sidecar": "a file that describes others (.json, .tsv, .bval, .bvec); nothing to do",
    "directory": "a DICOMDIR, the table of contents of a disc; its files are found without it",
    "archive": "a zip archive; each of its members has a row of its own",
    "nested_archive": "an archive within an archive; unpack the outer one and ingest again",
    "bad_archive": "an archive or member that is damaged, encrypted, doubled or leads out of its place",
    "not_unpacked": "an archive, whose members are not read; unpack it beside the other files",
    "too_large": "the file declares, or unpacks to, more than any exam holds; look at where it comes from",
    "link": "a link to a folder or out of the input, which is not followed; name its target as input",
    "hidden": "a hidden folder (its name begins with a dot), which is no input; nothing to do",
    "special_file": "a pipe, socket or device, which is never opened; nothing to do",
    "unreadable": "the header cannot be parsed; copy or export the file again",
    "truncated": "the file ends before its data do; copy it again",
    "no_pixels": "the object carries no image; nothing to do",
    "duplicate_file": "another file holds the same object; the first by file id is used",
    # series
    "not_mr": "modality is not MR",
    "not_sagittal": "slices are not sagittal (within 30 degrees)",
    "not_t2": "echo and repetition times, or the description, are not those of a T2-weighted scan",
    "mixed_contrast": "slices of one series are of several contrasts that cannot be told apart; export each "
    "as a series of its own",
    "water_only": "the water image of a Dixon acquisition: a fat-suppressed T2, with dark marrow; give the "
    "in-phase image",
    "fat_only": "the fat image of a Dixon acquisition; give the in-phase image",
    "opposed_phase": "the opposed-phase image of a Dixon acquisition; give the in-phase image",
    "not_spine": "the part of the body, or the field of view, is not the spine",
    "localizer": "a localizer",
    "not_an_image": "phase, field map, secondary capture, colour or other derived map",
    "mixed_orientation": "slices of one series point in different directions",
    "too_coarse": "pixels or slices are too large to show a vertebra and its discs",
    "too_few_slices": "fewer slices than a spine needs",
    "mixed_spacing": "slices of one series differ in matrix size or pixel spacing",
    "tiled": "many slices lie in one picture (mosaic), whose places are not in the standard's attributes",
    "slice_gap": "slice positions are not evenly spaced: a slice is missing or doubled",
    "sheared": "slices are not stacked along their normal",
    "no_geometry": "position, orientation or spacing is missing from the header",
    "geometry_conflict": "sform and qform of a NIfTI file put it at two places; set both to the right one",
    "bad_values": "pixels are NaN, infinite or constant",
    "bad_pixels": "pixel data cannot be decoded, or disagree with the header",
    "two_people": "one id whose headers differ in sex, birth or age, or a label of two data sets; correct "
    "the id, or accept by hand",
    "refused_by_hand": "overrides.csv refuses it, with a reason",
    "not_chosen": "another series of the same exam and station was chosen",
    # scans
    "stations_apart": "stations of the exam leave a gap along the spine",
    "stations_moved": "the person moved between two stations by more than can be moved back",
    "stations_disagree": "stations differ in frame of reference or cannot be stitched",
    "incomplete_spine": "the scan does not show the spine from C2 to the sacrum",
    "levels_unknown": "vertebrae cannot be counted with confidence",
    "bad_logits": "the network's answer is infinite or NaN; try another model on this scan",
    "no_mask": "segment.masks has no mask of this scan; add one and run ingest again",
    "empty_mask": "no spine was found",
    "implausible_mask": "the mask is no spine: tissues are missing, upside down, back to front or mixed up",
    "cut_off": "the image's sides cut off too many bodies and discs",
    "one_sided": "the mask shows one side of the vertebrae only",
    "broken_mask": "the canal is interrupted, or a body or disc is in pieces",
    "implausible_size": "a height, volume or length is no human's, or unlike its neighbours",
    "implausible_signal": "discs outshine the fluid: not T2-weighted, or the mask lies beside the spine",
    "outside_model": "the scan is unlike what the model was trained on",
    "changed_since_ingest": "a file is not the one that ingest saw; run ingest again; tried again then",
    "unavailable": "a disk or server did not give the scan's file; tried again at the next run",
    # the machine
    "bug": "it met a bug of this program: please report it; tried again at the next run",
    "damaged_part": "what an earlier stage kept of the scan is damaged, and set aside; that stage makes it "
    "anew at the next run",
    "crashed": "the scan killed its worker each time; tried again at the next run",
    "device_failed": "the device failed on this scan and its worker was replaced; tried again next time",
    "out_of_memory": "the scan does not fit the device's memory; tried again next time",
    "deadline": "the scan exceeded its time limit; tried again at the next run",
}

TRANSIENT = frozenset(
    {
        "bug",
        "changed_since_ingest",
        "crashed",
        "damaged_part",
        "deadline",
        "device_failed",
        "out_of_memory",
        "unavailable",
    }
)


class SpineageError(Exception):
    """Anything a user can act on.

    Its text may quote a foreign file: what would move a terminal's cursor, or hide, is shown as `?`.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__("".join("?" if _is_hidden(c) else c for c in message))


def _is_hidden(character: str) -> bool:
    """Control and format characters and half surrogates, line feeds apart."""
    return character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs")


class BadScan(SpineageError):
    """One file, series or scan is unusable: the run goes on and the reason is kept.

    `code` must be one of FAULTS; the message must name nobody and no path.
    """

    def __init__(self, code: str, message: str) -> None:
        assert code in FAULTS, f"{code} is not a declared fault code"
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[type[BadScan], tuple[str, str]]:
        return type(self), (self.code, str(self))


OURS = f"{__file__.rpartition('/')[0]}/"


def place_of(error: BaseException) -> str:
    """A bug's type and place in the code, and nothing of what the error says: that may quote the input."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if frame.filename.startswith(OURS)] or frames
    where = f" at {ours[-1].filename.rpartition('/')[2]}:{ours[-1].lineno}" if ours else ""
    return f"unexpected {type(error).__name__}{where}"


class DeviceFault(BadScan):
    """A scan after which the worker's device cannot be trusted: the worker is replaced."""


class BadStudy(SpineageError):
    """The study is inconsistent: nothing may start. Exit code 2."""


class NotYet(BadStudy):
    """A result that this needs has not been made yet: the message names the stage that makes it."""


class MetBugs(SpineageError):
    """Scans met bugs of this program; all that could be done is done. Exit code 1."""


class StoppedEarly(SpineageError):
    """Too many scans failed alike: what is done is kept, the rest was not tried. Exit code 3."""
