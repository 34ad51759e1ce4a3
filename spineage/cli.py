"""`spineage <verb>`: one verb a stage, and what stands around them."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as RichTable

from spineage import __version__, unexpected
from spineage.errors import BadStudy
from spineage.flow import RESCORE, ROAD, STAGES, Stage
from spineage.privacy import keep_private
from spineage.run import entry
from spineage.study import Study
from spineage.tables import TABLES

app = typer.Typer(
    help="From whole-spine sagittal T2 MRI to a spine age and a spine age gap.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip

StudyFile = Annotated[str, typer.Option("--study", help="the study file")]
Workspace = Annotated[str | None, typer.Option(help="folder or URI of the results")]
RayAddress = Annotated[str | None, typer.Option("--ray", help="address of a Ray cluster")]
MAX_SEED = 2**32 - 1
Retry = Annotated[bool, typer.Option("--retry", help=entry.RETRY)]
OnlyPlan = Annotated[bool, typer.Option("--plan", help=entry.PLAN)]
NoRay = Annotated[
    bool, typer.Option("--no-ray", help="in this process alone, one scan after another")
]
ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard", help="with --no-ray, such as 3/16: the third of 16 shares of the scans"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"spineage {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="print the version", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Before any verb."""


def _ends(code: int) -> None:
    if code:
        raise typer.Exit(code)


def _add_stage(stage: Stage) -> None:
    def of_scans(
        study: StudyFile = "study.yaml",
        workspace: Workspace = None,
        ray: RayAddress = None,
        retry: Retry = False,
        only_plan: OnlyPlan = False,
        no_ray: NoRay = False,
        shard: ShardOption = None,
    ) -> None:
        _run([stage.name], study, workspace, ray, retry, only_plan, no_ray, shard)

    def at_once(
        study: StudyFile = "study.yaml",
        workspace: Workspace = None,
        ray: RayAddress = None,
        retry: Retry = False,
        only_plan: OnlyPlan = False,
    ) -> None:
        _run([stage.name], study, workspace, ray, retry, only_plan)

    told = {"Reads": stage.reads, "Fills in": stage.fills, "Writes": stage.writes}
    tables = "".join(f" {verb} {', '.join(names)}." for verb, names in told.items() if names)
    inputs = f" Of inputs: {', '.join(stage.files)}." if stage.files else ""
    help_text = f"{stage.does[0].upper()}{stage.does[1:]}.{inputs}{tables}"
    app.command(stage.name, help=help_text)(of_scans if "faults" in stage.writes else at_once)


def _run(
    stages: list[str],
    study: str,
    workspace: str | None,
    ray: str | None,
    retry: bool,
    only_plan: bool,
    no_ray: bool = False,
    shard: str | None = None,
) -> None:
    def work() -> None:
        from spineage.run.context import Context, read_shard

        opened = entry.open_study(study, workspace, ray)
        share = read_shard(shard) if shard else None
        if share and not no_ray:
            raise BadStudy(
                "--shard is for runs without Ray, which shares out scans itself: add --no-ray"
            )
        context = Context(opened, say=entry.say, retry=retry, is_alone=no_ray, shard=share)
        entry.run_all(context, stages, only_plan=only_plan)

    _ends(entry.guarded(work))


for _stage in STAGES.values():
    _add_stage(_stage)


@app.command()
def rescore(
    study: StudyFile = "study.yaml",
    workspace: Workspace = None,
    ray: RayAddress = None,
    retry: Retry = False,
    only_plan: OnlyPlan = False,
) -> None:
    """Find new exams, then a spine age for every scan that has none under this model: ingest and score."""
    _run([*RESCORE], study, workspace, ray, retry, only_plan)


