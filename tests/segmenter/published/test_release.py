"""Models as they are released: zipped, nested, with the best checkpoint only; and what is said of them."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.segmenter.folder import in_words, read_manifest
from spineage.segmenter.published.adopt import describe, import_segmenter
from spineage.segmenter.published.layouts import LAYOUTS
from spineage.verbs.doctor import require_sound_cudnn
from tests.made.tiny_nnunet import write_tiny_model
from tests.segmenter.published.test_adopt import dataset_of

DATASET = "Dataset101_Spine/nnUNetTrainer__nnUNetPlans__3d_fullres"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_tiny_model(tmp_path / "model")


def zipped(folder: Path, path: Path, top: str, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            packed.write(
                file, f"{top}/{file.relative_to(folder)}" if top else file.relative_to(folder)
            )
        for name, data in more.items():
            packed.writestr(name, data)
    return path


@pytest.mark.parametrize("top", ["", "release", DATASET])
def test_a_released_archive_is_the_model_in_it(model: Path, tmp_path: Path, top: str) -> None:
    plain = import_segmenter(model, tmp_path / "plain", trust=True, orientation="RAS")
    archive = zipped(
        model, tmp_path / "model.zip", top, **{"LICENSE": b"text", f"{top}/notes": b"x"}
    )
    found = import_segmenter(archive, tmp_path / "out", trust=True, orientation="RAS")
    assert found["digest"] == plain["digest"]
    assert read_manifest(str(tmp_path / "out"))["digest"] == plain["digest"]


def test_a_folder_within_a_folder_is_found(model: Path, tmp_path: Path) -> None:
    nested = tmp_path / "download" / DATASET
    shutil.copytree(model, nested)
    assert import_segmenter(tmp_path / "download", tmp_path / "out", trust=True, orientation="RAS")
    shutil.copytree(model, tmp_path / "download" / "other")
    with pytest.raises(BadStudy, match="holds 2 models"):
        import_segmenter(tmp_path / "download", tmp_path / "b", trust=True, orientation="RAS")


@pytest.mark.parametrize("trap", ["empty", "two", "outside", "damaged"])
def test_an_archive_that_is_no_model_is_one_sentence(
    model: Path, tmp_path: Path, trap: str
) -> None:
    path = tmp_path / "model.zip"
    if trap == "empty":
        zipped(tmp_path / "nothing", path, "", readme=b"text")
    elif trap == "two":
        zipped(model, path, "a", **{"b/plans.json": b"{}"})
    elif trap == "outside":
        zipped(model, path, "../../evil", **{"../../evil/fold_9/../x": b"x"})
    else:
        data = bytearray(zipped(model, path, "a").read_bytes())
        data[200:4000] = bytes(3800)
        path.write_bytes(data)
    if trap == "outside":  # its files are written under names of ours
        import_segmenter(path, tmp_path / "out", trust=True, orientation="RAS")
    else:
        with pytest.raises(BadStudy) as told:
            import_segmenter(path, tmp_path / "out", trust=True, orientation="RAS")
        assert "\n" not in str(told.value)
        assert not (tmp_path / "out").exists()
    assert not list(tmp_path.parent.glob("evil*"))
    assert not list(tmp_path.glob("**/x"))


def test_the_best_checkpoint_stands_in_and_is_said(model: Path, tmp_path: Path) -> None:
    final = next(model.glob("fold_*/checkpoint_final.pth"))
    final.rename(final.with_name("checkpoint_best.pth"))
    manifest = import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")
    assert manifest["checkpoint"] == "checkpoint_best.pth"
    assert "by checkpoint_best.pth" in in_words(manifest)
    with pytest.raises(BadStudy, match=r"no fold there holds checkpoint_final\.pth"):
        import_segmenter(
            model, tmp_path / "b", trust=True, orientation="RAS", checkpoint="checkpoint_final.pth"
        )


def test_a_manifest_says_its_dice_or_that_it_is_unknown(model: Path, tmp_path: Path) -> None:
    manifest = import_segmenter(model, tmp_path / "out", trust=True, orientation="RAS")
    assert "Dice unknown" in in_words(manifest)
    assert "Dice 0.937 (mean over labels, on 40 unseen phantom people)" in in_words(
        read_manifest("demo")
    )


@pytest.mark.parametrize(
    ("layout", "says"),
    [
        ("totalspineseg-full", "its makers found that it was not good"),
        ("vertebrae_mr", "resamples its input linearly"),
        ("total_mr", "resamples its input linearly"),
    ],
)
def test_what_its_own_tool_does_otherwise_is_said(tmp_path: Path, layout: str, says: str) -> None:
    facts = describe(tmp_path, dataset_of(LAYOUTS[layout]), None, None, None)
    assert says in " ".join(facts["without"])


def test_totalspinesegs_second_step_is_known_by_its_eleven_regions(tmp_path: Path) -> None:
    dataset = dataset_of(LAYOUTS["totalspineseg-step2"], channels=2)
    assert len(dataset["labels"]) == 12
    with pytest.raises(BadStudy, match="iterative labelling"):
        describe(tmp_path, dataset, None, None, None)


@pytest.mark.parametrize(
    ("has_gpu", "version", "is_sound"),
    [
        (True, 91_002, False), (True, 91_500, True), (True, 92_000, True), (False, 90_100, True),
        (True, None, True),
    ],
)  # fmt: skip
def test_a_cudnn_that_computes_wrongly_is_named(
    has_gpu: bool, version: int | None, is_sound: bool
) -> None:
    if is_sound:
        require_sound_cudnn(has_gpu, version)
        return
    with pytest.raises(BadStudy, match=r"cuDNN 9\.10 computes .* wrongly"):
        require_sound_cudnn(has_gpu, version)
