"""The study file: what changes an answer (identity), apart from where and how fast it runs (execution).

Everything but `workspace` and `cluster` is identity and enters the addresses of results.
Each default carries its reason. What the paper (arXiv 2511.17485) leaves unknown is our documented default.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spineage.errors import BadStudy


class Section(BaseModel):
    """Frozen; an unknown key is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Inputs(Section):
    """Where the data are. Locations are not identity: the contents are, through their digests."""

    scans: str = Field("", description="folder or URI of DICOM, NIfTI or BIDS")
    participants: str | None = Field(
        None,
        description="CSV: person, [exam], sex, site, [age_years]; or participants.tsv of BIDS",
    )
    findings: str | None = Field(
        None, description="CSV or parquet: person, exam, finding, level, [side], [severity]"
    )
    lifestyle: str | None = Field(None, description="CSV: person, then one column per factor")
    truth: str | None = Field(
        None, description="parquet of planted values (phantom populations only)"
    )
    splits: str | None = Field(
        None,
        description="splits.csv of an earlier cohort: those people keep their split, only new ones are drawn",
    )
    overrides: str | None = Field(
        None, description="CSV: series_id, decision (accept or refuse), reason (names nobody)"
    )
    key_file: str | None = Field(
        None, description="key of the person hashes; none means $SPINEAGE_KEY or $SPINEAGE_KEY_FILE"
    )
    exam_key: Literal["StudyInstanceUID", "AccessionNumber"] = Field(
        "StudyInstanceUID", description="the DICOM tag that the tables' exam column holds"
    )


class Ingest(Section):
    """What counts as a sagittal T2 of the spine, and which stations make a scan."""

    min_echo_ms: float = Field(
        55.0, ge=0, description="T2 spine TSE is 70-130 ms; 3D TSE's effective TE lower"
    )
    min_repetition_ms: float = Field(
        1200.0, ge=0, description="T2 TSE is 2000-6000 ms, 3D TSE 1200-2000"
    )
    max_tilt_degrees: float = Field(
        30.0, ge=0, le=45, description="slice normal to the left-right axis"
    )
    min_slices: int = Field(5, ge=2, description="fewer cannot cover a vertebral body")
    max_slice_gap_error_mm: float = Field(
        0.1, gt=0, description="unevenness above it means a missing slice"
    )
    max_station_gap_mm: float = Field(
        2.0, ge=0, description="stations further apart are not one spine"
    )
    min_extent_mm: float = Field(
        150.0,
        ge=0,
        description="along the body: a cervical station is 200 mm and more, a crop less",
    )
    max_width_mm: float = Field(
        160.0, gt=0, description="side to side: a spine slab is 40-120 mm, a head or trunk wider"
    )
    composed_extent_mm: float = Field(
        450.0, gt=0, description="a series this long shows the whole spine and is a scan alone"
    )


class Segment(Section):
    """Which network draws the spine."""

    weights: str = Field(
        "demo", description="'demo' (trained on phantoms) or a folder of import-segmenter"
    )
    mode: Literal["exact", "fast"] = Field(
        "exact",
        description="nnU-Net's own tiles over all of the scan; 'fast' finds the spine first and sees its box "
        "in fewer tiles: several times faster, Dice 0.004 lower where it was measured",
    )
    mirror: bool = Field(
        False, description="average over flips as in training: 8 times the work for little"
    )
    min_levels: int = Field(22, description="vertebrae from C2 to L5 are 23, 22 with a fused one")
    max_levels: int = Field(24, description="24 with an additional lumbar one")
    min_coverage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="bodies and discs whole in the image: a slab of 57 mm may cut L3-L5, 0.8 and more",
    )
    max_off_centre: float = Field(
        0.35,
        description="bodies' uneven reach about the canal: upright spines 0.07, rotated ones more",
    )
    max_loose_share: float = Field(
        0.4, description="of one body or disc apart from its rest: true masks at 4 mm reach 0.18"
    )
    max_canal_gap_mm: float = Field(
        30.0, description="a vertebra's height: a tight stenosis or a void of metal hides less"
    )
    min_cord_inside: float = Field(0.9, description="no spine has a cord outside its canal")
    min_discs_in_front: float = Field(0.9, description="no spine has a disc behind its canal")
    length_mm: tuple[float, float] = Field(
        (330.0, 750.0),
        description="top disc to lowest: 0.29 of the body height, of people of 1.30 to 2.30 m",
    )
    body_height_mm: tuple[float, float] = Field(
        (4.0, 50.0), description="from a vertebra plana to a tall man's C2 with its dens"
    )
    disc_height_mm: tuple[float, float] = Field(
        (1.0, 22.0), description="collapsed discs keep 1-2 mm, the tallest lumbar ones have 16"
    )
    max_height_ratio: float = Field(
        1.9,
        description="of a body and its neighbours: two taken for one are 2 and more, fractures 1.5",
    )
    max_volume_ratio: float = Field(
        2.0, description="of a vertebra and its neighbours: two taken for one are 2.2, phantoms 1.2"
    )
    max_disc_signal: float = Field(
        1.2, description="median over discs relative to CSF, which nothing outshines on T2"
    )


