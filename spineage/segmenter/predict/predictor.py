"""nnU-Net v2 networks without pickle, hang or disk: a volume in, labels out.

nnU-Net's planner, architecture builder, normalisation and resampling are called in memory; its predictor is
not: it hangs in a long-lived process when a thread of its own dies, and resamples every class through
float64. How a segmenter lies on disk: `folder.py`; what is done with an image: `engine.py`.

Shapes: R A S voxel axes of a Volume; C channels; x y z nnU-Net's axes after its own transposition.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from numpy.typing import NDArray

from spineage.errors import BadScan, BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.science.scan.geometry import Volume
from spineage.science.spine.labels import SCHEMAS
from spineage.segmenter.dataset_json import channel_names
from spineage.segmenter.folder import FILES, folder_of, read_manifest
from spineage.segmenter.predict.allocator import keep_freed_memory
from spineage.segmenter.predict.convolutions import by_onednn
from spineage.segmenter.predict.engine import Engine
from spineage.segmenter.predict.networks import build_networks, refuse_unsupported
from spineage.segmenter.predict.tiles import Ensemble

__all__ = ["Segmented", "Segmenter", "load_segmenter", "refuse_unsupported"]

Mode = Literal["exact", "fast"]


def load_segmenter(
    weights: str,
    *,
    device: str = "cpu",
    threads: int | None = None,
    mirror: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """Verify, build and keep one segmenter.

    threads: torch's CPU threads for the whole process, which is taken to do nothing else: on a CPU it also
    keeps the memory it frees (`allocator`).
    mirror: average over the flips that the model was trained with; 8 times the work in 3D.
    channels_last, compiled: other ways to compute the same, which may pay on a GPU; a compiler is needed.
    Raises BadStudy as `read_manifest` does, or when the device is not there or the model is of an
    unsupported kind.
    """
    manifest = read_manifest(weights)
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadStudy(
            f"device {device} was asked for, but this machine has no GPU that torch can use"
        )
    if threads is not None:
        torch.set_num_threads(threads)
        if device == "cpu":
            keep_freed_memory()
    folder = folder_of(weights)
    plans, dataset = (
        read_table_file(folder / name, f"{name} of segmenter {weights}", "import the model again")
        for name in ("plans.json", "dataset.json")
    )
    manager = PlansManager(plans)
    refuse_unsupported(manager, dataset, manifest["configuration"])
    networks = build_networks(
        manager, dataset, manifest["configuration"], (folder / FILES[0]).read_bytes()
    )
    return segmenter_of(
        manager, dataset, manifest, networks, device, mirror, channels_last, compiled
    )


def segmenter_of(
    plans: PlansManager,
    dataset: dict[str, Any],
    manifest: dict[str, Any],
    networks: Sequence[torch.nn.Module],
    device: str = "cpu",
    mirror: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
) -> Segmenter:
    """A segmenter of what is in memory already; see `load_segmenter`."""
    chosen = plans.get_configuration(manifest["configuration"])
    is_flat = len(chosen.patch_size) == 2
    layout = torch.channels_last if is_flat else torch.channels_last_3d
    ready: list[torch.nn.Module] = []
    for network in networks:
        placed = (by_onednn(network) if device == "cpu" else network).to(device).eval()
        placed = placed.to(memory_format=layout) if channels_last else placed  # type: ignore[call-overload]
        ready.append(torch.compile(placed) if compiled else placed)  # type: ignore[arg-type]
    ensemble = Ensemble(
        tuple(ready),
        plans.get_label_manager(dataset).num_segmentation_heads,
        torch.device(device),
        is_flat,
        _mirror_axes(manifest) if mirror else (),
    )
    engine = Engine(plans, dataset, chosen, ensemble, schema_of(manifest) != 0)
    return Segmenter(engine, manifest)


def schema_of(manifest: dict[str, Any]) -> NDArray[np.uint8]:
    """Our label of each of 256 values that the network may draw."""
    table = np.zeros(256, np.uint8)
    for value, name in manifest["labels"].items():
        table[int(value)] = SCHEMAS[manifest["schema"]][name]
    return table


def _mirror_axes(manifest: dict[str, Any]) -> tuple[int, ...]:
    if "mirror_axes" not in manifest:
        raise BadStudy(
            "mirroring was asked for, but the segmenter's manifest does not say along which axes it was "
            "trained (`mirror_axes`): import the model again"
        )
    return tuple(int(axis) for axis in manifest["mirror_axes"])


@dataclass(frozen=True)
class Segmented:
    """Labels on the volume's own grid, and in words what was done to get them."""

    labels: Volume
    how: str


