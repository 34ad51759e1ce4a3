"""From a scan and its labels to what the network sees: the spine alone, on one grid, without the gain.

Letters: R left->right, A posterior->anterior, S inferior->superior.

The paper masks out everything but the spine and gives neither grid nor normalisation: both are our documented
default. Nothing outside the labels can reach the tensor, not even through interpolation: the body outline
(fat, sex, posture) would otherwise tell the age.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from spineage.errors import BadScan
from spineage.science.scan.geometry import Affine, Volume, resample
from spineage.science.spine.labels import LEVELS, REGIONS, region_of
from spineage.study import Prepare

Voxels = NDArray[np.float16]
Levels = NDArray[np.uint8]

HEADROOM_MM: Final = 40.0
"""Room above the top of C2: the window hangs on C2, so C1 seen or unseen does not move it."""
MAX_CUT_SHARE: Final = 0.03
"""Share of vertebra and disc voxels that may fall out of the window: tips of spinous processes."""
SLAB_MM: Final = 20.0
REFERENCE_SIGMA_MM: Final = 60.0
"""The CSF reference varies over three or four vertebrae: slower than a stenosis, like a coil's reach."""
NUDGE_MM: Final = 0.05
"""Keeps grid points off the border of two voxels of a scan with the same spacing: rounding decides there."""
MIN_CSF_VOXELS: Final = 100
BRIGHTEST: Final = 4.0
"""Signal is cut off at four times the reference (metal, flow)."""

CANAL, CORD, SACRUM, C2 = LEVELS["canal"], LEVELS["cord"], LEVELS["sacrum"], LEVELS["C2"]
IS_COLUMN: Final = np.array([0 < i < SACRUM or 100 < i < CANAL for i in range(256)])
"""By label: a vertebra or a disc?"""


def make_tensor(scan: Volume, levels: Volume, recipe: Prepare) -> tuple[Voxels, Levels]:
    """The spine on the recipe's grid: voxels [R, A, S], 0 outside the spine, and the levels there.

    scan and levels share one grid. The output's axes run right, anterior, superior, as the input's do;
    the window is placed by `place_window`. Voxels are interpolated linearly among spine voxels only,
    levels are taken from the nearest voxel. Raises BadScan when the spine is incomplete, does not fit, or
    shows no usable CSF.
    """
    assert scan.voxels_RAS.shape == levels.voxels_RAS.shape
    assert np.allclose(scan.affine_RAS, levels.affine_RAS, atol=1e-3)
    window = place_window(levels, recipe)
    spine = levels.voxels_RAS != 0
    signal = np.where(spine, scan.voxels_RAS, 0).astype(np.float32)
    if not np.isfinite(signal).all():
        raise BadScan(
            "bad_values", "the spine holds NaN or infinite signal, expected finite numbers"
        )
    signal = _normalise(levels.with_voxels(signal), levels, recipe.normalise)
    return _onto_grid(levels.with_voxels(signal), levels, recipe.shape, window)


def place_window(levels: Volume, recipe: Prepare) -> Affine:
    """Where the grid lies: its affine, voxel index to RAS+ mm, axes along the body's.

    R: centred on the midline, the median voxel of the canal, or of the cord where no canal was drawn; what
    is lateral to the window is cut.
    A: centred between the 1st and 99th percentile of vertebrae and discs.
    S: the window's top is HEADROOM_MM above the top of C2; below, the sacrum and canal end where the
    window ends. A rule in millimetres of the labels alone: where the patient lay in the scanner drops
    out. Raises BadScan(incomplete_spine) without C2, sacrum or canal; (implausible_mask) when it does not
    fit.
    """
    labels_RAS = levels.voxels_RAS
    middle = CANAL if (labels_RAS == CANAL).any() else CORD
    column_mm, canal_mm, c2_mm = (
        _points_mm(levels, chosen)
        for chosen in (IS_COLUMN[labels_RAS], labels_RAS == middle, labels_RAS == C2)
    )
    if not (len(canal_mm) and len(c2_mm) and (labels_RAS == SACRUM).any()):
        raise BadScan(
            "incomplete_spine", "labels lack C2, the sacrum or the canal; all three are expected"
        )
    size_mm = np.array(recipe.shape) * recipe.spacing_mm
    front_back_mm = np.percentile(column_mm[:, 1], [1, 99])
    top_mm = np.percentile(c2_mm[:, 2], 99) + HEADROOM_MM
    centre_mm = np.array([np.median(canal_mm[:, 0]), front_back_mm.mean(), top_mm - size_mm[2] / 2])
    _refuse_what_is_cut(column_mm - centre_mm, size_mm)
    affine = np.diag([*recipe.spacing_mm, 1.0])
    affine[:3, 3] = centre_mm - (size_mm - recipe.spacing_mm) / 2 + NUDGE_MM
    return affine


