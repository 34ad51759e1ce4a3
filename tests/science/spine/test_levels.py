import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS, SEMANTIC
from spineage.science.spine.levels import find_levels
from tests.made.drawn_spine import SPACING_MM, Drawing, agree, draw, names_of


@pytest.fixture(scope="module")
def spine():
    return draw(Drawing())


def refusal(semantic: Volume, **limits) -> str:
    with pytest.raises(BadScan) as fault:
        find_levels(semantic, **limits)
    return fault.value.code


def voxels_of(volume: Volume) -> np.ndarray:
    return volume.voxels_RAS.copy()


def test_every_vertebra_and_disc_of_a_regular_spine_gets_its_own_name(spine):
    semantic, truth = spine
    levels = find_levels(semantic)
    assert levels.numbering == "regular"
    assert levels.names[-23:] == tuple(names_of(23))
    assert [name for name, _ in levels.discs] == names_of(23)
    assert levels.num_discs_inferred == 0
    assert agree(levels.volume, truth) > 0.99


@pytest.mark.parametrize(("num_discs", "anatomy"), [(22, "L4 last"), (24, "L6 present")])
def test_a_lumbar_vertebra_less_or_more_is_named_and_said(num_discs, anatomy):
    semantic, truth = draw(Drawing(num_discs=num_discs))
    levels = find_levels(semantic)
    assert levels.numbering == anatomy
    assert agree(levels.volume, truth) > 0.99


@pytest.mark.parametrize("num_discs", [21, 25])
def test_a_spine_of_no_known_anatomy_is_not_numbered(num_discs):
    assert refusal(draw(Drawing(num_discs=num_discs))[0]) == "levels_unknown"


def test_the_study_can_ask_for_regular_spines_only():
    assert refusal(draw(Drawing(num_discs=24))[0], min_levels=23, max_levels=23) == "levels_unknown"


@settings(max_examples=8, deadline=None)
@given(
    scale=st.floats(0.8, 1.2),
    disc_mm=st.floats(4.0, 7.0),
    bend=st.floats(-1.5, 1.5),
    num_discs=st.sampled_from([22, 23, 23, 24]),
)
def test_size_bend_and_disc_height_do_not_change_the_count(scale, disc_mm, bend, num_discs):
    semantic, truth = draw(Drawing(num_discs=num_discs, scale=scale, disc_mm=disc_mm, bend=bend))
    levels = find_levels(semantic)
    assert [name for name, _ in levels.discs] == names_of(num_discs)
    assert agree(levels.volume, truth) > 0.97


@settings(max_examples=5, deadline=None)
@given(
    padding=st.tuples(*[st.integers(0, 12)] * 6),
    origin=st.tuples(*[st.floats(-500, 500)] * 3),
)
def test_where_the_spine_lies_in_the_image_and_in_the_scanner_does_not_matter(
    spine, padding, origin
):
    semantic, truth = spine
    pads = (padding[:2], padding[2:4], padding[4:])
    affine = semantic.affine_RAS.copy()
    affine[:3, 3] = origin
    moved = Volume(np.pad(semantic.voxels_RAS, pads), affine)
    inside = tuple(
        slice(a, a + n) for (a, _), n in zip(pads, semantic.voxels_RAS.shape, strict=True)
    )
    found = find_levels(moved).volume.voxels_RAS[inside]
    assert agree(Volume(found, affine), truth) > 0.99


def test_left_and_right_do_not_matter_to_the_count(spine):
    semantic, truth = spine
    mirrored = semantic.with_voxels(semantic.voxels_RAS[::-1])
    assert agree(find_levels(mirrored).volume, truth.with_voxels(truth.voxels_RAS[::-1])) > 0.99


def test_salt_and_pepper_does_not_change_a_name(spine):
    semantic, truth = spine
    rng = np.random.default_rng(0)
    voxels = voxels_of(semantic)
    noisy = rng.random(voxels.shape) < 0.02
    voxels[noisy] = rng.integers(0, 6, int(noisy.sum()))
    levels = find_levels(semantic.with_voxels(voxels))
    assert [name for name, _ in levels.discs] == names_of(23)
    assert agree(levels.volume, truth) > 0.95


@pytest.mark.parametrize("tissue", ["disc", "vertebra", "sacrum"])
def test_a_blob_far_from_the_canal_is_not_counted(spine, tissue):
    semantic, _ = spine
    voxels = voxels_of(semantic)
    free = np.argwhere(ndimage.binary_erosion(voxels == 0, iterations=4))
    spot = free[np.argmax(free[:, 1])]
    voxels[tuple(slice(n - 3, n + 4) for n in spot)] = SEMANTIC[tissue]
    levels = find_levels(semantic.with_voxels(voxels))
    assert [name for name, _ in levels.discs] == names_of(23)


