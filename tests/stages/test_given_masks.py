"""Masks that people have already: of each tool, by name or table, on grids of their own, and their traps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from spineage.errors import BadScan, BadStudy
from spineage.io.storage.volumes import mask_from_row
from spineage.run.context import Context
from spineage.science.phantom import PhantomRecipe, draw_population, render
from spineage.science.scan.geometry import Volume
from spineage.science.spine.foreign import TOOLS, adapt
from spineage.science.spine.labels import LEVELS, VERTEBRAE
from spineage.science.spine.morphometry import measure
from spineage.science.spine.named import levels_from_named, semantic_of
from spineage.stages import prepare, segment
from spineage.stages.ingest import stage as ingest
from spineage.study import study_from

RECIPE = PhantomRecipe(
    num_people=2, seed=5, repeat_share=0.0, transitional_share=0.0, artefact_share=0.0
)
PEOPLE = ("sub-1", "sub-2")
ON_SACRUM = "disc_below_L5"


@pytest.fixture(scope="module")
def phantoms() -> dict[str, Any]:
    return dict(zip(PEOPLE, (render(e, RECIPE) for e in draw_population(RECIPE)), strict=True))


@pytest.fixture
def world(
    phantoms: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Context]:
    """Their scans, ingested; makes a context of a study with these sections, and keeps what it says."""
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")
    for name, phantom in phantoms.items():
        saved(phantom.image, tmp_path / "scans" / name / "anat" / f"{name}_T2w.nii.gz")

    def make(masks: str, masks_of: str, **sections: Any) -> Context:
        study = study_from(
            {
                "workspace": str(tmp_path / "workspace"),
                "inputs": {"scans": str(tmp_path / "scans")},
                "segment": {"masks": masks, "masks_of": masks_of},
                **sections,
            }
        )
        said: list[str] = []
        context = Context(study, say=said.append)
        context.said = said  # type: ignore[attr-defined]
        ingest.run(context)
        return context

    return make


def saved(volume: Volume, path: Path, axes: str = "RAS") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(volume.voxels_RAS, volume.affine_RAS)
    start = nib.orientations.io_orientation(volume.affine_RAS)
    wanted = nib.orientations.axcodes2ornt(axes)
    image.as_reoriented(nib.orientations.ornt_transform(start, wanted)).to_filename(path)
    return path


def valued(levels: Volume, values: dict[str, int]) -> Volume:
    """The levels in another tool's numbers; what it has none for is background."""
    table = np.zeros(256, np.int16)
    for name, ours in LEVELS.items():
        table[ours] = values.get(name, 0)
    return levels.with_voxels(table[levels.voxels_RAS])


def by_tool(levels: Volume, tool: str) -> list[Volume]:
    """What the tool would have drawn: its files, the named one first."""
    values = {name: value for value, name in TOOLS[tool].names.items()}
    bones = {name: values[name] for name in (*VERTEBRAE, "sacrum") if name in values}
    if tool == "totalspineseg":
        return [valued(levels, {**values, ON_SACRUM: 100})]
    if tool == "spineps-veridah":
        tissues = dict.fromkeys(VERTEBRAE, 49) | dict.fromkeys(
            (n for n in LEVELS if n.startswith("disc_")), 100
        )
        return [
            valued(levels, values),
            valued(levels, {**tissues, "sacrum": 26, "canal": 61, "cord": 60}),
        ]
    if tool == "totalsegmentator":
        tissues = dict.fromkeys(VERTEBRAE, 19) | dict.fromkeys(
            (n for n in LEVELS if n.startswith("disc_")), 20
        )
        return [valued(levels, bones), valued(levels, {**tissues, "sacrum": 18, "cord": 21})]
    return [valued(levels, values)]


