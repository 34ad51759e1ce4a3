import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.science.spine.labels import LEVELS
from spineage.science.spine.levels import find_levels
from spineage.science.spine.named import levels_from_named, semantic_of
from tests.made.drawn_spine import Drawing, draw, names_of


@pytest.fixture(scope="module")
def spine():
    return draw(Drawing())


def refusal(named) -> str:
    with pytest.raises(BadScan) as fault:
        levels_from_named(named)
    return fault.value.code


@pytest.mark.parametrize(
    ("num_discs", "anatomy"), [(22, "L4 last"), (23, "regular"), (24, "L6 present")]
)
def test_names_that_make_a_spine_are_believed(num_discs, anatomy):
    _, named = draw(Drawing(num_discs=num_discs))
    levels = levels_from_named(named)
    assert list(levels.names) == names_of(num_discs)
    assert levels.numbering == anatomy


def test_tissues_of_named_levels_are_those_they_were_named_from(spine):
    semantic, named = spine
    assert np.array_equal(semantic_of(named).voxels_RAS, semantic.voxels_RAS)
    found = find_levels(semantic)
    again = levels_from_named(found.volume)
    assert (again.names, again.numbering) == (found.names, found.numbering)


@pytest.mark.parametrize(
    ("rename", "code"),
    [
        ({"T6": "T7", "T7": "T6"}, "levels_unknown"),  # out of order
        ({"T6": "T5"}, "levels_unknown"),  # one name twice, one missing
        ({"L5": "background"}, "levels_unknown"),  # 22 with a disc too many is not L4 last
        ({"C2": "background"}, "incomplete_spine"),
        ({"sacrum": "background"}, "incomplete_spine"),
        ({"disc_below_T3": "background", "disc_below_L1": "background"}, "levels_unknown"),
    ],
)
def test_names_that_make_no_spine_are_refused(spine, rename, code):
    _, named = spine
    table = np.arange(256, dtype=np.uint8)
    for old, new in rename.items():
        table[LEVELS[old]] = LEVELS[new]
    assert refusal(named.with_voxels(table[named.voxels_RAS])) == code


def test_one_disc_that_was_not_seen_is_counted_as_inferred(spine):
    _, named = spine
    voxels = named.voxels_RAS.copy()
    voxels[voxels == LEVELS["disc_below_T3"]] = 0
    assert levels_from_named(named.with_voxels(voxels)).num_discs_inferred == 1
