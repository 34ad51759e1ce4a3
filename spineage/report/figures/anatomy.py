"""Pictures of spines: levels on the mid-sagittal slice, Grad-CAM, occlusion, discs by age, a
person's thumbnail.

Letters: R left->right, A posterior->anterior, S inferior->superior; Y X rows and columns of a picture.
Every picture has the head up and the front of the body left, as radiologists hang a sagittal scan.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from scipy import ndimage

from spineage.report.figures.style import (
    BLUE,
    MUTED,
    RUST,
    STATUS_COLOURS,
    STATUS_NAMES,
    look,
    new_figure,
    note,
)
from spineage.science.frames import rows_of
from spineage.science.spine.labels import LEVELS, VERTEBRAE, region_of

_REGION_COLOURS = {
    "cervical": ("#35a79c", "#7fd0c8"),
    "thoracic": ("#3f7fbf", "#8db8e2"),
    "lumbar": ("#d98f2b", "#f0c27f"),
}
_OTHER_COLOURS = {"sacrum": "#9a5fa8", "canal": "#d8e86a", "cord": "#f2f2f2"}
_DISC_COLOUR = "#d6455d"


@dataclass(frozen=True)
class SagittalSlice:
    """One sagittal slice as it is drawn.

    image_YX: signal; levels_YX: labels in the levels schema; height_mm and width_mm of the whole picture.
    """

    image_YX: NDArray[np.float64]
    levels_YX: NDArray[np.uint8]
    height_mm: float
    width_mm: float


def mid_sagittal_index(levels_RAS: NDArray[np.uint8]) -> int:
    """The slice that shows most of the canal and cord; the middle one when neither is labelled."""
    inside = (levels_RAS == LEVELS["canal"]) | (levels_RAS == LEVELS["cord"])
    counts = inside.sum(axis=(1, 2))
    return int(counts.argmax()) if counts.any() else levels_RAS.shape[0] // 2


def for_display(slice_AS: NDArray[np.generic]) -> NDArray[np.generic]:
    """[A, S] to rows from head to foot and columns from front to back."""
    return slice_AS[::-1, ::-1].T


def mid_sagittal(
    voxels_RAS: NDArray[np.generic],
    levels_RAS: NDArray[np.uint8],
    spacing_mm: tuple[float, float, float],
) -> SagittalSlice:
    """The mid-sagittal slice of a volume and its labels, ready to draw."""
    r = mid_sagittal_index(levels_RAS)
    image, levels = for_display(voxels_RAS[r]), for_display(levels_RAS[r])
    return SagittalSlice(
        image.astype(np.float64),
        levels.astype(np.uint8),
        height_mm=image.shape[0] * spacing_mm[2],
        width_mm=image.shape[1] * spacing_mm[1],
    )


def box_of_spine(picture: SagittalSlice, margin_mm: float) -> tuple[slice, slice]:
    """Rows and columns that hold every labelled pixel and a margin; everything when nothing is
    labelled.
    """
    rows, columns = picture.levels_YX.shape
    y, x = np.nonzero(picture.levels_YX)
    if not len(y):
        return slice(0, rows), slice(0, columns)
    dy = round(margin_mm / picture.height_mm * rows)
    dx = round(margin_mm / picture.width_mm * columns)
    return (
        slice(max(0, int(y.min()) - dy), min(rows, int(y.max()) + dy + 1)),
        slice(max(0, int(x.min()) - dx), min(columns, int(x.max()) + dx + 1)),
    )


def cropped(picture: SagittalSlice, box: tuple[slice, slice]) -> SagittalSlice:
    """A part of the slice; millimetres stay right."""
    image, levels = picture.image_YX[box], picture.levels_YX[box]
    share = np.array(image.shape) / np.array(picture.image_YX.shape)
    return SagittalSlice(
        image, levels, picture.height_mm * float(share[0]), picture.width_mm * float(share[1])
    )


def level_colours() -> NDArray[np.float64]:
    """[256, 3] colour of every label: neighbours differ in shade, regions in hue."""
    colours = np.zeros((256, 3))
    for i, name in enumerate(VERTEBRAE):
        colours[LEVELS[name]] = to_rgb(_REGION_COLOURS[region_of(name)][i % 2])
    for name, value in LEVELS.items():
        if name.startswith("disc_below_"):
            colours[value] = to_rgb(_DISC_COLOUR)
    for name, colour in _OTHER_COLOURS.items():
        colours[LEVELS[name]] = to_rgb(colour)
    return colours


def grey(image_YX: NDArray[np.float64]) -> NDArray[np.float64]:
    """[Y, X, 3] in 0-1: the 99.5th percentile of what is not empty is white."""
    inside = image_YX[image_YX > 0]
    white = float(np.percentile(inside, 99.5)) if inside.size else 1.0
    return np.repeat(np.clip(image_YX / white, 0, 1)[..., None], 3, axis=2)


def coloured(picture: SagittalSlice, opacity: float = 0.45) -> NDArray[np.float64]:
    """[Y, X, 3]: the slice with its labels as a tint."""
    base = grey(picture.image_YX)
    tint = level_colours()[picture.levels_YX]
    is_labelled = (picture.levels_YX > 0)[..., None]
    return np.where(is_labelled, (1 - opacity) * base + opacity * tint, base)


def thumbnail(picture: SagittalSlice) -> NDArray[np.uint8]:
    """[Y, X, 3] bytes: the slice and, beside it, the same slice with its levels; one pixel per
    voxel.
    """
    pair = np.concatenate([grey(picture.image_YX), coloured(picture, 0.6)], axis=1)
    return (pair * 255).round().astype(np.uint8)


def levels_on_slices(pictures: Sequence[tuple[str, SagittalSlice]]) -> Figure:
    """A few scans with the levels found on them, named; each as (title, slice)."""
    with look():
        widths = [picture.width_mm for _, picture in pictures]
        tallest = max(picture.height_mm for _, picture in pictures)
        figure = new_figure(min(9.6, 7.2 * sum(widths) / tallest), 7.5)
        panels = figure.subplots(1, len(pictures), squeeze=False, width_ratios=widths)[0]
        for panel, (title, picture) in zip(panels, pictures, strict=True):
            _show(panel, coloured(picture, 0.4), picture)
            _name_levels(panel, picture)
            panel.set_title(title, fontsize=8.5, fontweight="normal")
    return figure


def _show(panel: Axes, image: NDArray[np.float64], picture: SagittalSlice) -> None:
    panel.imshow(
        image, extent=(0, picture.width_mm, picture.height_mm, 0), interpolation="bilinear"
    )
    panel.set(xticks=[], yticks=[], anchor="N")
    panel.grid(False)
    for spine in panel.spines.values():
        spine.set_visible(False)


def _name_levels(panel: Axes, picture: SagittalSlice) -> None:
    """Each vertebra's name just in front of its body."""
    rows, columns = picture.levels_YX.shape
    for name in (*VERTEBRAE, "sacrum"):
        y, x = _body(picture.levels_YX, LEVELS[name])
        if len(y) < 8:
            continue
        front = float(np.percentile(x, 3)) / columns * picture.width_mm
        middle = float(np.median(y)) / rows * picture.height_mm
        panel.text(
            front - 4, middle, "S1" if name == "sacrum" else name, color="white", fontsize=6, ha="right",
            va="center", bbox={"facecolor": "black", "alpha": 0.35, "pad": 0.6, "linewidth": 0}, clip_on=True,
        )  # fmt: skip


