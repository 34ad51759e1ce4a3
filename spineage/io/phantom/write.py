"""Writing phantom exams as real DICOM MR images, and the tables that go with them.

Axes of the rendered volume are RAS; DICOM is LPS: sagittal slices whose rows run from front to back (+y)
and whose columns run from head to foot (-z). PS3.3 C.7.6.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.tag import Tag
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from spineage.io.phantom.headers import accession, series_header, study_uid, uid
from spineage.io.storage.parquet import encode
from spineage.io.storage.spreadsheet import csv_of
from spineage.privacy import write_private
from spineage.science.phantom.findings import read_findings
from spineage.science.phantom.oracle import oracle_years
from spineage.science.phantom.population import Exam
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.render import Rendered
from spineage.science.phantom.stations import Station, stations_of
from spineage.science.scan.geometry import Volume
from spineage.tables import TRUTH

KEY_TEXT = "spineage-phantom: this key is public because nobody is in the population\n"


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
    shared = _between_changes(series_header(station, number, exam, recipe))
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
    write_private(folder / "phantom.key", KEY_TEXT.encode(), replace=True)
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
    path.write_bytes(csv_of(pd.DataFrame(list(rows), columns=header)))