NAMES = {
    "totalspineseg": ("out/step2_output/{}_T2w.nii.gz",),
    "spineps-veridah": (
        "out/{}/{}_mod-T2w_seg-vert_msk.nii.gz", "out/{}/{}_mod-T2w_seg-spine_msk.nii.gz",
    ),
    "totalsegmentator": ("out/vertebrae_mr/{}_T2w.nii.gz", "out/total_mr/{}_T2w.nii.gz"),
    "levels": ("out/{}/anat/{}_T2w_label-spine_dseg.nii.gz",),
}  # fmt: skip


def drawn_by(tool: str, phantoms: dict[str, Any], folder: Path, axes: str = "RAS") -> None:
    for name, phantom in phantoms.items():
        for volume, place in zip(by_tool(phantom.levels, tool), NAMES[tool], strict=True):
            saved(volume, folder / place.replace("{}", name), axes)


def outcomes(context: Context) -> list[dict[str, Any]]:
    """Of each scan, in the order of the people's lengths, its row of `masks`, or its fault."""
    steps = [step.make(**step.kwargs) for step in segment.steps(context.study)]
    found = []
    for row in context.read("sources").to_dict("records"):
        try:
            for step in steps:
                row = step(row)
        except BadScan as fault:
            row = {"code": fault.code, "message": str(fault)}
        found.append(row)
    return found


def agreement(context: Context, phantoms: dict[str, Any]) -> list[float]:
    """Of each scan's bones and discs the share of voxels that have the true name."""
    shares = []
    for row in outcomes(context):
        assert "code" not in row, row
        found = mask_from_row(row)
        truths = [p.levels for p in phantoms.values()]
        truth = min(truths, key=lambda t: float(np.abs(t.affine_RAS - found.affine_RAS).max()))
        if truth.voxels_RAS.shape != found.voxels_RAS.shape:
            truth = next(t for t in truths if t.voxels_RAS.shape == found.voxels_RAS.shape)
        is_bone = (truth.voxels_RAS > 0) & (truth.voxels_RAS < LEVELS["canal"])
        shares.append(float((found.voxels_RAS == truth.voxels_RAS)[is_bone].mean()))
    return sorted(shares)


