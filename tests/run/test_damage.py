"""Damage and mistakes as a study meets them: said before work where they can be known, and by code."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from spineage.errors import BadStudy
from spineage.io.people.identity import Keyed
from spineage.io.people.tables import read_findings
from spineage.io.scans import headers
from spineage.io.storage.parquet import write_part
from spineage.io.storage.tensors import people_of
from spineage.run import (
    fill,
    runner,
)
from spineage.run.checks import check_before, check_sites
from spineage.run.context import Context
from spineage.stages import (
    calibrate,
    prepare,
    segment,
)
from spineage.stages.calibrate import latest_bundle
from spineage.stages.ingest import (
    groups as ingest_groups,
)
from spineage.stages.ingest import (
    stage as ingest,
)
from spineage.stages.ingest import (
    tables as ingest_tables,
)
from spineage.study import Study, study_from
from spineage.tables import FAULTS, SCANS, SOURCES, TENSORS
from spineage.verbs import (
    show,
)
from spineage.verbs.doctor import examine
from spineage.verbs.import_segmenter import convert
from tests.made.dicom_makers import shaded, write_sagittal
from tests.made.tiny_nnunet import write_tiny_model
from tests.made.toy_study import toy_study
from tests.test_cli import everything_in, fails_clearly, spineage, write_study

KEY = ["scan_id", "source_digest"]
LATE = {"ingest": {"min_echo_ms": 500}}
TALL = shaded((7, 40, 60))


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPINEAGE_KEY", "a key for tests, 16 bytes or more")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two people's series, in folders a and b."""
    for name in ("a", "b"):

        def named(dataset: Any, number: int, name: str = name) -> None:
            dataset.PatientID = f"person-{name}"

        write_sagittal(tmp_path / "archive" / name, TALL, change=named)
    return tmp_path / "archive"


def context_of(archive: Path, **sections: Any) -> Context:
    study = study_from(
        {
            "workspace": str(archive.parent / "workspace"),
            "inputs": {"scans": str(archive)},
            **sections,
        }
    )
    return Context(study, say=lambda text: None)


def codes_below(context: Context, folder: str) -> set[str]:
    files = context.read("files")
    return set(files.code[files.location.str.contains(f"/{folder}/")])


