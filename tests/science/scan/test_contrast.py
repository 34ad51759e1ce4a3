"""What looks like a T2 and is none: by its own words, by ImageType, and by times that no spin echo has."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spineage.science.scan.accept import judge_series
from spineage.science.scan.series import dixon_part
from spineage.science.scan.words import words_in
from tests.science.scan.test_series import LIMITS, code_of, good_stack, headers_of, physics, volume

PLAIN = [
    "T2 TSE SAG HWS", "t2_tse_sag_320", "SAG T2 FRFSE", "T2W_TSE_SAG", "Sag T2 whole spine", "T2 FSE SAG",
    "t2_spc_sag_p2_iso", "T2 TSE sag in-phase", "T2W_mDIXON_TSE_SAG",
]  # fmt: skip


def code_of_description(text: str, image_type: str = "") -> str:
    terms = frozenset(image_type.split("\\")) if image_type else frozenset()
    return code_of(good_stack(), words=words_in(text), physics=physics(image_type=terms))


@pytest.mark.parametrize("text", PLAIN)
def test_a_plain_t2_stays_one_whatever_it_is_called(text: str) -> None:
    assert code_of_description(text) == ""


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("STIR SAG", "not_t2"),
        ("t2_tirm_sag", "not_t2"),
        ("T2_STIR_longTE", "not_t2"),
        ("T2 FLAIR sag", "not_t2"),
        ("SAG T2 FS", "not_t2"),
        ("T2FS_sag", "not_t2"),
        ("T2W_SPAIR_SAG", "not_t2"),
        ("T2 SPIR", "not_t2"),
        ("T2 fat sat", "not_t2"),
        ("sag T2 FATSAT", "not_t2"),
        ("t2 tse fettgesättigt sag", "not_t2"),
        ("T2 fat-suppressed", "not_t2"),
        ("T2_DIXON_SAG_W", "water_only"),
        ("t2_tse_dixon_sag_F", "fat_only"),
        ("T2 mDIXON TSE opp", "opposed_phase"),
        ("T2 sag water", "water_only"),
        ("T2 sag out of phase", "opposed_phase"),
    ],
)
def test_what_a_description_says_is_believed_though_the_times_are_those_of_a_t2(
    text: str, code: str
) -> None:
    assert code_of_description(text) == code


@pytest.mark.parametrize(
    ("image_type", "code"),
    [
        ("DERIVED\\PRIMARY\\W\\W\\DERIVED", "water_only"),
        ("DERIVED\\PRIMARY\\DIXON\\WATER", "water_only"),
        ("DERIVED\\PRIMARY\\F\\F\\DERIVED", "fat_only"),
        ("DERIVED\\PRIMARY\\M\\FAT", "fat_only"),
        ("DERIVED\\PRIMARY\\OP\\OP\\DERIVED", "opposed_phase"),
        ("ORIGINAL\\PRIMARY\\M\\OPP_PHASE", "opposed_phase"),
        ("ORIGINAL\\PRIMARY\\M\\OUT_PHASE", "opposed_phase"),
        ("DERIVED\\PRIMARY\\IP\\IP\\DERIVED", ""),
        ("ORIGINAL\\PRIMARY\\M\\IN_PHASE", ""),
        ("ORIGINAL\\PRIMARY\\M\\SE", ""),
    ],
)
def test_vendors_terms_tell_the_images_of_a_dixon_acquisition_apart(
    image_type: str, code: str
) -> None:
    assert code_of_description("T2W_mDIXON_TSE_SAG", image_type) == code


def test_image_type_goes_before_words_and_several_words_say_nothing() -> None:
    in_phase = frozenset({"IP"})
    assert dixon_part(in_phase, words_in("T2 Dixon sag W")) == "in phase"
    assert dixon_part(frozenset(), words_in("T2 Dixon water and fat")) == ""
    assert dixon_part(frozenset(), words_in("T2 TSE sag")) == ""


def test_what_one_text_ends_with_and_the_next_begins_with_is_no_word() -> None:
    assert "stir" not in words_in("protocol IR", "TSE sag")
    assert "stir" in words_in("IR TSE sag")


@pytest.mark.parametrize("term", ["PHASE", "T2 MAP", "T2_MAP", "FIELD_MAP", "FF", "R2_STAR_MAP"])
def test_maps_of_a_converter_are_no_images(term: str) -> None:
    """The JSON of a NIfTI file has ImageType too."""
    header = volume(
        (13, 300, 300), (4.0, 1.0, 1.0), words=frozenset({"t2"}),
        physics=physics(image_type=frozenset({term})),
    )  # fmt: skip
    assert judge_series([header], LIMITS).code == "not_an_image"


@pytest.mark.parametrize(
    ("echo_ms", "repetition_ms", "says"),
    [(9500.0, 550_000.0, "TE would be 9500 ms"), (98.0, 3_500_000.0, "TR would be 3500000 ms")],
)
def test_times_in_the_wrong_unit_are_refused_and_not_guessed(
    echo_ms: float, repetition_ms: float, says: str
) -> None:
    frames = good_stack(echo_ms=echo_ms)
    series = judge_series(headers_of(frames, physics=physics(repetition_ms=repetition_ms)), LIMITS)
    assert series.code == "not_t2"
    assert says in series.message
    assert "is the unit wrong" in series.message


@pytest.mark.parametrize(
    ("words", "body_part", "study", "code"),
    [
        ("T2 TSE SAG", "HEAD", "MRT Ganze Wirbelsäule", ""),
        ("T2 TSE SAG WHOLESPINE", "ABDOMEN", "", ""),
        ("T2 TSE SAG", "HEAD", "", "not_spine"),
        ("T2 TSE SAG", "HEAD", "MR brain", "not_spine"),
        ("T2 SAG brain", "SPINE", "spine", "not_spine"),
        ("T2 SAG", "CTSPINE", "abdomen", ""),
    ],
)
def test_a_body_part_is_weighed_with_what_else_is_said(
    words: str, body_part: str, study: str, code: str
) -> None:
    said = {
        "words": words_in(words), "body_part": words_in(body_part), "study_words": words_in(study),
    }  # fmt: skip
    assert code_of(good_stack(), **said) == code


def test_rounded_positions_are_no_missing_slice_and_a_missing_one_is() -> None:
    def at(heights: list[float]) -> str:
        frames = good_stack()[: len(heights)]
        moved = [
            replace(f, position_mm=(x, -120.0, 150.0)) for f, x in zip(frames, heights, strict=True)
        ]
        return code_of(moved)

    assert at([round(20.0 - 4.55 * i, 1) for i in range(11)]) == ""
    assert at([round(20.0 - 4.4 * i, 1) + 0.1 * (i % 2) for i in range(11)]) == ""
    assert at([20.0 - 4.4 * i for i in range(12) if i != 5]) == "slice_gap"
    assert at([20.0 - 4.4 * i + 0.4 * (i == 5) for i in range(11)]) == "slice_gap"
