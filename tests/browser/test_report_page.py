"""The report in a real browser, on a desk and on a phone: nothing missing, asked for or cut off."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from spineage.stages.report import stage as report
from tests.browser.chromium import PROGRAM, Tab, tab
from tests.made.report_data import shared_report

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="Chromium is not installed: it is not looked at"),
    pytest.mark.slow,
]

WIDTHS = (1280, 390)
BLANKNESS = """
(async () => {
  const found = [];
  for (const image of document.querySelectorAll('img')) {
    await image.decode();
    const canvas = document.createElement('canvas');
    canvas.width = 160; canvas.height = 160;
    const pen = canvas.getContext('2d', {willReadFrequently: true});
    pen.fillStyle = 'white'; pen.fillRect(0, 0, 160, 160);
    pen.drawImage(image, 0, 0, 160, 160);
    const bytes = pen.getImageData(0, 0, 160, 160).data;
    let marked = 0;
    for (let i = 0; i < bytes.length; i += 4) marked += bytes[i] + bytes[i + 1] + bytes[i + 2] < 600;
    found.push({alt: image.alt, width: image.naturalWidth, marked: marked / (160 * 160)});
  }
  return found;
})()
"""


@pytest.fixture(scope="module")
def url() -> str:
    _, context = shared_report()
    return Path(report.report_path(context)).as_uri()


def looking(url: str, width: int, ask: Callable[[Tab], Awaitable[Any]]) -> Any:
    """Open the page at a width, ask, close."""

    async def visit() -> Any:
        async with tab() as page:
            await page.open(url, width)
            return await ask(page)

    return asyncio.run(visit())


def test_the_page_loads_without_a_complaint_or_a_request(url: str) -> None:
    async def ask(page: Tab) -> Any:
        return page.complaints(), page.requests(), await page.value("document.title")

    complaints, requests, title = looking(url, 1280, ask)
    assert complaints == []
    assert requests == []
    assert title == "Spine age"


def test_every_figure_is_there_and_is_not_blank(url: str) -> None:
    images = looking(url, 1280, lambda page: page.value(BLANKNESS))
    assert len(images) > 25
    for image in images:
        assert image["width"] > 0, image
        assert image["marked"] > 0.004, image
        assert image["alt"], "a figure needs words for who cannot see it"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_runs_off_the_side_even_with_all_opened(url: str, width: int) -> None:
    async def ask(page: Tab) -> Any:
        closed = await page.value("document.documentElement.scrollWidth")
        await page.value("document.querySelectorAll('details').forEach(one => one.open = true)")
        return closed, await page.value("document.documentElement.scrollWidth")

    assert max(looking(url, width, ask)) <= width


@pytest.mark.parametrize("width", WIDTHS)
def test_no_words_lie_on_top_of_others(url: str, width: int) -> None:
    """In a person's line the id, the age, the strip and the interval have places of their own."""

    async def ask(page: Tab) -> Any:
        return await page.value(
            "[...document.querySelector('details.person summary').children]"
            ".map(c => c.getBoundingClientRect())"
            ".map(r => [r.left, r.right, r.top, r.bottom])"
        )

    boxes = looking(url, width, ask)
    assert len(boxes) == 4
    for i, (left, right, top, bottom) in enumerate(boxes):
        for other_left, other_right, other_top, other_bottom in boxes[i + 1 :]:
            is_apart = (
                right <= other_left + 1
                or other_right <= left + 1
                or bottom <= other_top + 1
                or other_bottom <= top + 1
            )
            assert is_apart


def test_a_person_opens_on_a_click_and_shows_the_interval(url: str) -> None:
    async def ask(page: Tab) -> Any:
        await page.value("document.querySelector('details.person summary').click()")
        return await page.value("document.querySelector('details.person .first').checkVisibility()")

    assert looking(url, 1280, ask) is True


def test_words_can_be_read_against_the_paper(url: str) -> None:
    """WCAG 2.2, 1.4.3: a contrast of at least 4.5 for text, whatever the tone."""

    async def ask(page: Tab) -> Any:
        return await page.value(
            "['p','figcaption','.caption','td','.byline','.mark','.banner','.gist','.who','summary','.small']"
            ".map(q => document.querySelector(q)).filter(e => e).map(e => { let b = e;"
            " while (b && getComputedStyle(b).backgroundColor === 'rgba(0, 0, 0, 0)') b = b.parentElement;"
            " return [getComputedStyle(e).color, getComputedStyle(b || document.body).backgroundColor]; })"
        )

    for ink, paper in looking(url, 1280, ask):
        assert contrast(ink, paper) >= 4.5, (ink, paper)


def contrast(ink: str, paper: str) -> float:
    """WCAG 2.2's ratio of two CSS colours."""
    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    parts = [int(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