@dataclass
class Segmenter:
    """One loaded model: volumes of any orientation in, labels in our schema out. No threads of its own."""

    engine: Engine
    manifest: dict[str, Any]

    def __post_init__(self) -> None:
        self._schema_of = schema_of(self.manifest)

    @property
    def digest(self) -> str:
        """sha256 that names this model."""
        return str(self.manifest["digest"])

    @property
    def labels(self) -> dict[str, int]:
        """Name to value of the labels that `segment` writes: labels.SEMANTIC or labels.LEVELS."""
        return SCHEMAS[self.manifest["schema"]]

    @property
    def num_channels(self) -> int:
        """Images that the model looks at together; a T2 scan is one."""
        return len(channel_names(self.engine.dataset))

    def warm_up(self) -> None:
        """See `Engine.warm_up`."""
        self.engine.warm_up()

    def segment(self, volume: Volume | Sequence[Volume], mode: Mode = "exact") -> Volume:
        """Labels (uint8, in `self.labels`) on the volume's own grid; see `segment_and_say`."""
        return self.segment_and_say(volume, mode).labels

    def segment_and_say(self, volume: Volume | Sequence[Volume], mode: Mode = "exact") -> Segmented:
        """Labels, and how they were found.

        volume: one, or as many as the model has channels, on one grid.
        mode: `exact` sees all of the volume in nnU-Net's own tiles; `fast` finds the spine first and sees
        its box in fewer tiles.
        Raises BadScan `bad_values` when voxels of a channel are NaN, infinite or all alike, BadStudy when
        the number of volumes is not the model's, torch.OutOfMemoryError when one tile at a time does not
        fit.
        """
        volumes = [volume] if isinstance(volume, Volume) else list(volume)
        channels = [self._checked(one) for one in volumes]
        if len(channels) != self.num_channels:
            raise BadStudy(
                f"the model looks at {self.num_channels} images of a scan together and was given "
                f"{len(channels)}"
            )
        place, first = volumes[0].affine_RAS, channels[0]
        if any(one.shape != first.shape for one in channels):
            raise BadStudy("the images of one scan must lie on one grid")
        turn = _turn("RAS", self.manifest["orientation"])
        each = [nib.orientations.apply_orientation(one, turn) for one in channels]
        turned = np.stack(each) if len(each) > 1 else each[0][np.newaxis]  # a copy, or none
        spacing_mm = [
            volumes[0].spacing_mm[int(np.where(turn[:, 0] == axis)[0][0])] for axis in range(3)
        ]
        # nnU-Net's readers hand over the axes of a file in reverse, slowest first.
        labels, how = self.engine.segment(
            turned.transpose(0, 3, 2, 1), spacing_mm[::-1], mode == "fast"
        )
        back = _turn(self.manifest["orientation"], "RAS")
        labels_RAS = nib.orientations.apply_orientation(labels.transpose(2, 1, 0), back)
        named = Volume(np.ascontiguousarray(self._schema_of[labels_RAS]), place)
        return Segmented(named, how)

    def _checked(self, volume: Volume) -> NDArray[np.float32]:
        voxels_RAS = np.asarray(volume.voxels_RAS, dtype=np.float32)
        if not np.isfinite(voxels_RAS).all() or voxels_RAS.min() == voxels_RAS.max():
            raise BadScan("bad_values", "voxels are NaN, infinite or constant; expected an image")
        return voxels_RAS


def _turn(from_codes: str, to_codes: str) -> NDArray[np.float64]:
    """How axes of one orientation become those of another, as nibabel writes it."""
    one, other = (nib.orientations.axcodes2ornt(tuple(codes)) for codes in (from_codes, to_codes))
    turn: NDArray[np.float64] = nib.orientations.ornt_transform(one, other)
    return turn
