"""A study's masks against masks that people have drawn by hand: Dice by tissue, and levels named alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from spineage.errors import BadScan, BadStudy
from spineage.io.people.identity import Keyed, load_key
from spineage.io.scans.given import Given, find_given, read_given
from spineage.io.storage.parts import PartReader
from spineage.io.storage.volumes import mask_from_row
from spineage.run.context import Context
from spineage.run.progress import plain_progress
from spineage.science.spine.dice import Agreement, agreement
from spineage.science.spine.foreign import adapt, lay_on
from spineage.segmenter.folder import given_by
from spineage.tables import KEY, MASKS

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """num_scans: of the study that have a mask; refused: of the drawn ones, by code; pairs: of the others."""

    num_scans: int
    num_drawn: int
    refused: dict[str, int]
    pairs: tuple[Agreement, ...]

    def as_json(self) -> Row:
        """Figures over people: medians, and the shares of levels and of whole spines named alike."""
        tissues = sorted({name for pair in self.pairs for name in pair.dice})
        alike = [pair.num_named_alike / pair.num_levels for pair in self.pairs if pair.num_levels]
        return {
            "masks": self.num_scans,
            "drawn_by_hand": self.num_drawn,
            "compared": len(self.pairs),
            "refused": self.refused,
            "dice_median": {
                t: round(float(np.median([p.dice[t] for p in self.pairs if t in p.dice])), 4)
                for t in tissues
            },
            "levels_named_alike": round(float(np.mean(alike)), 4) if alike else None,
            "spines_named_alike": round(float(np.mean([a == 1 for a in alike])), 4)
            if alike
            else None,
        }


def compare(context: Context, masks: str, masks_of: str) -> Comparison:
    """Compare every mask of `segment` with the one of its scan below `masks`, on the grid of the former.

    masks, masks_of: as `segment.masks` and `segment.masks_of`. Raises BadStudy when there are no masks, or
    nobody's.
    """
    table = given_by(masks_of)
    known = table if masks_of.endswith(".json") else None
    tool = "a map of one's own" if known else masks_of
    keyed = Keyed(load_key(context.study))
    given = find_given(masks, masks_of, context.study.inputs.scans, keyed)
    masked = context.having("masks", context.read("sources"))
    people = context.read("scans", [*KEY, "person_id", "exam_id"])
    rows = masked.merge(people, on=KEY).sort_values([*KEY])
    reader, progress = PartReader(context.store, MASKS), plain_progress("compared")
    pairs: list[Agreement] = []
    refused: dict[str, int] = {}
    drawn = list(_drawn(rows, given))
    if not drawn:
        raise BadStudy(
            f"none of the {given.num} masks belongs to one of the {len(rows)} scans with a mask"
        )
    for number, (row, files) in enumerate(drawn, 1):
        try:
            volumes = [read_given({"location": at, "seal": "", "key": ""}) for at in files]
            truth, tissues = [*volumes, None][:2]
            assert truth
            found = mask_from_row(reader.row(row["part"], row["scan_id"], row["source_digest"]))
            laid = lay_on(adapt(truth, tool, tissues, known), found)
            pairs.append(agreement(found, laid, has_levels=table.schema == "levels"))
        except BadScan as fault:
            refused[fault.code] = refused.get(fault.code, 0) + 1
        progress(number, len(drawn))
    return Comparison(len(rows), len(drawn), refused, tuple(pairs))


def _drawn(rows: pd.DataFrame, given: Given) -> Iterator[tuple[Row, tuple[str, ...]]]:
    """Scans that somebody has drawn, with the files of that."""
    for row in rows.to_dict("records"):
        stations = json.loads(row["stations_json"])
        images = [one["location"] for station in stations for one in station]
        files = given.of(images, row["person_id"], row["exam_id"])
        if files:
            yield {str(k): v for k, v in row.items()}, files


def tell(found: Comparison, say: Callable[[str], None]) -> None:
    """The same in words, what could not be compared first."""
    figures = found.as_json()
    say(
        f"{figures['compared']} of {found.num_scans} masks compared; {found.num_drawn} are drawn by hand"
        + "".join(f", {num} refused as {code}" for code, num in found.refused.items())
    )
    for tissue, dice in figures["dice_median"].items():
        say(f"  Dice {tissue}: {dice:.3f} (median)")
    if figures["levels_named_alike"] is not None:
        say(
            f"  named alike: {figures['levels_named_alike']:.1%} of vertebrae, all of them in "
            f"{figures['spines_named_alike']:.1%} of spines"
        )
