"""A study file may hold anything: it is a study, or one short sentence says at once what does not fit."""

from __future__ import annotations

import math
import resource
import time
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from spineage.cli import app
from spineage.errors import BadStudy
from spineage.study import Cluster, Section, Study, commented_study, read_study, study_from
from spineage.study_file import MAX_BYTES, MAX_DEPTH

SENTENCE = 400


def refusal(text: str | bytes, folder: Path) -> str:
    """The one sentence; it must come at once and cost no memory."""
    path = folder / "study.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    peak, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(BadStudy) as told:
        read_study(path)
    assert time.process_time() - started < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # KiB
    sentence = str(told.value).replace(str(path), "study.yaml")
    assert len(sentence) < SENTENCE
    assert "\n" not in sentence
    return sentence


def laughs(levels: int = 9) -> str:
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join([*lines, f"train: {{channels: *a{levels - 1}}}"])


HOSTILE: dict[str, tuple[str | bytes, str]] = {
    "billion laughs": (laughs(), "alias"),
    "an alias to itself": ("train: &t {channels: [*t]}", "alias"),
    "a merge of an alias": ("cohort: &c {test: 1}\ntrain: {<<: *c}", "alias"),
    "nesting": ("train: " + "[" * 5000 + "]" * 5000, "nested"),
    "nesting by indent": ("\n".join(f"{' ' * i}a:" for i in range(400)), "nested"),
    "nesting of maps": ("{a: " * 3000 + "1" + "}" * 3000, "nested"),
    "size": ("name: " + "x" * (MAX_BYTES + 1), "bytes"),
    "a number of 5000 digits": (f"seed: {'9' * 5000}", "YAML"),
    "a number of 300 digits": (f"seed: {'9' * 300}", "seed"),
    "a long text for a number": (f"train: {{epochs: {'many' * 5000}}}", "epochs"),
    "a text too long for a path": (f"workspace: {'w' * 5000}", "workspace"),
    "a control character": ('workspace: "a\\0b"', "control"),
    "an escape for the terminal": ('train: {epochs: "\\e[2Jmany"}', "control"),
    "half a character": ('workspace: "\\uD800"', "control"),
    "a tag of a map": ("a: !!map [a, b]", "cannot be read as YAML"),
    "a tag of a number": ('a: !!int ""', "cannot be read as YAML"),
    "a tag of a truth": ("a: !!bool foo", "cannot be read as YAML"),
    "a tag of a time": ("a: !!timestamp foo", "cannot be read as YAML"),
    "a doubled key": ("train: {epochs: 3, epochs: 300}", "epochs is there twice"),
    "a doubled section": ("train: {epochs: 3}\ntrain: {dropout: 0.1}", "train is there twice"),
    "an object": ("name: !!python/object/apply:os.system [ls]", "YAML"),
    "a date that is none": ("name: 2026-99-99", "YAML"),
    "a key that is a list": ("{[a, b]: 1}", "YAML"),
    "a key that is a number": ("1: 2", "1"),
    "a key that is nothing": ("? \n: 2", "None"),
    "an unknown key of 10,000 letters": (f"? {'k' * 5000}\n: 1", "characters"),
    "many unknown keys": ("\n".join(f"key{i}: 1" for i in range(5000)), "and 4997 more"),
    "as many keys as there is room for": ("\n".join(f"a{i}: 1" for i in range(13_000)), "more"),
    "many wrong values": (f"train: {{channels: [{', '.join(['x'] * 5000)}]}}", "channels"),
    "bytes that are no text": (b"\xff\xfe\x00: [", "YAML"),
    "a section that is text": ("train: fast", "train"),
    "a section that is nothing": ("train:", "train"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_no_study_is_refused_at_once_in_one_short_sentence(
    name: str, tmp_path: Path
) -> None:
    text, word = HOSTILE[name]
    assert word in refusal(text, tmp_path)


def test_the_sentence_says_the_line_of_what_cannot_be_read(tmp_path: Path) -> None:
    assert "(line 3)" in refusal("name: a\ntrain:\n  channels: *nowhere\n", tmp_path)


def test_a_file_that_never_ends_or_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStudy, match="bytes"):
        read_study("/dev/zero")
    with pytest.raises(BadStudy, match="directory"):
        read_study(tmp_path)
    with pytest.raises(BadStudy, match="no file has such a name"):
        read_study("a\0b")


def test_a_study_as_deep_as_a_study_gets_is_read(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(commented_study())
    assert read_study(tmp_path / "s.yaml").train == Study().train
    assert MAX_DEPTH >= 4


IMPOSSIBLE: dict[str, tuple[dict[str, Any], str]] = {
    "a shape of 0": ({"prepare": {"shape": [0, 80, 320]}}, "prepare.shape.0"),
    "a shape larger than memory": ({"prepare": {"shape": [4096, 4096, 4096]}}, "voxels"),
    "a spacing of 0": ({"prepare": {"spacing_mm": [4, 0, 2.2]}}, "prepare.spacing_mm.1"),
    "channels of 0": ({"train": {"channels": [0]}}, "train.channels.0"),
    "no channels": ({"train": {"channels": []}}, "train.channels"),
    "negative workers": ({"cluster": {"segment_workers": -3}}, "cluster.segment_workers"),
    "part of several GPUs": ({"cluster": {"gpus_per_worker": 1.5}}, "gpus_per_worker"),
    "negative shares": ({"cohort": {"train": 1.2, "validate": -0.2}}, "cohort.train"),
    "coverage of all": ({"calibrate": {"coverage": 1}}, "calibrate.coverage"),
    "an unknown region": ({"ablate": {"regions": ["sacral"]}}, "ablate.regions.0"),
    "an unknown loss": ({"ablate": {"losses": ["l3"]}}, "ablate.losses.0"),
    "a grid of nothing": ({"ablate": {"seeds": []}}, "ablate.seeds"),
    "a name of nothing": ({"name": ""}, "name"),
    "fewest levels above most": ({"segment": {"min_levels": 25}}, "min_levels"),
    "a length that falls": ({"segment": {"length_mm": [750, 330]}}, "length_mm"),
    "a body that falls": ({"segment": {"body_height_mm": [50, 4]}}, "body_height_mm"),
    "a disc that falls": ({"segment": {"disc_height_mm": [22, 1]}}, "disc_height_mm"),
    "a rate that falls": ({"sweep": {"learning_rate": [1e-2, 3e-4]}}, "learning_rate"),
    "a decay that falls": ({"sweep": {"weight_decay": [1e-2, 1e-5]}}, "weight_decay"),
    "a dropout that falls": ({"sweep": {"dropout": [0.5, 0]}}, "dropout"),
    "a dropout of all": ({"sweep": {"dropout": [0.5, 1]}}, "dropout"),
    "a logarithm of 0": ({"sweep": {"learning_rate": [0, 1e-2]}}, "learning_rate.0"),
    "a station longer than a spine": ({"ingest": {"min_extent_mm": 500}}, "extent_mm"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_is_impossible_is_refused_where_it_is_written(name: str) -> None:
    values, place = IMPOSSIBLE[name]
    with pytest.raises(BadStudy, match=r"^the study: ") as told:
        study_from(values)
    assert place in str(told.value)
    assert len(str(told.value)) < SENTENCE


def numbers_of(model: type[Section], place: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every number of a study: its sections and keys, and `0` for the entry of a list."""
    for name, field in model.model_fields.items():
        here = (*place, field.alias or name)
        annotation: Any = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, Section):
            yield from numbers_of(annotation, here)
            continue
        inner = {getattr(e, "__origin__", e) for e in typing.get_args(annotation)} & {int, float}
        if typing.get_origin(annotation) is tuple and inner:
            yield (*here, "0")
        elif annotation in (int, float) or inner:
            yield here


NUMBERS = list(numbers_of(Study))


def said_by(work: Callable[[], Any]) -> str:
    """Why it refuses; nothing when it does not."""
    try:
        work()
    except BadStudy as error:
        return str(error)
    return ""


def is_one_short_sentence(said: str) -> bool:
    return len(said) < SENTENCE and "\n" not in said


def with_number(place: tuple[str, ...], number: Any) -> dict[str, Any]:
    """The default study with one number replaced."""
    values: Any = Study().model_dump(mode="json", by_alias=True)
    entry = values
    for part in place[:-1]:
        entry = entry[part]
    entry[0 if place[-1] == "0" else place[-1]] = number
    return dict(values)


def test_the_sweep_meets_every_section_that_has_numbers() -> None:
    assert len(NUMBERS) > 70
    found = {place[0] for place in NUMBERS}
    assert found >= {"seed", "ingest", "segment", "prepare", "cohort", "stability", "train"}
    assert found >= {"calibrate", "associate", "explain", "report", "ablate", "sweep", "cluster"}
    for place in NUMBERS:
        study_from(with_number(place, value_at(place)))


def value_at(place: tuple[str, ...]) -> Any:
    entry: Any = Study().model_dump(mode="json", by_alias=True)
    for part in place:
        entry = entry[0 if part == "0" else part]
    return entry


@pytest.mark.parametrize("place", NUMBERS, ids=".".join)
@pytest.mark.parametrize(
    "number", [math.nan, math.inf, -math.inf, 1e300, -1e300, 10**12, -(10**12), 10**40, -1]
)
def test_no_number_is_without_bounds(place: tuple[str, ...], number: float) -> None:
    with pytest.raises(BadStudy) as told:
        study_from(with_number(place, number))
    assert ".".join(place) in str(told.value)
    assert len(str(told.value)) < SENTENCE


@settings(max_examples=300, deadline=None)
@given(place=st.sampled_from(NUMBERS), number=st.one_of(st.integers(), st.floats(), st.text()))
def test_any_number_is_refused_in_a_sentence_or_makes_a_study_with_an_address(
    place: tuple[str, ...], number: Any
) -> None:
    from spineage.run.context import digest_of

    def work() -> None:
        assert digest_of(study_from(with_number(place, number)).model_dump(mode="json"))

    assert is_one_short_sentence(said_by(work))


@settings(max_examples=300, deadline=None)
@given(text=st.one_of(st.text(), st.text(alphabet="&*!|>%@`{}[],:?-#'\"\\ \nabc0129.~<")))
def test_any_text_is_a_study_or_a_sentence(
    text: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "study.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    said = said_by(lambda: read_study(path))
    assert is_one_short_sentence(said.replace(str(path), "study.yaml"))


def test_a_stretch_of_the_road_that_runs_backwards_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["run", "--from", "score", "--to", "cohort"])
    assert done.exit_code == 2
    assert "score comes after cohort" in done.output
    assert not list(tmp_path.iterdir())


def test_a_login_in_a_value_that_does_not_fit_is_not_quoted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from spineage.run import entry

    (tmp_path / "s.yaml").write_text(yaml.safe_dump({"train": {"epochs": "ftp://a:s3cret@h/x"}}))
    assert entry.guarded(lambda: entry.open_study(str(tmp_path / "s.yaml")) and None) == 2
    assert "s3cret" not in capsys.readouterr().err


def test_a_login_is_taken_out_before_a_value_is_cut(tmp_path: Path) -> None:
    path, secret = tmp_path / "study.yaml", "Secret" * 9
    path.write_text(f'cluster: {{mlflow: ["https://user:{secret}@mlflow.example/"]}}')
    with pytest.raises(BadStudy) as caught:
        read_study(path)
    assert "Secret" not in str(caught.value)


def test_a_share_of_a_gpu_is_a_gpu_and_no_gpu_is_the_cpu() -> None:
    def study(gpus: float, workers: int) -> Study:
        return Study(cluster=Cluster(gpus_per_worker=gpus, train_workers=workers))

    assert [study(g, 0).cluster.device for g in (0, 0.5, 1)] == ["cpu", "cuda", "cuda"]
    assert study(0, 0).cluster.train_worker_range == (0, 0)
    assert study(0.5, 0).cluster.train_worker_range == (1, 1), "the driver may have no GPU"
    assert study(0.5, 3).cluster.train_worker_range == (3, 3)


def test_workers_of_a_training_are_a_number_or_a_range_and_share_a_batch() -> None:
    def workers(asked: object, batch_size: int = 8) -> tuple[int, int]:
        values = {"cluster": {"train_workers": asked}, "train": {"batch_size": batch_size}}
        return study_from(values).cluster.train_worker_range

    assert [workers(asked) for asked in (3, [1, 8])] == [(3, 3), (1, 8)]
    for asked in ([0, 2], [3, 2], [1], -1):
        with pytest.raises(BadStudy, match="train_workers"):
            workers(asked)
    with pytest.raises(BadStudy, match=r"share a batch of 4 scans \(train.batch_size\)"):
        workers([1, 5], batch_size=4)


def test_workers_of_a_training_do_not_change_its_recipe() -> None:
    few, many = (study_from({"cluster": {"train_workers": n}}) for n in (1, 8))
    assert few.recipe("train") == many.recipe("train")
    with pytest.raises(BadStudy, match="rows_per_part is gone"):
        study_from({"cluster": {"rows_per_part": 8}})
    with pytest.raises(BadStudy, match=r"num_workers is cluster\.train_workers now"):
        study_from({"train": {"num_workers": 2}})


def test_labels_of_nodes_are_rays_selectors() -> None:
    labels = {"segment": {"ray.io/accelerator-type": "in(L4, L40S)"}}
    study = study_from({"cluster": {"labels": labels}})
    assert study.cluster.labels_of("segment") == labels["segment"]
    assert study.cluster.labels_of("train") == {}
    with pytest.raises(BadStudy, match=r"labels\.train need a number in train_workers"):
        study_from({"cluster": {"labels": {"train": {"gpu": "L4"}}, "train_workers": [1, 2]}})
    for wrong in ({"sgment": {}}, {"segment": {"gpu": "!!L4"}}, {"segment": {"gpu": "in()"}}):
        with pytest.raises(BadStudy, match="labels"):
            study_from({"cluster": {"labels": wrong}})


@pytest.mark.parametrize("blank", [" ", "\u00a0", "\u2003", "\u200b"])
@pytest.mark.parametrize(
    "key", ["workspace", "inputs.scans", "inputs.key_file", "cluster.mlflow", "cluster.ray"]
)
def test_a_blank_in_an_address_is_refused_without_quoting_it(key: str, blank: str) -> None:
    section, _, name = key.partition(".")
    address = f"http://anna:correct{blank}horse@host/x"
    with pytest.raises(BadStudy, match=f"{key}.*%20") as told:
        study_from({section: {name: address} if name else address})
    assert "horse" not in str(told.value)
    study_from({section: {name: f"/a{blank}b"} if name else f"/a{blank}b"})


def test_so_is_one_of_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from spineage.run import entry

    (tmp_path / "s.yaml").write_text("name: a study")
    for options in ({"ray": "ray://a:s3cret x@h:1"}, {"workspace": "ftp://a:s3cret x@h/w"}):
        assert entry.guarded(lambda o=options: entry.open_study(str(tmp_path / "s.yaml"), **o)) == 2
        said = capsys.readouterr().err
        assert "%20" in said
        assert "s3cret" not in said
