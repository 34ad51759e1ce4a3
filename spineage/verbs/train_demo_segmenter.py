"""Train the demo segmenter: phantoms in, a segmenter folder out. Needs nothing but this package.

spineage train-demo-segmenter --out FOLDER
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from spineage.errors import BadScan, BadStudy
from spineage.science.phantom import PhantomRecipe, Rendered, draw_population, render
from spineage.science.phantom.stations import stations_of
from spineage.science.scan.geometry import Volume
from spineage.science.scan.stitch import stitch
from spineage.science.spine.dice import dice_of
from spineage.science.spine.labels import LEVELS, SEMANTIC, VERTEBRAE
from spineage.science.spine.levels import Levels, find_levels
from spineage.segmenter.predict.predictor import load_segmenter
from spineage.segmenter.published.adopt import import_segmenter, write_manifest
from spineage.segmenter.published.isolation import is_possible
from spineage.segmenter.training.trainer import FEATURES, train_nnunet

UNSEEN = 1_000_003
"""Added to the seed of the people a segmenter is evaluated on, so that none was trained on."""
TRANSITIONAL_SHARE = 0.15
"""Above nature's 4-8 %, so that training and evaluation meet L4-last and L6-present spines."""
EPOCH = 50
"""Iterations between two entries in the log; nnU-Net's 250 would be silent for minutes."""
GOALS = {"vertebra": 0.90, "disc": 0.80, "canal": 0.85, "sacrum": 0.85}
LEVELS_GOAL = 0.97


def train(
    out: str | Path,
    *,
    num_people: int = 100,
    seed: int = 2511,
    iterations: int = 1300,
    batch_size: int = 1,
    learning_rate: float = 3e-3,
    features: tuple[int, ...] = FEATURES,
    threads: int = 1,
    device: str = "cpu",
    evaluate_people: int = 40,
    scratch: str | Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Render people, train nnU-Net on them, import the result into `out`, measure it on others; its
    manifest.

    The manifest's `origin` records command, seed and what was measured. `scratch` keeps nnU-Net's own
    folders; none removes them. On CPU one thread is best: two take twice the processor time for a tenth
    of the wall time. Raises BadStudy when `out` already holds a segmenter.
    """
    out = Path(out).absolute()  # workers have a folder of their own
    if (out / "manifest.json").exists():
        raise BadStudy(f"{out} already holds a segmenter; give another folder")
    torch.set_num_threads(threads)
    started = time.monotonic()

    def on_epoch(epoch: int, total: int, dice: list[float]) -> None:
        seconds = time.monotonic() - started
        say(f"epoch {epoch}/{total}: Dice {' '.join(f'{d:.3f}' for d in dice)} ({seconds:.0f} s)")

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(scratch or temporary) / "nnunet"
        say(f"rendering {num_people} phantom people, planning and preprocessing")
        result = train_nnunet(
            ((image, person.semantic) for image, person in _people(num_people, seed)),
            dict(SEMANTIC),
            folder,
            epochs=max(1, round(iterations / EPOCH)),
            iterations=min(iterations, EPOCH),
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device,
            features=features,
            on_epoch=on_epoch,
        )
        manifest = import_segmenter(
            result, out, trust=True, orientation="RAS", domain="phantom", isolated=is_possible()
        )
    measured = evaluate(str(out), evaluate_people, seed + UNSEEN, say=say)
    manifest["origin"] = {
        "command": f"spineage train-demo-segmenter --out OUT --people {num_people} --seed {seed} "
        f"--iterations {iterations}",
        "seed": seed,
        "phantom_recipe": _recipe(num_people, seed).digest,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "features": list(features),
        "expected": measured,
    }
    mean = sum(measured["dice"].values()) / len(measured["dice"])
    manifest["dice"] = (
        f"{mean:.3f} (mean over labels, on {measured['num_people']} unseen phantom people)"
    )
    write_manifest(out, manifest)
    return manifest


def _recipe(num_people: int, seed: int) -> PhantomRecipe:
    return PhantomRecipe(
        num_people=num_people,
        seed=seed,
        repeat_share=0.0,
        transitional_share=TRANSITIONAL_SHARE,
        artefact_share=0.3,
    )


def _people(num_people: int, seed: int) -> Iterator[tuple[Volume, Rendered]]:
    """Phantom people, one at a time, with the volume as ingest assembles it: every other one from three
    stations.

    Harder than a demo population: more artefacts, more odd anatomy.
    """
    recipe = _recipe(num_people, seed)
    for exam in draw_population(recipe):
        rendered = render(exam, recipe)
        kind: Literal["three", "composed"] = "three" if exam.index % 2 else "composed"
        stations = [s.image for s in stations_of(rendered.image, exam.scanner, kind)]
        image = stitch(stations)
        assert image.voxels_RAS.shape == rendered.image.voxels_RAS.shape
        yield image, rendered


def evaluate(
    weights: str, num_people: int, seed: int, *, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """Mean Dice of each tissue and the share of scans whose every level is right, on phantom people.

    Which levels are right: see `levels_are_right`. A refused scan is not right.
    """
    segmenter = load_segmenter(weights)
    dice: dict[str, list[float]] = {name: [] for name in SEMANTIC if name != "background"}
    right, refused, seconds = 0, 0, []
    for image, rendered in _people(num_people, seed):
        started = time.monotonic()
        semantic = segmenter.segment(image)
        seconds.append(time.monotonic() - started)
        for name, values in dice.items():
            values.append(dice_of(semantic, rendered.semantic, SEMANTIC[name]))
        try:
            right += levels_are_right(find_levels(semantic), rendered.levels)
        except BadScan as fault:
            refused += 1
            say(f"refused: {fault.code}: {fault}")
    measured = {
        "num_people": num_people,
        "seed": seed,
        "dice": {name: round(float(np.mean(values)), 4) for name, values in dice.items()},
        "levels_right": round(right / num_people, 4),
        "refused": refused,
        "seconds_per_scan": round(float(np.median(seconds)), 2),
    }
    say(f"on {num_people} unseen phantom people: {measured}")
    return measured


def met(measured: dict[str, Any]) -> bool:
    """Whether a measurement reaches what the demo segmenter promises."""
    return measured["levels_right"] >= LEVELS_GOAL and all(
        measured["dice"][name] >= goal for name, goal in GOALS.items()
    )


def levels_are_right(found: Levels, truth: Volume) -> bool:
    """Whether the vertebrae are the truth's, each under its own name in most of its voxels, and every disc
    found lies in the disc of its name (C1, which nobody counts, apart)."""
    named = found.volume.voxels_RAS
    present = {int(v) for v in np.unique(truth.voxels_RAS)}
    vertebrae = {LEVELS[name] for name in VERTEBRAE if name != "C1"}
    if {LEVELS[name] for name in found.names} & vertebrae != present & vertebrae:
        return False
    discs = [LEVELS[f"disc_below_{name}"] for name, _ in found.discs]
    return all(
        _most_common(named[truth.voxels_RAS == v]) == v for v in present & vertebrae
    ) and all(_most_common(truth.voxels_RAS[named == v]) == v for v in discs)


def _most_common(values: NDArray[np.generic]) -> int:
    """The commonest name among voxels that have one; 0 when none has."""
    counts = np.bincount(values.astype(int), minlength=2)
    counts[0] = 0
    return int(counts.argmax())
