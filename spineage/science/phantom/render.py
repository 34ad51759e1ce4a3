"""One exam as a volume with its labels: the skeleton is built, painted from the skin inwards, then scanned.

Letters: R A S voxel axes (left->right, posterior->anterior, inferior->superior).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spineage.science.phantom.anatomy import build_spine
from spineage.science.phantom.body import draw_body
from spineage.science.phantom.bones import draw_atlas_and_dens, draw_vertebra
from spineage.science.phantom.canal import draw_sac, map_canal
from spineage.science.phantom.canvas import Canvas
from spineage.science.phantom.epidural import draw_epidural
from spineage.science.phantom.joints import draw_disc, draw_flavum, draw_schmorl_nodes
from spineage.science.phantom.neighbours import draw_brain, draw_pelvis, draw_ribs, draw_skull_base
from spineage.science.phantom.population import Exam
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.room import measure_room
from spineage.science.phantom.sacral import draw_sacrum
from spineage.science.phantom.scanner import scan
from spineage.science.phantom.skeleton import Spine
from spineage.science.scan.geometry import Volume

DEPTH_MM, LENGTH_MM = 204.8, 691.2  # 128 x 432 pixels at demo resolution
BEHIND_MM = 112.0  # of the field of view, behind the middle of the bodies


@dataclass(frozen=True)
class Rendered:
    """A whole-spine scan on one grid: image float32, semantic and levels uint8 (see `spine/labels.py`)."""

    image: Volume
    semantic: Volume
    levels: Volume


def render(exam: Exam, recipe: PhantomRecipe) -> Rendered:
    """Draw one exam. Depends on (recipe, exam) only, so exams can be drawn in any order and anywhere."""
    spine = build_spine(exam)
    canvas = _empty_canvas(exam, recipe)
    depth_mm = draw_body(canvas, exam, spine)
    draw_brain(canvas, spine)
    draw_pelvis(canvas, spine)
    near, room = map_canal(canvas, spine.course), measure_room(exam, spine)
    draw_epidural(canvas, spine, near, room)
    draw_skull_base(canvas, spine)
    draw_ribs(canvas, exam, spine)
    for disc in spine.discs:
        draw_disc(canvas, exam, disc)
    draw_sacrum(canvas, exam, spine)
    for vertebra in reversed(spine.vertebrae):
        draw_vertebra(canvas, exam, spine, vertebra)
    draw_atlas_and_dens(canvas, exam, spine)
    draw_schmorl_nodes(canvas, exam, spine)
    for disc in spine.discs:
        draw_flavum(canvas, exam, spine, disc)
    draw_sac(canvas, exam, spine, near, room)
    image = scan(
        canvas.image,
        exam.scanner,
        depth_mm=depth_mm,
        metal_index=_metal_index(canvas, exam, spine),
        spacing_mm=(recipe.slice_mm, recipe.in_plane_mm, recipe.in_plane_mm),
    )
    affine = _affine(canvas)
    return Rendered(
        Volume(image, affine), Volume(canvas.semantic, affine), Volume(canvas.levels, affine)
    )


def _empty_canvas(exam: Exam, recipe: PhantomRecipe) -> Canvas:
    pixel = recipe.in_plane_mm
    num_a, num_s = round(DEPTH_MM / pixel), round(LENGTH_MM / pixel)
    shift = exam.scanner.shift_mm
    r_mm = (np.arange(recipe.num_slices) - (recipe.num_slices - 1) / 2) * recipe.slice_mm + shift[0]
    a_mm = np.arange(num_a) * pixel - BEHIND_MM + shift[1]
    s_mm = (np.arange(num_s) - (num_s - 1) / 2) * pixel + shift[2]
    return Canvas(r_mm.astype(np.float32), a_mm.astype(np.float32), s_mm.astype(np.float32))


def _affine(canvas: Canvas) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    affine = np.eye(4)
    for axis, mm in enumerate((canvas.r_mm, canvas.a_mm, canvas.s_mm)):
        affine[axis, axis] = round(float(mm[-1] - mm[0]) / (len(mm) - 1), 6)
        affine[axis, 3] = round(float(mm[0]), 4)
    return affine


def _metal_index(canvas: Canvas, exam: Exam, spine: Spine) -> tuple[float, float, float]:
    """Voxel of the implant: behind the canal, in the laminae."""
    at = int(exam.scanner.metal_at * (len(spine.course.wall) - 1))
    a_mm, s_mm = spine.course.wall[at] + spine.course.back[at] * 24.0
    return (
        (len(canvas.r_mm) - 1) / 2,
        float(np.interp(a_mm, canvas.a_mm, np.arange(len(canvas.a_mm)))),
        float(np.interp(s_mm, canvas.s_mm, np.arange(len(canvas.s_mm)))),
    )
