"""One self-contained HTML file: text, tables and figures in, a string out. Nothing in it asks the
network.

A chapter is a title and blocks; the template knows how each kind of block looks and nothing of the study.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from spineage.report.figures.style import look


@dataclass(frozen=True)
class Text:
    """Paragraphs. `tone` is "", "note" or "warning"."""

    paragraphs: tuple[str, ...]
    tone: str = ""
    kind: str = "text"


@dataclass(frozen=True)
class Heading:
    """Divides a long chapter."""

    words: str
    kind: str = "heading"


@dataclass(frozen=True)
class Items:
    """Remarks that each start with a term in bold; with bullets, or as paragraphs."""

    items: tuple[tuple[str, str], ...]
    is_bulleted: bool = True
    kind: str = "items"


@dataclass(frozen=True)
class WordTable:
    """A table of words. Numbers are right-aligned: `numeric` says which columns. A folded one opens
    on a click.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()
    is_folded: bool = False
    kind: str = "grid"


@dataclass(frozen=True)
class Picture:
    """A figure with its caption; `alt` is what a reader who cannot see it is told."""

    source: str
    caption: str
    alt: str
    width_px: int
    kind: str = "picture"


Block = Text | Heading | Items | WordTable | Picture
MOST_ROWS_OPEN = 24


@dataclass(frozen=True)
class Chapter:
    """One section of the report."""

    anchor: str
    title: str
    blocks: tuple[Block, ...] = field(default=())


def table(
    caption: str, columns: Sequence[str], rows: Sequence[Sequence[object]], text_columns: int = 1
) -> WordTable:
    """A table whose columns after the first `text_columns` hold numbers; a long one is folded."""
    cells = tuple(tuple(str(cell) for cell in row) for row in rows)
    numeric = frozenset(range(text_columns, len(columns)))
    return WordTable(caption, tuple(columns), cells, numeric, is_folded=len(cells) > MOST_ROWS_OPEN)


def drawing(figure: Figure, caption: str, alt: str) -> Picture:
    """A figure of lines and words, as SVG: sharp at any size, its text is text."""
    return Picture(_uri(_saved(figure, "svg"), "image/svg+xml"), caption, alt, _width_px(figure))


def photograph(figure: Figure, caption: str, alt: str) -> Picture:
    """A figure of pixels, as PNG at twice the screen's resolution."""
    return Picture(_uri(_saved(figure, "png"), "image/png"), caption, alt, _width_px(figure))


def png_uri(image_YXC: NDArray[np.uint8]) -> str:
    """A small picture [Y, X, 3] as a data URI; 128 colours are enough for a thumbnail."""
    sink = io.BytesIO()
    Image.fromarray(image_YXC).quantize(128, method=Image.Quantize.MEDIANCUT).save(
        sink, "PNG", optimize=True
    )
    return _uri(sink.getvalue(), "image/png")


def render(values: Mapping[str, Any]) -> str:
    """The report as HTML; a name the template asks for and `values` lacks is a bug and raises."""
    environment = Environment(
        loader=PackageLoader("spineage.report", "templates"),
        autoescape=True,
        finalize=_unbroken,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**values)


def _unbroken(value: Any) -> Any:
    """A number and its percent sign stay on one line."""
    return value.replace(" %", "\u00a0%") if type(value) is str else value


def _saved(figure: Figure, form: str) -> bytes:
    """The figure as bytes; no date and no random ids, so that the same study gives the same file."""
    sink = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
    with look():
        figure.savefig(
            sink, format=form, dpi=130, bbox_inches="tight", pad_inches=0.04, metadata=metadata
        )
    return sink.getvalue()


def _width_px(figure: Figure) -> int:
    return round(figure.get_figwidth() * 96)


def _uri(data: bytes, mime: str) -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"