class Prepare(Section):
    """The network's input. The paper gives neither size nor spacing: our documented default."""

    shape: tuple[int, int, int] = Field((16, 80, 320), description="voxels along R, A, S")
    spacing_mm: tuple[float, float, float] = Field(
        (4.0, 2.2, 2.2), description="holds 64 x 176 x 704 mm: a tall adult from C1 to the sacrum"
    )
    normalise: Literal["csf", "robust"] = Field(
        "csf",
        description="divide by the median CSF signal (scanner gain drops out), or by a robust range",
    )


class Cohort(Section):
    """Who is normal, and who is used for what."""

    rule: Literal["clusters", "paper", "burden", "percentile", "everyone"] = Field(
        "clusters",
        description="clusters judged by burden for age, with a guard; paper: clusters above min_share, "
        "no guard; burden: each person's for their age; percentile: for age and sex; everyone",
    )
    min_share: float = Field(
        0.15, description="the paper: clusters above 15 % are kept, the rest merged"
    )
    num_neighbors: int = Field(15, description="UMAP; unknown in the paper, umap-learn's default")
    num_components: int = Field(
        5, description="UMAP dimensions for clustering; unknown in the paper"
    )
    min_dist: float = Field(
        0.0, description="UMAP; 0 packs clusters, as umap-learn advises for clustering"
    )
    min_cluster_share: float = Field(
        0.08, description="HDBSCAN min_cluster_size as a share of people"
    )
    min_samples: int = Field(5, description="HDBSCAN; unknown in the paper")
    selection: Literal["eom", "leaf"] = Field(
        "eom", description="HDBSCAN's default; leaf gives more and smaller clusters, and more noise"
    )
    low_burden_quantile: float = Field(
        0.25, description="guard: people at or below this burden are normal whatever their cluster"
    )
    max_burden_ratio: float = Field(
        1.25,
        description="a cluster is normal when it carries at most this x the burden expected at its ages",
    )
    max_person_ratio: float = Field(
        1.5,
        description="a person who carries more than this x the burden expected at that age is not normal",
    )
    min_person_excess: float = Field(
        4.0,
        ge=0,
        description="and by more than this: a few mild findings make no young person ill (on phantoms it "
        "costs 0-6 points of sensitivity)",
    )
    noise: Literal["judged", "not_normal", "unknown"] = Field(
        "judged",
        description="people of no cluster: judged together like a cluster, since HDBSCAN's noise is thin "
        "data and not a diagnosis",
    )
    max_percentile: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="rule percentile: normal up to this share of training people of that age and sex",
    )
    percentile_window_years: float = Field(
        10.0, gt=0, description="rule percentile: of that age is within so many years"
    )
    train: float = Field(0.55, description="share of people")
    validate_: float = Field(0.10, alias="validate", description="share of people")
    calibrate: float = Field(0.15, description="share of people")
    test: float = Field(0.20, description="share of people")
    test_sites: tuple[str, ...] = Field(
        (),
        description="everybody scanned at these sites is in test, beside the share drawn from the others",
    )

    @model_validator(mode="after")
    def _shares_sum_to_one(self) -> Cohort:
        total = self.train + self.validate_ + self.calibrate + self.test
        if abs(total - 1) > 1e-6:
            raise ValueError(f"train + validate + calibrate + test is {total:g}, must be 1")
        return self


