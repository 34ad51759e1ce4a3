"""The demo: the whole study by one command, honest, complete, and done once."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pydicom
import pytest
from typer.testing import CliRunner

from spineage import cli
from spineage.errors import FAULTS
from tests.demo_workspace import PEOPLE, Demo, parts, run

KEYS = {
    "people", "scored", "refused", "raw_mae_years", "oracle_mae_years", "mean_mae_years",
    "r_sag_age", "r_sag_gap", "seconds", "report",
}  # fmt: skip


def test_the_demo_prints_its_headline_as_json_and_as_a_table(demo: Demo) -> None:
    assert set(demo.printed) >= KEYS
    assert demo.printed["people"] == PEOPLE
    assert "oracle" in demo.output
    assert "predict-the-mean" in demo.output


def test_the_demo_beats_predicting_the_mean_and_finds_the_planted_gap(demo: Demo) -> None:
    """On everyone it neither learned from nor was chosen by: the headline's eight people are a lottery."""
    predictions = demo.context().read("predictions")
    learned = predictions[(predictions.split == "train") & (predictions.status == "normal")]
    others = predictions[predictions.split.isin(["calibrate", "test"])]
    assert others.person_id.nunique() >= 15
    raw_years = (others.predicted_years - others.age_years).abs().mean()
    mean_years = (learned.age_years.mean() - others.age_years).abs().mean()
    assert raw_years < 0.75 * mean_years
    assert 0 < demo.printed["oracle_mae_years"] < demo.printed["mean_mae_years"]
    assert demo.printed["r_sag_gap"] > 0.4


def test_every_scan_is_scored_or_refused_with_a_declared_code(demo: Demo) -> None:
    context = demo.context()
    scans = set(context.read("scans", ["scan_id"]).scan_id)
    scored = set(context.read("scores", ["scan_id"]).scan_id)
    faults = context.read("faults", stage="score")
    assert scored | set(faults.scan_id) == scans
    assert not scored & set(faults.scan_id)
    assert set(faults.code) <= set(FAULTS)
    assert len(scored) == demo.printed["scored"]
    assert len(faults) == demo.printed["refused"]
    assert len(scored) >= 0.9 * len(scans)


def test_raw_corrected_and_gap_are_separate_and_fit_together(demo: Demo) -> None:
    scores = demo.context().read("scores")
    assert np.allclose(scores.sag_years, scores.spine_age_years - scores.age_years)
    assert (scores.predicted_years != scores.spine_age_years).any()
    assert (scores.interval_low_years < scores.predicted_years).all()
    assert (scores.interval_high_years > scores.predicted_years).all()


def test_no_person_is_in_two_splits_and_repeats_stay_together(demo: Demo) -> None:
    cohort = demo.context().read("cohort")
    assert (cohort.groupby("person_id").split.nunique() == 1).all()
    assert cohort.person_id.nunique() < len(cohort)
    assert set(cohort.split) == {"train", "validate", "calibrate", "test"}


def test_only_normal_training_people_taught_the_network(demo: Demo) -> None:
    context = demo.context()
    cohort = context.read("cohort").set_index("scan_id")
    normal = cohort[(cohort.split == "train") & (cohort.status == "normal")]
    taught = context.records("train")[0]["counts"]["training_scans"]
    tensors = set(context.read("tensors", ["scan_id"]).scan_id)
    assert taught == len(set(normal.index) & tensors)


def test_run_again_the_demo_recomputes_nothing(demo: Demo) -> None:
    before = {
        p: p.stat().st_mtime_ns for p in demo.folder.rglob("*") if p.is_file() and is_result(p)
    }
    again = run(
        "demo", "--people", str(PEOPLE), "--workspace", str(demo.folder), "--json", cwd=demo.folder
    )
    assert again.returncode == 0, again.stderr[-2000:]
    told = json.loads(again.stdout.strip().splitlines()[-1])
    after = {
        p: p.stat().st_mtime_ns for p in demo.folder.rglob("*") if p.is_file() and is_result(p)
    }
    assert after == before
    assert {k: v for k, v in told.items() if k != "seconds"} == {
        k: v for k, v in demo.printed.items() if k != "seconds"
    }


def is_result(path: Path) -> bool:
    """Everything but run records, the log database and the copy of the study."""
    return not ({"runs"} & set(path.parts)) and not path.name.startswith(("mlflow.db", "study."))


def test_a_change_of_the_calibration_recipe_segments_and_trains_nothing_again(
    demo: Demo, tmp_path: Path
) -> None:
    folder = demo.copy(tmp_path / "w")
    study = folder / "study.yaml"
    study.write_text(study.read_text() + "calibrate:\n  coverage: 0.8\n")
    before = parts(folder, "masks") | parts(folder, "tensors") | parts(folder, "predictions")
    result = run("run", "--from", "ingest", "--to", "score", cwd=folder)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (
        parts(folder, "masks") | parts(folder, "tensors") | parts(folder, "predictions") == before
    )
    assert demo.context(folder).fingerprint("score") != demo.context().fingerprint("score")


@pytest.mark.parametrize("table", ["scans", "series", "masks", "scores", "faults", "associations"])
def test_show_summarises_a_table_and_prints_its_rows(
    demo: Demo, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo.folder)
    told, rows = (
        CliRunner().invoke(cli.app, ["show", table, "--workspace", where, *options])
        for where, options in ((str(demo.folder), []), (".", ["--json"]))
    )
    assert (told.exit_code, rows.exit_code) == (0, 0), told.output + rows.output
    listed = json.loads(rows.stdout)
    assert f"{table}: {len(listed)} rows" in told.stdout
    assert not listed or "source_digest" in listed[0] or table in ("series", "associations")


def test_no_raw_id_of_a_person_or_exam_is_anywhere_but_in_the_input_and_private_tables(
    demo: Demo,
) -> None:
    findings = pd.read_csv(demo.folder / "population" / "findings.csv", dtype=str)
    scan = next((demo.folder / "population" / "dicom").rglob("*.dcm"))
    header = pydicom.dcmread(scan, stop_before_pixels=True)
    raw = {*findings.person, *findings.exam, str(header.PatientName), header.SeriesInstanceUID}
    raw.add(header.AccessionNumber)
    needle = re.compile("|".join(re.escape(name) for name in sorted(raw) if name).encode())
    num_read = 0
    for path in demo.folder.rglob("*"):
        parts = set(path.relative_to(demo.folder).parts)
        if path.is_file() and not parts & {"population", "files", "sources", "headers"}:
            num_read += 1
            assert not needle.search(content_of(path)), path
    assert num_read > 50
    assert not needle.search(demo.output.encode())


def content_of(path: Path) -> bytes:
    """As it would be read: parquet pages are compressed."""
    if path.suffix != ".parquet":
        return path.read_bytes()
    text = pq.read_table(path).schema.to_string() + pd.read_parquet(path).to_csv()
    return text.encode()
