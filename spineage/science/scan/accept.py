"""Is a series a sagittal T2 of the spine? Physics and geometry first, description second.

The questions are asked in the order of QUESTIONS, and the first that fails names the refusal.
DERIVED alone refuses nothing: every image of some scanners is DERIVED.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from spineage.errors import BadScan
from spineage.science.scan.series import (
    NOT_IMAGES,
    TILED,
    Header,
    SeriesLimits,
    View,
    dixon_part,
    look,
)

MOST_ECHO_MS: Final = 1000.0
"""Of a 3D turbo spin echo the longest effective TE; plain T2 of the spine has 70 to 250."""
MOST_REPETITION_MS: Final = 30_000.0
UNPLACED_NOTE: Final = (
    "; it names no frame of reference: the exam's stations are taken to share one"
)
DIXON_CODES: Final = {"water": "water_only", "fat": "fat_only", "opposed": "opposed_phase"}


Question = Callable[[View, SeriesLimits], None]
"""Raises BadScan where the answer is no, of `first` of the view."""


@dataclass(frozen=True)
class Series:
    """The answer for one series: what was measured, and a fault code, "" when accepted."""

    view: View
    code: str
    message: str

    @property
    def series_id(self) -> str:
        return self.view.first.series_id

    @property
    def frame_of_reference(self) -> str | None:
        """The one that its files share; one that changes within a series says nothing."""
        named = {header.about.frame_of_reference for header in self.view.headers}
        return named.pop() if len(named) == 1 else None

    @property
    def span_mm(self) -> tuple[float, float]:
        """Lowest and highest S of its field of view."""
        assert self.view.grid is not None
        low, high = self.view.grid.bounds_mm[:, 2]
        return float(low), float(high)


def judge_series(headers: Sequence[Header], limits: SeriesLimits) -> Series:
    """Measure one series and answer for it; `headers` are all its files in any order."""
    view = look(headers, limits)
    fault = _first_fault(view, limits)
    if fault:
        return Series(view, fault.code, str(fault))
    planned = f"; {view.num_planning} slices that lie otherwise are left out" * bool(
        view.num_planning
    )
    accepted = Series(view, "", f"a sagittal T2 of the spine{view.first.note}{planned}")
    is_placed = view.first.kind == "nifti" or accepted.frame_of_reference
    return accepted if is_placed else replace(accepted, message=accepted.message + UNPLACED_NOTE)


def _first_fault(view: View, limits: SeriesLimits) -> BadScan | None:
    """Of the first question that any file fails; mixed_contrast where only some have the wrong contrast."""
    for question in QUESTIONS:
        answers = [_answer(question, replace(view, first=said), limits) for said in view.files]
        faults = sorted((answer for answer in answers if answer), key=lambda f: (f.code, str(f)))
        if faults and len(faults) < len(answers) and question in (has_t2_physics, is_named_t2):
            return BadScan("mixed_contrast", f"its slices differ; of some of them: {faults[0]}")
        if faults:
            return faults[0]
    return None


def _answer(question: Question, view: View, limits: SeriesLimits) -> BadScan | None:
    try:
        question(view, limits)
    except BadScan as fault:
        return fault
    return None


def is_an_image(view: View, limits: SeriesLimits) -> None:
    """An MR image at all: modality, values, colour, phase and derived maps."""
    header = view.first
    if any(h.physics.modality != "MR" for h in view.headers):
        raise BadScan("not_mr", "the modality is not MR")
    if header.value_fault:
        raise BadScan(*header.value_fault)
    if any(h.physics.is_colour for h in view.headers):
        raise BadScan("not_an_image", "a colour picture or secondary capture")
    if header.kind == "nifti" and "ct" in header.words:
        raise BadScan("not_mr", "its name says CT")
    if header.kind == "nifti" and header.words & {"labels", "map"}:
        raise BadScan("not_an_image", "its name says that it is a mask, a label image or a map")
    if not view.num_images or (header.kind == "nifti" and header.physics.image_type & NOT_IMAGES):
        raise BadScan("not_an_image", "a phase, field or derived map")


def is_no_localizer(view: View, limits: SeriesLimits) -> None:
    """Three planes in one series, or called a localizer."""
    header = view.first
    if "LOCALIZER" in header.physics.image_type or "localizer" in header.words:
        raise BadScan("localizer", "it is called a localizer")
    if {"sagittal", "coronal", "axial"} <= set(view.planes):
        raise BadScan("localizer", "one series holds three planes, as a localizer does")


def has_t2_physics(view: View, limits: SeriesLimits) -> None:
    """Sequence, inversion, fat suppression, TE and TR, by the header and by its own words; what neither says
    passes here."""
    physics, echo_ms = view.first.physics, view.echo_ms
    if "EP" in physics.sequence:
        raise BadScan("not_t2", "echo-planar, as in functional and diffusion imaging")
    if physics.image_type & TILED:
        raise BadScan("tiled", "many slices in one picture: export it as one image a slice")
    if "GR" in physics.sequence:
        raise BadScan("not_t2", "a gradient echo; expected a spin echo")
    if "IR" in physics.sequence or (physics.inversion_ms or 0) > 0:
        raise BadScan("not_t2", "an inversion recovery (STIR or FLAIR); expected plain T2")
    part = dixon_part(physics.image_type, view.first.words)
    if part in DIXON_CODES:
        raise BadScan(
            DIXON_CODES[part], f"the {part} image of a Dixon acquisition; expected in phase"
        )
    if physics.is_fat_suppressed:
        raise BadScan("not_t2", "fat or water is suppressed; expected plain T2, with bright marrow")
    if "stir" in view.first.words:
        raise BadScan("not_t2", "its description says STIR or another inversion recovery")
    if "fat suppressed" in view.first.words and part != "in phase":
        raise BadScan(
            "not_t2", "its description says that fat is suppressed; expected bright marrow"
        )
    _require_possible(view)
    if echo_ms is not None and echo_ms < limits.min_echo_ms:
        raise BadScan(
            "not_t2", f"TE is {echo_ms:.0f} ms, expected at least {limits.min_echo_ms:.0f}"
        )
    repetition_ms = physics.repetition_ms
    if repetition_ms is not None and repetition_ms < limits.min_repetition_ms:
        raise BadScan(
            "not_t2",
            f"TR is {repetition_ms:.0f} ms, expected at least {limits.min_repetition_ms:.0f}",
        )


def _require_possible(view: View) -> None:
    """Times that no spin echo has: a sidecar in milliseconds where seconds are due, or a damaged header. What
    they truly are is not guessed."""
    times = (
        ("TE", view.echo_ms, MOST_ECHO_MS),
        ("TR", view.first.physics.repetition_ms, MOST_REPETITION_MS),
    )
    for name, time_ms, most in times:
        if time_ms is not None and time_ms > most:
            raise BadScan(
                "not_t2",
                f"{name} would be {time_ms:.0f} ms, which no T2 has (at most {most:.0f}): is the unit wrong, "
                "as in a sidecar with milliseconds for seconds?",
            )


def is_sagittal(view: View, limits: SeriesLimits) -> None:
    """Positions are there, some slices are sagittal, and all point in one direction."""
    if not view.has_geometry or not view.planes:
        raise BadScan("no_geometry", "position, orientation or pixel spacing is missing or invalid")
    if "sagittal" not in view.planes and not view.is_isotropic:
        planes = " and ".join(sorted(set(view.planes)))
        raise BadScan(
            "not_sagittal",
            f"slices are {planes}; expected sagittal within {limits.max_tilt_degrees:g} degrees",
        )
    if len(view.planes) > 1:
        raise BadScan(
            "mixed_orientation",
            f"slices point in {len(view.planes)} directions; export each stack as its own series",
        )


def is_named_t2(view: View, limits: SeriesLimits) -> None:
    """The description must say T2, and no more than that, where physics does not say it."""
    words = view.first.words
    if view.echo_ms is not None:
        return
    if "t2" not in words:
        raise BadScan("not_t2", "neither an echo time nor the description says T2")
    if words & {"stir", "fat suppressed", "t2star", "t1"}:
        raise BadScan("not_t2", "the description says STIR, fat-suppressed, T1 or T2*")


def shows_a_spine(view: View, limits: SeriesLimits) -> None:
    """The field of view holds a spine, and no description names another part of the body.

    A series that calls itself spine is believed over a study that calls itself brain; one that says
    nothing is left to the segmenter, which refuses what shows no spine.
    """
    assert view.grid is not None
    width_mm, _, length_mm = view.grid.extent_mm
    if length_mm < limits.min_extent_mm:
        raise BadScan(
            "not_spine",
            f"the field of view is {length_mm:.0f} mm along the body, expected at least "
            f"{limits.min_extent_mm:.0f}",
        )
    if not view.stack_fault and width_mm > limits.max_width_mm:
        raise BadScan(
            "not_spine",
            f"slices span {width_mm:.0f} mm from side to side, at most {limits.max_width_mm:.0f}",
        )
    first = view.first
    # BodyPartExamined is a list's default at many scanners: it is weighed with the study's description
    for words in (first.words, first.body_part | first.study_words):
        if "spine" in words:
            return
        if words & {"head", "other body"}:
            raise BadScan("not_spine", "the description names another part of the body")


def is_fine_enough(view: View, limits: SeriesLimits) -> None:
    """A vertebra is some voxels high and some slices wide."""
    pixel_mm, slice_mm = view.in_plane_mm or 0.0, view.gap_mm or 0.0
    if pixel_mm > limits.max_pixel_mm:
        raise BadScan(
            "too_coarse",
            f"pixels of {pixel_mm:.1f} mm, at most {limits.max_pixel_mm:g} mm show a disc",
        )
    if slice_mm > limits.max_slice_mm and not view.stack_fault:
        raise BadScan(
            "too_coarse",
            f"slices lie {slice_mm:.1f} mm apart, at most {limits.max_slice_mm:g} mm show a vertebra",
        )


def is_a_stack(view: View, limits: SeriesLimits) -> None:
    """Enough slices, evenly spaced along a straight line."""
    if view.num_slices < limits.min_slices:
        raise BadScan(
            "too_few_slices", f"{view.num_slices} slices, expected at least {limits.min_slices}"
        )
    if view.stack_fault:
        raise view.stack_fault


QUESTIONS: Final[tuple[Question, ...]] = (
    is_an_image,
    is_no_localizer,
    has_t2_physics,
    is_sagittal,
    is_named_t2,
    shows_a_spine,
    is_fine_enough,
    is_a_stack,
)