class Stability(Section):
    """How much "normal" hangs on parameters, seed and sample: the cohort drawn again and again.

    Every grid cell is drawn with each seed on all training people, and with each bootstrap on a resample of
    them. A rule without clusters has no such grid.
    """

    num_neighbors: tuple[int, ...] = Field((10, 15, 30), description="UMAP; grid")
    num_components: tuple[int, ...] = Field((2, 5), description="UMAP; grid")
    min_cluster_share: tuple[float, ...] = Field(
        (0.05, 0.08, 0.12), description="HDBSCAN; grid: it decides more than all others together"
    )
    min_samples: tuple[int, ...] = Field((5, 15), description="HDBSCAN; grid")
    num_seeds: int = Field(
        20, ge=0, description="seeds of UMAP; 0 with 0 bootstraps: no stability run"
    )
    num_bootstraps: int = Field(100, ge=0, description="resamples of the training people")
    normal_at: float = Field(
        0.8, gt=0.5, le=1, description="normal in this share of draws or more is normal"
    )
    not_normal_at: float = Field(
        0.2, ge=0, lt=0.5, description="in this share or less is not normal; between is uncertain"
    )
    decides: bool = Field(
        True,
        description="the consensus is the status that training uses, so that nobody is normal by one seed; "
        "false: the single fit is, and the consensus stands beside it",
    )

    @model_validator(mode="after")
    def _grid_has_values(self) -> Stability:
        for name in ("num_neighbors", "num_components", "min_cluster_share", "min_samples"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values) or min(values) <= 0:
                raise ValueError(f"{name} needs one or more different values above 0")
        return self


class Train(Section):
    """The network and how it learns. Channels, optimiser, schedule and loss are unknown in the paper."""

    channels: tuple[int, ...] = Field(
        (4, 16, 32, 64),
        min_length=1,
        description="one conv-BN-pool block each; few in the first, which costs half of the time",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="before the linear layer")
    region: Literal["whole", "cervical", "thoracic", "lumbar"] = Field("whole")
    loss: Literal["l1", "mse", "huber"] = Field("l1", description="L1 is what MAE measures")
    epochs: int = Field(
        30,
        ge=1,
        description="took 36 phantom people to an MAE of 0.2 to 0.5 of predict-the-mean; 45 gave no better",
    )
    batch_size: int = Field(
        8, ge=2, description="of all workers together; identity, since it changes the answer"
    )
    learning_rate: float = Field(2e-3, gt=0, description="peak of the schedule; for AdamW")
    weight_decay: float = Field(
        1e-3, ge=0, description="AdamW's, on convolutions and the linear layer"
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="share of training people used (ablation of data size)"
    )
    augment: bool = Field(True)
    num_workers: int = Field(
        2,
        ge=0,
        description="DDP workers; the batch is one whatever it is, but sums round differently",
    )


class Calibrate(Section):
    """Correction, intervals and operating range."""

    max_degree: int = Field(3, description="highest degree that cross-validation may choose")
    coverage: float = Field(0.90, description="nominal coverage of the intervals")
    num_bins: int = Field(
        3, description="Mondrian bins; each needs 1 / (1 - coverage) people or is merged"
    )
    max_distance_quantile: float = Field(
        0.995, description="refusal limit: quantile of the training distances, times the slack"
    )
    distance_slack: float = Field(
        2.0, description="held-out scans lie further out than training scans"
    )


class Score(Section):
    """Which model scores."""

    model: str | None = Field(
        None,
        description="models:/spine-age@champion, or a bundle folder; none means this study's own",
    )


class Associate(Section):
    """The association models."""

    min_exposed: int = Field(20, description="fewer exposed people are flagged")
    spline_df: int = Field(4, description="natural spline of age in every model")
    lifestyle: tuple[str, ...] | None = Field(None, description="factors; none means all columns")


class Explain(Section):
    """Where the network looked."""

    num_scans: int = Field(4, description="the paper shows four")


class Report(Section):
    """What the report shows."""

    title: str = Field("Spine age")
    max_people: int = Field(100, description="pages of single people in the report")