def nul_zip() -> bytes:
    """An archive whose one member has a name that begins with NUL."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as made:
        made.writestr("Xa", b"")
    return packed.getvalue().replace(b"Xa", b"\0a")


# one file


def test_a_member_whose_name_begins_with_nul_is_a_row_and_all_else_is_ingested(
    archive: Path,
) -> None:
    data = nul_zip()
    assert len(data) < 120
    (archive / "nul.zip").write_bytes(data)
    context = context_of(archive)
    counts = ingest.run(context)
    assert counts.done["scans"] == 2
    files = context.read("files")
    inside = files[files.location.str.contains("nul.zip!/", regex=False)]
    assert list(inside.code) == ["bad_archive"]


def test_a_bug_met_on_one_file_is_its_row_is_counted_and_is_tried_again(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = headers.dicom.read_header
    victim = sorted((archive / "a").iterdir())[0]

    def read_header(stream: Any, *args: Any) -> Any:
        if stream.name == str(victim):
            raise KeyError("Kanarienvogel 1950-01-02")
        return true(stream, *args)

    monkeypatch.setattr(headers.dicom, "read_header", read_header)
    context = context_of(archive)
    counts = ingest.run(context)
    assert counts.unused["bug"] == 1
    files = context.read("files")
    (message,) = files.message[files.code == "bug"]
    assert "KeyError" in message
    assert "Kanarienvogel" not in message
    assert counts.done["series"] == 2
    monkeypatch.setattr(headers.dicom, "read_header", true)
    assert "bug" not in ingest.run(context).unused


def test_a_bug_met_in_judging_one_series_stays_with_its_files(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = ingest_tables.judge_series
    first: list[str] = []

    def judge(group: Any, limits: Any) -> Any:
        first.append(group[0].series_id)
        if group[0].series_id == first[0]:
            raise ZeroDivisionError("Kanarienvogel")
        return true(group, limits)

    monkeypatch.setattr(ingest_tables, "judge_series", judge)
    context = context_of(archive)
    counts = ingest.run(context)
    assert (counts.done["scans"], counts.unused["bug"]) == (1, 7)
    assert {frozenset(codes_below(context, name)) for name in "ab"} == {
        frozenset({"bug"}), frozenset({""})
    }  # fmt: skip


def test_half_a_character_in_a_header_does_not_stop_a_table(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = ingest_groups.tables_of

    def tables_of(*args: Any, **kwargs: Any) -> Any:
        tables = true(*args, **kwargs)
        tables["scans"][0]["vendor"] = "half \ud800"
        return tables

    monkeypatch.setattr(ingest_groups, "tables_of", tables_of)
    context = context_of(archive)
    ingest.run(context)
    assert "half ?" in set(context.read("scans").vendor)


# one part


def judge_again(context: Context) -> None:
    """As if other tables were to be made of the same headers."""
    context.store.set_aside(f"{context.tables_folder('ingest')}/done.json")
    context.forget()


@pytest.mark.parametrize("how", ["cut short", "garbage"])
def test_damaged_headers_are_read_again(archive: Path, how: str) -> None:
    context = context_of(archive)
    before = ingest.run(context)
    parts = sorted(Path(context.store.root).rglob("headers/*.parquet"))
    data = parts[0].read_bytes()
    parts[0].write_bytes(data[:-9] if how == "cut short" else b"\xff" * 200)
    judge_again(context)
    said: list[str] = []
    context.say = said.append
    assert ingest.run(context).done["scans"] == before.done["scans"]
    assert any("set aside" in line for line in said)
    assert parts[0].read_bytes() == data


def test_damaged_headers_are_found_where_workers_met_them(
    archive: Path, monkeypatch: pytest.MonkeyPatch, ray_session: None
) -> None:
    context = context_of(archive)
    before = ingest.run(context)
    (part, *_) = sorted(Path(context.store.root).rglob("headers/*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    judge_again(context)
    monkeypatch.setattr(ingest_groups, "FILES_PER_GROUP", 8)  # several groups: on Ray
    assert ingest.run(context).done["scans"] == before.done["scans"]


POINTERS = {
    "garbage": b"\x00\xff{",
    "a list": b"[1]",
    "no name": b"{}",
    "a path": b'{"generation": "../../elsewhere"}',
    "a number": b'{"generation": 7}',
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("name", POINTERS)
def test_a_damaged_pointer_is_named_and_ingest_writes_it_anew(archive: Path, name: str) -> None:
    context = context_of(archive)
    ingest.run(context)
    (pointer,) = Path(context.store.root).rglob("latest-*.json")
    pointer.write_bytes(POINTERS[name])
    with pytest.raises(
        BadStudy, match=r"latest-.*json in the workspace is damaged.*spineage ingest"
    ):
        context_of(archive).read("scans")
    ingest.run(context)
    assert len(context_of(archive).read("scans")) == 2


def test_a_part_that_is_missing_or_damaged_is_named_with_what_to_remove(archive: Path) -> None:
    context = context_of(archive)
    ingest.run(context)
    (part,) = Path(context.store.root).rglob("scans/*.parquet")
    data = part.read_bytes()
    for damage in (data[:-5], b"", None):
        part.write_bytes(damage) if damage is not None else part.unlink()
        with pytest.raises(BadStudy, match=r"remove the folder ingest/\w+/\w+ and run") as e:
            context_of(archive).read("scans")
        assert "scans/part-00000.parquet" in str(e.value)
    for path in sorted(part.parent.parent.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    ingest.run(context)
    assert len(context_of(archive).read("scans")) == 2


def test_one_of_several_parts_missing_is_no_smaller_table(archive: Path) -> None:
    context = context_of(archive)
    ingest.run(context)
    folder = context.tables_folder("ingest")
    rows = context.read("scans")
    write_part(context.store, folder, SCANS, rows.tail(1), "part-00001")
    context.finish(folder, {})
    Path(context.store.root, folder, "scans", "part-00001.parquet").unlink()
    with pytest.raises(BadStudy, match=r"part-00001\.parquet in the workspace is gone"):
        context.read("scans")


def test_damaged_json_beside_a_table_is_one_sentence(archive: Path) -> None:
    context = context_of(archive, cohort={"rule": "everyone"})
    runner.run_stages(context, ["ingest", "conditions"])
    folder = context.folder("conditions")
    context.store.write(f"{folder}/features.json", b"{")
    with pytest.raises(BadStudy, match=rf"features\.json .*remove the folder {folder} and run"):
        context.asset("conditions", "features.json")
    Path(context.store.root, folder, "features.json").unlink()
    with pytest.raises(BadStudy, match=rf"remove the folder {folder} and run"):
        context.asset("conditions", "features.json")
    for told in (b"nonsense", b'{"parts": []}', b'{"parts": {"conditions": ["../../x"]}}', b"7"):
        context.store.write(f"{folder}/done.json", told)
        with pytest.raises(BadStudy, match=rf"done\.json .*remove the folder {folder} and run"):
            context.read("conditions")
    ingested = context.tables_folder("ingest")
    for told in (b"{}", b'{"scans": "many"}'):
        context.store.write(f"{ingested}/done.json", told)
        with pytest.raises(BadStudy, match=rf"done\.json .*remove the folder {ingested} and run"):
            ingest.run(context)


@pytest.mark.parametrize("told", [b"", b"{}", b'{"folder": "../x", "digest": "0"}'])
def test_a_damaged_pointer_to_the_model_is_one_sentence(tmp_path: Path, told: bytes) -> None:
    context = Context(Study(workspace=str(tmp_path)), say=lambda text: None)
    with pytest.raises(BadStudy, match="no model has been published"):
        latest_bundle(context)
    context.store.write(calibrate._pointer(context), told)
    with pytest.raises(BadStudy, match="is damaged: run `spineage calibrate` again"):
        latest_bundle(context)


def test_a_table_of_people_that_is_no_utf8_is_refused_and_not_quoted(tmp_path: Path) -> None:
    """pandas' own error for it reads `Wrapping M?LLER Anna failed`."""
    name = "M\xfcller Anna".encode("latin-1")
    raw = pa.table({column: [name] for column in ("person", "exam", "finding", "level")})
    texts = [pa.Array.from_buffers(pa.string(), 1, c.chunk(0).buffers()) for c in raw.columns]
    pq.write_table(pa.table(texts, names=raw.column_names), tmp_path / "findings.parquet")
    with pytest.raises(BadStudy, match="findings: the file cannot be read") as error:
        read_findings(str(tmp_path / "findings.parquet"), Keyed(b"k" * 32))
    assert "Anna" not in str(error.value)