def _points_mm(levels: Volume, chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    return levels.to_mm(np.argwhere(chosen).astype(np.float64))


def _refuse_what_is_cut(column_mm: NDArray[np.float64], size_mm: NDArray[np.float64]) -> None:
    """column_mm: vertebra and disc voxels relative to the window's centre. R may be cut."""
    cut = (np.abs(column_mm[:, 1:]) > size_mm[1:] / 2).any(axis=1).mean()
    if cut > MAX_CUT_SHARE:
        depth, height = np.ptp(column_mm[:, 1]), np.ptp(column_mm[:, 2])
        raise BadScan(
            "implausible_mask",
            f"vertebrae and discs measure {depth:.0f} x {height:.0f} mm (A x S) and {cut:.0%} of them "
            f"fall out of the grid of {size_mm[1]:.0f} x {size_mm[2]:.0f} mm, "
            f"at most {MAX_CUT_SHARE:.0%} may; "
            "enlarge prepare.shape if this spine is real",
        )


def _normalise(
    signal: Volume, levels: Volume, how: Literal["csf", "robust"]
) -> NDArray[np.float32]:
    """The signal as a share of a reference: CSF at the same height, or the spine's 99th percentile.

    A scanner's gain drops out of both; a bias field along S drops out of the first.
    """
    spine = np.asarray(levels.voxels_RAS != 0)
    if how == "robust":
        reference = float(np.percentile(signal.voxels_RAS[spine], 99))
        if not reference > 0:
            raise BadScan("bad_values", "the spine is black: its 99th percentile is not above 0")
        shares: NDArray[np.float32] = signal.voxels_RAS.astype(np.float32) / np.float32(reference)
        return shares.clip(0, BRIGHTEST)
    indices = np.argwhere(spine)
    height_mm = levels.to_mm(indices.astype(np.float64))[:, 2]
    chosen = tuple(indices.T)
    is_csf = levels.voxels_RAS[chosen] == CANAL
    values = signal.voxels_RAS[chosen].astype(np.float64)
    relative = values / csf_reference(height_mm[is_csf], values[is_csf], height_mm)
    normalised = np.zeros_like(signal.voxels_RAS, dtype=np.float32)
    normalised[chosen] = relative.clip(0, BRIGHTEST)
    return normalised


def csf_reference(
    csf_mm: NDArray[np.floating], csf: NDArray[np.floating], at_mm: NDArray[np.floating]
) -> NDArray[np.float64]:
    """The CSF's signal as a slow function of height: medians of slabs, smoothed along S by a Gaussian.

    csf_mm, csf: height and signal of each canal voxel. Slabs of SLAB_MM count by their number of voxels.
    Slow on purpose: a single narrow canal must stay visible as darker. Raises BadScan(implausible_mask).
    """
    if len(csf) < MIN_CSF_VOXELS:
        raise BadScan(
            "implausible_mask", f"{len(csf)} canal voxels, expected {MIN_CSF_VOXELS} or more"
        )
    slab = np.floor((csf_mm - csf_mm.min()) / SLAB_MM).astype(int)
    slabs = np.unique(slab)
    median = np.array([np.median(csf[slab == i]) for i in slabs])
    count = np.array([(slab == i).sum() for i in slabs])
    centre_mm = csf_mm.min() + (slabs + 0.5) * SLAB_MM
    if not (median > 0).all():
        raise BadScan(
            "implausible_mask", "the canal is black over a whole vertebra, expected bright CSF"
        )
    knots_mm = np.arange(at_mm.min(), at_mm.max() + SLAB_MM, SLAB_MM / 2)
    weight = count * np.exp(-0.5 * ((knots_mm[:, None] - centre_mm) / REFERENCE_SIGMA_MM) ** 2)
    weight += 1e-12 * count  # far from any CSF: the mean of all of it
    smooth = (weight * np.log(median)).sum(axis=1) / weight.sum(axis=1)
    return np.asarray(np.exp(np.interp(at_mm, knots_mm, smooth)))


def _onto_grid(
    signal: Volume, levels: Volume, shape: tuple[int, int, int], affine_RAS: Affine
) -> tuple[Voxels, Levels]:
    """Resample inside the mask: the weighted mean of spine voxels near each grid point, none from outside.

    Where the grid is coarser than the scan a Gaussian of half the ratio goes first, so that fine detail
    and noise average out instead of aliasing (normalised convolution: Knutsson & Westin 1993,
    doi:10.1109/CVPR.1993.341081).
    """
    signal, levels = _cropped(signal, levels)
    spine = (levels.voxels_RAS != 0).astype(np.float32)
    ratio = np.linalg.norm(affine_RAS[:3, :3], axis=0) / signal.spacing_mm
    sigma = np.maximum(ratio - 1, 0) / 2
    blurred = [
        resample(
            levels.with_voxels(ndimage.gaussian_filter(v, sigma)), shape, affine_RAS, order=1
        ).voxels_RAS
        for v in (signal.voxels_RAS, spine)
    ]
    nearest = resample(levels, shape, affine_RAS, order=0).voxels_RAS.astype(np.uint8)
    total, weight = blurred
    inside = nearest > 0
    voxels = np.zeros(shape, np.float16)
    voxels[inside] = total[inside] / np.maximum(weight[inside], 1e-6)
    return voxels, nearest


def _cropped(signal: Volume, levels: Volume) -> tuple[Volume, Volume]:
    """Both around the mask with an empty rim of one voxel: the mask never ends at the array's edge."""
    box = ndimage.find_objects((levels.voxels_RAS != 0).astype(np.uint8))[0]
    affine = levels.affine_RAS.copy()
    affine[:3, 3] = levels.to_mm(np.array([s.start - 1 for s in box], dtype=float))
    first, second = (Volume(np.pad(v.voxels_RAS[box], 1), affine) for v in (signal, levels))
    return first, second


def in_region(levels: Levels, region: str) -> NDArray[np.bool_]:
    """Which voxels of a tensor [R, A, S] belong to a region: vertebrae, discs, canal and cord.

    The sacrum counts as lumbar. Canal and cord belong to the region whose vertebra or disc is nearest in
    height.
    """
    assert region in REGIONS
    own = _LEVELS_OF[region][levels]
    height = np.arange(levels.shape[2])
    occupied = {name: np.flatnonzero(_LEVELS_OF[name][levels].any(axis=(0, 1))) for name in REGIONS}
    distance = {
        name: np.abs(height[:, None] - found).min(axis=1)
        if len(found)
        else np.full(len(height), np.inf)
        for name, found in occupied.items()
    }
    mine = np.all([distance[region] <= other for other in distance.values()], axis=0)
    beside = ((levels == CANAL) | (levels == CORD)) & mine & bool(len(occupied[region]))
    return np.asarray(own | beside)


def keep_region(voxels: Voxels, levels: Levels, region: str) -> Voxels:
    """The tensor with everything but the region set to 0; `whole` keeps all."""
    return voxels if region == "whole" else np.where(in_region(levels, region), voxels, 0)


def blank_region(voxels: Voxels, levels: Levels, region: str) -> Voxels:
    """The tensor with the region set to 0."""
    return np.where(in_region(levels, region), 0, voxels)


def _labels_of(region: str) -> NDArray[np.bool_]:
    """By label: a vertebra or disc of the region?"""
    table = np.zeros(256, dtype=bool)
    for name, label in LEVELS.items():
        if name not in ("background", "canal", "cord"):
            table[label] = region_of(name) == region
    return table


_LEVELS_OF: Final = {region: _labels_of(region) for region in REGIONS}
