import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.science.scan.geometry import Volume
from spineage.science.spine.foreign import ABOVE_SACRUM, ENDPLATES, TISSUES_OF, TOOLS, adapt
from spineage.science.spine.labels import LEVELS, SEMANTIC, VERTEBRAE
from spineage.science.spine.named import levels_from_named
from tests.made.drawn_spine import Drawing, draw, names_of


@pytest.fixture(scope="module")
def spine():
    return draw(Drawing())


def as_tool(ours: Volume, tool: str, schema: dict[str, int], **resolved: int) -> Volume:
    """Our labels written with a tool's numbers; what it has no number for becomes background."""
    table = np.zeros(256, np.int16)
    for value, name in TOOLS[tool].names.items():
        if name in schema:
            table[schema[name]] = value
    for name, value in resolved.items():
        table[schema[name]] = value
    return ours.with_voxels(table[ours.voxels_RAS])


def refusal(volume: Volume, tool: str, tissues: Volume | None = None) -> str:
    with pytest.raises(BadScan) as fault:
        adapt(volume, tool, tissues)
    assert fault.value.code == "implausible_mask"
    return str(fault.value)


@pytest.mark.parametrize(("num_discs", "last"), [(22, "L4"), (23, "L5"), (24, "L6")])
def test_totalspineseg_names_every_level_and_its_100_is_the_disc_on_the_sacrum(num_discs, last):
    _, levels = draw(Drawing(num_discs=num_discs))
    if last == "L6":  # the disc between L5 and L6 has no number there
        levels.voxels_RAS[levels.voxels_RAS == LEVELS["disc_below_L5"]] = 0
    foreign = as_tool(levels, "totalspineseg", LEVELS, **{f"disc_below_{last}": 100})
    found = adapt(foreign, "totalspineseg")
    assert found.voxels_RAS.dtype == np.uint8
    assert np.array_equal(found.voxels_RAS, levels.voxels_RAS)


def test_a_spine_of_totalspineseg_is_believed_by_what_reads_levels(spine):
    foreign = as_tool(spine[1], "totalspineseg", LEVELS, disc_below_L5=100)
    assert list(levels_from_named(adapt(foreign, "totalspineseg")).names) == names_of(23)


def test_vertebrae_mr_and_our_own_labels_come_back(spine):
    semantic, levels = spine
    shown = {LEVELS[name] for name in (*VERTEBRAE, "sacrum")}
    kept = np.where(np.isin(levels.voxels_RAS, list(shown)), levels.voxels_RAS, 0)
    found = adapt(as_tool(levels, "vertebrae_mr", LEVELS), "vertebrae_mr")
    assert np.array_equal(found.voxels_RAS, kept)
    assert np.array_equal(adapt(levels, "levels").voxels_RAS, levels.voxels_RAS)
    assert np.array_equal(adapt(semantic, "semantic").voxels_RAS, semantic.voxels_RAS)


def test_total_mr_gives_tissues_and_forgets_organs(spine):
    numbers = {"vertebra": 19, "disc": 20, "cord": 21, "sacrum": 18, "canal": 5}  # 5 is the liver
    found = adapt(as_tool(spine[0], "total_mr", SEMANTIC, **numbers), "total_mr")
    no_canal = np.where(spine[0].voxels_RAS == SEMANTIC["canal"], 0, spine[0].voxels_RAS)
    assert np.array_equal(found.voxels_RAS, no_canal)


def veridah(spine) -> tuple[Volume, Volume]:
    """(names, tissues) as SPINEPS and VERIDAH write them: names hold no sacrum, cord or canal."""
    semantic, levels = spine
    names = as_tool(levels, "spineps-veridah", LEVELS, sacrum=0)
    tissues = as_tool(semantic, "spineps", SEMANTIC, vertebra=49)
    return names, tissues


