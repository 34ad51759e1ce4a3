"""The report tells what the tables hold, to whom it may be told, and nothing else."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import nibabel
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spineage.errors import BadStudy
from spineage.report import page as pages_io
from spineage.report.chapters import accuracy, methods, population
from spineage.stages.report import stage as report
from spineage.stages.report.evidence import gather, gather_tables
from spineage.study import study_from
from tests.made import report_rows as rows
from tests.made.report_data import PlainContext, Tables, make_tables, shared_report, write_study


@pytest.fixture(scope="module")
def tables() -> Tables:
    return shared_report()[0]


@pytest.fixture(scope="module")
def context() -> PlainContext:
    return shared_report()[1]


@pytest.fixture(scope="module")
def page(context: PlainContext) -> str:
    return Path(report.report_path(context)).read_text()


@pytest.fixture
def unsaved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not saved: saving takes most of a report's time."""
    monkeypatch.setattr(pages_io, "_saved", lambda figure, form: b"")
    monkeypatch.setattr(accuracy, "TABLE_DRAWS", 20)


def made(folder: Path, tables: Tables, **settings: object) -> str:
    context = write_study(folder, tables, **settings)
    report.run(context)
    return Path(report.report_path(context)).read_text()


def words(html: str) -> str:
    """What a reader reads, without pictures and markup."""
    html = re.sub(r"<style>.*?</style>", " ", html, flags=re.S)
    html = re.sub(r"data:[a-z/+]+;base64,[A-Za-z0-9+/=]+", "", html)
    return " ".join(re.sub(r"<[^>]+>", " ", html).replace("\u00a0", " ").split())


def chapter(html: str, anchor: str) -> str:
    found = re.search(rf'<section id="{anchor}".*?</section>', html, flags=re.S)
    assert found, f"no chapter {anchor}"
    return found.group()


def few(tables: Tables, num: int = 14) -> Tables:
    """The same study of fewer people: quick to draw."""
    kept = set(tables["scans"]["person_id"].drop_duplicates().iloc[:num])
    scans = set(tables["scans"].loc[tables["scans"]["person_id"].isin(kept), "scan_id"])
    return {
        name: data[data["scan_id"].isin(scans)] if "source_digest" in data.columns else data
        for name, data in tables.items()
    }


# the headline


def test_the_headline_is_what_the_tables_say(context: PlainContext, tables: Tables) -> None:
    found = report.headline(context)
    p = tables["predictions"]
    test = p[(p["split"] == "test") & (p["status"] == "normal")]
    train = p[(p["split"] == "train") & (p["status"] == "normal")]
    exam_of = tables["scans"].set_index("scan_id")["exam_id"]
    truth = (
        tables["truth"]
        .assign(exam_id=[rows.KEYED.exam(raw) for raw in tables["truth"]["exam"]])
        .set_index("exam_id")
    )
    oracle = truth.loc[exam_of.loc[test["scan_id"]], "oracle_years"].to_numpy()
    assert found["people"] == 32
    assert found["scored"] == len(tables["scores"])
    assert found["refused"] == len(tables["faults"])
    assert found["raw_mae_years"] == pytest.approx(
        np.mean(np.abs(test["predicted_years"] - test["age_years"])), abs=1e-3
    )
    assert found["mean_mae_years"] == pytest.approx(
        np.mean(np.abs(test["age_years"] - train["age_years"].mean())), abs=1e-3
    )
    assert found["oracle_mae_years"] == pytest.approx(
        np.mean(np.abs(oracle - test["age_years"])), abs=1e-3
    )


def test_sag_correlations_leave_out_who_could_flatter_them(
    context: PlainContext, tables: Tables
) -> None:
    found = report.headline(context)
    scores = tables["scores"]
    gap_of = (
        tables["truth"]
        .assign(exam_id=[rows.KEYED.exam(raw) for raw in tables["truth"]["exam"]])
        .set_index("exam_id")["gap_years"]
    )
    for_gap = scores[scores["role"].isin(["test", "unseen", "calibrate"])]
    for_age = scores[scores["role"].isin(["test", "unseen"])]
    assert 0 < len(for_age) < len(for_gap) < len(scores)
    r_gap = np.corrcoef(for_gap["sag_years"], gap_of.loc[for_gap["exam_id"]])[0, 1]
    assert found["r_sag_gap"] == pytest.approx(r_gap, abs=1e-3)
    assert found["r_sag_age"] == pytest.approx(
        np.corrcoef(for_age["sag_years"], for_age["age_years"])[0, 1], abs=1e-3
    )