@app.command()
def run(
    study: StudyFile = "study.yaml",
    first: Annotated[str, typer.Option("--from", help="first stage")] = ROAD[0].name,
    last: Annotated[str, typer.Option("--to", help="last stage")] = ROAD[-1].name,
    workspace: Workspace = None,
    ray: RayAddress = None,
    retry: Retry = False,
    only_plan: OnlyPlan = False,
) -> None:
    """Run several stages in order: the whole road, or a stretch of it."""
    names = [stage.name for stage in ROAD]
    for name in (first, last):
        if name not in names:
            print(
                f"spineage: there is no stage {name!r}; the road is {', '.join(names)}",
                file=sys.stderr,
            )
            raise typer.Exit(2)
    stretch = names[names.index(first) : names.index(last) + 1]
    if not stretch:
        print(
            f"spineage: {first} comes after {last}: the road is {', '.join(names)}", file=sys.stderr
        )
        raise typer.Exit(2)
    _run(stretch, study, workspace, ray, retry, only_plan)


@app.command()
def demo(
    people: Annotated[int, typer.Option(help="synthetic people", max=1_000_000)] = 80,
    workspace: Annotated[str, typer.Option(help="folder for the population and results")] = "demo",
    seed: Annotated[
        int, typer.Option(help="everything is drawn from it", min=0, max=MAX_SEED)
    ] = 2511,
    as_json: AsJson = False,
) -> None:
    """The whole study on synthetic people, from DICOM to the report."""

    def work() -> None:
        from spineage.verbs.demo import run_demo

        result = run_demo(people, workspace, seed=seed, say=entry.say)
        Console().print(_headline_grid(result))
        if as_json:
            print(json.dumps(result), flush=True)

    _ends(entry.guarded(work))


def _headline_grid(result: dict[str, Any]) -> RichTable:
    words = {
        "people": "people", "scored": "scans scored", "refused": "scans refused",
        "raw_mae_years": f"raw MAE, {result['test_people']} held-out normal people (years)",
        "raw_mae_limits": "  its 95 % limits, by person (years)",
        "oracle_mae_years": "  the oracle's MAE on the same people (years)",
        "mean_mae_years": "  predict-the-mean's MAE on the same people (years)",
        "r_sag_age": "r(SAG, age), out of sample", "r_sag_gap": "r(SAG, planted gap), out of sample",
        "seconds": "seconds", "report": "report",
    }  # fmt: skip
    grid = RichTable(title="spineage demo: synthetic phantoms, not people", show_header=False)
    shown = {**result, "raw_mae_limits": _limits(result)}
    for key, label in words.items():
        value = shown[key]
        grid.add_row(label, f"{value:.2f}" if isinstance(value, float) else str(value))
    return grid


def _limits(result: dict[str, Any]) -> str:
    low, high = result["raw_mae_low_years"], result["raw_mae_high_years"]
    return "none" if low is None else f"{low:.2f} to {high:.2f}"


@app.command("phantom")
def make_phantom(
    out: Annotated[str, typer.Option(help="folder to write")],
    people: Annotated[int, typer.Option(help="how many", min=1, max=1_000_000)] = 80,
    seed: Annotated[int, typer.Option(min=0, max=MAX_SEED)] = 2511,
    stations: Annotated[str, typer.Option(help="three or composed")] = "three",
) -> None:
    """Write a population of synthetic whole-spine MRI as DICOM, with tables and the planted truth."""

    def work() -> None:
        from spineage.verbs import phantom

        made = phantom.make(out, num_people=people, seed=seed, stations=stations)
        entry.say(", ".join(f"{n} {key}" for key, n in made.items()))

    _ends(entry.guarded(work))


