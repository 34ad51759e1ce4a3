"""A good mask passes; each way of going wrong trips its own limit and no other."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spineage.errors import FAULTS, BadScan
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS, SEMANTIC
from spineage.science.spine.levels import find_levels
from spineage.science.spine.morphometry import measure
from spineage.science.spine.named import levels_from_named, semantic_of
from spineage.science.spine.quality import QualityLimits, assess, failings, refuse_implausible
from spineage.study import Segment
from tests.made.drawn_spine import SPACING_MM, Drawing, draw

LIMITS = QualityLimits(
    **{f.name: getattr(Segment(), f.name) for f in dataclasses.fields(QualityLimits)}
)
SIGNAL = {"canal": 800.0, "cord": 500.0, "disc": 240.0, "vertebra": 400.0, "sacrum": 400.0}


def image_of(named: Volume, **signal: float) -> Volume:
    table = np.zeros(6, np.float32)
    for tissue, value in {**SIGNAL, **signal}.items():
        table[SEMANTIC[tissue]] = value
    return named.with_voxels(table[semantic_of(named).voxels_RAS])


def measured_on(named: Volume, **signal: float):
    levels = levels_from_named(named)
    measured = measure(image_of(named, **signal), levels)
    return assess(levels, measured), measured


def codes(named: Volume, **signal: float) -> list[str]:
    return [code for code, _ in failings(*measured_on(named, **signal), LIMITS)]


@pytest.fixture(scope="module")
def spine():
    return draw(Drawing())[1]


def voxels_of(volume: Volume, *names: str) -> np.ndarray:
    return np.isin(volume.voxels_RAS, [LEVELS[name] for name in names])


def coordinates(volume: Volume) -> tuple[np.ndarray, ...]:
    return tuple(np.indices(volume.voxels_RAS.shape))


# damage: each returns a mask that is wrong in one way


def cut_at_its_side(named: Volume) -> Volume:
    """The field of view ends where the bodies still go on, on both sides alike."""
    half = round(9 / SPACING_MM[0])
    middle = named.voxels_RAS.shape[0] // 2
    return Volume(named.voxels_RAS[middle - half : middle + half + 1], named.affine_RAS)


def one_side_missing(named: Volume) -> Volume:
    """The right half of every body was not drawn."""
    voxels = named.voxels_RAS.copy()
    is_bone = (voxels > 0) & (voxels < LEVELS["canal"])
    is_right = coordinates(named)[0] > voxels.shape[0] // 2
    voxels[is_bone & is_right & (voxels != LEVELS["sacrum"])] = 0
    return named.with_voxels(voxels)


def body_in_two(named: Volume) -> Volume:
    """T8's body is parted into a front and a back half."""
    voxels = named.voxels_RAS.copy()
    _, a, s = coordinates(named)
    inside = voxels_of(named, "T8")
    for height in np.unique(s[inside]):
        row = inside & (s == height)
        voxels[row & np.isin(a - a[row].max(), (-6, -7))] = 0
    return named.with_voxels(voxels)


def canal_interrupted(named: Volume) -> Volume:
    """Sixty millimetres of the chest without canal and cord."""
    voxels = named.voxels_RAS.copy()
    s = coordinates(named)[2]
    middle = s[voxels_of(named, "T6")].mean()
    voxels[voxels_of(named, "canal", "cord") & (np.abs(s - middle) < 15)] = 0
    return named.with_voxels(voxels)


def cord_outside(named: Volume) -> Volume:
    """A third of the cord was drawn beside the spine."""
    voxels = named.voxels_RAS.copy()
    s = coordinates(named)[2]
    middle, low = s[voxels_of(named, "T3")].mean(), s[voxels_of(named, "T9")].mean()
    here = np.argwhere(voxels_of(named, "cord") & (s > low) & (s < middle))
    beside = here + np.array([4, -8, 0])
    voxels[tuple(beside.T)] = LEVELS["cord"]
    return named.with_voxels(voxels)


def back_to_front(named: Volume) -> Volume:
    return named.with_voxels(named.voxels_RAS[:, ::-1])


def two_taken_for_one(named: Volume) -> Volume:
    """T6 is given most of T7's body and the disc between them; every name is still there, in order."""
    voxels = named.voxels_RAS.copy()
    s = coordinates(named)[2]
    disc = voxels_of(named, "disc_below_T6")
    body = voxels_of(named, "T7") & disc.any(2)[:, :, None]
    low, high = s[body].min(), s[body].max()
    voxels[disc | (body & (s > low + 0.28 * (high - low)))] = LEVELS["T6"]
    return named.with_voxels(voxels)


def without_arches(named: Volume) -> Volume:
    """Bodies, discs and canal only."""
    voxels = named.voxels_RAS.copy()
    column = voxels_of(named, *(f"disc_below_{n}" for n in ("C3", "T6", "L3"))).any(2)
    arch = (voxels > 0) & (voxels <= LEVELS["L6"]) & ~column[:, :, None]
    voxels[arch] = 0
    return named.with_voxels(voxels)


def swollen(named: Volume) -> Volume:
    """T7 leaks into the tissue in front of it; its height is right."""
    voxels = named.voxels_RAS.copy()
    s = coordinates(named)[2][voxels_of(named, "T7")]
    slab = voxels[2:-2, :, s.min() + 2 : s.max() - 1]
    slab[slab == 0] = LEVELS["T7"]
    return named.with_voxels(voxels)


def with_voxel_size(named: Volume, factor: float) -> Volume:
    """The header's voxel size along the body is wrong by a factor."""
    return Volume(named.voxels_RAS, named.affine_RAS @ np.diag([1, 1, factor, 1]))