def test_the_report_opens_with_raw_figures_only(page: str, context: PlainContext) -> None:
    opening = words(chapter(page, "headline"))
    mae = report.headline(context)["raw_mae_years"]
    assert f"{mae:.2f} y" in opening
    assert "predict the mean" in opening or "mean age of the training people" in opening
    assert "corrected, uses age" not in opening
    assert page.index('id="headline"') < page.index("corrected, uses age")


def test_a_scan_the_machine_failed_is_left_and_not_refused(tables: Tables, tmp_path: Path) -> None:
    changed = dict(tables)
    changed["faults"] = tables["faults"].assign(code="crashed")
    context = write_study(tmp_path, changed)
    assert report.headline(context)["refused"] == 0


def test_a_scan_that_crashed_and_was_scored_later_is_no_fault(
    tables: Tables, tmp_path: Path
) -> None:
    scored = rows.fault(tables["scores"].iloc[0].to_dict(), "crashed")
    changed = {**tables, "faults": pd.concat([tables["faults"], pd.DataFrame([scored])])}
    context = write_study(tmp_path, changed)
    assert len(gather_tables(context).faults) == len(tables["faults"])


def test_rows_of_scans_that_left_the_study_are_not_counted(tables: Tables, tmp_path: Path) -> None:
    gone = tables["scores"]["scan_id"].iat[0]
    changed = {**tables, "scans": tables["scans"][tables["scans"]["scan_id"] != gone]}
    context = write_study(tmp_path, changed)
    assert report.headline(context)["scored"] == len(tables["scores"]) - 1


# figures and the file


def test_every_figure_has_content(page: str) -> None:
    sources = re.findall(r'<img src="data:image/([a-z+]+);base64,([^"]+)"', page)
    assert sum(kind == "svg+xml" for kind, _ in sources) >= 14
    for kind, data in sources:
        raw = base64.b64decode(data)
        if kind == "png":
            assert np.asarray(Image.open(io.BytesIO(raw)).convert("L")).std() > 5
        else:
            root = ElementTree.fromstring(raw)
            assert len(root.findall(".//{http://www.w3.org/2000/svg}path")) > 5
            assert root.findall(".//{http://www.w3.org/2000/svg}text"), "words must stay words"


def test_the_report_is_one_file_that_asks_nobody(page: str) -> None:
    addresses = re.findall(r'(?:src|href)="([^"]*)"', page)
    assert addresses
    assert not [a for a in addresses if not a.startswith(("data:", "#"))]
    assert "<script" not in page
    assert "@import" not in page
    assert "url(" not in page


def test_chapters_come_in_the_order_of_the_story(page: str) -> None:
    found = re.findall(r'<section id="([a-z]+)" class="chapter">', page)
    assert found == [
        "headline", "road", "data", "cohort", "segmentation", "training", "accuracy", "sag", "associations",
        "ablations", "explain", "refusals", "methods", "people",
    ]  # fmt: skip


def test_a_second_run_makes_nothing(context: PlainContext, page: str) -> None:
    path = Path(report.report_path(context))
    before = path.stat().st_mtime_ns
    report.run(context)
    assert path.stat().st_mtime_ns == before


def test_the_same_study_gives_the_same_bytes(context: PlainContext) -> None:
    evidence = gather(context)
    tables = evidence.tables
    first, again = (population.data(tables.cohort, tables.scans) for _ in range(2))
    assert first == again


def test_a_new_score_or_a_new_fault_is_a_new_report(tables: Tables, tmp_path: Path) -> None:
    addresses = set()
    for i, change in enumerate(
        ({}, {"scores": tables["scores"].iloc[1:]}, {"faults": tables["faults"].iloc[1:]})
    ):
        (tmp_path / str(i)).mkdir()
        addresses.add(
            write_study(tmp_path / str(i), {**few(tables), **change}).fingerprint("report")
        )
    assert len(addresses) == 3


# what may be told


