"""The same exams in a folder and in a bucket of a real S3 server."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.io.files.listing import walk_input
from spineage.io.scans.read import read_scan
from tests.io.files.test_input import TALL, ingested, nifti_to, zipped
from tests.made.dicom_makers import write_sagittal


def test_a_bucket_gives_the_tables_of_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str
) -> None:
    bucket = f"{s3}/exams"
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    root = tmp_path / "input"
    paths = write_sagittal(root / "P1" / "series", TALL, person="P1")
    others = write_sagittal(tmp_path / "P2", TALL, person="P2")
    zipped(root / "P2.zip", {p.name: p.read_bytes() for p in others})
    nifti_to(root / "sub-3_T2w.nii.gz")
    (root / "sub-3_T2w.json").write_text(json.dumps({"EchoTime": 0.1, "RepetitionTime": 3.0}))
    upload(root, bucket)
    local, remote = ingested(str(root), tmp_path / "one"), ingested(bucket, tmp_path / "other")
    for name in ("series", "scans"):
        pd.testing.assert_frame_equal(local.read(name), remote.read(name))
    files = [context.read("files").drop(columns="location") for context in (local, remote)]
    pd.testing.assert_frame_equal(*files)
    assert len(remote.read("scans")) == 3
    assert len(files[0]) == len(paths) + 1 + len(others) + 2
    for row in remote.read("sources").to_dict("records"):
        assert np.array_equal(read_scan(row).voxels_RAS, TALL.voxels_RAS)
    with pytest.raises(BadStudy, match=r"inputs\.scans"):
        walk_input(f"{s3}/nothing/here")


def upload(root: Path, bucket: str) -> None:
    import s3fs

    for path in (p for p in root.rglob("*") if p.is_file()):
        s3fs.S3FileSystem().pipe_file(f"{bucket}/{path.relative_to(root)}", path.read_bytes())
