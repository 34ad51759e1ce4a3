"""What a series is, from headers alone; each refusal has its own code."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from spineage.errors import BadScan
from spineage.science.people.age import age_between, age_from_text, settle_age
from spineage.science.scan.accept import Series, judge_series
from spineage.science.scan.choose import choose_stations, coverage_of, union_mm
from spineage.science.scan.series import About, Header, Physics, SeriesLimits
from spineage.science.scan.slices import Frame, SliceGrid, arrange, plane_of
from spineage.science.scan.words import words_in

LIMITS = SeriesLimits(
    min_echo_ms=55, min_repetition_ms=1200, max_tilt_degrees=30, min_slices=5, max_slice_gap_error_mm=0.1,
    min_extent_mm=150, max_width_mm=160, max_pixel_mm=4, max_slice_mm=10,
)  # fmt: skip
TO_BACK, TO_FEET = (0.0, 1.0, 0.0), (0.0, 0.0, -1.0)
TO_LEFT = (1.0, 0.0, 0.0)
T2_PHYSICS = Physics(sequence=frozenset({"SE"}), repetition_ms=3500.0)
SOMEBODY = About("person", "exam", frame_of_reference="frame", study_day=737000)


def sagittal(number: int, *, top_mm: float = 150.0, **changes: Any) -> Frame:
    """Slice `number` of a 300 mm sagittal stack at 4 mm steps."""
    frame = Frame(
        0,
        300,
        250,
        (20.0 - 4.0 * number, -120.0, top_mm),
        TO_BACK,
        TO_FEET,
        (1.0, 1.0),
        echo_ms=100.0,
    )
    return replace(frame, **changes)


def axial(number: int) -> Frame:
    return Frame(
        0, 256, 256, (-128.0, -128.0, 5.0 * number), TO_LEFT, TO_BACK, (1.0, 1.0), echo_ms=100.0
    )


def coronal(number: int) -> Frame:
    return Frame(
        0, 256, 256, (-128.0, 5.0 * number, 128.0), TO_LEFT, TO_FEET, (1.0, 1.0), echo_ms=100.0
    )


def headers_of(frames: list[Frame], **changes: Any) -> list[Header]:
    """One classic file a frame."""
    return [
        Header(
            **{
                "file_id": f"f{i:03d}", "kind": "dicom", "series_id": "series", "object_id": f"o{i}",
                "digest": f"d{i}", "about": SOMEBODY, "physics": T2_PHYSICS, "frames": (frame,),
                "echo_ms": frame.echo_ms, **changes,
            }
        )
        for i, frame in enumerate(frames)
    ]  # fmt: skip


def good_stack(**changes: Any) -> list[Frame]:
    return [sagittal(i, **changes) for i in range(11)]


def code_of(frames: list[Frame], **changes: Any) -> str:
    return judge_series(headers_of(frames, **changes), LIMITS).code


def physics(**changes: Any) -> Physics:
    return replace(T2_PHYSICS, **changes)


def test_a_sagittal_t2_spin_echo_is_accepted_without_any_description() -> None:
    series = judge_series(headers_of(good_stack()), LIMITS)
    assert (series.code, series.view.plane, series.view.num_slices) == ("", "sagittal", 11)
    assert series.view.gap_mm == pytest.approx(4.0)
    assert series.span_mm == pytest.approx((-149.5, 150.5))


@pytest.mark.parametrize(
    ("code", "changes"),
    [
        ("not_mr", {"physics": physics(modality="CT")}),
        ("not_an_image", {"physics": physics(is_colour=True)}),
        ("localizer", {"words": frozenset({"localizer", "spine"})}),
        ("localizer", {"physics": physics(image_type=frozenset({"LOCALIZER"}))}),
        ("not_t2", {"physics": physics(sequence=frozenset({"GR"}))}),
        ("not_t2", {"physics": physics(sequence=frozenset({"SE", "EP"}))}),
        ("not_t2", {"physics": physics(sequence=frozenset({"SE", "IR"}))}),
        ("not_t2", {"physics": physics(inversion_ms=180.0)}),
        ("not_t2", {"physics": physics(is_fat_suppressed=True)}),
        ("not_t2", {"physics": physics(repetition_ms=600.0)}),
        (
            "not_t2",
            {"physics": physics(image_type=frozenset({"MOSAIC"}), sequence=frozenset({"EP"}))},
        ),
        ("tiled", {"physics": physics(image_type=frozenset({"MOSAIC"}))}),
        ("not_spine", {"words": frozenset({"t2", "sagittal", "head"})}),
        ("not_spine", {"words": frozenset({"t2"}), "study_words": frozenset({"other body"})}),
    ],
)
def test_each_wrong_header_has_its_code(code: str, changes: dict[str, Any]) -> None:
    assert code_of(good_stack(), **changes) == code


def test_a_short_echo_is_not_t2_whatever_the_description_says() -> None:
    assert code_of(good_stack(echo_ms=12.0), words=frozenset({"t2", "spine"})) == "not_t2"


def test_without_an_echo_time_the_description_must_say_t2() -> None:
    frames = good_stack(echo_ms=None)
    assert code_of(frames) == "not_t2"
    assert code_of(frames, words=frozenset({"t2"})) == ""
    assert code_of(frames, words=frozenset({"t2", "stir"})) == "not_t2"


def test_a_series_that_says_spine_is_believed_over_a_study_that_says_head() -> None:
    words = {"words": frozenset({"spine"}), "study_words": frozenset({"head"})}
    assert code_of(good_stack(), **words) == ""


def test_other_planes_are_not_sagittal() -> None:
    assert code_of([axial(i) for i in range(11)]) == "not_sagittal"
    assert code_of([coronal(i) for i in range(11)]) == "not_sagittal"


def test_three_planes_in_one_series_are_a_localizer_and_two_are_mixed() -> None:
    two = [*(sagittal(i) for i in range(5)), *(axial(i) for i in range(5))]
    assert code_of(two) == "mixed_orientation"
    assert code_of([*two, *(coronal(i) for i in range(5))]) == "localizer"


@pytest.mark.parametrize(
    "planning",
    [
        [axial(0)],
        [axial(0), coronal(0)],
        [sagittal(3, rows=512, columns=512, pixel_mm=(0.9, 0.9))],
        [replace(axial(0), echo_ms=8.0)],
    ],
    ids=["axial", "two planes", "another size", "another echo"],
)
def test_a_planning_slice_does_not_cost_its_series(planning: list[Frame]) -> None:
    series = judge_series(headers_of([*good_stack(), *planning]), LIMITS)
    assert (series.code, series.view.num_slices) == ("", 11)
    assert f"{len(planning)} slices that lie otherwise are left out" in series.message


def test_two_series_in_one_with_different_echo_times_are_mixed_not_a_double_echo() -> None:
    axials = [replace(axial(i), echo_ms=120.0) for i in range(5)]
    assert code_of([*good_stack(), *axials]) == "mixed_orientation"


def test_of_a_double_echo_the_t2_weighted_one_is_used() -> None:
    frames = [sagittal(i, echo_ms=echo) for i in range(11) for echo in (15.0, 90.0)]
    series = judge_series(headers_of(frames), LIMITS)
    assert (series.code, series.view.echo_ms, series.view.num_slices) == ("", 90.0, 11)
    assert len(series.view.headers) == 22


def test_of_repeats_at_the_same_places_the_first_is_used() -> None:
    frames = [sagittal(i, acquisition=run) for i in range(11) for run in (2, 1)]
    series = judge_series(headers_of(frames), LIMITS)
    assert (series.code, series.view.num_slices) == ("", 11)
    first_run = {f"f{i:03d}" for i, frame in enumerate(frames) if frame.acquisition == 1}
    assert {file_id for file_id, _ in series.view.slices} == first_run


def test_phase_images_beside_magnitude_are_left_out_and_alone_refused() -> None:
    phase = [sagittal(i, is_magnitude=False) for i in range(11)]
    series = judge_series(headers_of([*good_stack(), *phase]), LIMITS)
    assert (series.code, series.view.num_slices) == ("", 11)
    assert code_of(phase) == "not_an_image"


def test_missing_positions_are_no_geometry() -> None:
    frames = good_stack()
    frames[3] = replace(frames[3], position_mm=None)
    assert code_of(frames) == "no_geometry"
    assert code_of(good_stack(across=None)) == "no_geometry"
    assert code_of(good_stack(pixel_mm=(0.0, 1.0))) == "no_geometry"


def test_a_missing_slice_and_a_doubled_slice_are_slice_gaps() -> None:
    frames = good_stack()
    assert code_of([*frames[:4], *frames[5:]]) == "slice_gap"
    assert code_of([*frames, frames[4]]) == "slice_gap"


def test_slices_that_step_sideways_are_sheared() -> None:
    frames = [
        replace(f, position_mm=(f.position_mm[0], -120.0 + i, 150.0))
        for i, f in enumerate(good_stack())
        if f.position_mm
    ]
    assert code_of(frames) == "sheared"


def test_too_few_slices_and_too_small_a_view_are_refused() -> None:
    assert code_of(good_stack()[:4]) == "too_few_slices"
    assert code_of(good_stack(rows=100)) == "not_spine"
    wide = [
        replace(f, position_mm=(100.0 - 20.0 * i, -120.0, 150.0))
        for i, f in enumerate(good_stack())
    ]
    assert code_of(wide) == "not_spine"


def test_slices_within_thirty_degrees_are_sagittal() -> None:
    for degrees, plane in ((29.0, "sagittal"), (31.0, "oblique"), (60.5, "coronal")):
        angle = np.radians(degrees)
        assert plane_of(np.array([np.cos(angle), np.sin(angle), 0.0]), 30.0) == plane


@settings(max_examples=60, deadline=None)
@given(
    turn=st.tuples(*[st.floats(-0.4, 0.4)] * 3),
    pixel_mm=st.tuples(st.floats(0.3, 2.0), st.floats(0.3, 2.0)),
    gap_mm=st.floats(1.0, 8.0),
    order=st.permutations(range(7)),
)
def test_every_pixel_lies_where_the_standard_says(
    turn: tuple[float, ...], pixel_mm: tuple[float, float], gap_mm: float, order: list[int]
) -> None:
    """Against DICOM PS3.3 C.7.6.2.1.1 (equation C.7.6.2.1-1), slice by slice, in any order of files."""
    rotation = Rotation.from_rotvec(turn).as_matrix()
    across, down = rotation @ TO_BACK, rotation @ TO_FEET
    normal = np.cross(across, down)
    frames = [
        Frame(0, 30, 20, tuple(np.array([10.0, -20.0, 30.0]) + k * gap_mm * normal), tuple(across),
              tuple(down), pixel_mm)
        for k in order
    ]  # fmt: skip
    stack = arrange(frames, max_gap_error_mm=0.1)
    assert stack.gap_mm == pytest.approx(gap_mm)
    for z, given_at in enumerate(stack.order):
        column, row = 13, 22
        frame = frames[given_at]
        lps = np.array(frame.position_mm) + across * pixel_mm[1] * column + down * pixel_mm[0] * row
        ras = stack.grid.affine_RAS @ [column, row, z, 1]
        np.testing.assert_allclose(ras[:3], lps * [-1, -1, 1], atol=1e-6)


def test_arrange_names_the_gaps_it_found() -> None:
    frames = [sagittal(i) for i in (0, 1, 2, 4)]
    with pytest.raises(BadScan, match=r"from 4\.00 to 8\.00 mm"):
        arrange(frames, max_gap_error_mm=0.1)


def volume(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], **changes: Any
) -> Header:
    fields = {
        "file_id": "f", "kind": "nifti", "series_id": "n", "object_id": "o", "digest": "d",
        "about": About("p", "e"), "physics": Physics(), "words": frozenset({"t2"}),
        "grid": SliceGrid(shape, np.diag([*spacing, 1.0])), **changes,
    }  # fmt: skip
    return Header(**fields)


def test_isotropic_volumes_were_cut_in_no_plane_and_are_read_sagittally() -> None:
    series = judge_series([volume((40, 250, 200), (1.0, 1.0, 1.0))], LIMITS)
    assert (series.code, series.view.plane, series.view.num_slices) == ("", "unknown", 40)


def test_the_longest_voxel_edge_of_a_volume_is_its_slice_axis() -> None:
    assert judge_series([volume((13, 300, 300), (4.0, 1.0, 1.0))], LIMITS).view.plane == "sagittal"
    assert judge_series([volume((300, 300, 90), (0.7, 0.7, 3.0))], LIMITS).code == "not_sagittal"


def test_a_volume_named_after_a_mask_or_ct_is_refused() -> None:
    for words, code in (({"t2", "labels"}, "not_an_image"), ({"ct"}, "not_mr"), (set(), "not_t2")):
        header = volume((40, 250, 200), (1.0, 1.0, 1.0), words=frozenset(words))
        assert judge_series([header], LIMITS).code == code


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("T2 TSE SAG HWS", {"t2", "sagittal", "spine"}),
        ("Sag T2 Lumbar FS", {"t2", "sagittal", "spine", "fat suppressed"}),
        ("t2_tse_sag_Brustwirbelsäule", {"t2", "sagittal", "spine"}),
        ("RACHIS LOMBAIRE SAG T2", {"t2", "sagittal", "spine"}),
        ("腰椎 T2 SAG", {"t2", "sagittal", "spine"}),
        ("T2* MEDIC", {"t2star"}),
        ("3-plane loc", {"localizer"}),
        ("Repérage", {"localizer"}),
        ("STIR sag cspine", {"stir", "sagittal", "spine"}),
        ("ax T1 brain", {"axial", "t1", "head"}),
        ("Anna Saggio Braint", set()),
    ],
)
def test_descriptions_become_words_of_a_closed_list(text: str, words: set[str]) -> None:
    assert words_in(text) == words


@pytest.mark.parametrize(
    ("text", "years"),
    [("045Y", 45), ("45Y", 45), ("018M", 1.5), ("052W", 1.0), ("010D", 0.0),
     ("000Y", None), ("0Y", None), ("***", None), ("", None), ("200Y", None), ("45", None), ("-45Y", None)],
)  # fmt: skip
def test_ages_are_read_in_every_form_and_never_made_up(text: str, years: float | None) -> None:
    assert age_from_text(text) == (None if years is None else pytest.approx(years))


def test_the_documented_source_of_an_age_wins_and_disputes_are_noted() -> None:
    assert settle_age(50.0, 45.0, 45.5) == (50.0, "participants, disputed")
    assert settle_age(None, 45.0, 45.9) == (45.0, "PatientAge")
    assert settle_age(None, 45.0, 47.0) == (45.0, "PatientAge, disputed")
    assert settle_age(None, None, 45.9) == (45.9, "dates")
    assert settle_age(None, None, None) == (None, "")


def test_equal_and_impossible_dates_give_no_age() -> None:
    assert age_between(730000, 730000) is None
    assert age_between(730000, 729000) is None
    assert age_between(730000, 730000 + 365 * 200) is None
    assert age_between(730000, 730000 + 14610) == pytest.approx(40.0)


def test_no_day_of_birth_can_be_found_from_an_age() -> None:
    ages = {age_between(730000, 730000 + 14610 + day) for day in range(30)}
    assert ages <= {40.0, 40.1}


def station(
    name: str,
    top_mm: float,
    rows: int,
    *,
    frame: str | None = "frame",
    pixel_mm: float = 1.0,
    second: float = 0.0,
) -> Series:
    frames = good_stack(top_mm=top_mm, rows=rows, pixel_mm=(pixel_mm, pixel_mm))
    about = replace(SOMEBODY, frame_of_reference=frame, acquired_s=second)
    return judge_series(headers_of(frames, series_id=name, about=about), LIMITS)


def chosen(*series: Series) -> list[str]:
    """Names of the stations chosen, which must not depend on the order given."""
    answers = {
        tuple(s.series_id for s in choose_stations(order, 450.0).stations)
        for order in itertools.permutations(series)
    }
    assert len(answers) == 1, "the choice depends on the order of series"
    return list(answers.pop())


NECK, CHEST, LOIN = (("neck", 300.0, 260), ("chest", 80.0, 260), ("loin", -140.0, 260))


def test_three_overlapping_stations_make_one_scan_head_first() -> None:
    assert chosen(station(*LOIN), station(*NECK), station(*CHEST)) == ["neck", "chest", "loin"]


def test_a_composed_series_makes_a_scan_alone() -> None:
    assert chosen(station("whole", 300.0, 700), station(*NECK), station(*LOIN)) == ["whole"]


def test_of_two_series_of_one_station_the_finer_then_the_later_is_chosen() -> None:
    fine = station("fine", 300.0, 520, pixel_mm=0.5)
    assert chosen(station(*NECK), fine, station(*LOIN)) == ["fine", "loin"]
    again = station("again", 300.0, 260, second=600.0)
    assert chosen(station(*NECK), again, station(*LOIN)) == ["again", "loin"]


def test_the_losers_are_listed_with_a_reason() -> None:
    choice = choose_stations([station(*NECK), station("again", 300.0, 260, second=600.0)], 450.0)
    assert choice.left == {"neck": ("not_chosen", "another series covers the same station better")}


def test_stations_of_another_frame_of_reference_are_not_joined() -> None:
    choice = choose_stations(
        [station(*NECK), station(*CHEST), station(*LOIN, frame="moved")], 450.0
    )
    assert [s.series_id for s in choice.stations] == ["neck", "chest"]
    assert choice.left["loin"][0] == "not_chosen", "480 mm are complete without it"
    choice = choose_stations([station(*NECK), station("low", -140.0, 200, frame="moved")], 450.0)
    assert choice.left["low"][0] == "stations_disagree"


def test_stations_of_an_exam_without_any_frame_of_reference_share_the_scanners_and_say_so() -> None:
    """Anonymisers empty it; who moved in between is seen when they are stitched."""
    stations = [station(*NECK, frame=None), station("loin", -140.0, 250, frame=None)]
    assert chosen(*stations) == ["neck", "loin"]
    assert all("names no frame of reference" in one.message for one in stations)
    assert chosen(station(*NECK), station("loin", -140.0, 250, frame=None)) == ["neck"]


def test_covered_length_counts_overlaps_once_and_gaps_never() -> None:
    assert union_mm([(0, 10), (5, 20), (30, 40)]) == 30


def test_the_coverage_record_says_which_station_shows_which_millimetres() -> None:
    record = coverage_of(choose_stations([station(*LOIN), station(*NECK), station(*CHEST)], 450.0))
    assert [one.series_id for one in record] == ["neck", "chest", "loin"]
    assert [(one.low_mm, one.high_mm) for one in record] == [
        pytest.approx((40.5, 300.5)), pytest.approx((-179.5, 80.5)), pytest.approx((-399.5, -139.5)),
    ]  # fmt: skip
    assert [one.shared_mm for one in record] == pytest.approx([40.0, 80.0, 40.0])
