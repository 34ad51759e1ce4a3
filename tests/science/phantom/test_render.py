"""The pictures: right way round, every structure in its place, and ageing visible where it was planted."""

from __future__ import annotations

import itertools
import pickle
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from spineage.science.phantom import Exam, PhantomRecipe, Rendered, draw_population, render
from spineage.science.phantom.anatomy import build_spine, chain
from spineage.science.phantom.lesions import (
    Fracture,
    Haemangioma,
    Lesions,
    Modic,
    Protrusion,
    SchmorlNode,
)
from spineage.science.spine.labels import LEVELS, SEMANTIC
from tests.made.phantom_people import aged, one_exam, textbook_recipe

RECIPE = textbook_recipe()
EXAM = one_exam(RECIPE)


@pytest.fixture(scope="module")
def young() -> Rendered:
    return render(aged(EXAM, 25.0, RECIPE), RECIPE)


@pytest.fixture(scope="module")
def old() -> Rendered:
    return render(aged(EXAM, 84.0, RECIPE), RECIPE)


def centre_mm(rendered: Rendered, label: str) -> np.ndarray:
    index = np.argwhere(rendered.levels.voxels_RAS == LEVELS[label]).mean(axis=0)
    return rendered.levels.to_mm(index)


def signal(rendered: Rendered, names: list[str], quantile: float) -> float:
    inside = np.isin(rendered.levels.voxels_RAS, [LEVELS[n] for n in names])
    canal = rendered.levels.voxels_RAS == LEVELS["canal"]
    csf = np.quantile(rendered.image.voxels_RAS[canal], 0.8)
    return float(np.quantile(rendered.image.voxels_RAS[inside], quantile) / csf)


def discs_of(num_lumbar: int) -> list[str]:
    return [f"disc_below_{name}" for name in chain(num_lumbar)]


def test_the_same_exam_is_the_same_picture_whenever_and_wherever_it_is_drawn(
    young: Rendered,
) -> None:
    render(one_exam(PhantomRecipe(num_people=1, seed=99)), PhantomRecipe())
    sent = pickle.loads(pickle.dumps(aged(EXAM, 25.0, RECIPE)))
    again = render(sent, RECIPE)
    for name in ("image", "semantic", "levels"):
        first, second = getattr(young, name), getattr(again, name)
        assert first.voxels_RAS.tobytes() == second.voxels_RAS.tobytes()
        assert np.array_equal(first.affine_RAS, second.affine_RAS)


def test_the_volume_is_the_size_the_recipe_says(young: Rendered) -> None:
    assert young.image.voxels_RAS.shape == (13, 128, 432)
    assert young.image.voxels_RAS.dtype == np.float32
    assert young.semantic.voxels_RAS.dtype == young.levels.voxels_RAS.dtype == np.uint8
    assert young.image.spacing_mm == pytest.approx((4.4, 1.6, 1.6))
    assert np.isfinite(young.image.voxels_RAS).all()


def test_up_stays_up_and_front_stays_front(young: Rendered) -> None:
    order = [*chain(5), "sacrum"]
    heights = [centre_mm(young, name)[2] for name in order]
    assert all(a > b for a, b in itertools.pairwise(heights))
    levels = young.levels.voxels_RAS
    middle = levels[6]
    for name in ("C5", "T8", "L3"):
        _, _, s = np.round(young.levels.to_index(centre_mm(young, name))).astype(int)
        row = middle[:, s]
        canal, bone = np.flatnonzero(row == LEVELS["canal"]), np.flatnonzero(row == LEVELS[name])
        assert bone.max() > canal.max()  # the body lies in front of (at larger A than) the canal
    neck = round(float(np.argwhere(middle == LEVELS["C4"])[:, 1].mean()))
    assert (
        young.image.voxels_RAS[6, :3, neck].mean() < 0.1 * EXAM.scanner.gain
    )  # air behind the neck


def test_left_stays_left_the_aorta_runs_on_the_left_of_the_chest(young: Rendered) -> None:
    image, levels = young.image.voxels_RAS, young.levels.voxels_RAS
    body = np.argwhere(levels[6] == LEVELS["T8"])
    front, s = body[:, 0].max(), int(np.median(body[:, 1]))
    r_mm = young.image.to_mm(np.array([[i, 0, 0] for i in range(13)], dtype=float))[:, 0]
    beside = image[:, front + 2 : front + 8, s - 4 : s + 5].mean(axis=(1, 2))
    left, right = beside[(r_mm < -6) & (r_mm > -17)].mean(), beside[(r_mm > 6) & (r_mm < 17)].mean()
    assert left < 0.5 * right


