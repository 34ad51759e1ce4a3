"""calibrate as a stage: held-out people only, one bundle, one version in the registry."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from spineage.errors import BadStudy
from spineage.io.models.bundle import read_bundle
from spineage.io.models.tracking import CHAMPION, open_tracking
from spineage.io.storage.parquet import write_part
from spineage.run.counts import Counts
from spineage.science.gap.metrics import CORRECTED
from spineage.stages import calibrate
from spineage.tables import PREDICTIONS
from tests.made.planted_study import SEGMENTER, Planted, plant, planted_predictions, planted_study


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> tuple[Planted, pd.DataFrame, Counts]:
    """A study that was calibrated once."""
    context = Planted(planted_study(tmp_path_factory.mktemp("study")), say=lambda text: None)
    cohort = plant(context)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
        return context, cohort, calibrate.run(context)


def test_the_correction_is_that_of_the_calibration_people_alone(done):
    context, cohort, counts = done
    rows = planted_predictions(cohort)
    ours = rows[(rows.split == "calibrate") & (rows.status == "normal")]
    slope, intercept = np.polyfit(ours.age_years, ours.predicted_years - ours.age_years, 1)
    row = context.read("calibration").iloc[0]
    assert counts == Counts({"calibration_people": 10, "degree": 1})
    assert row.coefficients[1] == pytest.approx(slope)
    assert row.coefficients[0] == pytest.approx(intercept + slope * row.centre_years)
    assert row.coefficients[1] < -0.15  # training people alone would give 0
    assert (row.age_low_years, row.age_high_years) == (ours.age_years.min(), ours.age_years.max())
    assert list(row.half_width_years) == [
        pytest.approx((ours.predicted_years - ours.age_years).abs().max())
    ]


def test_metrics_are_raw_first_and_what_uses_age_says_so(done):
    context, cohort, _ = done
    metrics = json.loads(context.asset("calibrate", "metrics.json"))
    rows = planted_predictions(cohort)
    test = rows[(rows.split == "test") & (rows.status == "normal")]
    assert metrics["headline"]["mae_years"] == pytest.approx(
        (test.predicted_years - test.age_years).abs().mean()
    )
    assert metrics["headline"]["num_people"] == 5
    assert metrics["headline"]["num_scans"] == 6
    assert "mae_years" + CORRECTED in metrics
    assert "mae_years" not in metrics


def test_the_bundle_holds_what_a_scan_needs(done):
    context, cohort, _ = done
    digest = context.read("calibration").iloc[0].bundle_digest
    bundle, _ = read_bundle(context.store, f"{context.folder('calibrate')}/bundle", digest)
    train = cohort[cohort.split == "train"]
    assert bundle.domain == "phantom"
    assert bundle.segmenter == {**SEGMENTER, "mode": "exact", "mirror": False}
    assert bundle.train_age_years == (train.age_years.min(), train.age_years.max())
    assert bundle.cohort == context.fingerprint("cohort")
    assert bundle.role_of(train.person_id.iloc[0]) == "train"
    assert bundle.role_of("somebody else") == "unseen"
    not_normal = cohort[cohort.status == "not_normal"].person_id.iloc[0]
    assert bundle.role_of(not_normal) == "unseen"
    assert bundle.familiarity.limit > 0
    assert b"p00" not in context.asset("calibrate", "bundle/roles.json")


def test_the_registry_has_it_once_however_often_it_is_published(done):
    context, _, counts = done
    tracking = open_tracking(None, context.store, context.study.name)
    digest = context.read("calibration").iloc[0].bundle_digest
    assert tracking.resolve(f"models:/{tracking.model}@{CHAMPION}") == ("1", digest)
    assert calibrate.run(context) == counts
    marks = context.store.list(f"{context.folder('calibrate')}/registered")
    assert len(marks) == 1
    Path(context.store.uri(marks[0])).unlink()  # killed after registering, before it was noted
    assert calibrate.run(context) == counts
    assert tracking.resolve(f"models:/{tracking.model}@{CHAMPION}") == ("1", digest)


def test_a_registry_that_was_deleted_is_filled_again(done, tmp_path):
    """The note that it was registered is not believed when the database is gone."""
    original, _, counts = done
    shutil.copytree(original.store.root, tmp_path / "copy")
    context = Planted(planted_study(tmp_path / "copy"), say=lambda text: None)
    (tmp_path / "copy" / "mlflow.db").unlink()
    context.store.write(calibrate.note_of(context), b"{}")
    assert calibrate.run(context) == counts
    tracking = open_tracking(None, context.store, context.study.name)
    digest = context.read("calibration").iloc[0].bundle_digest
    assert tracking.resolve(f"models:/{tracking.model}@{CHAMPION}") == ("1", digest)


def test_the_mlflow_run_has_raw_figures_and_no_person(done):
    context, cohort, _ = done
    tracking = open_tracking(None, context.store, context.study.name)
    run = tracking._client.get_run(tracking.open_run("calibrate", context.folder("calibrate")))
    assert {"mae_years", "r2", "mean_mae_years"} <= set(run.data.metrics)
    assert not any("corrected" in name for name in run.data.metrics)
    told = json.dumps(run.to_dictionary(), default=str)
    assert not any(f'"{person}"' in told for person in cohort.person_id)


def test_equal_inputs_give_the_same_bundle(done, tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
    monkeypatch.setattr(calibrate, "_register", lambda context: None)
    again = Planted(planted_study(tmp_path), say=lambda text: None)
    plant(again)
    calibrate.run(again)
    assert again.folder("calibrate") == done[0].folder("calibrate")
    assert again.read("calibration").equals(done[0].read("calibration"))


def test_too_few_people_are_said_aloud(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
    monkeypatch.setattr(calibrate, "_register", lambda context: None)
    said: list[str] = []
    study = planted_study(tmp_path, calibrate={"coverage": 0.99})
    context = Planted(study, say=said.append)
    plant(context)
    calibrate.run(context)
    assert context.read("calibration").iloc[0].nominal_coverage == pytest.approx(10 / 11)
    assert any("91%" in text and "99%" in text for text in said)


def test_people_who_were_trained_on_cannot_calibrate(tmp_path, monkeypatch):
    monkeypatch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
    context = Planted(planted_study(tmp_path), say=lambda text: None)
    cohort = plant(context)
    leaked = planted_predictions(cohort).assign(person_id=lambda rows: "p" + rows.index.astype(str))
    leaked.loc[leaked.split == "calibrate", "person_id"] = leaked.person_id.iloc[:10].to_numpy()
    folder = context.folder("train")
    write_part(context.store, folder, PREDICTIONS, leaked[PREDICTIONS.schema.names], "part-0")
    with pytest.raises(BadStudy, match="10 people are both"):
        calibrate.run(context)
    assert not context.is_done("calibrate")
    assert not Path(context.store.root, "mlflow.db").exists()


def test_nothing_to_calibrate_names_the_verb(tmp_path):
    context = Planted(planted_study(tmp_path), say=lambda text: None)
    with pytest.raises(BadStudy, match="spineage train"):
        calibrate.run(context)
