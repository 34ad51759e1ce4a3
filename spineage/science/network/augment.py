"""What may happen to a scan without making it older: small moves, left for right, gain and noise.

Letters: C channel, R left->right, A posterior->anterior, S inferior->superior.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Augment = Callable[[Tensor, int], Tensor]

TILT_RADIANS = 0.06
STRETCH = 0.05
"""Size tells sex and height, hardly age."""
SHIFT_VOXELS = (1, 4, 8)
GAIN = 0.08
NOISE_SD = 0.03
"""In units of CSF."""


def build_augment() -> Augment:
    """A function of a scan [C, R, A, S] and a seed; the same seed does the same to the same scan.

    What is 0 outside the spine stays 0: noise is added inside only.
    """
    # 3 s to import, in every process that only hands the training loop on: so only where it is used
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.array import RandGaussianNoise, RandScaleIntensity
    from monai.transforms.spatial.array import RandAffine, RandFlip

    moves = Compose(
        [
            RandFlip(prob=0.5, spatial_axis=0),
            RandAffine(
                prob=0.7,
                rotate_range=(TILT_RADIANS, 0.0, 0.0),
                scale_range=(0.0, STRETCH, STRETCH),
                translate_range=SHIFT_VOXELS,
                padding_mode="zeros",
                cache_grid=False,
            ),
        ]
    )
    looks = Compose(
        [RandScaleIntensity(factors=GAIN, prob=0.8), RandGaussianNoise(prob=0.5, std=NOISE_SD)]
    )

    def augment(scan_CRAS: Tensor, seed: int) -> Tensor:
        moves.set_random_state(seed)
        looks.set_random_state(seed)
        moved = _plain(moves(scan_CRAS))
        return _plain(looks(moved)).clamp_min(0) * (moved > 0)

    return augment


def _plain(scan: Tensor) -> Tensor:
    """Without MONAI's metadata, which nothing here reads."""
    from monai.data.meta_tensor import MetaTensor

    return scan.as_tensor() if isinstance(scan, MetaTensor) else scan
