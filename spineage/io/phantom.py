"""Writing phantom exams as real DICOM MR images, and the tables that go with them.

Axes of the rendered volume are RAS; DICOM is LPS: sagittal slices whose rows run from the back's far side,
anterior to posterior (+y), and whose columns run head to foot (-z). PS3.3 C.7.6.2, C.8.3.1.
"""

from __future__ import annotations

import csv
import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from spineage.io.parquet import encode
from spineage.science.geometry import Volume
from spineage.science.phantom.findings import read_findings
from spineage.science.phantom.oracle import oracle_years
from spineage.science.phantom.population import Exam
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.render import Rendered
from spineage.science.phantom.stations import Station, stations_of
from spineage.tables import TRUTH

MANUFACTURER = "spineage-phantom"
KEY_TEXT = "spineage-phantom: this key is public because nobody is in the population\n"
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


def write_exam(rendered: Rendered, exam: Exam, folder: Path, recipe: PhantomRecipe) -> int:
    """Write every station of one exam as `<folder>/<station>/<n>.dcm`; returns the number of files."""
    num_files = 0
    for number, station in enumerate(stations_of(rendered.image, exam.scanner, recipe.stations), 1):
        place = folder / station.name
        place.mkdir(parents=True, exist_ok=True)
        for i, data in enumerate(_slices(station, number, exam, recipe), 1):
            (place / f"{i:03d}.dcm").write_bytes(data)
            num_files += 1
    return num_files


CHANGING = (
    "SOPInstanceUID", "InstanceNumber", "ImagePositionPatient", "SliceLocation", "PixelData",
)  # fmt: skip
"""What differs between the images of a series, in the order of tags."""


def _slices(station: Station, number: int, exam: Exam, recipe: PhantomRecipe) -> Iterator[bytes]:
    """The files of one series. What they share is encoded once: headers are most of the work."""
    shared = _between_changes(_series(station, number, exam, recipe))
    pixels_RSA = stored_pixels(station.image)
    for i, position in enumerate(slice_positions(station.image)):
        instance = uid(recipe, "image", exam.index, number, i)
        values = (
            instance,
            str(i + 1),
            [f"{x:.4f}" for x in position],
            f"{position[0]:.4f}",
            pixels_RSA[i].tobytes(),
        )
        own = [_encoded(_element(k, v)) for k, v in zip(CHANGING, values, strict=True)]
        body = b"".join(part for pair in zip(shared, [*own, b""], strict=True) for part in pair)
        yield b"\0" * 128 + b"DICM" + _file_meta(instance) + body


def _between_changes(dataset: Dataset) -> list[bytes]:
    """The elements before, between and after the changing ones, encoded."""
    tags = [Tag(keyword) for keyword in CHANGING]
    return [_encoded(dataset[low:high]) for low, high in pairwise([Tag(0), *tags, Tag(0xFFFFFFFF)])]


def _element(keyword: str, value: Any) -> Dataset:
    dataset, tag = Dataset(), Tag(keyword)
    dataset.add_new(tag, "OW" if keyword == "PixelData" else dictionary_VR(tag), value)
    return dataset


def _encoded(dataset: Dataset) -> bytes:
    """Explicit VR little endian."""
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_dataset(buffer, dataset)
    return bytes(buffer.getvalue())


def _file_meta(instance: UID) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = instance
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = DicomBytesIO()
    write_file_meta_info(buffer, meta)
    return bytes(buffer.getvalue())


def stored_pixels(image: Volume) -> NDArray[np.uint16]:
    """Slices [R, S, A] as stored: rows from the head down, columns from front to back."""
    turned = image.voxels_RAS[:, ::-1, ::-1].transpose(0, 2, 1)
    return np.ascontiguousarray(np.clip(np.rint(turned), 0, 65535).astype("<u2"))


def slice_positions(image: Volume) -> NDArray[np.float64]:
    """ImagePositionPatient [R, 3] in LPS mm: the centre of the first pixel, at the front and the top."""
    num_r, num_a, num_s = image.voxels_RAS.shape
    index = np.array([[i, num_a - 1, num_s - 1] for i in range(num_r)], dtype=np.float64)
    return image.to_mm(index) * np.array([-1.0, -1.0, 1.0])


def _series(station: Station, number: int, exam: Exam, recipe: PhantomRecipe) -> Dataset:
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


def write_tables(exams: Sequence[Exam], recipe: PhantomRecipe, folder: Path) -> float:
    """Write participants, findings, lifestyle, truth and the public key; returns the oracle's MAE (years)."""
    people = {exam.person.code: exam.person for exam in exams}
    _write_csv(
        folder / "participants.csv",
        ["person", "sex", "site"],
        ([p.code, p.sex, p.site] for p in people.values()),
    )
    names = list(next(iter(people.values())).factors)
    _write_csv(
        folder / "lifestyle.csv",
        ["person", *names],
        ([p.code, *(f"{p.factors[n]:g}" for n in names)] for p in people.values()),
    )
    _write_csv(
        folder / "findings.csv",
        ["person", "exam", "finding", "level", "severity"],
        (
            [exam.person.code, study_uid(recipe, exam.index), f.finding, f.level, f.severity]
            for exam in exams
            for f in read_findings(exam, recipe)
        ),
    )
    rows = [truth_row(exam, recipe) for exam in exams]
    (folder / "truth.parquet").write_bytes(encode(TRUTH, rows))
    (folder / "phantom.key").write_text(KEY_TEXT)
    return float(np.mean([abs(row["oracle_years"] - row["age_years"]) for row in rows]))


def truth_row(exam: Exam, recipe: PhantomRecipe) -> dict[str, Any]:
    """One row of tables.TRUTH."""
    person = exam.person
    return {
        "person": person.code,
        "exam": str(study_uid(recipe, exam.index)),
        "accession": accession(exam.index),
        "age_years": exam.age_years,
        "sex": person.sex,
        "site": person.site,
        "gap_years": person.gap_years,
        "biological_years": exam.biological_years,
        "oracle_years": oracle_years(exam, recipe),
        "anatomy": person.anatomy,
        "num_discs": 18 + person.num_lumbar,
        "repeat_of": None if exam.repeat_of is None else str(study_uid(recipe, exam.repeat_of)),
        "factors": json.dumps(dict(person.factors)),
    }


def _write_csv(path: Path, header: list[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
