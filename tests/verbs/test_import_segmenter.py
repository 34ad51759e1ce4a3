"""The label map that a user hands over."""

from __future__ import annotations

from pathlib import Path

import pytest

from spineage.errors import BadStudy
from spineage.segmenter.training.raw import cases_from_raw
from spineage.verbs.import_segmenter import read_map

STRANGE = ["[" * 100_000, '{"a":' * 1000 + "1" + "}" * 1000, "[]", "\x00", "5", "\ufeff{"]


def test_a_label_map_is_read(tmp_path: Path) -> None:
    (tmp_path / "map.json").write_text('{"bone": "vertebra"}')
    assert read_map(str(tmp_path / "map.json")) == {"bone": "vertebra"}


@pytest.mark.parametrize("text", [*STRANGE, '{"bone": 5}', '{"bone": NaN}'], ids=range(8))
def test_a_label_map_that_is_none_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "map.json").write_text(text)
    with pytest.raises(BadStudy, match=r"name in dataset\.json") as told:
        read_map(str(tmp_path / "map.json"))
    assert len(str(told.value)) < 300 + len(str(tmp_path))


@pytest.mark.parametrize("text", STRANGE, ids=range(6))
def test_so_is_a_dataset_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(BadStudy, match="raw layout"):
        cases_from_raw(tmp_path, None)