@app.command("train-segmenter")
def train_segmenter(
    out: Annotated[str, typer.Option(help="folder for the imported weights")],
    images: Annotated[str | None, typer.Option(help="folder of NAME.nii.gz to learn from")] = None,
    labels: Annotated[str | None, typer.Option(help="folder of their label files, NAME*")] = None,
    schema: Annotated[
        str,
        typer.Option(
            help="what the label files hold: levels, semantic (ours), totalspineseg, spineps, "
            "spineps-veridah, vertebrae_mr or total_mr"
        ),
    ] = "levels",
    raw: Annotated[
        str | None, typer.Option(help="instead: a dataset in nnU-Net's raw layout")
    ] = None,
    label_map: Annotated[
        str | None, typer.Option(help="with --raw, JSON: a name in dataset.json to our name")
    ] = None,
    study: Annotated[
        str | None, typer.Option("--study", help="instead: the masks of this study")
    ] = None,
    workspace: Workspace = None,
    work: Annotated[
        str | None, typer.Option(help="folder that all machines see; a killed run goes on from it")
    ] = None,
    folds: Annotated[
        str, typer.Option(help='which of the 5 folds, split by person, or "all"')
    ] = "0,1,2,3,4",
    configuration: Annotated[
        str,
        typer.Option(help="3d_fullres, 3d_lowres or 2d as nnU-Net plans it, or our small spine"),
    ] = "3d_fullres",
    epochs: Annotated[int, typer.Option(help="epochs of 250 iterations each")] = 1000,
    domain: Annotated[str, typer.Option(help="human or phantom: whose scans these are")] = "human",
    workers: Annotated[int, typer.Option(help="folds trained at once, one GPU each")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="a GPU for each worker")] = False,
    processes: Annotated[int, typer.Option(help="for planning and, on GPU, augmentation")] = 8,
    mlflow: Annotated[str | None, typer.Option(help="tracking URI; none: sqlite in --work")] = None,
    ray: RayAddress = None,
) -> None:
    """Train a segmenter on your scans with nnU-Net's own trainer, then import it.

    From --images and --labels, --raw, or --study: a fold on each worker of a Ray cluster, taken up again
    after a kill.
    """

    def work_() -> None:
        from spineage.verbs import train_segmenter as own

        options = own.Options(
            out=out, images=images, labels=labels, schema=schema, raw=raw, label_map=label_map, study=study,
            workspace=workspace, work=work, folds=folds, configuration=configuration, epochs=epochs,
            domain=domain, workers=workers, gpu=gpu, processes=processes, mlflow=mlflow, ray=ray,
        )  # fmt: skip
        entry.say(own.train(options, entry.say))

    _ends(entry.guarded(work_))


@app.command("compare-masks")
def compare_masks(
    masks: Annotated[
        str, typer.Option(help="folder, pattern or CSV of masks drawn by hand, as segment.masks")
    ],
    masks_of: Annotated[
        str, typer.Option(help="the tool whose numbers they hold, as segment.masks_of")
    ],
    study: StudyFile = "study.yaml",
    workspace: Workspace = None,
    as_json: AsJson = False,
) -> None:
    """Compare the study's masks with others of the same scans: Dice by tissue, and levels named alike."""

    def work() -> None:
        from spineage.run.context import Context
        from spineage.verbs import compare_masks as comparing

        context = Context(entry.open_study(study, workspace))
        found = comparing.compare(context, masks, masks_of)
        if as_json:
            entry.say(json.dumps(found.as_json()))
        else:
            comparing.tell(found, entry.say)

    _ends(entry.guarded(work))


@app.command("train-demo-segmenter")
def train_demo_segmenter(
    out: Annotated[str, typer.Option(help="folder for the weights")],
    people: Annotated[
        int, typer.Option(help="synthetic people to learn from", min=1, max=1_000_000)
    ] = 100,
    seed: Annotated[
        int, typer.Option(help="synthetic people are drawn from it", min=0, max=MAX_SEED)
    ] = 2511,
    iterations: Annotated[int, typer.Option(help="training steps", min=1, max=10_000_000)] = 1300,
) -> None:
    """Train the demo's segmenter on synthetic people, and measure it on others."""

    def work() -> None:
        from spineage.verbs import train_demo_segmenter as demo_segmenter

        demo_segmenter.train(out, num_people=people, seed=seed, iterations=iterations)

    _ends(entry.guarded(work))


