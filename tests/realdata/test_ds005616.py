"""The preset of an open data set on its real tree, sidecars and participants, with phantoms as its voxels."""

from __future__ import annotations

import csv
import gzip
import json
import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from spineage.run.context import Context
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.scan.geometry import Volume
from spineage.stages import segment
from spineage.stages.ingest import stage as ingest
from spineage.study import Study, read_study
from spineage.verbs.compare_masks import compare
from tests.stages.test_given_masks import by_tool

LAYOUTS = Path(
    os.environ.get("SPINEAGE_LAYOUTS") or Path(__file__).parents[3] / "shared" / "layouts"
)
REAL = LAYOUTS / "OpenNeuroDatasets__ds005616"
PRESET = Path(__file__).parents[2] / "jobs" / "presets" / "ds005616.yaml"
MANUAL = "derivatives/labels/*_T2w_label-spine_dseg.nii.gz"
NUM_DRAWN = 3
"""People whose mask is drawn into the tree: enough for the road, each is seconds."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not REAL.is_dir(),
        reason="no layouts: set SPINEAGE_LAYOUTS or put them at ../shared/layouts",
    ),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git-annex leaves after a get: images as links into .git/annex/objects, text files as they are."""
    recipe = PhantomRecipe(
        num_people=1, seed=5, repeat_share=0.0, transitional_share=0.0, artefact_share=0.0
    )
    phantom = render(draw_population(recipe)[0], recipe)
    root = tmp_path_factory.mktemp("open") / "ds005616"
    shutil.copytree(REAL, root, ignore=shutil.ignore_patterns("TREE.csv"))
    with (REAL / "TREE.csv").open() as file:
        paths = [row["path"] for row in csv.DictReader(file) if row["path"].endswith(".nii.gz")]
    [drawn] = by_tool(phantom.levels, "totalspineseg")
    scanned = {path.split("/")[0] for path in paths if path.endswith("_T2w.nii.gz")}
    masked = {path.split("/")[2] for path in paths if "label-spine_dseg" in path}
    people = sorted(scanned & masked)
    for number, path in enumerate(paths):
        person = next(part for part in path.split("/") if part.startswith("sub-"))
        if path.startswith("sub-"):
            voxels = np.asarray(phantom.image.voxels_RAS) + number % 7 + (number // 7) / 100
            annexed(root, path, phantom.image.with_voxels(voxels.astype(np.float32)))
        elif "label-spine_dseg" in path and person in people[:NUM_DRAWN]:
            annexed(root, path, drawn)
        elif person in people[:NUM_DRAWN]:
            annexed(
                root,
                path,
                phantom.levels.with_voxels((phantom.levels.voxels_RAS > 0).astype(np.uint8)),
            )
    return root


def annexed(root: Path, path: str, volume: Volume) -> None:
    data = gzip.compress(nib.Nifti1Image(volume.voxels_RAS, volume.affine_RAS).to_bytes(), 1)
    name = f"SHA256E-s{len(data)}--{abs(hash(path)):x}.nii.gz"
    kept = root / ".git" / "annex" / "objects" / name[-12:-9] / name / name
    kept.parent.mkdir(parents=True)
    kept.write_bytes(data)
    place = root / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(os.path.relpath(kept, place.parent))


def study_on(tree: Path, tmp_path: Path, **changes: Any) -> Study:
    """The preset as a user has it, beside the data set."""
    preset = tree.parent / "ds005616.yaml"
    shutil.copyfile(PRESET, preset)
    return read_study(preset, workspace=str(tmp_path / "results"), **changes)


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEAGE_KEY", "not a secret, 16 bytes or more")


def test_all_56_are_accepted_with_who_they_are(tree: Path, tmp_path: Path, key: None) -> None:
    said: list[str] = []
    context = Context(study_on(tree, tmp_path), say=said.append)
    ingest.run(context)
    scans, series = context.read("scans"), context.read("series")
    assert len(scans) == scans.person_id.nunique() == 56
    with (REAL / "participants.tsv").open() as file:
        listed = {row["participant_id"]: row for row in csv.DictReader(file, delimiter="\t")}
    there = [listed[path.name] for path in REAL.glob("sub-*")]
    ages = sorted(float(row["age"]) for row in there if row["age"] != "n/a")
    assert sorted(scans.age_years.dropna()) == ages
    assert Counter(scans.sex.dropna()) == Counter(r["sex"] for r in there if r["sex"] in ("F", "M"))
    assert set(scans.site) == {row["institution"] for row in there}
    files = context.read("files")
    used = files.dropna(subset=["series_id"]).set_index("series_id")
    names = used.location.str.rpartition("_")[2]
    refused = series[series.code != ""].set_index("series_id").code
    assert set(refused[names.reindex(refused.index) == "T1w.nii.gz"]) <= {"not_t2"}
    assert set(refused[names.reindex(refused.index) != "T1w.nii.gz"]) == {"not_an_image"}, "labels"
    assert set(files.code) <= {"", "sidecar", "hidden", "not_imaging", "duplicate_file"}
    assert not any("nothing on the people" in line for line in said)


def test_the_default_limits_refuse_one_and_say_why(tree: Path, tmp_path: Path, key: None) -> None:
    context = Context(study_on(tree, tmp_path, ingest={}), say=lambda text: None)
    ingest.run(context)
    assert len(context.read("scans")) == 55
    assert context.read("series").message.str.contains("TR is 1000 ms").sum() == 1


def test_its_masks_become_levels_and_are_compared(
    tree: Path, tmp_path: Path, key: None, ray_session: None
) -> None:
    given = {"masks": str(tree / MANUAL), "masks_of": "totalspineseg"}
    study = study_on(tree, tmp_path, segment={**given, "max_disc_signal": 100.0})
    said: list[str] = []
    context = Context(study, say=said.append)
    ingest.run(context)
    assert f"{56 - NUM_DRAWN} of 56 scans have no mask" in "\n".join(said)
    counts = segment.run(context)
    assert counts.done["segmented"] == NUM_DRAWN, counts
    found = compare(context, given["masks"], given["masks_of"]).as_json()
    assert (found["compared"], found["refused"]) == (NUM_DRAWN, {})
    assert found["spines_named_alike"] == 1.0
    assert min(found["dice_median"].values()) == 1.0
    assert set(found["dice_median"]) == {"vertebra", "disc", "canal", "cord", "sacrum"}


def test_the_sidecars_of_its_masks_say_who_drew_them() -> None:
    drawn = sorted(REAL.glob("derivatives/labels/*/anat/*_T2w_label-spine_dseg.json"))
    assert len(drawn) == 59
    assert all("GeneratedBy" in json.loads(path.read_text()) for path in drawn)
