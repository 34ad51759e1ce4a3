"""A spine drawn with boxes: the truth of every level is known, and anything can be taken away or put wrong.

Letters: R A S voxel axes. Along the body heights are exact; the whole spine is bent by shifting it in A.
"""

from dataclasses import dataclass, field

import numpy as np

from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import LEVELS, SEMANTIC

SPACING_MM = (4.4, 2.0, 2.0)


def names_of(num_discs: int) -> list[str]:
    lumbar = [f"L{i}" for i in range(1, num_discs - 17)]
    return [*(f"C{i}" for i in range(2, 8)), *(f"T{i}" for i in range(1, 13)), *lumbar]


@dataclass
class Drawing:
    """What to draw. Heights in mm at scale 1; `missing` discs are drawn as bone, by the vertebra above."""

    num_discs: int = 23
    scale: float = 1.0
    disc_mm: float = 6.0
    bend: float = 1.0
    missing: tuple[str, ...] = ()
    collapsed: dict[str, float] = field(
        default_factory=dict
    )  # share of the body's height that is left
    top_margin_mm: float = 20.0
    shape: tuple[int, int] = (11, 80)


def draw(d: Drawing) -> tuple[Volume, Volume]:
    """(semantic, levels) of a drawing; both on the same grid."""
    names = names_of(d.num_discs)
    disc_mm = d.disc_mm * d.scale
    heights = np.interp(range(len(names)), [0, 6, 18, len(names)], [14, 15, 24, 28]) * d.scale
    heights = np.array([h * d.collapsed.get(n, 1.0) for h, n in zip(heights, names, strict=True)])
    heights[0] = 38 * d.scale  # C2 with its dens
    sacrum_mm = 90 * d.scale
    length = sacrum_mm + heights.sum() + disc_mm * len(names) + d.top_margin_mm + 10
    grid_S = np.arange(0, length, SPACING_MM[2])
    r = ((np.arange(d.shape[0]) - (d.shape[0] - 1) / 2) * SPACING_MM[0])[:, None, None]
    a = ((np.arange(d.shape[1]) - d.shape[1] * 0.45) * SPACING_MM[1])[None, :, None]
    s = grid_S[None, None, :]
    forward = a - 12 * d.bend * np.sin(2 * np.pi * s / length)
    depth = np.interp(s, [0, sacrum_mm, length], [30, 32, 15]) * d.scale
    half_width = np.interp(s, [0, sacrum_mm, length], [20, 20, 9]) * d.scale
    semantic = np.zeros((*d.shape, len(grid_S)), np.uint8)
    levels = np.zeros_like(semantic)

    def fill(where, tissue, level):
        semantic[where], levels[where] = SEMANTIC[tissue], LEVELS.get(level, LEVELS["L6"])

    in_body = (forward > 8) & (forward < 8 + depth) & (np.abs(r) < half_width)
    fill(in_body & (s > 10) & (s < sacrum_mm), "sacrum", "sacrum")
    low = sacrum_mm
    for name, height in reversed(list(zip(names, heights, strict=True))):
        is_disc = name not in d.missing
        disc = in_body & (s >= low) & (s < low + disc_mm)
        fill(disc, "disc" if is_disc else "vertebra", f"disc_below_{name}" if is_disc else name)
        low += disc_mm
        fill(in_body & (s >= low) & (s < low + height), "vertebra", name)
        middle = low + min(height, 16 * d.scale) * 0.6
        pedicle = (np.abs(np.abs(r) - 11) < 3) & (np.abs(forward) < 10)
        fill(pedicle & (np.abs(s - middle) < 4), "vertebra", name)
        slope = middle + np.minimum(forward + 8, 0) * 0.7
        arch = (forward > -30) & (forward < -8) & (np.abs(r) < np.where(forward > -13, 14, 5))
        fill(arch & (np.abs(s - slope) < 4.5), "vertebra", name)
        low += height
    canal = (np.abs(forward) < 7) & (np.abs(r) < 9) & (s > 40) & (s < low + 12)
    fill(canal, "canal", "canal")
    conus = sacrum_mm + (low - sacrum_mm) * 0.27
    fill((forward**2 + r**2 < 25) & (s > conus) & (s < low + 12), "cord", "cord")
    affine = np.diag([*SPACING_MM, 1.0])
    affine[:3, 3] = (-30.0, 5.0, -200.0)
    return Volume(semantic, affine), Volume(levels, affine)


def agree(found: Volume, truth: Volume) -> float:
    """Share of the truth's named voxels that carry the same name."""
    named = truth.voxels_RAS > 0
    return float((found.voxels_RAS[named] == truth.voxels_RAS[named]).mean())
