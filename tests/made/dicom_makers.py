"""Small DICOM series for tests, made through pydicom from volumes in RAS+ millimetres."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from spineage.science.scan.geometry import Volume

Change = Callable[[FileDataset, int], None]


def uid(*names: object) -> str:
    """The same names give the same UID."""
    return str(generate_uid(entropy_srcs=["spineage-test", *map(str, names)]))


def shaded(
    shape: tuple[int, int, int] = (7, 40, 60),
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 4.0),
    seed: int = 0,
) -> Volume:
    """A smooth random volume, bright to the left, front and top: no two directions look alike."""
    noise = np.random.default_rng(seed).random(shape)
    r, a, s = np.indices(shape)
    voxels = 200 + 300 * (1 - r / shape[0]) + 200 * a / shape[1] + 100 * s / shape[2] + 100 * noise
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.array(shape) * np.array(spacing_mm) / 2
    return Volume(np.round(voxels).astype(np.float32), affine)


def write_sagittal(
    folder: Path,
    volume: Volume,
    *,
    person: str = "P1",
    exam: str = "E1",
    series: str = "S1",
    change: Change | None = None,
    compress: bool = False,
) -> list[Path]:
    """One classic MR file a slice. change(dataset, slice number) edits each before it is written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(volume.voxels_RAS.shape[0]):
        dataset = _classic(volume, number, person, exam, series)
        if change:
            change(dataset, number)
        if compress:
            dataset.compress(RLELossless)
        path = folder / f"{series}-{number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def classic_slice(volume: Volume, number: int = 0) -> FileDataset:
    """One slice as a classic MR object, not yet written."""
    return _classic(volume, number, "P1", "E1", "S1")


def write_enhanced(
    path: Path, volume: Volume, *, person: str = "P1", exam: str = "E1", series: str = "S1",
    change: Change | None = None,
) -> None:  # fmt: skip
    """All slices as frames of one enhanced MR object, in reversed order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(reversed(range(volume.voxels_RAS.shape[0])))
    slices = [_classic(volume, number, person, exam, series) for number in numbers]
    dataset = slices[0]
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(slices)
    dataset.PixelData = b"".join(one.PixelData for one in slices)
    dataset.PerFrameFunctionalGroupsSequence = Sequence([_frame_groups(one) for one in slices])
    dataset.SharedFunctionalGroupsSequence = Sequence([_shared_groups(slices[0])])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "EchoTime",
                 "RepetitionTime", "ScanningSequence", "RescaleSlope", "RescaleIntercept"):  # fmt: skip
        delattr(dataset, name)
    if change:
        change(dataset, 0)
    dataset.save_as(path, enforce_file_format=True)


def _classic(volume: Volume, number: int, person: str, exam: str, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = uid(person, exam, series, number)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    for name, value in _header(person, exam, series, number).items():
        setattr(dataset, name, value)
    _place(dataset, volume, number)
    pixels = volume.voxels_RAS[number, ::-1, ::-1].T  # rows run down, columns to the back
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = np.ascontiguousarray(np.round(pixels)).astype("<i2").tobytes()
    return dataset


def _header(person: str, exam: str, series: str, number: int) -> dict[str, Any]:
    return {
        "SOPClassUID": MRImageStorage, "SOPInstanceUID": uid(person, exam, series, number),
        "StudyInstanceUID": uid(person, exam), "SeriesInstanceUID": uid(person, exam, series),
        "FrameOfReferenceUID": uid(person, exam, "frame"), "PatientID": person,
        "PatientName": "Nobody^Test", "PatientBirthDate": "19700101", "PatientSex": "F",
        "PatientAge": "050Y", "StudyDate": "20200701", "StudyTime": "101500",
        "AcquisitionTime": "101500", "Modality": "MR", "ImageType": ["ORIGINAL", "PRIMARY", "M"],
        "Manufacturer": "SIEMENS", "ManufacturerModelName": "Aera", "MagneticFieldStrength": "1.5",
        "SeriesDescription": "T2 TSE SAG", "BodyPartExamined": "SPINE", "ScanningSequence": "SE",
        "RepetitionTime": "3500", "EchoTime": "100", "InstanceNumber": number + 1,
        "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": 16,
        "BitsStored": 16, "HighBit": 15, "PixelRepresentation": 1, "RescaleSlope": "1",
        "RescaleIntercept": "0",
    }  # fmt: skip


def _place(dataset: FileDataset, volume: Volume, number: int) -> None:
    """Patient coordinates are LPS: R and A change sign. The first pixel is the uppermost, foremost."""
    lps = np.array([-1.0, -1.0, 1.0])
    axes = volume.affine_RAS[:3, :3] / np.array(volume.spacing_mm)
    _, a, s = volume.voxels_RAS.shape
    corner = volume.to_mm(np.array([number, a - 1, s - 1], float))
    dataset.ImagePositionPatient = [f"{x:.6f}" for x in lps * corner]
    dataset.ImageOrientationPatient = [
        f"{x:.9f}" for x in (*(-lps * axes[:, 1]), *(-lps * axes[:, 2]))
    ]
    dataset.PixelSpacing = [f"{volume.spacing_mm[2]:.6f}", f"{volume.spacing_mm[1]:.6f}"]
    dataset.SliceThickness = f"{volume.spacing_mm[0]:.6f}"


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _frame_groups(one: FileDataset) -> Dataset:
    return _item(
        PlanePositionSequence=Sequence([_item(ImagePositionPatient=one.ImagePositionPatient)])
    )


def _shared_groups(one: FileDataset) -> Dataset:
    return _item(
        PlaneOrientationSequence=Sequence(
            [_item(ImageOrientationPatient=one.ImageOrientationPatient)]
        ),
        PixelMeasuresSequence=Sequence([_item(PixelSpacing=one.PixelSpacing)]),
        MREchoSequence=Sequence([_item(EffectiveEchoTime=100.0)]),
        MRTimingAndRelatedParametersSequence=Sequence([_item(RepetitionTime="3500")]),
        PixelValueTransformationSequence=Sequence(
            [_item(RescaleSlope="2", RescaleIntercept="5", RescaleType="US")]
        ),
    )