def test_phantoms_are_named_as_such_on_every_chapter_and_every_person(page: str) -> None:
    assert "Synthetic phantom population, not people." in words(page)
    for part in re.findall(r"<section id=.*?</h2>", page, flags=re.S):
        assert "synthetic phantoms" in part
    people = re.findall(r'<details class="person".*?</details>', page, flags=re.S)
    assert len(people) == 32
    assert all("synthetic phantoms" in one for one in people)


@pytest.mark.usefixtures("unsaved")
def test_real_people_are_not_called_phantoms(tmp_path: Path) -> None:
    real = make_tables(14, phantoms=False)
    del real["truth"]
    text = words(made(tmp_path, real))
    assert "ynthetic phantom" not in text
    assert "oracle" not in text
    assert "planted" not in text


@pytest.mark.usefixtures("unsaved")
def test_a_mixed_population_says_how_many_are_phantoms(tables: Tables, tmp_path: Path) -> None:
    mixed = few(tables)
    scans = mixed["scans"].copy()
    scans["is_phantom"] = [i >= 5 for i in range(len(scans))]
    text = words(made(tmp_path, {**mixed, "scans": scans}))
    assert f"{len(scans) - 5} of the {len(scans)} scans are synthetic phantoms, not people" in text


def test_nobody_can_be_found_through_the_report(
    page: str, context: PlainContext, tables: Tables
) -> None:
    for secret in (
        "/gone/",
        "/somewhere",
        context.store.root,
        rows.STUDY_KEY.decode(),
        str(Path.home()),
    ):
        assert secret not in page
    assert not [raw for raw in tables["truth"]["exam"] if f">{raw}<" in page or f" {raw} " in page]


@pytest.mark.usefixtures("unsaved")
def test_a_title_is_text_and_not_markup(tables: Tables, tmp_path: Path) -> None:
    html = made(tmp_path, few(tables), report={"title": "Spines <script>alert(1)</script> & age"})
    assert "<script" not in html
    assert "Spines &lt;script&gt;" in html


# chapters


def test_every_file_and_scan_is_accounted_for(context: PlainContext, tables: Tables) -> None:
    from spineage.report.chapters.road import road_rows

    found = road_rows(gather_tables(context))
    for _, came, went, faults in found:
        assert came == went + faults.sum()
    assert found[-1][2] == len(tables["scores"])
    assert found[0][1] == int(tables["series"]["num_files"].sum()) + 1


def test_refusals_give_the_code_what_was_found_and_what_it_means(page: str, tables: Tables) -> None:
    text = words(chapter(page, "refusals"))
    assert "incomplete spine" in text
    assert "21 levels were found, at least 22 are expected" in text
    assert "the scan does not show the spine from C2 to the sacrum" in text
    assert all(scan_id in text for scan_id in tables["faults"]["scan_id"])


def test_every_association_is_listed_with_its_null_and_its_caveat(
    page: str, tables: Tables
) -> None:
    text = words(chapter(page, "associations"))
    assert all(
        name.replace("_", " ") in text for name in tables["associations"]["exposure"].unique()
    )
    assert "Cross-sectional association, not cause" in text
    assert "circular" in text
    assert "2 exposed and 40 unexposed people, 5 of each are needed" in text


@pytest.mark.usefixtures("unsaved")
def test_methods_carry_the_numbers_of_this_study(tables: Tables, tmp_path: Path) -> None:
    html = made(tmp_path, few(tables), seed=77, train={"epochs": 13, "channels": [3, 5]})
    text = words(chapter(html, "methods"))
    assert "seed 77" in text
    assert "2 blocks of 3D convolution" in text
    assert "3, 5 channels" in text
    assert "13 epochs" in text
    assert "torch 2.13.0" in text
    assert "b" * 64 in text
    assert "own tiles over the whole scan, without test-time mirroring" in text
    assert "levels by their order along the canal" in text
    (tmp_path / "fast").mkdir()
    html = made(tmp_path / "fast", few(tables), segment={"mode": "fast", "mirror": True})
    text = words(chapter(html, "methods"))
    assert re.search(
        r"the spine \(0 scans; \d+ without such a box were seen whole\), averaged", text
    )