# scans


def scan_rows(*names: str) -> pd.DataFrame:
    text = dict.fromkeys(SCANS.schema.names, "x")
    numbers = {"age_years": 50.0, "field_tesla": 1.5, "days_since_first": 0, "num_stations": 1}
    row = {**text, **numbers, "extent_mm": 500.0, "is_phantom": False}
    return pd.DataFrame([{**row, "scan_id": name, "site": "hill"} for name in names])


def fault_of(name: str, code: str, stage: str = "segment") -> dict[str, str]:
    return {"scan_id": name, "source_digest": "x", "stage": stage, "code": code, "message": code}


@pytest.fixture
def scans(tmp_path: Path) -> Context:
    """Three scans that ingest found."""
    context = Context(Study(workspace=str(tmp_path / "workspace")), say=lambda text: None)
    context._fingerprints["ingest"] = "pinned"
    folder = context.folder("ingest")
    write_part(context.store, folder, SCANS, scan_rows("s1", "s2", "s3"), "part-0")
    sources = [
        {
            **{k: row[k] for k in KEY},
            "stations_json": "[]",
            "seal_key": "",
            "masks_json": "[]",
            "num_voxels": 1,
        }
        for row in scan_rows("s1", "s2", "s3").to_dict("records")
    ]
    write_part(context.store, folder, SOURCES, sources, "part-0")
    return context