@pytest.mark.parametrize(
    ("anatomy", "num_lumbar"), [("regular", 5), ("L4 last", 4), ("L6 present", 6)]
)
def test_every_vertebra_and_disc_is_labelled_and_no_other(anatomy: str, num_lumbar: int) -> None:
    recipe = PhantomRecipe(num_people=12, seed=8, transitional_share=float(num_lumbar != 5))
    exam = next(e for e in draw_population(recipe) if e.person.anatomy == anatomy)
    levels = render(exam, recipe).levels.voxels_RAS
    expected = {
        "background",
        "C1",
        *chain(num_lumbar),
        *discs_of(num_lumbar),
        "sacrum",
        "canal",
        "cord",
    }
    found = {name for name, value in LEVELS.items() if (levels == value).any()}
    assert found == expected
    assert set(np.unique(levels)) == {LEVELS[name] for name in expected}
    smallest = min((levels == LEVELS[name]).sum() for name in discs_of(num_lumbar))
    assert smallest > 20  # seen in a few voxels of a few slices at least


def test_both_label_maps_say_the_same(old: Rendered) -> None:
    levels, semantic = old.levels.voxels_RAS, old.semantic.voxels_RAS
    kinds = {"background": "background", "canal": "canal", "cord": "cord", "sacrum": "sacrum"}
    for name, value in LEVELS.items():
        kind = kinds.get(name, "disc" if name.startswith("disc") else "vertebra")
        assert (semantic[levels == value] == SEMANTIC[kind]).all()


@pytest.mark.parametrize("age", ["young", "old"])
def test_every_disc_lies_between_and_touches_its_two_vertebrae(
    age: str, request: pytest.FixtureRequest
) -> None:
    rendered: Rendered = request.getfixturevalue(age)
    levels = rendered.levels.voxels_RAS
    names = [*chain(5), "sacrum"]
    for upper, lower in itertools.pairwise(names):
        disc = levels[6] == LEVELS[f"disc_below_{upper}"]
        assert disc.any(), upper
        around = ndimage.binary_dilation(disc, iterations=1)
        touched = set(np.unique(levels[6][around]))
        assert {LEVELS[upper], LEVELS[lower]} <= touched
        s = centre_mm(rendered, f"disc_below_{upper}")[2]
        body = levels[6] == LEVELS[upper]
        body[: int(np.argwhere(disc)[:, 0].min())] = False  # the body without its spinous process
        assert rendered.levels.to_mm(np.array([6, *np.argwhere(body).mean(axis=0)]))[2] > s


@pytest.mark.parametrize("age", ["young", "old"])
def test_the_cord_lies_inside_the_canal_and_ends_at_the_first_lumbar_vertebrae(
    age: str, request: pytest.FixtureRequest
) -> None:
    rendered: Rendered = request.getfixturevalue(age)
    levels = rendered.levels.voxels_RAS
    cord, canal = levels == LEVELS["cord"], levels == LEVELS["canal"]
    skin = ndimage.binary_dilation(cord, structure=np.ones((1, 3, 1))) & ~cord
    assert canal[skin].mean() > 0.9
    whole, parts = ndimage.label(cord | canal)
    assert np.bincount(whole.ravel())[1:].max() > 0.98 * (cord | canal).sum()
    assert parts < 20
    lowest = rendered.levels.to_mm(np.argwhere(cord).astype(float))[:, 2].min()
    assert centre_mm(rendered, "L2")[2] < lowest < centre_mm(rendered, "T12")[2]
    bottom = rendered.levels.to_mm(np.argwhere(canal).astype(float))[:, 2].min()
    assert bottom < centre_mm(rendered, "disc_below_L5")[2]


def test_tissues_have_the_brightness_of_t2(young: Rendered) -> None:
    discs, bodies = discs_of(5), chain(5)
    assert 0.6 < signal(young, discs, 0.9) < 1.0  # nucleus nearly as bright as CSF
    assert signal(young, discs, 0.1) < 0.3  # annulus dark
    assert 0.15 < signal(young, bodies, 0.5) < 0.4  # red marrow
    assert 0.3 < signal(young, ["cord"], 0.5) < 0.55


def test_ageing_dries_flattens_and_fattens(young: Rendered, old: Rendered) -> None:
    discs, bodies = discs_of(5), chain(5)
    assert signal(old, discs, 0.9) < 0.4 * signal(young, discs, 0.9)
    assert signal(old, bodies, 0.5) > 1.5 * signal(young, bodies, 0.5)

    def size(rendered: Rendered, label: str) -> int:
        return int((rendered.levels.voxels_RAS == LEVELS[label]).sum())

    assert size(old, "disc_below_L4") < 0.85 * size(young, "disc_below_L4")
    assert narrowest_mm(old, "L4") < 0.75 * narrowest_mm(young, "L4")


