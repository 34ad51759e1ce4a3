"""Lesions that come and go by chance: more likely where the tissue is worn, never asking the age itself.

They are drawn from the planted severities and the archetype only, so they tell an ideal observer nothing more
about age. Positions are indices: discs from C2/3 down, vertebrae from C1 down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spineage.science.phantom.ageing import Archetype, Severities, struck


@dataclass(frozen=True)
class Protrusion:
    """A focal displacement of a disc into the canal."""

    disc: int
    depth_mm: float
    side_mm: float  # centre, positive to the right


@dataclass(frozen=True)
class SchmorlNode:
    """Disc material pushed through an endplate."""

    disc: int
    is_above: bool  # into the vertebra above the disc
    depth_mm: float
    forward: float  # -1 posterior edge, 1 anterior edge
    side_mm: float


@dataclass(frozen=True)
class Modic:
    """Changed marrow along the endplates of a disc; type 1 and 2 are bright on T2, 3 is dark."""

    disc: int
    kind: int
    reach_mm: float


@dataclass(frozen=True)
class Fracture:
    """A wedge: the anterior height lost, as a share. Fresh ones hold oedema."""

    vertebra: int
    loss: float
    is_fresh: bool


@dataclass(frozen=True)
class Slip:
    """Spondylolisthesis: everything above a disc slid forward."""

    disc: int
    slip_mm: float


@dataclass(frozen=True)
class Haemangioma:
    """A round bright spot in a body; harmless and unrelated to age."""

    vertebra: int
    radius_mm: float
    forward: float
    side_mm: float


@dataclass(frozen=True)
class Lesions:
    protrusions: tuple[Protrusion, ...] = ()
    schmorl_nodes: tuple[SchmorlNode, ...] = ()
    modics: tuple[Modic, ...] = ()
    fractures: tuple[Fracture, ...] = ()
    slips: tuple[Slip, ...] = ()
    haemangiomas: tuple[Haemangioma, ...] = ()


BRITTLE_VERTEBRAE = (13, 14, 17, 18, 19, 20)
"""T7, T8, T11, T12, L1, L2 (0 is C1): where osteoporotic spines break."""


def draw_lesions(rng: np.random.Generator, planted: Severities, archetype: Archetype) -> Lesions:
    """Every lesion of one person; the same stream at a later visit can only add lesions."""
    num_discs = len(planted["nucleus"])
    ill = struck(archetype, "mobile", num_discs - 18) * ("bulge" in archetype.shift)
    chance = rng.random((5, num_discs))
    shape = rng.random((5, num_discs))
    side = rng.uniform(-1, 1, (5, num_discs))
    worn = {name: np.clip(planted[name], 0, 1.3) for name in ("bulge", "endplate", "facet")}
    discs = range(num_discs)
    protrusions = tuple(
        Protrusion(i, 3.0 + 3.0 * shape[0, i], 6.0 * side[0, i])
        for i in discs
        if chance[0, i] < 0.35 * max(0.0, worn["bulge"][i] - 0.85) + 0.30 * ill[i]
    )
    nodes = tuple(
        SchmorlNode(i, side[1, i] > 0, 3.0 + 3.0 * shape[1, i], 0.6 * side[4, i], 6.0 * side[2, i])
        for i in discs
        if i > 5 and chance[1, i] < 0.15 * (worn["endplate"][i] - 0.3)
    )
    modics = tuple(
        Modic(i, (1, 2, 2, 3)[int(4 * shape[2, i])], 4.0 + 4.0 * shape[3, i])
        for i in discs
        if chance[2, i] < 0.2 * max(0.0, worn["endplate"][i] - 0.95) + 0.30 * ill[i]
    )
    slips = tuple(
        Slip(i, 3.0 + 4.0 * shape[4, i])
        for i in (num_discs - 2,)
        if chance[3, i] < 0.3 * max(0.0, worn["facet"][i] - 1.0) + 0.35 * ill[i]
    )
    return Lesions(
        protrusions,
        nodes,
        modics,
        _draw_fractures(rng, planted, archetype),
        slips,
        _draw_haemangiomas(rng, len(planted["marrow"])),
    )


def _draw_fractures(
    rng: np.random.Generator, planted: Severities, archetype: Archetype
) -> tuple[Fracture, ...]:
    order = rng.permutation(BRITTLE_VERTEBRAE)
    chance, loss, fresh = rng.random((3, len(order)))
    brittle = float(np.mean(planted["marrow"]))
    if archetype.name == "osteoporotic":
        likely = np.array([1.0, 0.8, 0.4, 0.2, 0.0, 0.0])
    else:
        likely = np.array([0.10 * max(0.0, brittle - 0.9), 0, 0, 0, 0, 0])
    return tuple(
        Fracture(int(v), 0.22 + 0.28 * float(loss[i]), bool(fresh[i] < 0.25))
        for i, v in enumerate(order)
        if chance[i] < likely[i]
    )


def _draw_haemangiomas(rng: np.random.Generator, num_vertebrae: int) -> tuple[Haemangioma, ...]:
    if rng.random() > 0.12:
        return ()
    vertebra = int(rng.integers(11, num_vertebrae))
    forward, side = rng.uniform(-0.4, 0.4), rng.uniform(-6, 6)
    return (Haemangioma(vertebra, float(rng.uniform(3.5, 6.0)), float(forward), float(side)),)
