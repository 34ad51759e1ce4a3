"""MLflow's own page of a study in a real browser: a researcher finds arms, curves and the model there."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from spineage.stages import ablate, calibrate
from tests.browser.chromium import PROGRAM, Tab, tab
from tests.made.mlflow_server import mlflow_server
from tests.made.planted_study import SEGMENTER, Planted, plant, planted_study
from tests.made.toy_study import toy_study

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed: it is not looked at"),
    pytest.mark.slow,
]

GRID = {"regions": ["whole", "lumbar"], "losses": ["l1"], "fractions": [1.0], "seeds": [0]}
DRAWN_WITHIN_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, ray_session: None) -> Iterator[str]:
    """With a grid of one study and the model of another."""
    with mlflow_server(tmp_path_factory.mktemp("server"), "sqlite") as uri:
        there = {"name": "page", "cluster": {"mlflow": uri}}
        ablate.run(toy_study(tmp_path_factory.mktemp("toy"), ablate=GRID, **there))
        context = Planted(
            planted_study(tmp_path_factory.mktemp("planted"), **there), say=lambda text: None
        )
        plant(context)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(calibrate, "segmenter_of", lambda section: SEGMENTER)
            calibrate.run(context)
        yield uri


def shown(url: str, *words: str, picture: str) -> str:
    """The text of a page once all of these words are in it; SPINEAGE_TEST_PICTURES keeps how it looks."""

    async def visit() -> str:
        async with tab() as page:
            await page.open(url, 1400)
            text = await _text_with(page, words)
            if folder := os.environ.get("SPINEAGE_TEST_PICTURES"):
                await asyncio.sleep(3)  # charts are drawn after their words
                await page.picture(Path(folder) / f"{picture}.png")
            return text

    return asyncio.run(visit())


async def _text_with(page: Tab, words: tuple[str, ...]) -> str:
    until = time.monotonic() + DRAWN_WITHIN_S
    while True:
        text: Any = await page.value("document.body.innerText")
        if all(word in text for word in words):
            return str(text)
        assert time.monotonic() < until, (words, text[:3000])
        await asyncio.sleep(0.5)


def test_the_experiment_shows_what_was_run(server: str) -> None:
    client = mlflow.MlflowClient(server)
    number = client.get_experiment_by_name("page").experiment_id
    # the arms are folded into the grid that they are of
    url = f"{server}/#/experiments/{number}/runs"
    shown(url, "ablate", "calibrate", "4 matching runs", picture="runs")


def test_a_run_shows_its_curves_and_what_made_it(server: str) -> None:
    client = mlflow.MlflowClient(server)
    number = client.get_experiment_by_name("page").experiment_id
    [arm] = client.search_runs([number], "attributes.run_name = 'whole l1 1 seed 0'")
    url = f"{server}/#/experiments/{number}/runs/{arm.info.run_id}"
    shown(url, "Parent run", "ablate", "Finished", "test_mae_years", "num_train", picture="arm")
    shown(f"{url}/model-metrics", "train_mae_years", picture="curves")


def test_the_version_of_the_model_shows_the_correction(server: str) -> None:
    shown(
        f"{server}/#/models/spine-age-page/versions/1",
        "Age-bias correction of degree", "bias.coefficients", "champion",
        picture="model",
    )  # fmt: skip