@pytest.mark.parametrize(
    ("schema", "told"),
    [("semantic", "their order along the canal"), ("levels", "names the levels")],
)
def test_methods_say_who_named_the_levels(schema: str, told: str) -> None:
    manifest = {"schema": schema, "domain": "human", "configuration": "3d_fullres",
                "digest": "c" * 64, "folds": ["0", "1"]}  # fmt: skip
    study = study_from({"segment": {"weights": "elsewhere"}})
    faults = pd.DataFrame(
        {"stage": ["segment", "score", "segment"], "code": ["cut_off", "cut_off", "deadline"]}
    )
    tables = SimpleNamespace(faults=faults)
    evidence = SimpleNamespace(study=study, segmenter=manifest, tables=tables)
    text = methods._segmentation(evidence)
    assert told in text
    assert "3d_fullres, 2 folds, weights cccccccccccc" in text
    assert "imported and trained on human scans" in text
    manifest["origin"] = {"num_cases": 12}
    assert "own trainer on 12 human scans" in methods._segmentation(evidence)
    assert "1 scan ended here" in text


@pytest.mark.usefixtures("unsaved")
def test_parts_that_were_not_run_are_left_out(tables: Tables, tmp_path: Path) -> None:
    optional = ("ablations", "associations", "explanations")
    html = made(
        tmp_path, {name: data for name, data in few(tables).items() if name not in optional}
    )
    anchors = re.findall(r'<section id="([a-z]+)"', html)
    assert not {"ablations", "associations", "explain"} & set(anchors)
    assert "sag" in anchors


@pytest.mark.usefixtures("unsaved")
def test_a_study_that_scores_with_a_published_model_has_no_accuracy_of_its_own(
    tables: Tables, tmp_path: Path
) -> None:
    trained = ("predictions", "history", "calibration")
    html = made(tmp_path, {name: data for name, data in few(tables).items() if name not in trained})
    anchors = re.findall(r'<section id="([a-z]+)"', html)
    assert not {"training", "accuracy"} & set(anchors)
    assert "there is no accuracy to report" in words(chapter(html, "headline"))


def test_without_scores_the_verb_to_run_is_named(tables: Tables, tmp_path: Path) -> None:
    context = write_study(
        tmp_path, {name: data for name, data in tables.items() if name != "scores"}
    )
    with pytest.raises(BadStudy, match="run `spineage score` first"):
        report.run(context)


# one person


def person(html: str, person_id: str) -> str:
    found = re.search(
        rf'<details class="person" id="person-{person_id}">.*?</details>', html, flags=re.S
    )
    assert found
    return words(found.group())


def test_a_person_reads_the_uncertainty_first(page: str, tables: Tables) -> None:
    score = tables["scores"].iloc[2]
    text = person(page, score["person_id"])
    low, high = score["interval_low_years"], score["interval_high_years"]
    interval = f"between {low:.0f} and {high:.0f} years old (90 % interval"
    order = [
        text.index(part)
        for part in (interval, "Raw prediction:", "Spine age (corrected, uses age)", "gap (SAG)")
    ]
    assert order == sorted(order)
    assert f"{score['predicted_years']:.1f} y" in text
    assert "Not a medical device and not a diagnosis" in text


def test_flags_are_told_in_words(page: str, tables: Tables) -> None:
    trained = tables["scores"][
        [("trained_on" in flags) for flags in tables["scores"]["flags"]]
    ].iloc[0]
    assert "Do not read the gap." in person(page, trained["person_id"])


def test_every_declared_flag_has_words() -> None:
    from spineage.report.chapters.people import FLAG_WORDS
    from spineage.tables import SCORES

    declared = next(c.meaning for c in SCORES.columns if c.name == "flags")
    assert set(FLAG_WORDS) == set(declared.split(", "))


def test_a_person_whose_scan_was_refused_is_told_why(page: str, tables: Tables) -> None:
    refused = tables["scans"].merge(tables["faults"], on=["scan_id", "source_digest"])
    text = person(page, refused["person_id"].iat[0])
    assert "No spine age: incomplete spine" in text
    assert "21 levels were found" in text


