"""score as a stage: fills in what is missing, reuses what is there, refuses with a reason."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow.dataset as pads
import pytest

from spineage.errors import BadScan, BadStudy
from spineage.io.models.bundle import BUNDLE_FILES
from spineage.io.models.tracking import CHAMPION, model_of, open_tracking
from spineage.io.storage.parquet import read_table, write_part
from spineage.io.storage.store import Store
from spineage.io.storage.volumes import pack, tensor_from_row
from spineage.run import fill
from spineage.run.context import Shard
from spineage.run.counts import Counts
from spineage.stages import calibrate
from spineage.stages.score import sink as score_sink
from spineage.stages.score import stage as score
from spineage.stages.score import steps as score_steps
from spineage.stages.score.work import Work
from spineage.tables import FAULTS, MASKS, SCANS, SCORES, TENSORS
from tests.made.planted_study import SEGMENTER, Planted, plant, planted_study

KEY = ["scan_id", "source_digest"]


@pytest.fixture(autouse=True)
def known_segmenter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
    monkeypatch.setattr(score, "segmenter_of", lambda section: SEGMENTER)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a bundle and no score."""
    folder = tmp_path_factory.mktemp("calibrated")
    context = Planted(planted_study(folder), say=lambda text: None)
    plant(context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
        calibrate.run(context)
    return folder


@pytest.fixture
def context(calibrated: Path, tmp_path: Path) -> Planted:
    """A copy of it, to be changed; scored in this process unless a test says `on_ray`."""
    shutil.copytree(calibrated, tmp_path / "study")
    return Planted(planted_study(tmp_path / "study"), say=lambda text: None, is_alone=True)


@pytest.fixture
def on_ray(context: Planted, ray_session: None) -> None:
    """Actors and all."""
    context.is_alone = False


@pytest.fixture(scope="module")
def undisturbed(
    calibrated: Path, tmp_path_factory: pytest.TempPathFactory, ray_session: None
) -> Iterator[Any]:
    """The study scored once on Ray, and how it went."""
    folder = tmp_path_factory.mktemp("scored") / "study"
    shutil.copytree(calibrated, folder)
    context = Planted(planted_study(folder), say=lambda text: None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score, "segmenter_of", lambda section: SEGMENTER)
        yield context, score.run(context)


def table(context: Planted) -> pd.DataFrame:
    """All rows of all parts, doubles too."""
    rows = read_table(context.store, context.folder("score"), SCORES)
    return rows.sort_values("scan_id", ignore_index=True)


def same(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    """Bit for bit, list columns included."""
    return a.astype({"flags": str}).equals(b.astype({"flags": str}))


def change_scans(context: Planted, **columns: Any) -> None:
    scans = context.read("scans").assign(**columns)
    write_part(context.store, context.folder("ingest"), SCANS, scans, "part-0")


def test_every_scan_is_scored_with_its_formula(undisturbed):
    context, counts = undisturbed
    scores, scans = table(context), context.read("scans")
    row = context.read("calibration").iloc[0]
    assert counts == Counts({"scored": len(scans), "new": len(scans)}, left=0)
    assert sorted(scores.scan_id) == sorted(scans.scan_id)
    bias = row.coefficients[0] + row.coefficients[1] * (scores.age_years - row.centre_years)
    np.testing.assert_allclose(scores.spine_age_years, scores.predicted_years - bias)
    np.testing.assert_allclose(scores.sag_years, scores.spine_age_years - scores.age_years)
    half = row.half_width_years[0]
    np.testing.assert_allclose(scores.interval_low_years, scores.predicted_years - half)
    np.testing.assert_allclose(scores.interval_high_years, scores.predicted_years + half)
    assert set(scores.bundle_digest) == {row.bundle_digest}
    assert scores.distance.between(0, 1).all()


def test_roles_are_what_the_model_used_people_for(undisturbed):
    context, _ = undisturbed
    scores = table(context).set_index("scan_id")
    cohort = context.read("cohort").set_index("scan_id")
    used = cohort.split.where(cohort.status == "normal", "unseen")
    assert scores.role.to_dict() == used.to_dict()
    has_flag = scores["flags"].map(lambda flags: "trained_on" in flags)
    assert (has_flag == (scores.role == "train")).all()


def test_scored_again_nothing_is_computed(undisturbed, monkeypatch):
    context, counts = undisturbed
    monkeypatch.setattr(fill, "run_rows", None)  # whoever calls it crashes
    before = context.store.list(context.folder("score"))
    assert score.run(context) == Counts({**counts.done, "new": 0}, left=0)
    assert context.store.list(context.folder("score")) == before


@pytest.mark.usefixtures("on_ray")
def test_filling_in_gives_the_table_of_an_undisturbed_run(context, undisturbed):
    """Half was scored before the kill, and some tensors are gone: assembled and prepared again, on Ray."""
    whole = table(undisturbed[0])
    half = whole.iloc[::2]
    _lose_tensors(context, 3)
    write_part(context.store, context.folder("score"), SCORES, half, "before-the-kill")
    written = Path(context.store.uri(context.folder("score"), "scores", "before-the-kill.parquet"))
    stamp = written.stat().st_mtime_ns
    counts = score.run(context)
    assert counts.done["new"] == len(whole) - len(half)
    assert written.stat().st_mtime_ns == stamp
    assert same(table(context), whole)


def _lose_tensors(context: Planted, num_lost: int) -> pd.DataFrame:
    folder = context.folder("prepare")
    tensors = read_table(context.store, folder, TENSORS)
    write_part(context.store, folder, TENSORS, tensors.iloc[num_lost:], "part-0")
    return tensors.iloc[:num_lost]


def test_a_missing_tensor_is_made_again_from_sources_and_mask(context, undisturbed):
    """The same score to float16's last bit, and the tensor is kept for the next model."""
    lost = _lose_tensors(context, 3)
    score.run(context)
    assert same(table(context), table(undisturbed[0]))
    again = read_table(context.store, context.folder("prepare"), TENSORS).set_index("scan_id")
    assert len(again) == len(context.read("scans"))
    for row in lost.itertuples():
        assert again.loc[row.scan_id].voxels_zstd == row.voxels_zstd


def test_a_missing_mask_is_made_again_and_its_flags_are_told(context, undisturbed, monkeypatch):
    """The whole chain, with a segmenter that knows the answer; a mask that is there is not made again."""
    _lose_tensors(context, 4)
    masks = read_table(context.store, context.folder("segment"), MASKS)
    write_part(context.store, "answers", MASKS, masks.assign(numbering="L6 present"), "part-0")
    write_part(context.store, context.folder("segment"), MASKS, masks.iloc[2:], "part-0")
    monkeypatch.setattr(score_steps, "DrawStep", DrawsLabels)
    monkeypatch.setattr(
        score_steps,
        "NameStep",
        lambda keep_voxels, **_: KnowsTheAnswer(context.store.root, keep_voxels=keep_voxels),
    )
    DrawsLabels.asked, KnowsTheAnswer.asked = [], []
    assert score.run(context).left == 0
    assert DrawsLabels.asked == KnowsTheAnswer.asked == list(masks.scan_id[:2])
    found, whole = table(context), table(undisturbed[0])
    assert same(
        found.drop(columns="flags").assign(flags=""), whole.drop(columns="flags").assign(flags="")
    )
    is_transitional = found["flags"].map(lambda flags: "transitional" in flags)
    assert list(found.scan_id[is_transitional]) == list(masks.scan_id[:2])
    kept = read_table(context.store, context.folder("segment"), MASKS)
    assert sorted(kept.scan_id) == sorted(masks.scan_id)


class DrawsLabels:
    """A segmenter that draws nothing."""

    asked: ClassVar[list[str]] = []

    def __init__(self, **_: Any) -> None:
        """It needs no weights."""

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(row["scan_id"])
        return {**row, "labels": b""}


class KnowsTheAnswer:
    """Names nothing: it looks the mask up."""

    asked: ClassVar[list[str]] = []

    def __init__(self, root: str, *, keep_voxels: bool) -> None:
        assert keep_voxels, "prepare needs them"
        answers = read_table(Store(root), "answers", MASKS).to_dict("records")
        self._answers = {row["scan_id"]: row for row in answers}

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(row["scan_id"])
        assert row["voxels"]
        return {**row, **self._answers[row["scan_id"]]}


def test_somebody_without_an_age_keeps_a_raw_prediction(context, undisturbed):
    scans = context.read("scans")
    unknown = scans.scan_id == "s20"
    change_scans(context, age_years=scans.age_years.mask(unknown))
    score.run(context)
    row = table(context).set_index("scan_id").loc["s20"]
    usual = table(undisturbed[0]).set_index("scan_id").loc["s20"]
    assert row.predicted_years == usual.predicted_years
    assert row.interval_high_years == usual.interval_high_years
    assert pd.isna(row.spine_age_years)
    assert pd.isna(row.sag_years)
    assert list(row["flags"]) == ["no_age"]


def test_an_age_nobody_was_calibrated_at_is_flagged(context):
    scans = context.read("scans")
    change_scans(context, age_years=scans.age_years.mask(scans.scan_id == "s20", 99.0))
    score.run(context)
    row = table(context).set_index("scan_id").loc["s20"]
    assert list(row["flags"]) == ["age_outside_range"]
    assert row.sag_years == pytest.approx(row.spine_age_years - 99.0)


def test_a_model_trained_on_phantoms_refuses_a_real_person(context):
    scans = context.read("scans")
    change_scans(context, is_phantom=scans.scan_id != "s20")
    counts = score.run(context)
    assert counts.refused == {"outside_model": 1}
    assert counts.done["scored"] == len(scans) - 1
    fault = context.read("faults", stage="score").iloc[0]
    assert (fault.scan_id, fault.stage, fault.code) == ("s20", "score", "outside_model")
    assert "phantoms only" in fault.message
    assert "s20" not in set(table(context).scan_id)
    assert score.run(context).done["new"] == 0


def test_a_scan_unlike_the_training_scans_is_refused(context):
    folder = context.folder("prepare")
    tensors = read_table(context.store, folder, TENSORS)
    voxels, _ = tensor_from_row(tensors.iloc[20].to_dict())
    strange = pack((4 - voxels).astype(np.float16))
    tensors.at[20, "voxels_zstd"] = strange
    write_part(context.store, folder, TENSORS, tensors, "part-0")
    counts = score.run(context)
    assert counts.refused == {"outside_model": 1}
    fault = context.read("faults", stage="score").iloc[0]
    assert fault.scan_id == tensors.iloc[20].scan_id
    assert "times the allowed distance" in fault.message


def test_what_segment_refused_is_refused_here_in_the_same_words(context):
    masks = read_table(context.store, context.folder("segment"), MASKS)
    write_part(context.store, context.folder("segment"), MASKS, masks.iloc[1:], "part-0")
    refused = masks.iloc[0]
    fault = {"scan_id": refused.scan_id, "source_digest": refused.source_digest, "stage": "segment",
             "code": "incomplete_spine", "message": "no sacrum was found, expected one"}  # fmt: skip
    write_part(context.store, context.folder("segment"), FAULTS, [fault], "part-0")
    counts = score.run(context)
    assert counts.refused == {"incomplete_spine": 1}
    assert counts.left == 0
    assert context.read("faults", stage="score").iloc[0].to_dict() == fault
    assert score.run(context).done["new"] == 0


def test_what_crashed_before_is_tried_again(context):
    fault = {"scan_id": "s20", "source_digest": "d" * 64, "stage": "score", "code": "crashed",
             "message": "killed its worker twice"}  # fmt: skip
    write_part(context.store, context.folder("score"), FAULTS, [fault], "part-0")
    counts = score.run(context)
    assert counts.left == 0
    assert "s20" in set(table(context).scan_id)


def test_new_exams_are_scored_by_the_model_there_is(context):
    """A new scan changes the cohort's address, and so the training's; the published model stays the
    model."""
    address = context.folder("score")
    original = context.recipe
    context.recipe = lambda stage: (  # type: ignore[method-assign]
        {"planted": stage, "with": "a new exam"}
        if stage in ("cohort", "train")
        else original(stage)
    )
    context.forget()
    assert not context.is_done("train")
    assert context.folder("score") == address
    assert score.run(context).done["scored"] == len(context.read("scans"))


def test_a_study_whose_training_section_changed_has_no_model_yet(context):
    study = context.study
    other = study.model_copy(update={"train": study.train.model_copy(update={"epochs": 1})})
    with pytest.raises(BadStudy, match="spineage calibrate"):
        score.run(Planted(other))


@pytest.mark.parametrize("way", ["registry", "folder"])
def test_a_model_by_name_is_copied_once_and_gives_the_same_scores(
    context, undisturbed, way, tmp_path
):
    own = f"{context.folder('calibrate')}/bundle"
    name = (
        f"models:/{model_of(context.study.name)}@{CHAMPION}"
        if way == "registry"
        else str(tmp_path / "elsewhere")
    )
    if way == "registry":  # the copy's own registry: the original's artifacts lie in the original
        Path(context.store.uri("mlflow.db")).unlink()
        tracking = open_tracking(None, context.store, context.study.name)
        files = {file: context.store.read(f"{own}/{file}") for file in BUNDLE_FILES}
        digest = files["bundle.sha256"].decode().strip()
        tracking.register(tracking.open_run("calibrate", "somewhere"), files, digest)
    else:
        shutil.copytree(context.store.uri(own), name)
    sections = {"score": {"model": name}}
    named = Planted(planted_study(Path(context.store.root), **sections), say=lambda text: None)
    score.run(named)
    assert same(table(named), table(undisturbed[0]))
    assert named.folder("score") == context.folder("score")
    assert len(named.store.list("models")) == len(BUNDLE_FILES)


def test_a_model_for_other_tensors_or_masks_is_refused_before_work(context, monkeypatch):
    study = context.study
    wider = study.prepare.model_copy(update={"normalise": "robust"})
    other = Planted(study.model_copy(update={"prepare": wider}))
    with pytest.raises(BadStudy, match=r"prepare\.normalise: csf"):
        score.run(other)
    faster = study.segment.model_copy(update={"mode": "fast"})
    with pytest.raises(BadStudy, match=r"segment\.mode: exact"):
        score.run(Planted(study.model_copy(update={"segment": faster})))
    monkeypatch.setattr(score, "segmenter_of", lambda section: {**SEGMENTER, "digest": "00" * 32})
    with pytest.raises(BadStudy, match=r"segment\.weights"):
        score.run(context)
    assert context.store.list(context.folder("score")) == []


def test_a_changed_bundle_scores_nobody(context):
    weights = f"{context.folder('calibrate')}/bundle/weights.safetensors"
    content = bytearray(context.store.read(weights))
    content[-1] ^= 1
    context.store.write(weights, bytes(content))
    with pytest.raises(BadStudy, match="digest differs"):
        score.run(context)


def test_an_answer_does_not_depend_on_its_neighbours(context, undisturbed):
    """One scan alone, in this process, to the last bit."""
    chosen = score.choose(context)
    places = {"root": context.store.root, "masks": "segment/x", "tensors": "prepare/x"}
    step = score_steps.PredictStep(places, chosen.folder, chosen.digest)
    row = read_table(context.store, context.folder("prepare"), TENSORS).iloc[7].to_dict()
    whole = table(undisturbed[0]).set_index("scan_id").loc[row["scan_id"]]
    scan = {name: whole.get(name) for name in score_steps.OF_SCAN if name not in KEY}
    scan |= {name: row[name] for name in KEY} | {"is_phantom": True}
    mask = {"segmented": "whole volume", "num_discs_inferred": 0, "numbering": "regular"}
    given = {**row, **mask, "work": Work(scan, "", "", None)}
    alone = step(given)
    made_ready = score_steps.InputStep(places, step._bundle.region)(given)
    assert "voxels_zstd" not in made_ready
    assert step(made_ready) == alone, "as in front of a GPU"
    assert alone["predicted_years"] == whole.predicted_years
    assert alone["distance"] == whole.distance


class Counting:
    """A step that counts its calls."""

    calls = 0

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        Counting.calls += 1
        if row["scan_id"] == "bad":
            raise BadScan("bad_values", "all voxels are equal, expected an image")
        return {**row, "shape": [1, 1, 1], "voxels_zstd": b"v", "levels_zstd": b"l"}


def test_what_was_filled_in_is_kept_and_not_made_twice(context, monkeypatch):
    monkeypatch.setattr(score_steps, "PrepareStep", Counting)
    place = {"root": context.store.root, "folder": "fill"}
    step = score_steps.PrepareMissing(place, {})
    row = {"scan_id": "new", "source_digest": "d" * 64, "work": Work({}, "mask", "", {})}
    assert step(row)["voxels_zstd"] == b"v"
    (part,) = context.store.list("fill/tensors")
    there = {**row, "work": Work({}, "mask", part, None)}
    assert step(there) == there
    assert Counting.calls == 1
    with pytest.raises(BadScan):
        step({**row, "scan_id": "bad"})
    assert context.store.list("fill/tensors") == [part]


def test_a_fault_of_segmenting_is_kept_for_every_model_and_a_crash_is_not(context):
    folders = {name: f"{name}/x" for name in ("segment", "prepare", "score")}
    write = score_sink.WriteScores(context.store.root, folders)
    base = {"source_digest": "d" * 64, "message": "why"}
    write([
        {**base, "scan_id": "a", "stage": "segment", "code": "empty_mask"},
        {**base, "scan_id": "b", "stage": "segment", "code": "deadline"},
        {**base, "scan_id": "c", "stage": "score", "code": "outside_model"},
    ])  # fmt: skip

    def kept(stage: str) -> list[str]:
        return sorted(read_table(context.store, folders[stage], FAULTS).scan_id)

    assert kept("score") == ["a", "b", "c"]
    assert kept("segment") == ["a"]
    assert kept("prepare") == []


@pytest.mark.usefixtures("on_ray")
def test_a_chain_that_needs_more_gpus_than_there_are_is_refused(context):
    study = context.study
    cluster = study.cluster.model_copy(update={"gpus_per_worker": 1.0})
    greedy = Planted(study.model_copy(update={"cluster": cluster}), say=lambda text: None)
    with pytest.raises(BadStudy, match="1 GPUs are asked for and 0 are there"):
        score.run(greedy)


def test_however_batches_fall_each_scan_is_in_one_part(context, undisturbed):
    """Two drivers, of which one was thought dead, hand the same scans on in other batches."""
    [*rows] = undisturbed[0].read("scores").to_dict("records")[:5]
    folders = {stage: context.folder(stage) for stage in ("segment", "prepare", "score")}
    write = score_sink.WriteScores(context.store.root, folders)
    for batch in (rows[:3], rows[3:], rows[:1], rows[1:]):
        write(batch)
    plain = pads.dataset(Path(context.store.root, folders["score"], "scores")).to_table()
    assert sorted(plain["scan_id"].to_pylist()) == sorted(row["scan_id"] for row in rows)


def test_the_record_of_a_run_names_the_bundle(undisturbed):
    context, _ = undisturbed
    told = json.dumps(context.recipe("score"))
    assert context.read("calibration").iloc[0].bundle_digest in told


def test_shards_without_ray_give_the_table_of_an_undisturbed_run(context, undisturbed):
    """Some tensors are gone: each shard prepares its own; a run of all merges what they wrote."""
    _lose_tensors(context, 3)
    num = []
    for shard in (Shard(1, 3), Shard(2, 3), Shard(3, 3)):
        told = {"is_alone": True, "shard": shard, "say": lambda text: None}
        mine = Planted(context.study, **told)
        assert score.plan(mine).remaining == len(mine.in_shard(context.read("scans")))
        num.append(score.run(mine).done["scored"])
        assert score.plan(mine).remaining == 0
    whole = table(undisturbed[0])
    assert min(num) > 0
    assert sum(num) == len(whole)
    pd.testing.assert_frame_equal(table(context), whole)
    assert score.run(context).done["new"] == 0
    pd.testing.assert_frame_equal(table(context), whole)


def test_a_plan_says_what_a_run_then_does_and_changes_nothing(context):
    _lose_tensors(context, 3)
    before = set(context.store.list(""))
    plan = score.plan(context)
    work = {name: one.rows for name, one in plan.work.items()}
    assert (plan.done, plan.remaining, plan.seconds) == (0, len(context.read("scans")), None)
    assert work == {"prepare from files": 3, "predict": plan.remaining}
    assert set(context.store.list("")) == before
    counts = score.run(context)
    after = score.plan(context)
    assert after.remaining == 0
    assert (after.done, after.refused) == (counts.done["scored"], counts.refused)
    assert context.paces[0].steps["prepare from files"].rows == 3
