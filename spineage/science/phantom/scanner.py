"""The scanner: what it does to a perfect picture. Sites differ, exams vary around their site.

Letters: R A S voxel axes (left->right, posterior->anterior, inferior->superior).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Site:
    """The machine of one site and its protocol."""

    model: str
    field_tesla: float
    repetition_ms: float
    echo_ms: float
    contrast: float  # exponent on the signal: above 1 darkens what is dark
    noise: float  # SD relative to CSF
    gain: float  # stored value of CSF


SITES: dict[str, Site] = {
    "harbour": Site("phantom A 1.5T", 1.5, 3500.0, 102.0, 1.00, 0.020, 900.0),
    "hill": Site("phantom B 3T", 3.0, 4200.0, 96.0, 1.05, 0.012, 1400.0),
    "meadow": Site("phantom C 1.5T", 1.5, 3100.0, 108.0, 0.95, 0.026, 620.0),
}


@dataclass(frozen=True)
class Scanner:
    """What was drawn for one exam. Shares are relative to the signal of CSF."""

    site: str
    model: str
    field_tesla: float
    repetition_ms: float
    echo_ms: float
    contrast: float
    noise: float
    gain: float
    coil_reach_mm: float  # depth at which the surface coil has lost two thirds
    bias: tuple[float, ...]  # amplitudes of slow shading along R, A, S
    ghost: float  # of motion
    wrap: float  # of anatomy folded in from above and below
    metal_mm: float  # radius of the void around an implant, 0 for none
    metal_at: float  # place along the spine, 0 sacrum to 1 skull
    station_gains: tuple[float, float, float]
    shift_mm: tuple[float, float, float]  # how the person lies in the field of view
    seed: int


def draw_scanner(rng: np.random.Generator, site: str, artefact_share: float) -> Scanner:
    """One exam's scanner settings and faults."""
    machine = SITES[site]
    kind = (
        rng.choice(["ghost", "wrap", "metal"], p=[0.6, 0.3, 0.1])
        if rng.random() < artefact_share
        else ""
    )
    ghost, wrap, metal = rng.uniform(0.04, 0.09), rng.uniform(0.1, 0.25), rng.uniform(9, 15)
    return Scanner(
        site=site,
        model=machine.model,
        field_tesla=machine.field_tesla,
        repetition_ms=round(machine.repetition_ms + rng.uniform(-100, 300)),
        echo_ms=round(machine.echo_ms + rng.uniform(-4, 2), 1),
        contrast=machine.contrast + float(rng.normal(0, 0.015)),
        noise=machine.noise * float(rng.uniform(0.8, 1.25)),
        gain=machine.gain * float(rng.uniform(0.85, 1.15)),
        coil_reach_mm=float(rng.uniform(190, 300)),
        bias=tuple(float(x) for x in rng.normal(0, 0.035, 4)),
        ghost=float(ghost) if kind == "ghost" else float(rng.uniform(0, 0.012)),
        wrap=float(wrap) if kind == "wrap" else 0.0,
        metal_mm=float(metal) if kind == "metal" else 0.0,
        metal_at=float(rng.uniform(0.08, 0.22)),
        station_gains=tuple(float(x) for x in rng.uniform(0.9, 1.1, 3)),  # type: ignore[arg-type]
        shift_mm=(
            float(rng.uniform(-1.5, 1.5)),
            float(rng.uniform(-4, 4)),
            float(rng.uniform(-5, 5)),
        ),
        seed=int(rng.integers(0, 2**31)),
    )


def scan(
    perfect_RAS: Array,
    scanner: Scanner,
    *,
    depth_mm: Array,
    metal_index: tuple[float, float, float],
    spacing_mm: tuple[float, float, float],
) -> Array:
    """The picture as this scanner would give it: float32 [R, A, S], CSF near `scanner.gain`.

    depth_mm: [A] distance of each column from the coil in the table.
    metal_index: voxel (r, a, s) of the implant, if there is one.
    """
    image = np.power(np.maximum(perfect_RAS, 0), np.float32(scanner.contrast))
    if scanner.metal_mm:
        image = _with_metal(image, metal_index, scanner.metal_mm, spacing_mm)
    image *= _shading(image.shape, scanner, depth_mm)
    image = _acquired(image, scanner)
    rng = np.random.default_rng([scanner.seed, 1])
    image += np.float32(scanner.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    other = np.float32(scanner.noise) * rng.standard_normal(image.shape, dtype=np.float32)
    np.hypot(image, other, out=image)  # Rician: the magnitude of a complex signal
    image *= np.float32(scanner.gain)
    return image


def _shading(shape: tuple[int, ...], scanner: Scanner, depth_mm: Array) -> Array:
    r, a, s = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    b = scanner.bias
    coil = 0.45 + 0.85 * np.exp(-depth_mm / scanner.coil_reach_mm)
    along = 1 + b[2] * np.sin(2.2 * s + 9 * b[0]) + b[3] * s * s
    plane = (coil * (1 + b[1] * a))[:, None] * along[None, :]
    side: Array = ((1 + b[0] * r)[:, None, None] * plane[None]).astype(np.float32)
    return side


def _acquired(image: Array, scanner: Scanner) -> Array:
    """Through k-space: finite phase encoding (Gibbs), motion ghosts, fold-over along the body."""
    num_s = image.shape[2]
    k = fft.rfft(image, axis=2)
    keep = np.arange(k.shape[2]) / (k.shape[2] - 1)
    k *= np.clip((0.96 - keep) / 0.16, 0.0, 1.0).astype(np.float32) ** np.float32(0.5)
    image = fft.irfft(k, num_s, axis=2)
    if scanner.wrap:
        reach = num_s // 14
        fade = np.linspace(scanner.wrap, 0, reach, dtype=np.float32)
        image[:, :, :reach] += fade * image[:, :, -reach:]
        image[:, :, -reach:] += fade[::-1] * image[:, :, :reach]
    if scanner.ghost > 0.02:
        away = num_s // 23  # phase encoding runs along the body
        image = image + np.float32(scanner.ghost) * (
            np.roll(image, away, 2) + np.roll(image, -away, 2)
        )
    return image


def _with_metal(
    image: Array,
    index: tuple[float, float, float],
    radius_mm: float,
    spacing_mm: tuple[float, float, float],
) -> Array:
    """A void with a bright, distorted rim, where screws and rods were."""
    grids = np.ogrid[tuple(slice(0, n) for n in image.shape)]
    d2 = sum(((g - i) * mm) ** 2 for g, i, mm in zip(grids, index, spacing_mm, strict=True))
    rho = np.sqrt(d2) / radius_mm
    rim = np.exp(-(((rho - 1.05) / 0.12) ** 2))
    void = 1 / (1 + np.exp((1.0 - rho) * 14))
    out: Array = (image * void + 0.9 * rim).astype(np.float32)
    return out