@app.command("import-segmenter")
def import_segmenter(
    model: Annotated[
        str,
        typer.Argument(
            help="nnU-Net v2 result folder (dataset.json, plans.json, fold_*), or the released zip archive"
        ),
    ],
    out: Annotated[str, typer.Option(help="folder for the converted weights")],
    orientation: Annotated[
        str | None,
        typer.Option(
            help="axes of the files it was trained on (nibabel.aff2axcodes), e.g. RAS: nnU-Net does not "
            "reorient; needed unless the layout is known"
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="a published model: totalspineseg-step1, vertebrae_mr, total_mr, spineps; recognised by "
            "its dataset.json, stating it makes sure"
        ),
    ] = None,
    domain: Annotated[str, typer.Option(help="human or phantom: what it was trained on")] = "human",
    label_map: Annotated[
        str | None, typer.Option(help="JSON file: a name in dataset.json to our name")
    ] = None,
    folds: Annotated[str | None, typer.Option(help='e.g. "0,1"; default: the model\'s own')] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(
            help="file in each fold; default: checkpoint_final.pth, or checkpoint_best.pth where none has it"
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="the checkpoint is a pickle: you trust it")
    ] = False,
    not_isolated: Annotated[
        bool,
        typer.Option(
            "--not-isolated",
            help="open the pickle in an ordinary process, with network and files: only where the machine "
            "grants no other",
        ),
    ] = False,
) -> None:
    """Convert a foreign nnU-Net v2 model, once, to safetensors + JSON.

    Any 2d, 3d_lowres or 3d_fullres network of any trainer; no cascade. Our names: background, vertebra,
    disc, canal, cord, sacrum; or by level C1 to L6, disc_below_C2 to disc_below_L6, sacrum, canal, cord.
    For regions the label map says what is in each and in no later one of regions_class_order. Models
    that name levels only with their own tool's post-processing (TotalSpineSeg's second step, SPINEPS'
    instance and VERIDAH networks) are refused.

    The pickle is opened in a process without network, files or environment; then never again.
    """

    def work() -> None:
        from spineage.verbs import import_segmenter as stage

        entry.say(
            stage.convert(
                model, out, trust=trust, orientation=orientation, layout=layout, label_map=label_map,
                folds=folds, checkpoint=checkpoint, domain=domain, isolated=not not_isolated,
            )
        )  # fmt: skip

    _ends(entry.guarded(work))


@app.command()
def init(path: Annotated[str, typer.Argument(help="file to write")] = "study.yaml") -> None:
    """Write a commented study file: every key, its default and the reason for it."""

    def work() -> None:
        from spineage.io.storage.store import write_file
        from spineage.study import commented_study

        if Path(path).exists():
            raise BadStudy(f"{path} exists already: name another file, or remove it first")
        write_file(path, commented_study().encode())
        entry.say(f"{path} written: fill in `inputs:` and run `spineage doctor --study {path}`")

    _ends(entry.guarded(work))


@app.command("new-key")
def new_key(
    path: Annotated[str, typer.Argument(help="file to write")] = "spineage.key",
) -> None:
    """Make the key of the person hashes: random, in a file that only you can read."""

    def work() -> None:
        from spineage.io.people.identity import make_key

        make_key(path)
        entry.say(
            f"{path} written: name it as inputs.key_file or SPINEAGE_KEY_FILE, keep a copy where the archive "
            "is kept, and never beside the results: with it ids can be turned back into people"
        )

    _ends(entry.guarded(work))


@app.command()
def tables(as_json: AsJson = False) -> None:
    """Print every table: columns, dtype, unit, meaning."""
    if as_json:
        print(json.dumps({t.name: [_column(c) for c in t.columns] for t in TABLES.values()}))
        return
    for table in TABLES.values():
        private = " (private)" if table.private else ""
        grid = RichTable(
            "column", "dtype", "unit", "meaning", title=f"{table.name}{private}: {table.meaning}"
        )
        for c in table.columns:
            grid.add_row(c.name, str(c.dtype), c.unit, c.meaning)
        Console().print(grid)


def _column(column: Any) -> dict[str, Any]:
    return {
        "name": column.name, "dtype": str(column.dtype), "unit": column.unit,
        "meaning": column.meaning, "nullable": column.nullable,
    }  # fmt: skip


