"""A network that already names its vertebrae: check that the names make a spine before anyone believes
them.

Letters: R A S voxel axes.
"""

from __future__ import annotations

import itertools

import numpy as np

from spineage.errors import BadScan
from spineage.science.scan.geometry import Points, Volume, where_mm
from spineage.science.spine.canal import canal_behind, find_canal
from spineage.science.spine.discs import MIN_DISC_MM3, Disc, disc_from
from spineage.science.spine.labels import LEVELS, SEMANTIC, VERTEBRAE
from spineage.science.spine.levels import Levels, check_count, check_presence

MIN_VERTEBRA_MM3 = 800.0
"""A third of the smallest cervical body."""


def semantic_of(named: Volume) -> Volume:
    """The tissues of a volume in the levels schema."""
    table = np.zeros(256, np.uint8)
    for name, value in LEVELS.items():
        if name in SEMANTIC:
            table[value] = SEMANTIC[name]
        else:
            table[value] = SEMANTIC["disc" if name.startswith("disc_") else "vertebra"]
    return named.with_voxels(table[named.voxels_RAS])


def levels_from_named(named: Volume, *, min_levels: int = 22, max_levels: int = 24) -> Levels:
    """Levels of a volume in labels.LEVELS, after checking that they are whole, in order and without a gap.

    Raises BadScan as `levels.find_levels` does. C1 may be missing, and one disc.
    """
    semantic = semantic_of(named)
    check_presence(semantic)
    has_canal = bool((semantic.voxels_RAS == SEMANTIC["canal"]).any())
    canal = find_canal(semantic) if has_canal else canal_behind(named)
    num_voxels = np.bincount(named.voxels_RAS.ravel(), minlength=256)
    mm3 = num_voxels * named.voxel_mm3
    found = [name for name in VERTEBRAE if mm3[LEVELS[name]] >= MIN_VERTEBRA_MM3]
    chain = [name for name in found if name != "C1"]
    _check_chain(chain)
    place = {
        name: float(np.median(canal.locate(_points(named, LEVELS[name]))[0])) for name in chain
    }
    for upper, lower in itertools.pairwise(chain):
        if place[upper] <= place[lower]:
            raise BadScan(
                "levels_unknown", f"{upper} lies below {lower}; vertebrae are named out of order"
            )
    discs: list[tuple[str, Disc]] = []
    for name in VERTEBRAE[1:]:
        value = LEVELS[f"disc_below_{name}"]
        if mm3[value] < MIN_DISC_MM3:
            continue
        if name not in chain:
            raise BadScan("levels_unknown", f"there is a disc below {name} but no {name}")
        discs.append((name, disc_from(named, canal, np.argwhere(named.voxels_RAS == value))))
    num_inferred = len(chain) - len(discs)
    check_count(len(chain), num_inferred, min_levels, max_levels)
    return Levels(named, tuple(found), tuple(discs), _numbering(chain), num_inferred, canal)


def _points(named: Volume, value: int) -> Points:
    return where_mm(named, named.voxels_RAS == value)


def _check_chain(chain: list[str]) -> None:
    """C2 on top, then every vertebra once; only the last of the chest and of the loin may be more or
    less."""
    if not chain or chain[0] != "C2":
        raise BadScan(
            "incomplete_spine",
            f"the top vertebra is {chain[0] if chain else 'not shown'}, expected C2",
        )
    expected = [n for n in VERTEBRAE if n != "C1" and not (n == "T13" and "T13" not in chain)]
    last = expected.index(chain[-1])
    missing = [n for n in expected[: last + 1] if n not in chain]
    if missing:
        raise BadScan(
            "levels_unknown", f"{', '.join(missing[:4])} not found between C2 and {chain[-1]}"
        )
    if chain[-1] not in ("L4", "L5", "L6"):
        raise BadScan("levels_unknown", f"the last vertebra above the sacrum is named {chain[-1]}")


def _numbering(chain: list[str]) -> str:
    """What is not regular, in words."""
    odd = [text for name, text in (("T13", "T13 present"), ("L6", "L6 present")) if name in chain]
    if chain[-1] == "L4":
        odd.append("L4 last")
    return ", ".join(odd) or "regular"
