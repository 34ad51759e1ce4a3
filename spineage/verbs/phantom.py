"""phantom: make a synthetic population on disk, once, in parallel, and pick up where it was left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from spineage.engine import session
from spineage.engine.tasks import spread
from spineage.errors import BadStudy
from spineage.io.files.json_table import read_table_file
from spineage.io.phantom.write import write_exam, write_tables
from spineage.io.storage.trouble import reason_of
from spineage.run.progress import plain_progress
from spineage.science.phantom.population import Exam, draw_population
from spineage.science.phantom.recipe import PhantomRecipe
from spineage.science.phantom.render import render

FEW_EXAMS = 30
"""Fewer are made here: starting worker processes takes longer."""
EXAMS_PER_TASK = 4
RECORD = "population.json"
"""Says what a folder holds; `finished` is set last."""

Task = tuple[PhantomRecipe, tuple[Exam, ...], str]
PARTIAL = ".partial"


def make(
    out: str, *, num_people: int, seed: int = 2511, workers: int | None = None, **recipe: Any
) -> dict[str, Any]:
    """Write a population to the folder `out`; returns counts and the oracle's MAE.

    workers: processes to use; none decides by size. Other names are those of PhantomRecipe. A finished
    population of the same recipe is left as it is; an unfinished one is finished.
    Raises BadStudy when the folder holds something else, or the recipe cannot be made.
    """
    try:
        wanted = PhantomRecipe(num_people=num_people, seed=seed, **recipe)
    except TypeError as error:
        raise BadStudy(f"the phantom recipe does not fit: {error}") from None
    folder = Path(out).absolute()  # workers have a folder of their own
    record = _record(folder)
    if record.get("digest") == wanted.digest and record.get("finished"):
        return dict(record["made"])
    _claim(folder, wanted, record)
    exams = draw_population(wanted)
    num_files = _write_exams(exams, wanted, folder, workers)
    oracle_mae_years = round(write_tables(exams, wanted, folder), 3)
    made: dict[str, Any] = {
        "people": num_people,
        "exams": len(exams),
        "files": num_files,
        "oracle_mae_years": oracle_mae_years,
    }
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    _write_record(folder, {**_identity(wanted), "made": made, "finished": True})
    return made


def _record(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    if not path.exists():
        return {}
    return read_table_file(path, str(path), "remove the folder or name another")


def _identity(recipe: PhantomRecipe) -> dict[str, Any]:
    return {"synthetic": True, "digest": recipe.digest, "recipe": asdict(recipe)}


def _claim(folder: Path, recipe: PhantomRecipe, record: dict[str, Any]) -> None:
    """Take the folder for this recipe; refuse one that holds anything else."""
    if record and record.get("digest") != recipe.digest:
        raise BadStudy(f"{folder} holds a population of another recipe: name another folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not record and any(folder.iterdir()):
            raise BadStudy(f"{folder} is not empty and holds no population: name another folder")
        _write_record(folder, {**_identity(recipe), "finished": False})
    except OSError as error:
        raise BadStudy(
            f"{folder} cannot be written ({reason_of(error)}): name another folder"
        ) from None


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    fresh = folder / f"{RECORD}.new"
    fresh.write_text(json.dumps(record, indent=1) + "\n")
    fresh.replace(folder / RECORD)


def _write_exams(
    exams: Sequence[Exam], recipe: PhantomRecipe, folder: Path, workers: int | None
) -> int:
    """Make what is missing; returns the number of files of all exams."""
    tasks = [
        (recipe, tuple(exams[i : i + EXAMS_PER_TASK]), str(folder.absolute()))
        for i in range(0, len(exams), EXAMS_PER_TASK)
    ]
    say = plain_progress("phantom exams")
    num_files = num_done = 0
    for files, done in _spread(tasks, len(exams), workers):
        num_files, num_done = num_files + files, num_done + done
        say(num_done, len(exams))
    return num_files


def _spread(tasks: list[Task], num_exams: int, workers: int | None) -> Iterator[tuple[int, int]]:
    if workers == 1 or (workers is None and num_exams < FEW_EXAMS):
        return map(make_exams, tasks)
    session.connect()
    return spread(make_exams, tasks, at_once=workers)


def make_exams(task: Task) -> tuple[int, int]:
    """Render and write a few exams; each appears whole or not at all. Returns how many files and exams."""
    recipe, exams, out = task
    num_files = 0
    for exam in exams:
        place = Path(out) / "dicom" / exam.person.code / f"E{exam.index + 1:05d}"
        if not place.exists():
            partial = Path(out) / PARTIAL / place.name
            shutil.rmtree(partial, ignore_errors=True)
            write_exam(render(exam, recipe), exam, partial, recipe)
            place.parent.mkdir(parents=True, exist_ok=True)
            partial.rename(place)
        num_files += sum(1 for _ in place.rglob("*.dcm"))
    return num_files, len(exams)
