"""Real people against a network that has seen phantoms only: no crash, no levels, the right reason."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pytest

from spineage.errors import BadScan
from spineage.io.scans.read import read_station
from spineage.io.storage.volumes import volume_to_cells
from spineage.science.scan.geometry import Volume
from spineage.segmenter.predict.predictor import load_segmenter
from spineage.stages.segment import NameStep, SegmentStep, name_kwargs
from spineage.study import study_from
from tests.realdata.folder import ROOT, needs_realdata

pytestmark = [needs_realdata, pytest.mark.slow]

NIFTI = (
    "spinalcordtoolbox__sct_tutorial_data/t2_lumbar.nii.gz",
    "spinalcordtoolbox__sct_testing_data/t2_cervicothoracic_full.nii.gz",
)
HITACHI = "mapconcierge__taichi2018Jan_mri05tesla_wakasa/by_series/06_T2_SAG"


def real_scan(name: str) -> Volume:
    if name.endswith(".nii.gz"):
        return read_station([{"location": str(ROOT / name), "kind": "nifti"}])
    files = sorted((ROOT / name).iterdir())
    return read_station([{"location": str(f), "kind": "dicom", "frame": 0} for f in files])


@pytest.mark.parametrize("name", [*NIFTI, HITACHI])
def test_a_real_scan_is_segmented_and_then_refused_with_a_reason(name, tmp_path):
    image = real_scan(name)
    labels = load_segmenter("demo", threads=1).segment(image)
    assert labels.voxels_RAS.shape == image.voxels_RAS.shape
    assert labels.voxels_RAS.dtype == np.uint8
    picture = tmp_path / "overlay.png"
    draw(image, labels, picture)
    draw_labels, name_levels = SegmentStep("demo"), NameStep(**name_kwargs(study_from({})))
    row = {"scan_id": "s", "source_digest": "d", **volume_to_cells(image, "voxels")}
    with pytest.raises(BadScan) as fault:
        name_levels(draw_labels(row))
    assert fault.value.code == "incomplete_spine"
    print(f"{name}: {fault.value.code}: {fault.value}; picture: {picture}")


def draw(image: Volume, labels: Volume, path) -> None:
    """The middle slice with what the network made of it."""
    middle = image.voxels_RAS.shape[0] // 2
    figure, axes = plt.subplots(1, 2, figsize=(8, 8))
    aspect = image.spacing_mm[2] / image.spacing_mm[1]
    for axis in axes:
        axis.imshow(image.voxels_RAS[middle].T, origin="lower", cmap="gray", aspect=aspect)
        axis.axis("off")
    shown = np.ma.masked_equal(labels.voxels_RAS[middle].T, 0)
    axes[1].imshow(shown, origin="lower", cmap="tab10", alpha=0.6, vmin=0, vmax=9, aspect=aspect)
    figure.savefig(path, dpi=60)
    plt.close(figure)