@app.command()
def show(
    table: Annotated[str, typer.Argument(help=f"one of {', '.join(TABLES)}")],
    study: Annotated[str | None, typer.Option("--study", help="the study file")] = None,
    workspace: Workspace = None,
    stage: Annotated[str | None, typer.Option(help="for faults: segment, prepare or score")] = None,
    codebook: Annotated[
        bool,
        typer.Option("--codebook", help="for conditions: what the features are; needs no study"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """A summary of any table of a study; --json prints its rows."""

    def work() -> None:
        from spineage.verbs import show as shown

        if codebook:
            if table != "conditions":
                raise BadStudy(
                    "only conditions has a codebook: `spineage show conditions --codebook`"
                )
            entries = shown.codebook()
            print(json.dumps(entries)) if as_json else Console().print(shown.codebook_grid(entries))
            return
        data = shown.read(table, study, workspace, stage)
        if as_json:
            print(shown.as_json(table, data))
        else:
            for grid in shown.grids(table, data):
                Console().print(grid)

    _ends(entry.guarded(work))


@app.command()
def submit(
    job: Annotated[str, typer.Argument(help="rescore, run, or a stage")],
    options: Annotated[
        list[str] | None,
        typer.Argument(help="after --: options of the job, e.g. -- --from segment"),
    ] = None,
    study: StudyFile = "study.yaml",
    workspace: Workspace = None,
    address: Annotated[
        str | None,
        typer.Option(
            help="dashboard of the cluster, http://HEAD:8265; default: $RAY_API_SERVER_ADDRESS, "
            "$RAY_ADDRESS, this machine's"
        ),
    ] = None,
    retry: Retry = False,
    only_plan: OnlyPlan = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="end this study's job that is at work")
    ] = False,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="submit it, and do not follow it")
    ] = False,
    with_code: Annotated[
        bool,
        typer.Option(
            "--with-code",
            help="upload this spineage too, for a cluster that has another version of it",
        ),
    ] = False,
) -> None:
    """Run a job on a Ray cluster and follow it to its end, with its exit code.

    One job a study and workspace: asked for again while it is at work it is followed; asked for when it
    has ended it goes on with what is missing. Only the study file is uploaded.
    """

    def work() -> None:
        from spineage.verbs import submit as submitted

        opened = entry.open_study(study, workspace)
        if only_plan and options:
            raise BadStudy(
                f"--plan is of a whole job: ask `spineage {job} ... --plan` with its options"
            )
        if only_plan:
            _tell_plan_of(job, opened, retry)
            return
        if stop:
            code.append(submitted.stop(job, opened, address=address, say=entry.say))
            return
        code.append(
            submitted.submit(
                job, opened, address=address, options=[*(["--retry"] if retry else []), *(options or [])],
                wait=not no_wait, with_code=with_code, say=entry.say,
            )
        )  # fmt: skip

    code: list[int] = []
    _ends(entry.guarded(work) or (code or [0])[0])


def _tell_plan_of(job: str, opened: Study, retry: bool) -> None:
    from spineage.run.context import Context

    stages = {"rescore": [*RESCORE], "run": [stage.name for stage in ROAD]}.get(job, [job])
    entry.run_all(Context(opened, say=entry.say, retry=retry), stages, only_plan=True)


@app.command()
def status(
    study: StudyFile = "study.yaml", workspace: Workspace = None, as_json: AsJson = False
) -> None:
    """Say how far each stage is: done, faults by code, rate, time left, and who works on it."""

    def work() -> None:
        from spineage.verbs import status as shown

        statuses = list(shown.look(entry.open_store(study, workspace)))
        if as_json:
            print(json.dumps([asdict(one) for one in statuses]))
            return
        for one in statuses:
            for line in (one.line(), *one.crew_lines()):
                entry.say(line)
        if not statuses:
            entry.say("nothing has run in this workspace yet")

    _ends(entry.guarded(work))


@app.command()
def doctor(
    study: Annotated[str | None, typer.Option("--study", help="the study file")] = None,
    workspace: Workspace = None,
    ray: RayAddress = None,
) -> None:
    """What is installed, which devices, whether Ray, MLflow, storage and weights answer."""

    def work() -> None:
        from spineage.verbs import doctor as checks

        opened = entry.open_study(study, workspace, ray) if study else None
        failed = 0
        for check in checks.examine(opened):
            failed += not check.is_ok
            entry.say(f"{'ok  ' if check.is_ok else 'FAIL'} {check.name}: {check.found}")
        if failed:
            raise BadStudy(f"{failed} of the above need attention; each line says what to do")

    _ends(entry.guarded(work))


def main() -> None:
    """The console script."""
    keep_private()
    unexpected.install()
    app()


if __name__ == "__main__":
    main()