# what is not shown


@pytest.mark.parametrize(
    "names", [("sacrum",), ("sacrum", "L5", "disc_below_L5", "L4", "disc_below_L4")]
)
def test_a_spine_without_its_sacrum_is_incomplete(spine, names):
    semantic, truth = spine
    voxels = voxels_of(semantic)
    voxels[np.isin(truth.voxels_RAS, [LEVELS[n] for n in names])] = 0
    assert refusal(semantic.with_voxels(voxels)) == "incomplete_spine"


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(names_of(23)), st.floats(0.0, 1.0))
def test_a_field_of_view_that_ends_anywhere_below_c2_is_refused(spine, name, share):
    """A lumbar or thoraco-lumbar scan never gets the names of another spine's levels."""
    semantic, truth = spine
    rows = np.flatnonzero((truth.voxels_RAS == LEVELS[name]).any((0, 1)))
    cut = int(rows[0] + share * (rows[-1] - rows[0]))
    low = Volume(semantic.voxels_RAS[:, :, :cut], semantic.affine_RAS)
    assert refusal(low) in {"incomplete_spine", "levels_unknown", "empty_mask", "implausible_mask"}


@settings(max_examples=10, deadline=None)
@given(st.sampled_from(names_of(23)), st.floats(0.0, 1.0))
def test_a_field_of_view_that_starts_anywhere_above_the_sacrum_is_refused(spine, name, share):
    semantic, truth = spine
    rows = np.flatnonzero((truth.voxels_RAS == LEVELS[f"disc_below_{name}"]).any((0, 1)))
    cut = int(rows[0] + share * (rows[-1] - rows[0]))
    high = Volume(semantic.voxels_RAS[:, :, cut:], semantic.affine_RAS)
    assert refusal(high) in {"incomplete_spine", "levels_unknown", "empty_mask", "implausible_mask"}


@pytest.mark.parametrize("num_rows", [20, 100, 180])
def test_an_image_shorter_than_any_spine_is_incomplete_whatever_was_drawn_in_it(spine, num_rows):
    semantic, _ = spine
    for start in (0, 60, 120):
        part = semantic.voxels_RAS[:, :, start : start + num_rows]
        assert refusal(Volume(part, semantic.affine_RAS)) == "incomplete_spine"


def test_an_empty_mask_says_so(spine):
    semantic, _ = spine
    assert refusal(semantic.with_voxels(np.zeros_like(semantic.voxels_RAS))) == "empty_mask"


# what cannot be


def test_an_upside_down_spine_is_refused(spine):
    semantic, _ = spine
    assert refusal(semantic.with_voxels(semantic.voxels_RAS[:, :, ::-1])) == "implausible_mask"


def test_a_spine_with_its_back_to_the_front_is_refused(spine):
    semantic, _ = spine
    assert refusal(semantic.with_voxels(semantic.voxels_RAS[:, ::-1])) == "implausible_mask"


@pytest.mark.parametrize(
    ("one", "other"),
    [("canal", "cord"), ("disc", "vertebra"), ("sacrum", "vertebra"), ("canal", "disc")],
)
def test_swapped_labels_are_refused(spine, one, other):
    semantic, _ = spine
    table = np.arange(6, dtype=np.uint8)
    table[[SEMANTIC[one], SEMANTIC[other]]] = SEMANTIC[other], SEMANTIC[one]
    code = refusal(semantic.with_voxels(table[semantic.voxels_RAS]))
    assert code in {"implausible_mask", "levels_unknown", "incomplete_spine"}


def test_a_spine_without_a_canal_is_refused(spine):
    semantic, _ = spine
    voxels = voxels_of(semantic)
    voxels[np.isin(voxels, (SEMANTIC["canal"], SEMANTIC["cord"]))] = 0
    assert refusal(semantic.with_voxels(voxels)) == "implausible_mask"


def test_noise_is_refused():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 6, (13, 100, 400)).astype(np.uint8)
    with pytest.raises(BadScan):
        find_levels(Volume(noise, np.diag([*SPACING_MM, 1.0])))


# what was not seen


@pytest.mark.parametrize("name", ["C3", "C6", "T2", "T7", "T12", "L2", "L4", "L5"])
def test_one_missed_disc_is_inferred_between_its_neighbours(name):
    semantic, truth = draw(Drawing(missing=(name,)))
    levels = find_levels(semantic)
    assert levels.num_discs_inferred == 1
    assert levels.numbering == "regular"
    assert name not in [n for n, _ in levels.discs]
    assert agree(levels.volume, truth) > 0.98


@pytest.mark.parametrize(
    "missing", [("T4", "L1"), ("T4", "T5"), ("L5", "T9"), ("C2",), ("C2", "C3")]
)
def test_two_missed_discs_or_the_top_one_are_not_guessed(missing):
    assert refusal(draw(Drawing(missing=missing))[0]) == "levels_unknown"


