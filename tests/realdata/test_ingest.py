"""Every file of the real scans ends where expected.csv says; what is accepted is the right way up."""

from __future__ import annotations

import csv
import json
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from spineage.io.dicom.pixels import read_frames
from spineage.io.files.listing import list_input
from spineage.io.people.identity import Keyed
from spineage.io.scans.headers import read_file
from spineage.io.scans.read import read_scan, read_station
from spineage.run.context import Context
from spineage.science.scan.geometry import Volume
from spineage.stages.ingest import stage as ingest
from spineage.study import Inputs, Study
from tests.realdata.folder import ROOT, needs_realdata

pytestmark = needs_realdata
KEY = "not a secret, 16 bytes or more"


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Context:
    """The real folder after ingest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPINEAGE_KEY", KEY)
        workspace = str(tmp_path_factory.mktemp("workspace"))
        context = Context(
            Study(workspace=workspace, inputs=Inputs(scans=str(ROOT))), say=lambda text: None
        )
        ingest.run(context)
        context.fingerprint("ingest")
    return context


def name_of(location: str) -> str:
    return Path(location).relative_to(ROOT.absolute()).as_posix()


def test_every_file_ends_where_its_own_content_says(found: Context) -> None:
    files, series = found.read("files"), found.read("series")
    code_of = dict(zip(series.series_id, series.code, strict=True))
    ends = {
        name_of(row.location): row.code or code_of[row.series_id] or "accepted"
        for row in files.itertuples()
    }
    with open(ROOT / "MANIFEST.csv") as manifest:
        listed = [row["path"] for row in csv.DictReader(manifest)]
    assert len(listed) == 298
    assert set(listed) <= set(ends)
    with open(Path(__file__).parent / "expected.csv") as table:
        rows = list(csv.DictReader(table))
    for pattern in {row["files"] for row in rows}:
        expected = Counter({r["code"]: int(r["count"]) for r in rows if r["files"] == pattern})
        assert Counter(ends[n] for n in listed if fnmatch(n, pattern)) == expected, pattern
    unexplained = [n for n in listed if not any(fnmatch(n, row["files"]) for row in rows)]
    assert not unexplained


def test_files_that_are_no_scans_are_all_accounted_for(found: Context) -> None:
    files = found.read("files")
    assert len(files) == sum(1 for path in ROOT.rglob("*") if path.is_file())
    assert set(files[files.location.str.endswith((".txt", ".csv", ".md"))].code) == {"not_imaging"}
    assert set(files[files.location.str.endswith(".tsv")].code) == {"sidecar"}
    assert (files.series_id.isna() == (files.code != "")).all()


def test_the_lumbar_spine_keeps_its_age_sex_and_scanner_and_no_name(found: Context) -> None:
    scans = found.read("scans")
    assert len(scans) == 3
    scan = scans[scans.vendor == "Hitachi"].iloc[0]
    assert (scan.age_years, scan.age_source, scan.sex) == (42.0, "PatientAge", "M")
    assert (scan.model, scan.field_tesla, scan.is_phantom) == ("AIRIS_Vento", 0.3, False)


def test_accepted_scans_are_assembled_head_up(
    found: Context, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The picture is for people; what it must show is checked on it: the back, and which end is up."""
    scans, sources = found.read("scans"), found.read("sources")
    volumes = {
        row.scan_id: read_scan(sources[sources.scan_id == row.scan_id].iloc[0].to_dict())
        for row in scans.itertuples()
    }
    picture = tmp_path_factory.getbasetemp() / "accepted_head_up_front_left.png"
    draw_middle_slices(list(volumes.values()), picture)
    print(f"mid-sagittal pictures of the accepted scans: {picture}")
    for row in scans.itertuples():
        volume = volumes[row.scan_id]
        assert volume.voxels_RAS.dtype == np.float32
        assert (np.diag(volume.affine_RAS)[:3] > 0).all()
        assert volume.extent_mm[2] == pytest.approx(row.extent_mm, abs=2.0)
    hitachi = volumes[scans[scans.vendor == "Hitachi"].scan_id.iloc[0]]
    cervical = next(v for v in volumes.values() if v.extent_mm[1] == pytest.approx(384))
    lumbar = next(v for v in volumes.values() if v.extent_mm[1] == pytest.approx(257))
    # The fluid round the cord is the brightest band behind the vertebrae. From the chest down to the
    # sacrum, and from the head down to the chest, it runs backwards; turned over it would run forwards.
    assert fluid_at(hitachi, 0.3) + 0.02 < fluid_at(hitachi, 0.65) < 0.52
    assert fluid_at(cervical, 0.3) + 0.05 < fluid_at(cervical, 0.85) < 0.5
    assert fluid_at(lumbar, 0.4) < 0.4, "the back is at the low end of A"
    # In front of the neck there is face above and air below.
    front = cervical.voxels_RAS[:, 230:330, :].mean(axis=(0, 1))
    assert front[150:].mean() > 2 * front[60:110].mean()