def narrowest_mm(rendered: Rendered, upper: str) -> float:
    """Depth of the sac in the midline at a disc."""
    levels = rendered.levels.voxels_RAS
    s = round(float(np.argwhere(levels[6] == LEVELS[f"disc_below_{upper}"])[:, 1].mean()))
    rows = range(s - 3, s + 4)
    depth = min(int((levels[6][:, k] == LEVELS["canal"]).sum()) for k in rows)
    return depth * rendered.levels.spacing_mm[1]


PLACED = [
    (Lesions(protrusions=(Protrusion(21, 5.0, 0.0),)), "disc_below_L4", 30),
    (Lesions(schmorl_nodes=(SchmorlNode(18, True, 5.0, 0.0, 0.0),)), "disc_below_L1", 30),
    (Lesions(modics=(Modic(21, 2, 7.0),)), "disc_below_L4", 35),
    (Lesions(haemangiomas=(Haemangioma(19, 5.0, 0.0, 0.0),)), "L1", 25),
]


@pytest.mark.parametrize(("lesions", "where", "reach_mm"), PLACED)
def test_a_lesion_shows_at_its_own_place_and_nowhere_else(
    lesions: Lesions, where: str, reach_mm: float
) -> None:
    plain = aged(EXAM, 45.0, RECIPE)
    without, with_it = render(plain, RECIPE), render(replace(plain, lesions=lesions), RECIPE)
    change = np.abs(with_it.image.voxels_RAS - without.image.voxels_RAS)
    seen = np.argwhere(change > 0.15 * EXAM.scanner.gain)
    assert len(seen) >= 10
    away = np.abs(without.image.to_mm(seen.astype(float))[:, 2] - centre_mm(without, where)[2])
    assert away.max() < reach_mm


def test_a_fracture_takes_height_from_the_front_of_its_vertebra() -> None:
    plain = aged(EXAM, 70.0, RECIPE)
    broken = replace(plain, lesions=Lesions(fractures=(Fracture(19, 0.45, True),)))

    def height_mm(exam: Exam, forward: float) -> float:
        rendered = render(exam, RECIPE)
        body = build_spine(exam).vertebrae[18]
        assert body.name == "L1"
        ups = np.arange(-20.0, 20.0, 0.25)
        points = [(0.0, *body.frame.at(forward * body.half_depth, up)) for up in ups]
        index = np.round(rendered.levels.to_index(np.array(points))).astype(int)
        return 0.25 * float((rendered.levels.voxels_RAS[tuple(index.T)] == LEVELS["L1"]).sum())

    front = height_mm(broken, 0.7) / height_mm(plain, 0.7)
    back = height_mm(broken, -0.8) / height_mm(plain, -0.8)
    assert front < 0.7
    assert back > 0.75


def test_a_finer_grid_shows_the_same_person(young: Rendered) -> None:
    recipe = replace(RECIPE, in_plane_mm=0.8)
    fine = render(aged(EXAM, 25.0, RECIPE), recipe)
    assert fine.image.voxels_RAS.shape == (13, 256, 864)
    assert fine.image.extent_mm == pytest.approx(young.image.extent_mm)
    for name in ("C4", "T7", "L4", "sacrum", "disc_below_L3"):
        assert np.abs(centre_mm(fine, name) - centre_mm(young, name)).max() < 1.5
    ratio = (fine.semantic.voxels_RAS == SEMANTIC["vertebra"]).sum() / 4
    assert ratio == pytest.approx(
        (young.semantic.voxels_RAS == SEMANTIC["vertebra"]).sum(), rel=0.05
    )


def test_everybody_fits_into_the_field_of_view() -> None:
    recipe = PhantomRecipe(num_people=400, seed=1, pathological_share=0.5, transitional_share=0.2)
    people = draw_population(recipe)
    by_size = sorted(people, key=lambda e: e.person.build.size * (1 + 0.02 * e.person.num_lumbar))
    by_kyphosis = sorted(people, key=lambda e: float(e.severities["kyphosis"][0]))
    for exam in (by_size[0], by_size[-1], by_kyphosis[-1], by_kyphosis[-2]):
        levels = render(exam, recipe).levels.voxels_RAS
        edge = np.ones(levels.shape[1:], bool)
        edge[2:-2, 2:-2] = False
        spine = (levels > 0).any(axis=0)
        assert not (spine & edge).any(), (exam.person.build.size, exam.severities["kyphosis"])