def test_spineps_names_come_from_one_mask_and_tissues_from_the_other(spine):
    names, tissues = veridah(spine)
    found = adapt(names, "spineps-veridah", tissues)
    assert np.array_equal(found.voxels_RAS, spine[1].voxels_RAS)
    assert np.array_equal(adapt(tissues, "spineps").voxels_RAS, spine[0].voxels_RAS)


def test_both_endplates_of_a_disc_go_to_the_vertebra_they_belong_to(spine):
    names, tissues = veridah(spine)
    levels = spine[1].voxels_RAS
    number = {name: v for v, name in TOOLS["spineps-veridah"].names.items()}
    for upper, lower in (("T5", "T6"), ("L5", "sacrum")):
        disc_S = np.argwhere(levels == LEVELS[f"disc_below_{upper}"])[:, 2]
        above = (levels == LEVELS[upper]) & (np.arange(levels.shape[2]) == disc_S.max() + 1)
        below = (levels == LEVELS[lower]) & (np.arange(levels.shape[2]) == disc_S.min() - 1)
        assert above.any()
        assert below.any()
        names.voxels_RAS[above | below] = number[f"{ENDPLATES}{upper}"]
        tissues.voxels_RAS[above | below] = 62
    found = adapt(names, "spineps-veridah", tissues)
    assert np.array_equal(found.voxels_RAS, levels)


@pytest.mark.parametrize("tool", TOOLS)
def test_a_value_outside_the_table_is_refused_and_so_is_an_interpolated_volume(tool, spine):
    tissues = veridah(spine)[1] if tool in TISSUES_OF else None
    blank = np.zeros_like(spine[1].voxels_RAS, np.int16)
    blank[0, 0, 0] = 250
    assert "250" in refusal(spine[1].with_voxels(blank), tool, tissues)
    blurred = np.full(blank.shape, 0.5, np.float32)
    assert "interpolated" in refusal(spine[1].with_voxels(blurred), tool, tissues)


def test_one_tools_volume_is_not_taken_for_anothers(spine):
    levels = spine[1]
    names, tissues = veridah(spine)
    totalspineseg = as_tool(levels, "totalspineseg", LEVELS, disc_below_L5=100)
    assert "seg-spine" in refusal(totalspineseg, "spineps")
    assert "seg-vert" in refusal(names, "spineps")
    assert "early releases" in refusal(names, "totalspineseg")
    assert "not one of the labels" in refusal(totalspineseg, "vertebrae_mr")
    assert "not one of the labels of semantic" in refusal(levels, "semantic")
    assert "not of one scan" in refusal(
        names, "spineps-veridah", tissues.with_voxels(np.roll(tissues.voxels_RAS, 20, 2))
    )
    moved = Volume(tissues.voxels_RAS, tissues.affine_RAS + np.eye(4)[:, [1, 2, 3, 0]])
    assert "different grids" in refusal(names, "spineps-veridah", moved)


def test_early_totalspineseg_where_41_was_c1_is_refused(spine):
    early = np.where(spine[1].voxels_RAS == LEVELS["canal"], 201, 0)
    early[spine[1].voxels_RAS == LEVELS["C2"]] = 40
    early[spine[1].voxels_RAS == LEVELS["C1"]] = 41
    assert "41 was C1" in refusal(spine[1].with_voxels(early), "totalspineseg")


def test_names_that_contradict_each_other_are_refused(spine):
    levels = spine[1]
    lost = np.where(levels.voxels_RAS == LEVELS["T6"], 0, levels.voxels_RAS)
    assert "no T6" in refusal(levels.with_voxels(lost), "levels")
    twice = as_tool(levels, "totalspineseg", LEVELS, disc_below_L5=100)
    twice.voxels_RAS[twice.voxels_RAS == 45] = 0
    assert "two discs lie below L4" in refusal(twice, "totalspineseg")


def test_no_table_names_what_we_have_no_name_for():
    for tool in TOOLS.values():
        schema = LEVELS if tool.schema == "levels" else SEMANTIC
        plain = {n for n in tool.names.values() if n != ABOVE_SACRUM}
        assert {n for n in plain if not n.startswith(ENDPLATES)} <= set(schema)