def draw_middle_slices(volumes: list[Volume], path: Path) -> None:
    """As radiology shows them: head up, front on the left."""
    figure, axes = plt.subplots(1, len(volumes), figsize=(5 * len(volumes), 6))
    for axis, volume in zip(axes, volumes, strict=True):
        middle = volume.voxels_RAS[volume.voxels_RAS.shape[0] // 2]
        aspect = volume.spacing_mm[2] / volume.spacing_mm[1]
        top = np.percentile(middle, 99.5)
        axis.imshow(middle.T[::-1, ::-1], cmap="gray", vmin=0, vmax=top, aspect=aspect)
        axis.set_axis_off()
    figure.savefig(path, dpi=70)
    plt.close(figure)


def fluid_at(volume: Volume, height: float) -> float:
    """Where along A (0 back, 1 front) the brightest band of the middle slice lies, at a height
    (0 foot end, 1 head end) of the field of view."""
    middle = volume.voxels_RAS[volume.voxels_RAS.shape[0] // 2]
    low, high = (int((height + step) * middle.shape[1]) for step in (-0.05, 0.05))
    return float(np.argmax(np.percentile(middle[:, low:high], 60, axis=1)) / middle.shape[0])


def test_one_object_in_four_transfer_syntaxes_has_the_same_pixels() -> None:
    for slice_number in range(1, 5):
        copies = [
            read_frames(str(folder / f"IM-0001-000{slice_number}-0001.dcm"))[0][1]
            for folder in sorted((ROOT / "icometrix__dicom2nifti").glob("generic_compressed_*"))
        ]
        assert len(copies) == 4
        for copy in copies[1:]:
            assert np.array_equal(copy, copies[0])


def test_enhanced_frames_and_classic_files_of_one_acquisition_agree() -> None:
    """62 of 63 slices are pixel-identical in the two exports, so at least eight of these nine are."""
    base = ROOT / "neurolabusc__dcm_qa_sag"
    frames = read_frames(str(base / "siemens_xa30_enhanced_sag" / "0063.dcm"))
    places = {frame.position_mm: pixels for frame, pixels in frames.values()}
    same = 0
    for path in sorted((base / "siemens_xa30_classic_mfsplit_sag").glob("*.dcm")):
        frame, pixels = read_frames(str(path))[0]
        assert frame.position_mm is not None
        nearest = min(places, key=lambda p: distance(p, frame.position_mm))
        assert distance(nearest, frame.position_mm) < 0.01
        same += np.array_equal(places[nearest], pixels)
    assert same >= 8


def distance(one: object, other: object) -> float:
    ends: NDArray[np.float64] = np.array([one, other], dtype=float)
    return float(np.linalg.norm(ends[0] - ends[1]))


def test_nifti_voxels_survive_reorientation() -> None:
    """Against nibabel's own canonical orientation."""
    import nibabel

    for name in ("t2_cervicothoracic_full", "t2_crop_psr"):
        path = ROOT / "spinalcordtoolbox__sct_testing_data" / f"{name}.nii.gz"
        volume = read_station([{"location": str(path), "kind": "nifti", "frame": 0}])
        expected = nibabel.as_closest_canonical(nibabel.load(path))
        np.testing.assert_allclose(volume.affine_RAS, expected.affine, atol=1e-4)
        np.testing.assert_allclose(volume.voxels_RAS, expected.get_fdata(), rtol=1e-5)


def test_what_is_written_about_the_real_people_names_nobody(found: Context) -> None:
    """Ids, dates and names of the real headers appear in no table but the private ones."""
    import pydicom

    path = next((ROOT / "mapconcierge__taichi2018Jan_mri05tesla_wakasa").glob("by_series/06*/*"))
    header = pydicom.dcmread(path, stop_before_pixels=True)
    secrets = {
        str(header.get(k))
        for k in ("PatientID", "PatientName", "PatientBirthDate", "StudyDate", "StudyInstanceUID",
                  "SeriesInstanceUID", "InstitutionName", "AccessionNumber")
    } - {"", "None"}  # fmt: skip
    assert len(secrets) >= 5
    shown = "".join(text_of(found.read(table)) for table in ("series", "scans"))
    assert not [secret for secret in secrets if secret in shown]


def text_of(table: pd.DataFrame) -> str:
    return json.dumps(table.astype(str).to_dict("records"))


def test_headers_of_real_files_give_the_same_ids_with_the_same_key_only() -> None:
    seen = next(s for s in list_input(str(ROOT)) if s.name.endswith("06_T2_SAG/D0000000"))
    one, again, other = (
        read_file(seen, Keyed(key), "StudyInstanceUID")[0].header
        for key in (b"a" * 32, b"a" * 32, b"b" * 32)
    )
    assert one is not None
    assert again is not None
    assert other is not None
    assert one == again
    assert one.about.person_id != other.about.person_id