def test_a_good_mask_of_every_anatomy_is_believed():
    for num_discs in (22, 23, 24):
        assert codes(draw(Drawing(num_discs=num_discs))[1]) == []


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        (cut_at_its_side, "cut_off", "whole inside the image"),
        (one_side_missing, "one_sided", "to one side of the canal"),
        (body_in_two, "broken_mask", "apart from the rest"),
        (canal_interrupted, "broken_mask", "the canal is interrupted"),
        (cord_outside, "implausible_mask", "inside the canal"),
        (two_taken_for_one, "implausible_size", "times as high"),
        (swollen, "implausible_size", "times as large"),
        (lambda named: with_voxel_size(named, 0.57), "implausible_size", "mm long"),
    ],
)
def test_each_way_of_going_wrong_trips_its_own_limit_only(spine, damage, code, words):
    found = failings(*measured_on(damage(spine)), LIMITS)
    assert [c for c, _ in found] == [code]
    assert words in found[0][1]
    with pytest.raises(BadScan) as fault:
        refuse_implausible(*measured_on(damage(spine)), LIMITS)
    assert fault.value.code == code


def test_a_mask_that_is_back_to_front_is_refused_as_such_before_anything_else(spine):
    quality, measured = measured_on(back_to_front(spine))
    assert quality.discs_in_front == 0
    code, message = failings(quality, measured, LIMITS)[0]
    assert (code, "back to front" in message) == ("implausible_mask", True)
    with pytest.raises(BadScan, match="back to front"):
        find_levels(semantic_of(back_to_front(spine)))


def test_a_back_to_front_mask_of_bodies_alone_is_refused_without_a_measure_of_its_sides():
    named = without_arches(draw(Drawing(bend=0.0))[1])
    assert codes(named) == []
    quality, measured = measured_on(back_to_front(named))
    assert np.isnan(quality.off_centre)
    assert failings(quality, measured, LIMITS)[0][0] == "implausible_mask"


def test_a_mask_that_is_upside_down_has_no_levels(spine):
    flipped = spine.with_voxels(spine.voxels_RAS[:, :, ::-1])
    for find, volume in ((levels_from_named, flipped), (find_levels, semantic_of(flipped))):
        with pytest.raises(BadScan, match="upside down"):
            find(volume)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("level_height_mm", 2.0, "body T7 is 2.0 mm high, expected 4 to 50 mm"),
        ("disc_height_mm", 30.0, "disc T7/8 is 30.0 mm high, expected 1 to 22 mm"),
    ],
)
def test_a_height_no_human_has_is_refused_with_its_name(spine, field, value, words):
    quality, measured = measured_on(spine)
    names = measured.level_names if field == "level_height_mm" else measured.disc_names
    heights = [
        value if n == "T7" else h for n, h in zip(names, getattr(measured, field), strict=True)
    ]
    odd = dataclasses.replace(measured, **{field: heights})
    assert failings(quality, odd, LIMITS) == [("implausible_size", words)]


def test_discs_that_outshine_the_fluid_are_refused(spine):
    assert codes(spine, disc=900.0) == []  # 1.12 times
    assert codes(spine, disc=1100.0) == ["implausible_signal"]


def test_a_fractured_vertebra_is_no_broken_mask():
    collapsed = draw(Drawing(collapsed={"T8": 0.4, "T12": 0.6, "L1": 0.5}))[1]
    assert codes(collapsed) == []


def test_limits_are_the_studys(spine):
    quality, measured = measured_on(spine)
    strict = dataclasses.replace(LIMITS, length_mm=(100.0, 200.0))
    assert [code for code, _ in failings(quality, measured, strict)] == ["implausible_size"]


@settings(max_examples=6, deadline=None)
@given(
    scale=st.floats(0.8, 1.2),
    bend=st.floats(-1.5, 1.5),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    is_mirrored=st.booleans(),
)
def test_size_bend_place_and_side_are_no_faults(scale, bend, origin, is_mirrored):
    named = draw(Drawing(scale=scale, bend=bend))[1]
    affine = named.affine_RAS.copy()
    affine[:3, 3] = origin
    voxels = named.voxels_RAS[::-1] if is_mirrored else named.voxels_RAS
    assert codes(Volume(voxels, affine)) == []


@settings(max_examples=6, deadline=None)
@given(share=st.floats(0.0, 1.0))
def test_coverage_falls_as_more_of_the_spine_is_cut(share):
    """A slab whose upper part is narrower than the bodies: what it cuts is what is counted."""
    named = draw(Drawing())[1]
    quality, _ = measured_on(named)
    cut = cut_at_its_side(named)
    mixed = cut.voxels_RAS.copy()
    edge = round(share * mixed.shape[2])
    mixed[[0, -1], :, edge:] = 0  # bodies above the edge end before the image does
    found, _ = measured_on(cut.with_voxels(mixed))
    assert quality.coverage == 1.0
    bodies = [n for n in range(1, 27) if (mixed[[0, -1]] == n).any()]
    discs = [n for n in range(101, 127) if (mixed[[0, -1]] == n).any()]
    assert found.coverage == pytest.approx(1 - (len(bodies) + len(discs)) / 46, abs=0.05)


def test_every_code_is_declared_and_phantoms_of_both_sexes_pass():
    recipe = PhantomRecipe(num_people=3, seed=11, artefact_share=0.5, transitional_share=0.5)
    for exam in draw_population(recipe)[:3]:
        person = render(exam, recipe)
        for levels in (find_levels(person.semantic), levels_from_named(person.levels)):
            measured = measure(person.image, levels)
            assert failings(assess(levels, measured), measured, LIMITS) == []
    assert {"cut_off", "one_sided", "broken_mask", "implausible_size", "implausible_signal"} <= set(
        FAULTS
    )
