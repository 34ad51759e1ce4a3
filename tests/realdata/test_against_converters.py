"""The same voxels at the same places as dcm2niix and dicom2nifti, for every series that both can read.

Where they differ, WHY says what the standard says.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from spineage.errors import BadScan
from spineage.io.dicom.pixels import read_frames
from spineage.io.files.seen import Seen
from spineage.io.people.identity import Keyed
from spineage.io.scans.headers import read_file
from spineage.science.scan.geometry import Volume, reorient
from spineage.science.scan.series import TILED
from spineage.science.scan.slices import Frame, arrange
from tests.realdata.folder import ROOT, needs_realdata

pytestmark = needs_realdata

Slice = tuple[Frame, NDArray[np.float32]]
AFFINE_mm = 0.01

SAME = {
    "mapconcierge__taichi2018Jan_mri05tesla_wakasa/by_series/06_T2_SAG": 1,
    "mapconcierge__taichi2018Jan_mri05tesla_wakasa/by_series/07_T1_SAG": 1,
    "mapconcierge__taichi2018Jan_mri05tesla_wakasa/by_series/08_T2_AX": 5,
    "neurolabusc__dcm_qa_sag/siemens_prisma_sag_gre_5_slices": 1,
    "neurolabusc__dcm_qa_sag/siemens_xa30_enhanced_sag": 1,
    "neurolabusc__dcm_qa_sag/siemens_xa30_classic_mfsplit_sag": 1,
    "neurolabusc__dcm_qa_table/ge_3plane_localizer_hfs": 3,
    "neurolabusc__dcm_qa_table/philips_mag_phase_dual_echo": 4,
    "neurolabusc__dcm_qa_enh/siemens_xa10_enhanced": 4,
    "neurolabusc__dcm_qa_enh/philips_enhanced_fieldmap": 2,
    "neurolabusc__dcm_qa_uih/uih_t1_sag_3d": 1,
    "neurolabusc__dcm_qa_decubitus/siemens_t1_sag_hfs": 1,
    "neurolabusc__dcm_qa_decubitus/siemens_t1_sag_hfp": 1,
    "icometrix__dicom2nifti/philips_enhanced_anatomical_001": 1,
    "icometrix__dicom2nifti/siemens_multiframe_anatomical_001": 1,
    "icometrix__dicom2nifti/hyperfine_anatomical_001": 1,
    "icometrix__dicom2nifti/hitachi_anatomical_001": 1,
    "icometrix__dicom2nifti/siemens_anatomical_001": 1,
    "icometrix__dicom2nifti/ge_anatomical_001": 1,
    "icometrix__dicom2nifti/ge_anatomical_001_single_slice": 1,
    "icometrix__dicom2nifti/philips_anatomical_001": 1,
    "icometrix__dicom2nifti/generic_compressed_j2k_001": 1,
    "icometrix__dicom2nifti/generic_compressed_jpeg_001": 1,
    "icometrix__dicom2nifti/generic_compressed_jpegls_001": 1,
    "icometrix__dicom2nifti/generic_compressed_rle_001": 1,
    "icometrix__dicom2nifti/failing_slicecount_001": 1,
    "icometrix__dicom2nifti/failing_sliceorientation_001": 2,
    "pydicom__pydicom-data/MR-SIEMENS-DICOM-WithOverlays.dcm": 1,
    "pydicom__pydicom-data/MR2_J2KR.dcm": 1,
    "FNNDSC__SAG-anon/siemens_sag_mprage_3y": 1,
}
"""Series, and how many volumes it holds: planes, echoes, parts and time points are one each."""

ONLY_DCM2NIIX = {
    "mapconcierge__taichi2018Jan_mri05tesla_wakasa/by_series/08_T2_AX": "the other refuses five stacks",
    "neurolabusc__dcm_qa_table/ge_3plane_localizer_hfs": "the other piles three planes up as time points",
    "neurolabusc__dcm_qa_table/philips_mag_phase_dual_echo": "the other piles magnitude and phase up",
    "neurolabusc__dcm_qa_enh/siemens_xa10_enhanced": "the other fails on several objects",
    "neurolabusc__dcm_qa_enh/philips_enhanced_fieldmap": "the other piles magnitude and field map up",
    "icometrix__dicom2nifti/failing_sliceorientation_001": "the other refuses two planes",
}

REFUSED = {
    # Three samples a pixel: a screenshot has no MR signal; both converters make an RGB volume of it.
    "icometrix__dicom2nifti/generic_rgb_001": "bad_pixels",
    # Ten frames and no functional groups: C.7.6.16 requires a position for each. dcm2niix takes one
    # position for all of them and makes the spacing up from the slice thickness.
    "pydicom__pydicom-data/emri_small_RLE.dcm": "no_geometry",
    # Cut short: a required sequence and part of the last frame are missing. dcm2niix decodes what is left.
    "pydicom__pydicom-data/emri_small_jpeg_2k_lossless_too_short.dcm": "bad_pixels",
}
TILED_SERIES = (
    # 36 and 20 slices in one picture. ImagePositionPatient is the place of the sheet's first pixel
    # (C.7.6.2.1.1), where no slice lies; the slices' own places stand in private elements only.
    "neurolabusc__dcm_qa_sag/siemens_prisma_mosaic_sag_fmri",
    "neurolabusc__dcm_qa_uih/uih_dti_vframe",
)


def slices_of(series: str) -> list[Slice]:
    place = ROOT / series
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    return [one for file in files for one in read_frames(str(file)).values()]


def volumes_of(series: str) -> Iterator[Volume]:
    """One for each direction, matrix, kind of picture, echo and time point."""
    groups: dict[object, list[Slice]] = {}
    slices = slices_of(series)
    frames = [frame for frame, _ in slices]
    if not all(frame.has_geometry for frame in frames):
        arrange(frames, max_gap_error_mm=0.1)  # says what is missing
    for frame, pixels in slices:
        way = tuple(np.round([*frame.in_place[0], *frame.in_place[1]], 3))
        kind = (
            way,
            frame.rows,
            frame.pixel_mm,
            frame.is_magnitude,
            frame.echo_ms,
            frame.acquisition,
        )
        groups.setdefault(kind, []).append((frame, pixels))
    for group in groups.values():
        stack = arrange([frame for frame, _ in group], max_gap_error_mm=0.1)
        voxels = np.stack([group[i][1] for i in stack.order])
        yield reorient(voxels.transpose(2, 1, 0), stack.grid.affine_RAS)


def by_dcm2niix(series: str, folder: Path) -> list[nibabel.Nifti1Image]:
    """`-p n`: scaled by the standard's slope, not by a private element; a 4D file is several volumes."""
    program = shutil.which("dcm2niix") or str(Path(sys.executable).parent / "dcm2niix")
    place = ROOT / series
    if place.is_file():
        shutil.copy(place, folder)
        place = folder
    written = folder / "written"
    written.mkdir()
    subprocess.run(
        [program, "-b", "n", "-z", "n", "-p", "n", "-f", "%s", "-o", str(written), str(place)],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    images = [nibabel.load(path) for path in sorted(written.glob("*.nii"))]
    return [one for image in images for one in volumes_in(image)]


def volumes_in(image: nibabel.Nifti1Image) -> list[nibabel.Nifti1Image]:
    return list(nibabel.four_to_three(image)) if image.ndim == 4 else [image]


def by_dicom2nifti(series: str, folder: Path) -> list[nibabel.Nifti1Image]:
    import dicom2nifti
    from dicom2nifti import settings

    settings.disable_validate_slicecount()
    place = ROOT / series
    if place.is_file():
        shutil.copy(place, folder)
        place = folder
    out = folder / "written.nii"
    dicom2nifti.dicom_series_to_nifti(str(place), str(out), reorient_nifti=False)
    return volumes_in(nibabel.load(out))


def is_same(volume: Volume, image: nibabel.Nifti1Image) -> bool:
    """The same affine within 0.01 mm at every corner, and the same voxels to float rounding."""
    other = nibabel.as_closest_canonical(image)
    if other.shape != volume.voxels_RAS.shape:
        return False
    corners = np.array(np.meshgrid(*((0.0, n - 1.0) for n in other.shape))).reshape(3, -1).T
    away_mm = volume.to_mm(corners) - nibabel.affines.apply_affine(other.affine, corners)
    values = np.asarray(other.get_fdata(dtype=np.float32))
    top = float(np.abs(values).max())
    return bool(
        np.abs(away_mm).max() < AFFINE_mm
        and np.allclose(volume.voxels_RAS, values, rtol=1e-5, atol=1e-6 * top)
    )


@pytest.mark.parametrize("series", SAME)
def test_dcm2niix_gives_the_same_volumes(series: str, tmp_path: Path) -> None:
    volumes, images = list(volumes_of(series)), by_dcm2niix(series, tmp_path)
    assert len(volumes) == SAME[series]
    matched = [sum(is_same(volume, image) for image in images) for volume in volumes]
    assert min(matched) >= 1, (
        f"{matched.count(0)} of {len(volumes)} volumes are not among {len(images)}"
    )


@pytest.mark.parametrize("series", [name for name in SAME if name not in ONLY_DCM2NIIX])
def test_dicom2nifti_gives_the_same_volume(series: str, tmp_path: Path) -> None:
    (volume,) = volumes_of(series)
    (image,) = by_dicom2nifti(series, tmp_path)
    assert is_same(volume, image)


@pytest.mark.parametrize("series", REFUSED)
def test_what_has_no_place_by_the_standard_is_refused_where_a_converter_makes_one_up(
    series: str,
) -> None:
    with pytest.raises(BadScan) as fault:
        list(volumes_of(series))
    assert fault.value.code == REFUSED[series]


@pytest.mark.parametrize("series", TILED_SERIES)
def test_tiled_pictures_are_told_by_their_type_and_refused(series: str) -> None:
    for path in (ROOT / series).iterdir():
        seen = Seen(path.name, str(path), path.stat().st_size, "")
        header = read_file(seen, Keyed(b"k" * 32), "StudyInstanceUID")[0].header
        assert header is not None
        assert header.physics.image_type & TILED


def test_every_dicom_series_of_the_real_data_is_in_one_list() -> None:
    listed = {*SAME, *REFUSED, *TILED_SERIES}
    for path in ROOT.rglob("*"):
        is_dicom = path.is_file() and path.open("rb").read(132)[128:] == b"DICM"
        if is_dicom:
            name, folder = (p.relative_to(ROOT).as_posix() for p in (path, path.parent))
            assert name in listed or folder in listed, name
