"""What the segmenter and the network saw: levels, discs, and where the prediction comes from."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spineage.report.evidence import Evidence, Tables
from spineage.report.figures.anatomy import discs_by_age, gradcam, levels_on_slices, occlusion
from spineage.report.page import Block, Chapter, Text, drawing, photograph, table
from spineage.report.words import counted, number
from spineage.science.frames import rows_of
from spineage.science.spine.labels import region_of
from spineage.tables import KEY


def segmentation(evidence: Evidence) -> Chapter:
    """Levels on a few scans, discs against age, counts of levels."""
    tables, anatomy = evidence.tables, evidence.pictures.anatomy
    blocks: list[Block] = [Text((_counted(tables),))]
    if anatomy:
        what = (
            "whole anatomy"
            if evidence.pictures.is_whole_anatomy
            else "prepared scans, all but the spine masked out"
        )
        blocks.append(
            photograph(
                levels_on_slices(anatomy),
                f"Mid-sagittal slices with the levels found on them ({what}); head up, front of "
                "the body left. Vertebrae: teal cervical, blue thoracic, amber lumbar, purple "
                "sacrum; discs red, canal yellow-green, cord grey.",
                "Mid-sagittal slices of spines with named vertebrae",
            )
        )
    discs = lumbar_discs(tables)
    if discs["age_years"].notna().sum() > 2:
        blocks.append(
            drawing(
                discs_by_age(discs),
                "Mean height and T2 signal of the lumbar discs of each scan against age. Signal "
                "is relative to cerebrospinal fluid, which takes the scanner's gain out.",
                "Lumbar disc height and signal against age",
            )
        )
    return Chapter("segmentation", "The spine, level by level", tuple(blocks))


def _counted(tables: Tables) -> str:
    masks = tables.masks
    numbering = masks["numbering"].value_counts()
    odd = {str(name): num for name, num in numbering.items() if name != "regular"}
    kinds = ", ".join(f"{name} in {num:,}" for name, num in sorted(odd.items()))
    transitional = f", {sum(odd.values()):,} of transitional anatomy ({kinds})" if odd else ""
    num_inferred = int((masks["num_discs_inferred"] > 0).sum())
    inferred = (
        f" In {counted(num_inferred, 'scan')} a disc was not seen but is certain from its neighbours."
        if num_inferred
        else ""
    )
    return (
        "nnU-Net draws vertebrae, discs, canal, cord and sacrum; levels are counted along the "
        "canal from the sacrum up, and a spine whose levels cannot be told is refused. "
        f"{counted(len(masks), 'scan')} have levels, {int(numbering.get('regular', 0)):,} of them "
        f"regular{transitional}.{inferred}"
    )


def lumbar_discs(tables: Tables) -> pd.DataFrame:
    """Mean height (mm) and signal of the discs below L1 to L5 of each scan, with age and status."""
    rows = [
        (
            row.scan_id,
            row.source_digest,
            *(
                _mean_lumbar(row.disc_names, values)
                for values in (row.disc_height_mm, row.disc_signal)
            ),
        )
        for row in rows_of(tables.masks)
    ]
    discs = pd.DataFrame(rows, columns=[*KEY, "lumbar_height_mm", "lumbar_signal"])
    return discs.merge(tables.scans[[*KEY, "age_years", "status"]], on=KEY, how="inner")


def _mean_lumbar(names: np.ndarray, values: np.ndarray) -> float:
    chosen = [
        value
        for name, value in zip(names, values, strict=True)
        if region_of(name) == "lumbar" and np.isfinite(value)
    ]
    return float(np.mean(chosen)) if chosen else float("nan")


def explain(evidence: Evidence) -> Chapter | None:
    """Grad-CAM and occlusion; None when no scan was explained."""
    rows = evidence.tables.explanations
    if not len(rows):
        return None
    blocks: list[Block] = [
        Text(
            (
                "Grad-CAM weights the last convolution's maps by how much each moves the "
                "prediction; occlusion blanks one region and predicts again. Both describe the "
                "network, not the spine: they show what it uses, not what ages.",
            )
        )
    ]
    if evidence.pictures.gradcam:
        blocks.append(
            photograph(
                gradcam(evidence.pictures.gradcam),
                "For each scan: the prepared mid-sagittal slice, the linear map (0 to 1), and "
                "the same map through the display transform of the paper, f(x) = max(ln(288 x), "
                "1), which clamps everything under 0.94 % of the maximum and lifts what is faint.",
                "Grad-CAM maps over mid-sagittal slices, linear and transformed",
            )
        )
    if len(next(rows_of(rows)).regions):
        blocks += _occlusion(rows)
    return Chapter("explain", "Where the network looks", tuple(blocks))


def _occlusion(rows: pd.DataFrame) -> list[Block]:
    """What each region adds; a network of one region has no others to compare with."""
    picture = drawing(
        occlusion(rows),
        "What each region adds to the prediction: the prediction minus the prediction with "
        "that region blanked. Bars are means, dots are scans. A blanked scan is unlike any "
        "the network has seen; read the order, not the years.",
        "Effect of blanking each region on the prediction",
    )
    effects = np.array([list(row) for row in rows["occlusion_years"]], dtype=np.float64)
    cells = [
        (
            str(name).replace("_", " "),
            number(column.mean(), 2),
            number(column.min(), 2),
            number(column.max(), 2),
        )
        for name, column in zip(next(rows_of(rows)).regions, effects.T, strict=True)
    ]
    grid = table(
        f"The same in numbers, years, {counted(len(rows), 'scan')}.",
        ("region", "mean", "least", "most"),
        cells,
    )
    return [picture, grid]
