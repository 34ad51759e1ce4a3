"""The headers of phantom images: what every DICOM tag says, and that nobody was scanned (PS3.3 C.8.3.1)."""

from __future__ import annotations

import datetime
import hashlib
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.uid import UID, MRImageStorage

from spineage.science.phantom.population import Exam
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.stations import Station
from spineage.science.scan.geometry import Volume

MANUFACTURER = "spineage-phantom"
STUDY_TIME = datetime.time(8, 30)


def uid(recipe: PhantomRecipe, *path: object) -> UID:
    """A UID of its own for every object, the same each time: 2.25. and a hash (PS3.5 B.2)."""
    text = "/".join(str(part) for part in (recipe.digest, *path))
    return UID(f"2.25.{int.from_bytes(hashlib.sha256(text.encode()).digest()[:15], 'big')}")


def study_uid(recipe: PhantomRecipe, index: int) -> UID:
    """The StudyInstanceUID of the exam with this index: the `exam` column of the tables."""
    return uid(recipe, "study", index)


def accession(index: int) -> str:
    """The AccessionNumber of the exam with this index."""
    return f"A{index + 1:06d}"


def series_header(station: Station, number: int, exam: Exam, recipe: PhantomRecipe) -> Dataset:
    """Everything that all images of one series share."""
    dataset = Dataset()
    for values in (
        _patient(exam),
        _study(exam, recipe),
        _of_series(station, number, exam, recipe),
        _acquisition(exam),
        _pixel_format(station.image),
    ):
        for keyword, value in values.items():
            setattr(dataset, keyword, value)
    return dataset


def _patient(exam: Exam) -> dict[str, Any]:
    person = exam.person
    height_m = person.factors["height_cm"] / 100
    return {
        "PatientName": f"PHANTOM^{person.number + 1:04d}",
        "PatientID": person.code,
        "PatientBirthDate": f"{exam.birth_date:%Y%m%d}",
        "PatientSex": person.sex,
        "QualityControlSubject": "YES",
        "PatientAge": f"{int(exam.age_years):03d}Y",
        "PatientSize": f"{height_m:.2f}",
        "PatientWeight": f"{person.factors['bmi'] * height_m**2:.1f}",
        "PatientComments": "synthetic phantom, not a person",
    }


def _study(exam: Exam, recipe: PhantomRecipe) -> dict[str, Any]:
    return {
        "StudyInstanceUID": study_uid(recipe, exam.index),
        "StudyDate": f"{exam.study_date:%Y%m%d}",
        "StudyTime": _clock(exam, 0),
        "StudyID": str(exam.index + 1),
        "AccessionNumber": accession(exam.index),
        "ReferringPhysicianName": "",
        "StudyDescription": "MR WHOLE SPINE PHANTOM",
    }


def _clock(exam: Exam, minutes: int) -> str:
    start = datetime.datetime.combine(exam.study_date, STUDY_TIME)
    return f"{start + datetime.timedelta(minutes=90 * exam.visit + minutes):%H%M%S}"


def _of_series(station: Station, number: int, exam: Exam, recipe: PhantomRecipe) -> dict[str, Any]:
    scanner = exam.scanner
    return {
        "SOPClassUID": MRImageStorage,
        "Modality": "MR",
        "SeriesInstanceUID": uid(recipe, "series", exam.index, number),
        "SeriesNumber": number + 1,
        "SeriesDate": f"{exam.study_date:%Y%m%d}",
        "SeriesTime": _clock(exam, 6 * number),
        "ContentDate": f"{exam.study_date:%Y%m%d}",
        "ContentTime": _clock(exam, 6 * number),
        "AcquisitionDate": f"{exam.study_date:%Y%m%d}",
        "AcquisitionTime": _clock(exam, 6 * number),
        "AcquisitionNumber": 1,
        "SeriesDescription": station.description,
        "ProtocolName": station.description,
        "BodyPartExamined": station.body_part,
        "PatientPosition": "HFS",
        "FrameOfReferenceUID": uid(recipe, "frame", exam.index),
        "PositionReferenceIndicator": "",
        "Manufacturer": MANUFACTURER,
        "ManufacturerModelName": scanner.model,
        "InstitutionName": scanner.site,
        "StationName": f"PHANTOM-{scanner.site.upper()}",
        "SoftwareVersions": f"phantom recipe {recipe.digest}",
        "MagneticFieldStrength": f"{scanner.field_tesla:g}",
    }


def _acquisition(exam: Exam) -> dict[str, Any]:
    scanner = exam.scanner
    return {
        "ImageType": ["DERIVED", "SECONDARY", "OTHER"],
        "DerivationDescription": "computed by spineage phantom; no person was scanned",
        "QualityControlImage": "YES",
        "BurnedInAnnotation": "NO",
        "ScanningSequence": "SE",
        "SequenceVariant": "SK",
        "ScanOptions": "",
        "MRAcquisitionType": "2D",
        "RepetitionTime": f"{scanner.repetition_ms:g}",
        "EchoTime": f"{scanner.echo_ms:g}",
        "EchoNumbers": 1,
        "EchoTrainLength": 17,
        "FlipAngle": "150",
        "NumberOfAverages": "2",
        "PixelBandwidth": "200",
        "ImagedNucleus": "1H",
        "ImagingFrequency": f"{42.577 * scanner.field_tesla:.3f}",
        "InPlanePhaseEncodingDirection": "COL",
    }


def _pixel_format(image: Volume) -> dict[str, Any]:
    r_mm, a_mm, s_mm = image.spacing_mm
    _, num_a, num_s = image.voxels_RAS.shape
    top = float(np.percentile(image.voxels_RAS.astype(np.float32), 99.5))
    return {
        "ImageOrientationPatient": [0, 1, 0, 0, 0, -1],
        "PixelSpacing": [f"{s_mm:.6g}", f"{a_mm:.6g}"],
        "SliceThickness": f"{r_mm / 1.1:.6g}",
        "SpacingBetweenSlices": f"{r_mm:.6g}",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": num_s,
        "Columns": num_a,
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "WindowCenter": f"{top / 2:.0f}",
        "WindowWidth": f"{max(top, 2.0):.0f}",
    }