class Ablate(Section):
    """The grid: every region x loss x fraction x seed is one training run; and every rule x seed."""

    regions: tuple[str, ...] = ("whole", "cervical", "thoracic", "lumbar")
    losses: tuple[str, ...] = ("l1", "mse", "huber")
    fractions: tuple[float, ...] = (0.25, 0.5, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    rules: tuple[Literal["clusters", "paper", "burden", "percentile", "everyone"], ...] = Field(
        (),
        description="other cohort rules to train train's own recipe under; all arms are read on the same "
        "test people, normal by the study's own status",
    )


class Sweep(Section):
    """Hyper-parameter search by validation MAE."""

    num_trials: int = 20
    learning_rate: tuple[float, float] = (3e-4, 1e-2)
    weight_decay: tuple[float, float] = (1e-5, 1e-2)
    dropout: tuple[float, float] = (0.0, 0.5)
    grace_epochs: int = Field(10, description="ASHA stops nothing earlier")


class Cluster(Section):
    """Execution: changes when an answer arrives, never the answer."""

    ray: str | None = Field(None, description="address of a Ray cluster; none starts one here")
    mlflow: str | None = Field(None, description="tracking URI; none is sqlite in the workspace")
    cohort_workers: int = Field(0, ge=0, description="stability draws at once; 0 is one a core")
    segment_workers: int = Field(1, description="actors that hold the segmenter")
    predict_workers: int = Field(1, description="actors that hold the DCNN")
    cpu_workers: int = Field(
        1, description="workers of each step that decodes, names levels or prepares"
    )
    gpus_per_worker: float = Field(0.0, description="1 on a GPU cluster; 0 is CPU")
    rows_per_part: int = Field(8, description="scores a worker holds before it writes them")
    deadline_s: float = Field(
        600.0, description="per scan and step; a worker that exceeds it is replaced"
    )
    max_fault_fraction: float = Field(
        0.2, description="more scans than this failing alike stops the run"
    )
    min_scans_before_stop: int = Field(20, description="but not before this many were seen")


class Study(Section):
    """One study."""

    name: str = "spineage"
    seed: int = 2511
    workspace: str = "workspace"
    inputs: Inputs = Inputs()
    ingest: Ingest = Ingest()
    segment: Segment = Segment()
    prepare: Prepare = Prepare()
    cohort: Cohort = Cohort()
    stability: Stability = Stability()
    train: Train = Train()
    calibrate: Calibrate = Calibrate()
    score: Score = Score()
    associate: Associate = Associate()
    explain: Explain = Explain()
    report: Report = Report()
    ablate: Ablate = Ablate()
    sweep: Sweep = Sweep()
    cluster: Cluster = Cluster()

    def recipe(self, *sections: str) -> dict[str, Any]:
        """The named sections as plain JSON values: what an address covers. Execution may not be named."""
        assert not {"cluster", "workspace", "inputs"} & set(sections)
        whole = self.model_dump(mode="json", by_alias=True)
        return {name: whole[name] for name in sections}


def read_study(path: str | Path, **overrides: Any) -> Study:
    """Read a study file; relative locations in it are relative to it.

    Raises BadStudy when the file is missing, is not YAML, or holds an unknown key (the nearest is named).
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError:
        raise BadStudy(f"no study file at {path}: write one with `spineage init {path}`") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadStudy(f"{path} cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise BadStudy(f"{path} holds a {type(raw).__name__}, expected keys such as `inputs:`")
    raw.update({key: value for key, value in overrides.items() if value is not None})
    return _anchored(study_from(raw, str(path)), path.resolve().parent)


def study_from(raw: dict[str, Any], where: str = "the study") -> Study:
    """Validate plain values; one clear sentence when they do not fit."""
    try:
        return Study.model_validate(raw)
    except ValidationError as error:
        raise BadStudy(f"{where}: {'; '.join(_sentence(e) for e in error.errors())}") from None


def _sentence(error: Any) -> str:
    location = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        return f"{location or 'study'}: {error['msg'].removeprefix('Value error, ')}, got {error['input']!r}"
    section: Any = Study
    for part in error["loc"][:-1]:
        section = section.model_fields[part].annotation
    known = [field.alias or name for name, field in section.model_fields.items()]
    near = difflib.get_close_matches(str(error["loc"][-1]), known, n=1, cutoff=0.0)
    return f"unknown key {location}: did you mean {near[0]!r}?"


def _anchored(study: Study, folder: Path) -> Study:
    def anchor(value: str | None) -> str | None:
        if not value or "://" in value or Path(value).is_absolute():
            return value
        return str(folder / value)

    inputs = study.inputs.model_copy(
        update={k: anchor(getattr(study.inputs, k)) for k in Inputs.model_fields if k != "exam_key"}
    )
    weights = study.segment.weights
    segment = study.segment.model_copy(
        update={"weights": weights if weights == "demo" else anchor(weights)}
    )
    return study.model_copy(
        update={"inputs": inputs, "segment": segment, "workspace": anchor(study.workspace)}
    )


def commented_study() -> str:
    """A study file with every key, its default and the reason for it."""
    lines = [
        "# spineage study: what changes an answer, and below `cluster`, where and how fast it runs."
    ]
    for name, field in Study.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if not isinstance(default, Section):
            lines.append(f"{name}: {_yaml_value(default)}")
            continue
        summary = (type(default).__doc__ or "").strip().splitlines()[0]
        lines += ["", f"# {summary}", f"{name}:"]
        for key, entry in type(default).model_fields.items():
            value = _yaml_value(getattr(default, key))
            reason = f"  # {entry.description}" if entry.description else ""
            lines.append(f"  {entry.alias or key}: {value}{reason}")
    return "\n".join(lines) + "\n"


def _yaml_value(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return (
        yaml.safe_dump(plain, default_flow_style=True, width=1000)
        .strip()
        .removesuffix("...")
        .strip()
    )