def refuse(context: Context, stage: str, *faults: dict[str, str]) -> None:
    for fault in faults:
        name = f"{fault['scan_id']}-{fault['code']}"
        write_part(context.store, context.folder(stage), FAULTS, [fault], name)


def test_when_every_scan_is_refused_the_next_stage_says_so_by_code(scans: Context) -> None:
    with pytest.raises(BadStudy, match="run `spineage segment` first"):
        prepare.run(scans)
    codes = ("levels_unknown", "levels_unknown", "cut_off")
    refuse(scans, "segment", *(fault_of(f"s{i + 1}", code) for i, code in enumerate(codes)))
    match = r"segment refused every scan it tried \(2 levels_unknown, 1 cut_off\).*`spineage show faults`"
    with pytest.raises(BadStudy, match=match):
        prepare.run(scans)
    with pytest.raises(BadStudy, match=match):
        scans.read("masks")
    with pytest.raises(BadStudy, match=match):
        scans.read("tensors")


def test_when_ingest_accepts_nothing_the_next_stage_says_so_by_code(archive: Path) -> None:
    context = context_of(archive, **LATE)
    assert ingest.run(context).done["scans"] == 0
    match = r"none of 2 series \(2 not_t2\).*show series"
    for stage in (segment, prepare):
        with pytest.raises(BadStudy, match=match):
            stage.run(context)
    with pytest.raises(BadStudy, match=match):
        runner.run_stages(context_of(archive, **LATE, cohort={"rule": "everyone"}), ["cohort"])


def test_faults_are_one_row_a_scan_and_reason_also_before_there_is_a_model(
    scans: Context,
) -> None:
    refuse(scans, "segment", fault_of("s1", "cut_off"), fault_of("s2", "crashed", "engine"))
    refuse(scans, "prepare", fault_of("s1", "cut_off"), fault_of("gone-since", "cut_off"))
    found = show.find_faults(scans, ["segment", "prepare", "score"])
    assert sorted(zip(found.scan_id, found.code, strict=True)) == [
        ("s1", "cut_off"), ("s2", "crashed")
    ]  # fmt: skip
    tensor = {
        "scan_id": "s1",
        "source_digest": "x",
        "shape": [1],
        "voxels_zstd": b"",
        "levels_zstd": b"",
    }
    write_part(scans.store, scans.folder("prepare"), TENSORS, [tensor], "s1")
    assert list(show.find_faults(scans, ["prepare"]).scan_id) == []


def test_a_wrong_stage_names_the_right_ones(archive: Path) -> None:
    context = context_of(archive)
    ingest.run(context)
    folder = archive.parent
    values = context.study.model_dump(mode="json", by_alias=True)
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    at = str(folder / "study.yaml")
    assert show.read("faults", at, None, None).empty
    assert show.read("faults", at, None, "score").empty
    with pytest.raises(BadStudy, match=r"segment or prepare or score; .*show series"):
        show.read("faults", at, None, "ingest")
    with pytest.raises(BadStudy, match="no stage 'sgement' writes scores: --stage is score"):
        show.read("scores", at, None, "sgement")


# before any work


def test_a_rule_without_findings_stops_the_whole_road_before_it_begins(
    archive: Path, tmp_path: Path
) -> None:
    write_study(tmp_path, inputs={"scans": "archive"})
    before = everything_in(tmp_path)
    fails_clearly(
        spineage("run", "--to", "cohort", cwd=tmp_path), "inputs.findings", "'clusters'", "everyone"
    )
    assert everything_in(tmp_path) == before


