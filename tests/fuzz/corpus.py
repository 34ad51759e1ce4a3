"""What is damaged: whole files of every kind that ingest reads, with names planted in their texts."""

from __future__ import annotations

import gzip
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel
import numpy as np
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from spineage.io.phantom.write import write_exam
from spineage.science.phantom import PhantomRecipe, draw_population
from spineage.science.phantom.render import Rendered
from spineage.science.scan.geometry import Volume
from tests.made.dicom_makers import shaded, write_enhanced, write_sagittal
from tests.made.dicom_syntaxes import LOSSLESS, LOSSY, stored_words
from tests.realdata.folder import ROOT

CANARY = "Kanarienvogel"
TALL = shaded((5, 40, 60))
MAX_REAL_BYTES = 300_000


def make_corpus(folder: Path, *, with_real: bool) -> dict[str, bytes]:
    """Name and content of every source. folder: room to write in; with_real: add the real files if any."""
    sources = dict(_synthetic(folder))
    sources["zip"] = _zipped(sources)
    if with_real and ROOT.is_dir():
        sources |= dict(_real())
    return sources


def _synthetic(folder: Path) -> Iterator[tuple[str, bytes]]:
    yield "phantom", _phantom(folder / "phantom")
    for name, change in CHANGES.items():
        yield name, write_sagittal(folder / name, TALL, change=change)[2].read_bytes()
    write_enhanced(folder / "enhanced.dcm", TALL, change=_planted)
    yield "enhanced", (folder / "enhanced.dcm").read_bytes()
    nifti = nibabel.Nifti1Image(TALL.voxels_RAS.astype(np.int16), TALL.affine_RAS)
    nifti.header["descrip"] = f"TE=100 {CANARY}".encode()
    yield "nifti", nifti.to_bytes()
    yield "nifti.gz", gzip.compress(nifti.to_bytes())
    second = nibabel.Nifti2Image(TALL.voxels_RAS.astype(np.float32), TALL.affine_RAS)
    yield "nifti2", second.to_bytes()


def _phantom(folder: Path) -> bytes:
    """One slice by the project's own writer; a shaded block stands for the rendered spine."""
    recipe = PhantomRecipe(num_people=1, seed=3)
    whole = shaded((3, 40, 120))
    blank = Volume(np.zeros(whole.voxels_RAS.shape, np.uint8), whole.affine_RAS)
    write_exam(Rendered(whole, blank, blank), draw_population(recipe)[0], folder, recipe)
    return min(folder.rglob("*.dcm")).read_bytes()


def _planted(dataset: FileDataset, number: int) -> None:
    for keyword in ("PatientName", "PatientID", "InstitutionName", "PatientComments"):
        setattr(dataset, keyword, f"{CANARY} {keyword}")
    dataset.SeriesDescription = f"T2 SAG {CANARY}"


def _packed_as(syntax: str) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, number: int) -> None:
        _planted(dataset, number)
        dataset.PixelRepresentation = 0
        dataset.compress(syntax)

    return change


def _coded_as(syntax: UID) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, number: int) -> None:
        _planted(dataset, number)
        dataset.PixelRepresentation, dataset.BitsStored, dataset.HighBit = 0, 12, 11
        encode = (LOSSLESS | LOSSY)[syntax]
        dataset.PixelData = encapsulate([encode(stored_words(dataset, syntax))])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = syntax

    return change


def _written_as(syntax: str) -> Callable[[FileDataset, int], None]:
    def change(dataset: FileDataset, number: int) -> None:
        _planted(dataset, number)
        dataset.file_meta.TransferSyntaxUID = syntax

    return change


CHANGES = {
    "plain": _planted,
    "rle": _packed_as(RLELossless),
    "jpeg2000": _packed_as(JPEG2000Lossless),
    "jpeg": _coded_as(JPEGLosslessSV1),
    "jpeg 12 bit": _coded_as(JPEGExtended12Bit),
    "jpeg-ls": _coded_as(JPEGLSLossless),
    "htj2k": _coded_as(HTJ2KLossless),
    "implicit": _written_as(ImplicitVRLittleEndian),
    "deflated": _written_as(DeflatedExplicitVRLittleEndian),
}
EXPLICIT = ("phantom", "plain", "rle", "jpeg2000", "enhanced")


def _zipped(sources: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("plain", "nifti"):
            archive.writestr(f"{CANARY}/{name}", sources[name])
    return packed.getvalue()


def _real() -> Iterator[tuple[str, bytes]]:
    """One small file of each folder."""
    for folder in sorted({path.parent for path in ROOT.rglob("*") if path.is_file()}):
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        first = next((p for p in files if 2000 < p.stat().st_size < MAX_REAL_BYTES), None)
        if first is not None and first.suffix not in (".md", ".txt", ".csv", ".tsv"):
            yield first.relative_to(ROOT).as_posix(), first.read_bytes()