@pytest.mark.usefixtures("unsaved")
def test_a_person_without_an_age_gets_a_prediction_and_no_gap(
    tables: Tables, tmp_path: Path
) -> None:
    some = few(tables)
    person_id = some["scores"]["person_id"].iat[1]
    for name in ("scans", "cohort", "scores"):
        some[name] = some[name].copy()
        some[name].loc[some[name]["person_id"] == person_id, "age_years"] = np.nan
    is_them = some["scores"]["person_id"] == person_id
    some["scores"].loc[is_them, ["spine_age_years", "sag_years", "correction_se_years"]] = np.nan
    some["scores"]["flags"] = [
        ["no_age"] if them else list(f)
        for them, f in zip(is_them, some["scores"]["flags"], strict=True)
    ]
    some["predictions"] = some["predictions"][some["predictions"]["person_id"] != person_id]
    text = person(made(tmp_path, some), person_id)
    assert "Raw prediction:" in text
    assert "No spine age and no gap" in text
    assert "age unknown" in text
    assert "nan" not in text.lower()


def test_no_picture_of_an_image_that_was_exchanged_since_ingest(
    tables: Tables, tmp_path: Path
) -> None:
    some = few(tables)
    rng = np.random.default_rng(0)
    scans = some["scans"].to_dict("records")
    for scan in scans:
        voxels = rows.cartoon(rng)[0].astype(np.float32) + rng.random(rows.SHAPE, np.float32)
        image = nibabel.Nifti1Image(voxels, np.diag([*rows.SPACING_MM, 1]))
        nibabel.save(image, tmp_path / f"{scan['scan_id']}.nii")
    some["sources"] = pd.DataFrame([rows.source(scan, str(tmp_path), ".nii") for scan in scans])
    context = write_study(tmp_path, some)
    assert gather(context).pictures.is_whole_anatomy
    names = [tmp_path / f"{scan['scan_id']}.nii" for scan in scans]
    images = [name.read_bytes() for name in names]
    for name, data in zip(names, images[1:] + images[:1], strict=True):
        name.write_bytes(data)
    pictures = gather(context).pictures
    assert not pictures.is_whole_anatomy, "each image is another person's now"


def test_a_scan_with_text_in_its_picture_is_not_drawn_unless_the_study_says_so(
    tables: Tables, tmp_path: Path
) -> None:
    some = few(tables)
    for name in ("every", "none", "page", "shown"):
        (tmp_path / name).mkdir()
    every = gather(write_study(tmp_path / "every", some)).pictures
    titles = {title for title, _ in every.anatomy}
    drawn = {scan_id for scan_id, _ in every.prepared}
    some["series"] = some["series"].assign(burned_in=some["series"].scan_id.isin(drawn))
    context = write_study(tmp_path / "none", some)
    pictures = gather(context).pictures
    assert not pictures.prepared
    assert not pictures.anatomy
    assert not pictures.gradcam
    assert "its header says that text" in made(tmp_path / "page", some)
    shown = write_study(tmp_path / "shown", some, report={"show_burned_in": True})
    assert {title for title, _ in gather(shown).pictures.anatomy} == titles


@pytest.mark.usefixtures("unsaved")
def test_no_more_people_than_asked_for_get_a_section(tables: Tables, tmp_path: Path) -> None:
    html = made(tmp_path, few(tables), report={"max_people": 3})
    assert html.count('<details class="person"') == 3
    assert "3 of 14 people" in words(chapter(html, "people"))


def test_whole_anatomy_is_drawn_while_the_images_are_there(tables: Tables, tmp_path: Path) -> None:
    some = few(tables)
    rng = np.random.default_rng(0)
    for scan in some["scans"].to_dict("records"):
        voxels, _ = rows.cartoon(rng)
        image = nibabel.Nifti1Image(
            voxels.astype(np.float32) + rng.random(rows.SHAPE, np.float32),
            np.diag([*rows.SPACING_MM, 1]),
        )
        nibabel.save(image, tmp_path / f"{scan['scan_id']}.nii.gz")
    some["sources"] = pd.DataFrame(
        [rows.source(scan, str(tmp_path)) for scan in some["scans"].to_dict("records")]
    )
    context = write_study(tmp_path, some)
    pictures = gather(context).pictures
    assert pictures.is_whole_anatomy
    assert len(pictures.anatomy) == 4
    outside = [picture.image_YX[picture.levels_YX == 0] for _, picture in pictures.anatomy]
    assert all((values > 0).mean() > 0.9 for values in outside), "muscle and fat are not masked out"
    ages = [float(title.split(" y")[0]) for title, _ in pictures.anatomy]
    assert ages == sorted(ages)