def _body(levels_YX: NDArray[np.uint8], label: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of a vertebra in front of the canal: its body without its spinous process."""
    is_canal = (levels_YX == LEVELS["canal"]) | (levels_YX == LEVELS["cord"])
    columns = levels_YX.shape[1]
    wall = np.where(is_canal.any(axis=1), is_canal.argmax(axis=1), columns)
    y, x = np.nonzero(levels_YX == label)
    is_front = x < wall[y]
    return (y[is_front], x[is_front]) if is_front.any() else (y, x)


PAPER_SCALE = 288.0


def paper_transform(cam: NDArray[np.float64]) -> NDArray[np.float64]:
    """The paper's display transform f(x) = max(ln(288 x), 1) of a 0-1 map.

    It clamps everything below e / 288 = 0.94 % of the maximum to 1 and stretches the rest by the
    logarithm, so it makes faint regions look strong: a display option, beside the linear map.
    """
    return np.maximum(np.log(np.maximum(PAPER_SCALE * cam, 1e-12)), 1.0)


def gradcam(pictures: Sequence[tuple[str, SagittalSlice, NDArray[np.float64]]]) -> Figure:
    """For each (title, slice, map_YX in 0-1): anatomy, the linear map, and the paper's transform of
    it.
    """
    widths = [picture.width_mm for _, picture, _ in pictures for _ in range(3)]
    tallest = max(picture.height_mm for _, picture, _ in pictures)
    with look():
        figure = new_figure(9.6, 9.6 / sum(widths) * tallest + 0.9)
        panels = figure.subplots(1, len(widths), squeeze=False, width_ratios=widths)[0]
        shown = [_gradcam_of(panels[3 * i : 3 * i + 3], *one) for i, one in enumerate(pictures)]
        half = len(panels) // 2
        for mappable, label, below in (
            (shown[0][0], "linear: 0 to 1", panels[:half]),
            (
                shown[0][1],
                "display transform of the paper: f(x) = max(ln(288 x), 1)",
                panels[half:],
            ),
        ):
            figure.colorbar(
                mappable,
                ax=list(below),
                location="bottom",
                label=label,
                shrink=0.7,
                pad=0.02,
                aspect=40,
                panchor=False,
            )
    return figure


def _gradcam_of(
    panels: Sequence[Axes], title: str, picture: SagittalSlice, cam_YX: NDArray[np.float64]
) -> tuple[AxesImage, AxesImage]:
    is_spine = picture.image_YX > 0
    _show(panels[0], grey(picture.image_YX), picture)
    panels[0].set_title(title, fontsize=8.5, fontweight="normal")
    linear = _heat(panels[1], picture, np.where(is_spine, cam_YX, np.nan), 0.0, 1.0)
    stretched = np.where(is_spine, paper_transform(cam_YX), np.nan)
    return linear, _heat(panels[2], picture, stretched, 1.0, float(np.log(PAPER_SCALE)))


def _heat(
    panel: Axes, picture: SagittalSlice, heat_YX: NDArray[np.float64], low: float, high: float
) -> AxesImage:
    _show(panel, grey(picture.image_YX) * 0.7, picture)
    extent = (0, picture.width_mm, picture.height_mm, 0)
    return panel.imshow(heat_YX, cmap="inferno", vmin=low, vmax=high, alpha=0.75, extent=extent)


def occlusion(explanations: pd.DataFrame) -> Figure:
    """How much the prediction falls when a region is blanked: bars are means, dots are scans."""
    names = [str(name) for name in next(rows_of(explanations)).regions]
    effects = np.array([list(row) for row in explanations["occlusion_years"]], dtype=np.float64)
    with look():
        figure = new_figure(6.4, 0.8 + 0.4 * len(names))
        axes = figure.subplots()
        axes.axvline(0, color=MUTED, lw=1)
        axes.barh(range(len(names)), effects.mean(axis=0), color=BLUE, alpha=0.4, height=0.62)
        for i in range(len(names)):
            axes.scatter(effects[:, i], np.full(len(effects), i), s=16, color=BLUE, linewidths=0)
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlabel("prediction minus prediction without the region, years")
        axes.grid(axis="y", visible=False)
    return figure


def discs_by_age(discs: pd.DataFrame) -> Figure:
    """Mean lumbar disc height (mm) and signal (relative to CSF) of each scan against age, with
    straight fits.
    """
    panels_data = (
        ("lumbar disc height, mm", "lumbar_height_mm"),
        ("lumbar disc signal / CSF", "lumbar_signal"),
    )
    with look():
        figure = new_figure(8.2, 3.0)
        panels = figure.subplots(1, 2)
        for panel, (label, column) in zip(panels, panels_data, strict=True):
            known = discs.dropna(subset=["age_years", column])
            for status, some in known.groupby("status"):
                panel.scatter(
                    some["age_years"], some[column], s=15, alpha=0.7, linewidths=0,
                    color=STATUS_COLOURS[str(status)], label=STATUS_NAMES[str(status)],
                )  # fmt: skip
            slope, intercept = np.polyfit(known["age_years"], known[column], 1)
            ends = np.array([known["age_years"].min(), known["age_years"].max()])
            panel.plot(ends, intercept + slope * ends, color=RUST, lw=1.4)
            note(panel, f"{slope * 10:+.2g} per decade")
            panel.set(xlabel="age, years", ylabel=label)
            panel.margins(y=0.15)
        panels[1].legend(loc="upper right", handletextpad=0.2)
    return figure


def to_picture_grid(values_YX: NDArray[np.floating], shape: tuple[int, int]) -> NDArray[np.float64]:
    """A coarse map stretched to a picture's rows and columns, linearly."""
    factors = (shape[0] / values_YX.shape[0], shape[1] / values_YX.shape[1])
    stretched = ndimage.zoom(
        values_YX.astype(np.float64), factors, order=1, grid_mode=True, mode="nearest"
    )
    return np.asarray(stretched)