@pytest.mark.parametrize("num_discs", [23, 25])
def test_a_missed_disc_never_makes_a_transitional_spine(num_discs):
    """22 or 24 discs with one of them inferred could as well be another anatomy: refused."""
    semantic, _ = draw(Drawing(num_discs=num_discs - 1, missing=("T6",)))
    assert refusal(semantic) == "levels_unknown"


def test_a_disc_in_two_pieces_is_one_disc(spine):
    semantic, truth = spine
    voxels = voxels_of(semantic)
    for name in ("L4", "T8", "C5"):
        where = np.argwhere(truth.voxels_RAS == LEVELS[f"disc_below_{name}"])
        middle = int(np.median(where[:, 1]))
        cut = where[np.abs(where[:, 1] - middle) < 2]
        voxels[tuple(cut.T)] = SEMANTIC["vertebra"]
    levels = find_levels(semantic.with_voxels(voxels))
    assert [name for name, _ in levels.discs] == names_of(23)


def test_two_discs_grown_together_are_two(spine):
    """An osteophyte bridges the vertebra between them."""
    semantic, truth = spine
    voxels = voxels_of(semantic)
    for name in ("C6", "T9"):
        body = np.argwhere(truth.voxels_RAS == LEVELS[name])
        body = body[body[:, 1] > np.argwhere(truth.voxels_RAS == LEVELS["canal"])[:, 1].min()]
        front = body[(body[:, 1] >= body[:, 1].max() - 1) & (np.abs(body[:, 0] - 5) < 2)]
        voxels[tuple(front.T)] = SEMANTIC["disc"]
    levels = find_levels(semantic.with_voxels(voxels))
    assert [name for name, _ in levels.discs] == names_of(23)
    assert levels.num_discs_inferred == 0


@pytest.mark.parametrize("name", ["C2", "C4", "T8", "L3"])
def test_a_bright_line_across_a_vertebra_is_not_a_disc(spine, name):
    """The foot of the dens above all: a disc counted there would shift every name."""
    semantic, truth = spine
    voxels = voxels_of(semantic)
    body = np.argwhere(truth.voxels_RAS == LEVELS[name])
    body = body[body[:, 1] > np.median(body[:, 1])]
    line = body[(np.abs(body[:, 2] - np.median(body[:, 2])) < 1) & (np.abs(body[:, 0] - 5) < 2)]
    voxels[tuple(line.T)] = SEMANTIC["disc"]
    levels = find_levels(semantic.with_voxels(voxels))
    assert [name for name, _ in levels.discs] == names_of(23)
    assert agree(levels.volume, truth) > 0.98


def test_a_false_disc_within_a_body_is_not_counted_as_a_level(spine):
    semantic, truth = spine
    voxels = voxels_of(semantic)
    where = np.argwhere(truth.voxels_RAS == LEVELS["L2"])
    where = where[where[:, 1] > where[:, 1].max() - 15]
    band = where[np.abs(where[:, 2] - int(np.median(where[:, 2]))) < 2]
    voxels[tuple(band.T)] = SEMANTIC["disc"]
    assert refusal(semantic.with_voxels(voxels)) == "levels_unknown"


@pytest.mark.parametrize("name", ["T7", "T12", "L1"])
def test_a_collapsed_vertebra_is_still_a_vertebra(name):
    semantic, truth = draw(Drawing(collapsed={name: 0.6}))
    levels = find_levels(semantic)
    assert levels.numbering == "regular"
    assert agree(levels.volume, truth) > 0.98


def test_a_false_disc_within_the_sacrum_is_not_counted(spine):
    semantic, truth = spine
    voxels = voxels_of(semantic)
    where = np.argwhere(truth.voxels_RAS == LEVELS["sacrum"])
    band = where[np.abs(where[:, 2] - np.percentile(where[:, 2], 60)) < 2]
    voxels[tuple(band.T)] = SEMANTIC["disc"]
    levels = find_levels(semantic.with_voxels(voxels))
    assert [name for name, _ in levels.discs] == names_of(23)


def test_an_arch_that_hangs_below_its_body_keeps_its_name(spine):
    """The spinous process of T6 lies behind the body of T7 and below."""
    semantic, truth = spine
    levels = find_levels(semantic)
    arch = np.argwhere(truth.voxels_RAS == LEVELS["T6"])
    tip = arch[arch[:, 1] < arch[:, 1].min() + 3]
    disc = np.argwhere(truth.voxels_RAS == LEVELS["disc_below_T6"])
    assert np.median(tip[:, 2]) < disc[:, 2].max()
    assert (levels.volume.voxels_RAS[tuple(tip.T)] == LEVELS["T6"]).all()
