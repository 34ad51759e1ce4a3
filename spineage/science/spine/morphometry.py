"""What a mask tells in millimetres: the plain measures that an age model has to beat.

Letters: R A S voxel axes; N voxels of one structure.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.science.scan.geometry import Points, Volume
from spineage.science.spine.labels import LEVELS
from spineage.science.spine.levels import Levels
from spineage.science.spine.vertebrae import BODY_FORWARD_MM

MIN_CSF_VOXELS = 50
CANAL_WINDOW_MM = 3.0
CANAL_SIDE_MM = 4.5
"""The canal's depth is taken near the midline: it narrows to the sides."""


@dataclass(frozen=True)
class Morphometry:
    """One value for each vertebra (cranial to caudal) and for each disc seen; NaN where a thing has no
    such measure."""

    level_names: list[str]
    level_height_mm: list[float]
    level_volume_mm3: list[float]
    disc_names: list[str]
    disc_height_mm: list[float]
    disc_signal: list[float]
    canal_diameter_mm: list[float]


def measure(image: Volume, levels: Levels, *, needs_csf: bool = True) -> Morphometry:
    """Heights, volumes, disc signal and canal depth of a named spine.

    A height is that of the slab whose voxels spread as much along the structure's own axis: it uses every
    voxel, a tilted disc is not a thick one, and steps of a voxel average out. C1 has no body and no
    height. Disc signal is the disc's median over the CSF's: it needs no scanner calibration. Raises
    BadScan `implausible_mask` when there is too little CSF, or it has no signal; without `needs_csf` a mask
    that has no canal has neither disc signals nor diameters.
    """
    labels_RAS = levels.volume.voxels_RAS
    csf = image.voxels_RAS[labels_RAS == LEVELS["canal"]]
    has_csf = bool(len(csf) or needs_csf)
    if has_csf and (len(csf) < MIN_CSF_VOXELS or not np.median(csf) > 0):
        raise BadScan(
            "implausible_mask",
            f"{len(csf)} voxels of CSF; signals are relative to it, expected {MIN_CSF_VOXELS} or more",
        )
    voxels = by_label(labels_RAS)
    heights, volumes = [], []
    ups = _body_axes(levels)
    for name in levels.names:
        points = levels.volume.to_mm(voxels[LEVELS[name]])
        volumes.append(len(points) * levels.volume.voxel_mm3)
        heights.append(np.nan if name == "C1" else _body_height(points, ups[name], levels))
    canal_mm = levels.volume.to_mm(
        np.concatenate([voxels[LEVELS["canal"]], voxels[LEVELS["cord"]]])
    )
    canal_place = levels.canal.locate(canal_mm)
    disc_heights, signals, diameters = [], [], []
    for name, disc in levels.discs:
        index = voxels[LEVELS[f"disc_below_{name}"]]
        disc_heights.append(_height(levels.volume.to_mm(index), disc.up, levels.volume))
        signal = np.median(image.voxels_RAS[tuple(index.T)])
        signals.append(float(signal / np.median(csf)) if has_csf else float("nan"))
        depth_mm = _canal_depth(canal_place, disc.along_mm, levels.volume)
        diameters.append(depth_mm if has_csf else float("nan"))
    return Morphometry(
        list(levels.names),
        heights,
        volumes,
        [name for name, _ in levels.discs],
        disc_heights,
        signals,
        diameters,
    )


def by_label(labels_RAS: NDArray[np.generic]) -> dict[int, NDArray[np.int64]]:
    """Voxel indices [N, 3] of every label, in one pass."""
    index = np.argwhere(labels_RAS)
    label = labels_RAS[tuple(index.T)].astype(int)
    order = np.argsort(label, kind="stable")
    starts = np.searchsorted(label[order], np.arange(257))
    return {value: index[order[starts[value] : starts[value + 1]]] for value in range(256)}


def _body_axes(levels: Levels) -> dict[str, Points]:
    """For each vertebra the unit vector from its lower to its upper disc's plane: their mean; zero
    without both."""
    tilt = {name: disc.up for name, disc in levels.discs}
    axes = {}
    for above, name in zip((None, *levels.names), levels.names, strict=False):
        total = tilt.get(above or "", np.zeros(3)) + tilt.get(name, np.zeros(3))
        axes[name] = total / max(float(np.linalg.norm(total)), 1e-9)
    return axes


def _body_height(points: Points, up: Points, levels: Levels) -> float:
    """Height of the part in front of the canal; NaN when there is none."""
    if not len(points) or not up.any():
        return float("nan")
    _, forward, _ = levels.canal.locate(points)
    body = points[forward > BODY_FORWARD_MM + 2.0]
    return _height(body, up, levels.volume) if len(body) >= 10 else float("nan")


def _height(points: Points, up: Points, volume: Volume) -> float:
    """A slab of height h has variance h^2 / 12 along its normal; each voxel adds its own extent."""
    spread = np.var(points @ up) + np.sum((np.array(volume.spacing_mm) * up) ** 2) / 12
    return float(np.sqrt(12 * spread))


def _canal_depth(place: tuple[Points, Points, Points], along_mm: float, volume: Volume) -> float:
    """Mean front-to-back extent of canal and cord near the midline at one place along it; NaN when not
    seen."""
    along, _forward, side = place
    here = np.abs(along - along_mm) < CANAL_WINDOW_MM
    if here.sum() < 5:
        return float("nan")
    middle = here & (
        np.abs(side - np.median(side[here])) < max(CANAL_SIDE_MM, volume.spacing_mm[0] / 2)
    )
    slab_mm2 = 2 * CANAL_WINDOW_MM * _width(side[middle], volume.spacing_mm[0])
    return float(middle.sum() * volume.voxel_mm3 / slab_mm2)


def _width(side: Points, spacing_mm: float) -> float:
    """How wide the slices are that these voxels lie in."""
    return float(len(np.unique(np.round(side / spacing_mm))) * spacing_mm)