@pytest.mark.parametrize("axes", ["RAS", "PIR"])
@pytest.mark.parametrize("tool", NAMES)
def test_masks_of_each_tool_come_in_as_they_are(
    tool: str, axes: str, world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by(tool, phantoms, tmp_path, axes)
    robust = {"prepare": {"normalise": "robust"}} if tool == "totalsegmentator" else {}
    context = world(str(tmp_path / "out"), tool, **robust)
    assert context.said == []  # type: ignore[attr-defined]
    assert min(agreement(context, phantoms)) > 0.99
    for row in outcomes(context):
        assert row["numbering"] == "regular"
        assert row["segmented"] == f"given, by {tool}"
        assert len(row["disc_names"]) == 23
        assert np.isnan(row["disc_signal"]).all() == (tool == "totalsegmentator")
        assert "masks_json" not in row or "key" not in json.dumps(row["segmented"])


def test_without_a_canal_csf_is_asked_for_unless_the_study_does_without(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by("totalsegmentator", phantoms, tmp_path)
    codes = {
        row.get("code", "") for row in outcomes(world(str(tmp_path / "out"), "totalsegmentator"))
    }
    assert codes == {"implausible_mask"}
    robust = world(str(tmp_path / "out"), "totalsegmentator", prepare={"normalise": "robust"})
    row = outcomes(robust)[0]
    tensor = prepare.PrepareStep(**prepare.prepare_kwargs(robust.study))
    voxels = segment.AssembleStep()(robust.read("sources").to_dict("records")[0])
    assert tensor({**voxels, **row})["shape"] == list(robust.study.prepare.shape)


def test_heights_are_those_of_the_mask_with_its_canal(phantoms: dict[str, Any]) -> None:
    phantom = phantoms["sub-1"]
    with_canal = levels_from_named(phantom.levels)
    bare = phantom.levels.with_voxels(
        np.where(phantom.levels.voxels_RAS == LEVELS["canal"], 0, phantom.levels.voxels_RAS)
    )
    without = levels_from_named(bare)
    one, other = (
        measure(phantom.image, levels, needs_csf=False) for levels in (with_canal, without)
    )
    assert one.level_names == other.level_names
    np.testing.assert_allclose(
        other.level_height_mm, one.level_height_mm, rtol=0.12, equal_nan=True
    )
    np.testing.assert_allclose(other.disc_height_mm, one.disc_height_mm, rtol=0.05)
    assert np.isnan(other.canal_diameter_mm).all()


def test_a_map_of_ones_own_names_the_values(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    names = {str(2 * i): name for i, name in enumerate(LEVELS) if i}
    (tmp_path / "map.json").write_text(json.dumps(names))
    for name, phantom in phantoms.items():
        values = {label: int(value) for value, label in names.items()}
        saved(valued(phantom.levels, values), tmp_path / "own" / f"{name}_T2w.nii.gz")
    context = world(str(tmp_path / "own"), str(tmp_path / "map.json"))
    assert min(agreement(context, phantoms)) > 0.99
    (tmp_path / "map.json").write_text(json.dumps({"1": "C1", "2": "rib"}))
    with pytest.raises(BadStudy, match="gives whole numbers names"):
        segment.steps(context.study)


def test_a_mask_on_a_finer_grid_and_cropped_is_laid_by_its_place(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    for name, phantom in phantoms.items():
        levels = phantom.levels
        inside = np.argwhere(levels.voxels_RAS)
        low, high = inside.min(0), inside.max(0) + 1
        cut = levels.voxels_RAS[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        fine = np.repeat(cut, 2, axis=2)
        affine = levels.affine_RAS.copy()
        affine[:3, 3] = levels.to_mm(low.astype(float)) - affine[:3, 2] / 4
        affine[:3, 2] /= 2
        saved(Volume(fine, affine), tmp_path / "out" / f"{name}_T2w.nii.gz")
    context = world(str(tmp_path / "out"), "levels")
    assert min(agreement(context, phantoms)) > 0.99


def test_a_mask_that_lies_elsewhere_is_refused(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by("levels", phantoms, tmp_path)
    levels = phantoms["sub-1"].levels
    moved = levels.affine_RAS.copy()
    moved[2, 3] += 200
    saved(Volume(levels.voxels_RAS, moved), tmp_path / NAMES["levels"][0].replace("{}", "sub-1"))
    rows = outcomes(world(str(tmp_path / "out"), "levels"))
    assert sorted(row.get("code", "") for row in rows) == ["", "implausible_mask"]
    assert any("lies out of the scan" in row.get("message", "") for row in rows)


def test_scans_without_masks_and_masks_without_scans_are_said(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by("levels", {"sub-1": phantoms["sub-1"], "sub-9": phantoms["sub-2"]}, tmp_path)
    context = world(str(tmp_path / "out"), "levels")
    said = "\n".join(context.said)  # type: ignore[attr-defined]
    assert "1 of 2 scans have no mask" in said
    assert "1 of 2 masks of segment.masks belong to no scan" in said
    assert sorted(row.get("code", "") for row in outcomes(context)) == ["", "no_mask"]


def test_several_masks_of_one_name_are_not_guessed_at_and_a_pattern_narrows_them_down(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by("levels", phantoms, tmp_path)
    for name in phantoms:
        cord = tmp_path / "out" / name / "anat" / f"{name}_T2w_label-cord_seg.nii.gz"
        saved(phantoms[name].levels, cord)
    context = world(str(tmp_path / "out"), "levels")
    assert {row["code"] for row in outcomes(context)} == {"no_mask"}
    assert "2 names in segment.masks have several" in "\n".join(context.said)  # type: ignore[attr-defined]
    narrowed = world(f"{tmp_path}/out/*label-spine_dseg.nii.gz", "levels")
    assert min(agreement(narrowed, phantoms)) > 0.99


def test_a_table_says_whose_masks_they_are(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    for number, name in enumerate(phantoms):
        for volume, part in zip(
            by_tool(phantoms[name].levels, "spineps-veridah"), "ab", strict=True
        ):
            saved(volume, tmp_path / "out" / f"{number}{part}.nii.gz")
    table = tmp_path / "out" / "masks.csv"
    table.write_text(
        "person,scan,mask,tissues\nsub-1,,0a.nii.gz,0b.nii.gz\n,sub-2/anat,1a.nii.gz,1b.nii.gz\n"
    )
    assert min(agreement(world(str(table), "spineps-veridah"), phantoms)) > 0.99
    table.write_text("person,mask\nsub-1,0a.nii.gz\nsub-1,1a.nii.gz\n")
    with pytest.raises(BadStudy, match="needs a column mask, tissues"):
        world(str(table), "spineps-veridah")
    with pytest.raises(BadStudy, match="a second time"):
        world(str(table), "levels")


def test_a_name_that_two_images_have_is_nobodys(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    """The other image is refused, so that one scan alone would claim the mask of the other's person."""
    saved(phantoms["sub-1"].image, tmp_path / "scans" / "a" / "t2_sag.nii.gz")
    refused = saved(phantoms["sub-2"].image, tmp_path / "scans" / "b" / "t2_sag.nii.gz")
    refused.with_name("t2_sag.json").write_text(json.dumps({"EchoTime": 0.01}))
    saved(phantoms["sub-1"].levels, tmp_path / "out" / "b" / "t2_sag_seg.nii.gz")
    context = world(str(tmp_path / "out"), "levels")
    assert {row["code"] for row in outcomes(context)} == {"no_mask"}
    assert "1 names in segment.masks have several masks or images" in "\n".join(context.said)  # type: ignore[attr-defined]


def test_the_mask_of_another_contrast_is_not_taken(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    for name, phantom in phantoms.items():
        vert, tissues = by_tool(phantom.levels, "spineps-veridah")
        for contrast in ("T1w", "T2w") if name == "sub-1" else ("T1w",):
            saved(vert, tmp_path / "out" / f"{name}_mod-{contrast}_seg-vert_msk.nii.gz")
            saved(tissues, tmp_path / "out" / f"{name}_mod-{contrast}_seg-spine_msk.nii.gz")
    rows = outcomes(world(str(tmp_path / "out"), "spineps-veridah"))
    assert sorted(row.get("code", "") for row in rows) == ["", "no_mask"]


def test_a_corrected_mask_of_a_table_is_noticed(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    for number, name in enumerate(phantoms):
        saved(phantoms[name].levels, tmp_path / "out" / f"{number}.nii.gz")
    table = tmp_path / "out" / "masks.csv"
    table.write_text("person,mask\nsub-1,0.nii.gz\nsub-2,1.nii.gz\n")
    before = world(str(table), "levels").read("sources").set_index("scan_id").source_digest
    levels = phantoms["sub-1"].levels
    saved(
        levels.with_voxels(np.where(levels.voxels_RAS == LEVELS["cord"], 0, levels.voxels_RAS)),
        tmp_path / "out" / "0.nii.gz",
    )
    after = world(str(table), "levels").read("sources").set_index("scan_id").source_digest
    assert (before == after[before.index]).sum() == 1
    table.write_text("person,mask\nsub-1,gone.nii.gz\n")
    with pytest.raises(BadStudy, match="names a file that is not there"):
        world(str(table), "levels")


def test_studies_with_and_without_masks_share_a_workspace(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by("levels", phantoms, tmp_path)
    places = {
        "workspace": str(tmp_path / "workspace"), "inputs": {"scans": str(tmp_path / "scans")},
    }  # fmt: skip
    plain = Context(study_from(places), say=lambda text: None)
    ingest.run(plain)
    before = list(plain.read("sources").source_digest)
    given = world(str(tmp_path / "out"), "levels")
    again = Context(study_from(places), say=lambda text: None)
    assert list(again.read("sources").source_digest) == before
    assert list(given.read("sources").source_digest) != before


def test_one_mask_is_never_two_scans(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    for folder, name in (("derivatives/x/sub-3", "sub-1"), ("sub-3", "sub-2")):
        saved(phantoms[name].image, tmp_path / "scans" / folder / "sub-3_T2w.nii.gz")
    saved(phantoms["sub-1"].levels, tmp_path / "out" / "sub-3_T2w_dseg.nii.gz")
    with pytest.raises(BadStudy, match="fit more than one scan"):
        world(str(tmp_path / "out"), "levels")


def test_a_mask_that_was_corrected_is_another_source_and_the_others_stay(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path
) -> None:
    drawn_by("levels", phantoms, tmp_path)
    before = world(str(tmp_path / "out"), "levels").read("sources").set_index("scan_id")
    path = tmp_path / NAMES["levels"][0].replace("{}", "sub-1")
    levels = phantoms["sub-1"].levels
    saved(
        levels.with_voxels(np.where(levels.voxels_RAS == LEVELS["cord"], 0, levels.voxels_RAS)),
        path,
    )
    context = world(str(tmp_path / "out"), "levels")
    after = context.read("sources").set_index("scan_id")
    assert (before.source_digest == after.source_digest.loc[before.index]).sum() == 1
    saved(levels, path)
    assert sorted(row.get("code", "") for row in outcomes(context)) == ["", "changed_since_ingest"]


def test_segment_draws_nothing_and_says_what_it_took(
    world: Callable[..., Context], phantoms: dict[str, Any], tmp_path: Path, ray_session: None
) -> None:
    drawn_by("totalspineseg", {"sub-1": phantoms["sub-1"]}, tmp_path)
    saved(phantoms["sub-1"].levels, tmp_path / "out" / "step1_output" / "sub-1_T2w.nii.gz")
    context = world(str(tmp_path / "out"), "totalspineseg")
    counts = segment.run(context)
    assert (counts.done["segmented"], counts.refused["no_mask"]) == (1, 1)
    again = segment.run(context)
    assert (again.done, again.refused["no_mask"]) == ({"already": 1}, 1)
    faults = context.read("faults", stage="segment")
    assert list(faults.code) == ["no_mask"]


def test_the_study_names_both_or_neither() -> None:
    with pytest.raises(BadStudy, match="masks and masks_of go together"):
        study_from({"segment": {"masks": "out"}})
    study = study_from({"segment": {"masks": "out", "masks_of": "sct"}})
    with pytest.raises(BadStudy, match="'sct' is not known"):
        segment.steps(study)


@pytest.mark.parametrize("last", ["L5", "L6"])
def test_totalspinesegs_discs_on_the_sacrum_and_its_96(last: str) -> None:
    """96 is the disc L5-L6; 100 is the one on the sacrum, whichever vertebra lies on it; 47 is an L7."""
    values = [41, 92, 42, 93, 43, 94, 44, 95, 45, *([96, 46] if last == "L6" else []), 100, 50]
    volume = Volume(np.array(values, np.int16)[None, None, ::-1], np.eye(4))
    found = adapt(volume, "totalspineseg").voxels_RAS[0, 0, ::-1].tolist()
    names = {value: name for name, value in LEVELS.items()}
    assert [names[v] for v in found][-2] == f"disc_below_{last}"
    assert ("disc_below_L5" in [names[v] for v in found[:-2]]) == (last == "L6")
    with pytest.raises(BadScan, match="value 47 is not one of the labels"):
        adapt(
            volume.with_voxels(np.where(volume.voxels_RAS == 45, 47, volume.voxels_RAS)),
            "totalspineseg",
        )


def test_the_tissues_of_a_phantom_without_a_canal_are_still_a_spine(
    phantoms: dict[str, Any],
) -> None:
    levels = phantoms["sub-2"].levels
    bare = levels.with_voxels(
        np.where(np.isin(levels.voxels_RAS, (200, 201)), 0, levels.voxels_RAS)
    )
    assert semantic_of(bare).voxels_RAS.max() > 0
    with pytest.raises(BadScan, match="a cord and 5 vertebrae are needed"):
        levels_from_named(bare)