def test_tables_that_do_not_fit_stop_the_whole_road_before_it_begins(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("who,what\n1,2\n")
    table = str(tmp_path / "table.csv")
    for stage, key, words in (
        ("conditions", "findings", "findings"),
        ("cohort", "splits", "splits"),
        ("associate", "lifestyle", "lifestyle"),
    ):
        rule = {"rule": "everyone"}
        study = study_from({"workspace": "w", "inputs": {key: table}, "cohort": rule})
        with pytest.raises(BadStudy, match=words):
            check_before(Context(study, say=lambda text: None), ["ingest", stage])


def test_test_sites_that_do_not_exist_are_named_before_the_cohort(scans: Context) -> None:
    study = scans.study.model_copy(
        update={"cohort": scans.study.cohort.model_copy(update={"test_sites": ("hil",)})}
    )
    wrong = Context(study, say=lambda text: None)
    wrong._fingerprints["ingest"] = "pinned"
    with pytest.raises(BadStudy, match="'hil', where nobody was scanned: did you mean 'hill'"):
        check_sites(wrong)
    check_sites(scans)


def test_the_road_stops_at_sites_that_do_not_exist_once_ingest_has_run(archive: Path) -> None:
    context = context_of(archive, cohort={"rule": "everyone", "test_sites": ["nowhere"]})
    with pytest.raises(BadStudy, match="'nowhere', where nobody was scanned"):
        runner.run_stages(context, ["ingest", "conditions", "cohort"])
    assert context.has("scans")
    assert not context.store.list("conditions")
    (line,) = [check for check in examine(context.study) if check.name == "sites"]
    assert not line.is_ok
    assert "'nowhere'" in line.found


def test_a_model_that_segment_will_refuse_is_named_by_import_and_doctor(tmp_path: Path) -> None:
    labels = {"background": 0, "vertebra": 1, "disc": 2, "sacrum": 3}
    model = write_tiny_model(tmp_path / "model", labels=labels)
    out = tmp_path / "bones"
    said = convert(str(model), str(out), trust=True, orientation="RAS")
    assert "`spineage segment` will refuse it: the model draws no canal" in said
    study = study_from({"workspace": str(tmp_path / "w"), "segment": {"weights": str(out)}})
    (line,) = [check for check in examine(study) if check.name == "weights"]
    assert not line.is_ok
    assert "draws no canal" in line.found
    with pytest.raises(BadStudy, match="draws no canal"):
        check_before(Context(study), ["ingest", "score"])


def test_an_unfinished_file_of_a_killed_run_is_removed_by_the_next(archive: Path) -> None:
    context = context_of(archive)
    runner.run_stages(context, ["ingest"])
    left = Path(context.store.root) / "ingest" / ".0abc-1-dead.draft"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    said: list[str] = []
    context.say = said.append
    runner.run_stages(context, ["ingest"])
    assert not left.exists()
    assert any("removed 1 unfinished" in line for line in said)


def test_a_model_folder_that_is_none_stops_the_whole_road_before_it_begins(tmp_path: Path) -> None:
    study = study_from({"workspace": "w", "score": {"model": str(tmp_path / "nowhere")}})
    with pytest.raises(BadStudy, match=r"has no bundle\.json"):
        check_before(Context(study, say=lambda text: None), ["ingest", "score"])


def test_a_damaged_tensor_ends_training_in_one_sentence_and_is_made_anew(tmp_path: Path) -> None:
    context = toy_study(tmp_path, num_people=3)
    folder = context.folder("prepare")
    cohort = context.read("cohort")
    people = people_of(context.store, folder, cohort)
    (part, *_) = sorted(Path(context.store.root).rglob("tensors/*.parquet"))
    whole = part.read_bytes()
    middle = len(whole) // 2  # in the voxels: the keys can still be read
    part.write_bytes(whole[:middle] + bytes(8) + whole[middle + 8 :])
    assert len(fill.answered(context.store, folder, TENSORS, cohort)) == 3
    with pytest.raises(
        BadStudy, match=r"^the tensor of scan scan000 is damaged .*`spineage prepare`"
    ):
        people.tensor(0)
    assert len(fill.answered(context.store, folder, TENSORS, cohort)) == 2
    people.tensor(1)
