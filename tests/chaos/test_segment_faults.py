"""Workers killed, hung and out of memory in one population run: no good scan is lost, and none is done
twice."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from spineage.io.storage.parquet import read_table, write_part
from spineage.run.context import Context
from spineage.run.counts import Counts
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.stages import segment
from spineage.study import study_from
from spineage.tables import FAULTS, MASKS, SOURCES
from tests.chaos.faulty import FaultySegmentStep
from tests.made.sealed import sealed_nifti

pytestmark = pytest.mark.slow

GOOD = [f"good{i}" for i in range(3)]
INJECTED = {"killed": "killed", "hung": "hung", "full": "full"}
DEADLINE_S = 10.0
RECIPE = PhantomRecipe(
    num_people=1, seed=5, repeat_share=0.0, transitional_share=0.0, artefact_share=0.0
)


SAID: list[str] = []
"""What the stage told."""


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One phantom under many names, and two volumes that are no image."""
    folder = tmp_path_factory.mktemp("scans")
    image = render(draw_population(RECIPE)[0], RECIPE).image
    holed = image.voxels_RAS.astype(np.float32)
    holed[:, :, ::7] = np.nan
    kinds = {"image": image.voxels_RAS, "nan": holed, "flat": np.full_like(holed, 7.0)}
    for name, voxels in kinds.items():
        nib.save(nib.Nifti1Image(voxels, image.affine_RAS), folder / f"{name}.nii.gz")
    names = {
        **dict.fromkeys([*GOOD[:2], *INJECTED, *GOOD[2:]], "image"),
        "nan": "nan",
        "flat": "flat",
    }
    return [
        {
            "scan_id": name,
            "source_digest": f"{name:0<64}",
            **sealed_nifti(folder / f"{kind}.nii.gz"),
            "num_voxels": 1_000_000 - place,
        }
        for place, (name, kind) in enumerate(names.items())
    ]


@pytest.fixture(scope="module")
def context(rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Context:
    folder = tmp_path_factory.mktemp("study")
    study = study_from({"workspace": str(folder), "cluster": {"deadline_s": DEADLINE_S}})
    context = Context(study, say=SAID.append)
    context._fingerprints["ingest"] = "pinned"
    write_part(context.store, context.folder("ingest"), SOURCES, rows, "part-0")
    return context


@pytest.fixture(scope="module")
def disturbed(
    context: Context, ray_session: None, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Counts, Path]:
    """The first run; its counts, and which processes each scan was tried in."""
    marks = tmp_path_factory.mktemp("marks")
    honest = segment.steps

    def faulty(study: Any) -> list[Any]:
        assemble, draw, name = honest(study)
        kwargs = {**draw.kwargs, "faults": INJECTED, "marks": str(marks)}
        return [assemble, dataclasses.replace(draw, make=FaultySegmentStep, kwargs=kwargs), name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "steps", faulty)
        counts = segment.run(context)
    return counts, marks


def masks(context: Context) -> set[str]:
    return set(read_table(context.store, context.folder("segment"), MASKS, ["scan_id"]).scan_id)


def test_every_good_scan_is_segmented_whatever_befell_the_workers(
    context: Context, disturbed: tuple[Counts, Path]
) -> None:
    counts, marks = disturbed
    assert counts == Counts({"already": 0, "segmented": len(GOOD) + 1}, {"bad_values": 2}, left=2)
    assert "  for the next run: 1 deadline, 1 out_of_memory" in SAID
    assert masks(context) == {*GOOD, "killed"}
    tried = {path.name: path.read_text().splitlines() for path in marks.iterdir()}
    assert len(tried["killed"]) == 2, "once in the worker that was killed, once in its successor"
    sick = {tried["hung"][-1], tried["full"][-1], tried["killed"][0]}
    assert len(sick) == 3, "no worker outlives its fault"


def test_a_volume_that_is_no_image_says_so(
    context: Context, disturbed: tuple[Counts, Path]
) -> None:
    faults = read_table(context.store, context.folder("segment"), FAULTS).set_index("scan_id")
    assert set(faults.index) == {"hung", "full", "nan", "flat"}
    for name in ("nan", "flat"):
        assert faults.loc[name, "code"] == "bad_values"
        assert "NaN, infinite or all the same" in faults.loc[name, "message"]
    assert faults.loc["hung", "code"] == "deadline"
    assert f"{DEADLINE_S:g} s" in faults.loc["hung", "message"]
    assert faults.loc["full", "code"] == "out_of_memory"


def test_a_second_run_without_the_faults_fills_in_exactly_what_was_missing(
    context: Context, disturbed: tuple[Counts, Path]
) -> None:
    folder = Path(context.store.root) / context.folder("segment")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert segment.run(context) == Counts({"already": len(GOOD) + 3, "segmented": 2}, left=0)
    assert masks(context) == {*GOOD, *INJECTED}
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    assert {path: after[path] for path in before} == before
    assert len(after) - len(before) == 2
