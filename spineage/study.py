"""The study file: what changes an answer (identity), apart from where and how fast it runs (execution).

Everything but `workspace` and `cluster` is identity and enters the addresses of results.
Each default carries its reason. What the paper (arXiv 2511.17485) leaves unknown is our documented default.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from spineage.errors import BadStudy
from spineage.study_file import (
    read_values,
    refuse_blanks_in_addresses,
    refuse_strange_text,
    sentence_of,
)

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]
Millimetres = Annotated[float, Field(ge=0, le=3000)]
Edge = Annotated[int, Field(ge=4, le=4096)]
Spacing = Annotated[float, Field(ge=0.05, le=50)]
Workers = Annotated[int, Field(ge=0, le=10_000)]
Rate = Annotated[float, Field(gt=0, le=10)]
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
Selector = Annotated[str, Field(pattern=rf"^!?({_LABEL}|in\({_LABEL}(, ?{_LABEL})*\))$")]
Region = Literal["whole", "cervical", "thoracic", "lumbar"]
Loss = Literal["l1", "mse", "huber"]
MAX_VOXELS = 100_000_000
"""Of the network's input: 400 MB a scan."""


class Section(BaseModel):
    """Frozen; an unknown key is refused, and what is no finite number where one is meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _without(values: Any, key: str, why: str) -> Any:
    """The values of a section, which may not hold a key of an earlier version."""
    if isinstance(values, dict) and key in values:
        raise ValueError(f"{key} {why}")
    return values


def _require_rising(ends: tuple[float, float], name: str) -> None:
    if ends[0] >= ends[1]:
        raise ValueError(f"{name}: the first of the two must be the lower one")


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
    max_age_shown: int | None = Field(
        None,
        ge=18,
        le=120,
        description="ages above it are withheld from every table and page, so unknown: these people are "
        "scored without a gap and train nothing; 89 where HIPAA's safe harbor binds; none keeps all",
    )


class Ingest(Section):
    """What counts as a sagittal T2 of the spine, and which stations make a scan."""

    min_echo_ms: float = Field(
        55.0, ge=0, le=10_000, description="T2 spine TSE is 70-130 ms; 3D TSE's effective TE lower"
    )
    min_repetition_ms: float = Field(
        1200.0, ge=0, le=100_000, description="T2 TSE is 2000-6000 ms, 3D TSE 1200-2000"
    )
    max_tilt_degrees: float = Field(
        30.0, ge=0, le=45, description="slice normal to the left-right axis"
    )
    min_slices: int = Field(5, ge=2, le=1000, description="fewer cannot cover a vertebral body")
    max_slice_gap_error_mm: float = Field(
        0.1, gt=0, le=100, description="unevenness above it means a missing slice"
    )
    max_station_gap_mm: float = Field(
        2.0, ge=0, le=1000, description="stations further apart are not one spine"
    )
    min_extent_mm: float = Field(
        150.0,
        ge=0,
        le=3000,
        description="along the body: a cervical station is 200 mm and more, a crop less",
    )
    max_width_mm: float = Field(
        160.0,
        gt=0,
        le=3000,
        description="side to side: a spine slab is 40-120 mm, a head or trunk wider",
    )
    max_pixel_mm: float = Field(
        4.0, gt=0, le=100, description="in plane: a cervical body is 12-15 mm high, a disc 4-10 mm"
    )
    max_slice_mm: float = Field(
        10.0, gt=0, le=100, description="from slice to slice: a vertebra is 40-60 mm wide"
    )
    composed_extent_mm: float = Field(
        450.0,
        gt=0,
        le=3000,
        description="a series this long shows the whole spine and is a scan alone",
    )
    joins_studies_of_a_day: bool = Field(
        False,
        description="what one person has of one day is one exam, in however many studies: a console that was "
        "started again begins another",
    )
    labels_hold_everywhere: bool = Field(
        False,
        description="the same sub- label in two data sets is one person; else it is refused, since BIDS "
        "makes labels unique within one data set only",
    )

    @model_validator(mode="after")
    def _station_is_shorter_than_spine(self) -> Self:
        _require_rising(
            (self.min_extent_mm, self.composed_extent_mm), "min_ and composed_extent_mm"
        )
        return self


class Segment(Section):
    """Which network draws the spine, or whose masks are there already."""

    masks: str | None = Field(
        None,
        description="masks that are there already: a folder, a pattern such as out/*_dseg.nii.gz, or a CSV "
        "of mask, [tissues], and scan or person; then no network draws",
    )
    masks_of: str | None = Field(
        None,
        description="the tool that drew them: totalspineseg, spineps-veridah, totalsegmentator, levels, "
        "semantic, or a JSON file that gives values our names",
    )
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
    min_levels: int = Field(
        22, ge=1, le=30, description="vertebrae from C2 to L5 are 23, 22 with a fused one"
    )
    max_levels: int = Field(24, ge=1, le=30, description="24 with an additional lumbar one")
    min_coverage: float = Field(
        0.5,
        ge=0,
        le=1,
        description="bodies and discs whole in the image: a slab of 57 mm may cut L3-L5, 0.8 and more",
    )
    max_off_centre: float = Field(
        0.35,
        ge=0,
        le=1,
        description="bodies' uneven reach about the canal: upright spines 0.07, rotated ones more",
    )
    max_loose_share: float = Field(
        0.4,
        ge=0,
        le=1,
        description="share of one body or disc that lies apart from its rest: true masks at 4 mm reach 0.18",
    )
    max_canal_gap_mm: float = Field(
        30.0,
        ge=0,
        le=1000,
        description="a vertebra's height: a tight stenosis or a void of metal hides less",
    )
    min_cord_inside: Share = Field(0.9, description="no spine has a cord outside its canal")
    min_discs_in_front: Share = Field(0.9, description="no spine has a disc behind its canal")
    length_mm: tuple[Millimetres, Millimetres] = Field(
        (330.0, 750.0),
        description="top disc to lowest: 0.29 of the body height, of people of 1.30 to 2.30 m",
    )
    body_height_mm: tuple[Millimetres, Millimetres] = Field(
        (4.0, 50.0), description="from a vertebra plana to a tall man's C2 with its dens"
    )
    disc_height_mm: tuple[Millimetres, Millimetres] = Field(
        (1.0, 22.0), description="collapsed discs keep 1-2 mm, the tallest lumbar ones have 16"
    )
    max_height_ratio: float = Field(
        1.9,
        ge=1,
        le=100,
        description="height of a body over its neighbours': two taken for one are 2 and more, fractures 1.5",
    )
    max_volume_ratio: float = Field(
        2.0,
        ge=1,
        le=100,
        description="volume of a vertebra over its neighbours': two taken for one are 2.2, phantoms 1.2",
    )
    max_disc_signal: float = Field(
        1.2,
        gt=0,
        le=100,
        description="median over discs relative to CSF, which nothing outshines on T2",
    )

    @model_validator(mode="after")
    def _lowest_first(self) -> Self:
        for name in ("length_mm", "body_height_mm", "disc_height_mm"):
            _require_rising(getattr(self, name), name)
        if self.min_levels > self.max_levels:
            raise ValueError(f"min_levels {self.min_levels} is above max_levels {self.max_levels}")
        return self

    @model_validator(mode="after")
    def _masks_and_whose(self) -> Self:
        if bool(self.masks) != bool(self.masks_of):
            raise ValueError(
                "masks and masks_of go together: where they lie, and which tool drew them"
            )
        return self


class Prepare(Section):
    """The network's input. The paper gives neither size nor spacing: our documented default."""

    shape: tuple[Edge, Edge, Edge] = Field((16, 80, 320), description="voxels along R, A, S")
    spacing_mm: tuple[Spacing, Spacing, Spacing] = Field(
        (4.0, 2.2, 2.2), description="holds 64 x 176 x 704 mm: a tall adult from C1 to the sacrum"
    )
    normalise: Literal["csf", "robust"] = Field(
        "csf",
        description="divide by the median CSF signal (scanner gain drops out), or by a robust range",
    )

    @model_validator(mode="after")
    def _fits_memory(self) -> Self:
        if math.prod(self.shape) > MAX_VOXELS:
            raise ValueError(f"shape has {math.prod(self.shape)} voxels, at most {MAX_VOXELS}")
        return self


DISEASES = (
    "fracture", "burst_fracture", "discitis", "spondylitis", "metastasis", "marrow_replacement",
    "epidural_collection", "paraspinal_collection", "intradural_mass", "cord_lesion", "cord_signal_change",
    "syrinx", "arachnoiditis", "ligament_injury", "hemivertebra", "block_vertebra", "surgical_fusion",
    "laminectomy", "disc_replacement", "vertebroplasty",
)  # fmt: skip


class Cohort(Section):
    """Who is normal, and who is used for what."""

    rule: Literal["clusters", "paper", "burden", "percentile", "everyone"] = Field(
        "clusters",
        description="clusters judged by burden for age, with a guard; paper: clusters above min_share, "
        "no guard; burden: each person's for their age; percentile: for age and sex; everyone",
    )
    arithmetic: Literal["x86-64-v3", "armv8"] = Field(
        "x86-64-v3",
        description="what the processes that fit the cohort compute like, whatever machine they run on, so "
        "that the table is the same; armv8 where there is nothing else",
    )
    min_share: float = Field(
        0.15, ge=0, le=1, description="the paper: clusters above 15 % are kept, the rest merged"
    )
    num_neighbors: int = Field(
        15, ge=2, le=10_000, description="UMAP; unknown in the paper, umap-learn's default"
    )
    num_components: int = Field(
        5, ge=1, le=100, description="UMAP dimensions for clustering; unknown in the paper"
    )
    min_dist: float = Field(
        0.0, ge=0, le=1, description="UMAP; 0 packs clusters, as umap-learn advises for clustering"
    )
    min_cluster_share: float = Field(
        0.08, gt=0, le=1, description="HDBSCAN min_cluster_size as a share of people"
    )
    min_samples: int = Field(5, ge=1, le=10_000, description="HDBSCAN; unknown in the paper")
    selection: Literal["eom", "leaf"] = Field(
        "eom", description="HDBSCAN's default; leaf gives more and smaller clusters, and more noise"
    )
    low_burden_quantile: float = Field(
        0.25,
        ge=0,
        le=1,
        description="guard: people at or below this burden are normal whatever their cluster",
    )
    max_burden_ratio: float = Field(
        1.5,
        gt=0,
        le=1000,
        description="a cluster is normal when it carries at most this x the burden expected at its ages: on "
        "phantoms clusters of the ill carry 1.7-2.2, others up to 1.3",
    )
    max_person_ratio: float = Field(
        2.0,
        gt=0,
        le=1000,
        description="a person who carries more than this x the burden expected at that age, over the spine "
        "or in one region, is not normal",
    )
    min_person_excess: float = Field(
        7.0,
        ge=0,
        le=100_000,
        description="and by more than this: a few mild findings make no young person ill (with the ratio: "
        "the least that keeps 99 % of healthy phantoms normal, from 80 people on)",
    )
    disease_findings: tuple[str, ...] = Field(
        DISEASES,
        description="findings of the codebook that no age explains: whoever has one is not normal, however "
        "few the others are",
    )
    min_people: int = Field(
        300,
        ge=0,
        le=1_000_000,
        description="rule clusters: with fewer training people who is normal hangs on UMAP's seed, and rule "
        "burden decides",
    )
    min_group_people: int = Field(
        30,
        ge=1,
        le=1_000_000,
        description="a cluster of fewer training people is not judged, its people are one by one: the ratio "
        "of 30 people of equal burden has a standard error of 0.1 to 0.15",
    )
    noise: Literal["one_by_one", "not_normal", "unknown"] = Field(
        "one_by_one",
        description="people of no cluster: each judged alone, since HDBSCAN's noise is thin data and not a "
        "diagnosis",
    )
    max_percentile: float = Field(
        0.75,
        gt=0,
        lt=1,
        description="rule percentile: normal up to this share of training people of that age and sex",
    )
    percentile_window_years: float = Field(
        10.0, gt=0, le=120, description="rule percentile: of that age is within so many years"
    )
    train: float = Field(0.55, ge=0, le=1, description="share of people")
    validate_: float = Field(0.10, ge=0, le=1, alias="validate", description="share of people")
    calibrate: float = Field(0.15, ge=0, le=1, description="share of people")
    test: float = Field(0.20, ge=0, le=1, description="share of people")
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

    num_neighbors: tuple[Annotated[int, Field(ge=2, le=10_000)], ...] = Field(
        (10, 15, 30), description="UMAP; grid"
    )
    num_components: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (2, 5), description="UMAP; grid"
    )
    min_cluster_share: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.05, 0.08, 0.12), description="HDBSCAN; grid: it decides more than all others together"
    )
    min_samples: tuple[Annotated[int, Field(ge=1, le=10_000)], ...] = Field(
        (5, 15), description="HDBSCAN; grid"
    )
    num_seeds: int = Field(
        20,
        ge=0,
        le=10_000,
        description="seeds of UMAP, at most; 0 with 0 bootstraps: no stability run",
    )
    num_bootstraps: int = Field(
        100, ge=0, le=100_000, description="resamples of the training people, at most"
    )
    settled_within: float = Field(
        0.12,
        gt=0,
        le=0.5,
        description="draws end when the 99 % interval of everybody's probability is within this, or on one "
        "side of both limits: after 180 of 720 draws at the latest",
    )
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

    channels: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(
        (4, 16, 32, 64),
        min_length=1,
        max_length=12,
        description="one conv-BN-pool block each; few in the first, which costs half of the time",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="before the linear layer")
    region: Region = Field("whole")
    loss: Loss = Field("l1", description="L1 is what MAE measures")
    epochs: int = Field(
        30,
        ge=1,
        le=100_000,
        description="took 36 phantom people to an MAE of 0.2 to 0.5 of predict-the-mean; 45 gave no better",
    )
    batch_size: int = Field(
        8,
        ge=2,
        le=65_536,
        description="scans a step, of all workers together; identity, since it changes the answer",
    )
    learning_rate: Rate = Field(2e-3, description="peak of the schedule; for AdamW")
    weight_decay: float = Field(
        1e-3, ge=0, le=10, description="AdamW's, on convolutions and the linear layer"
    )
    fraction: float = Field(
        1.0, gt=0, le=1, description="share of training people used (ablation of data size)"
    )
    augment: bool = Field(True)

    @model_validator(mode="before")
    @classmethod
    def _workers_are_execution(cls, values: Any) -> Any:
        return _without(values, "num_workers", "is cluster.train_workers now: it is execution")


class Calibrate(Section):
    """Correction, intervals and operating range."""

    max_degree: int = Field(
        3, ge=0, le=9, description="highest degree that cross-validation may choose"
    )
    coverage: float = Field(0.90, gt=0, lt=1, description="nominal coverage of the intervals")
    num_bins: int = Field(
        3,
        ge=1,
        le=1000,
        description="Mondrian bins; each needs 1 / (1 - coverage) people or is merged",
    )
    max_distance_quantile: float = Field(
        0.995,
        gt=0,
        le=1,
        description="refusal limit: quantile of the training distances, times the slack",
    )
    distance_slack: float = Field(
        2.0, gt=0, le=1000, description="held-out scans lie further out than training scans"
    )


class Score(Section):
    """Which model scores."""

    model: str | None = Field(
        None,
        description="a model of the registry (models:/spine-age@champion; of a study with a name of its own "
        "models:/spine-age-NAME@champion), or a bundle folder; none means this study's own",
    )


class Associate(Section):
    """The association models."""

    min_exposed: int = Field(20, ge=0, le=1_000_000, description="fewer exposed people are flagged")
    spline_df: int = Field(4, ge=1, le=50, description="natural spline of age in every model")
    lifestyle: tuple[str, ...] | None = Field(
        None,
        description="factors, shown by their headings; none means all columns, of a table with at most 20, "
        "and only headings of letters, digits and underscores are shown",
    )


class Explain(Section):
    """Where the network looked."""

    num_scans: int = Field(4, ge=1, le=100_000, description="the paper shows four")


class Report(Section):
    """What the report shows."""

    title: str = Field("Spine age")
    max_people: int = Field(
        100, ge=0, le=1_000_000, description="pages of single people in the report"
    )
    show_burned_in: bool = Field(
        False,
        description="draw scans whose headers say that text is part of the picture: it may be a name",
    )


class Ablate(Section):
    """The grid: every region x loss x fraction x seed is one training run; and every rule x seed."""

    regions: tuple[Region, ...] = Field(
        ("whole", "cervical", "thoracic", "lumbar"), min_length=1, max_length=4
    )
    losses: tuple[Loss, ...] = Field(("l1", "mse", "huber"), min_length=1, max_length=3)
    fractions: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.25, 0.5, 1.0), min_length=1, max_length=100
    )
    seeds: tuple[Seed, ...] = Field((0, 1, 2), min_length=1, max_length=1000)
    rules: tuple[Literal["clusters", "paper", "burden", "percentile", "everyone"], ...] = Field(
        (),
        max_length=5,
        description="other cohort rules to train train's own recipe under; all arms are read on the same "
        "test people, normal by the study's own status",
    )


class Sweep(Section):
    """Hyper-parameter search by validation MAE."""

    num_trials: int = Field(20, ge=1, le=100_000)
    learning_rate: tuple[Rate, Rate] = (3e-4, 1e-2)
    weight_decay: tuple[Rate, Rate] = (1e-5, 1e-2)
    dropout: tuple[Share, Share] = (0.0, 0.5)
    grace_epochs: int = Field(10, ge=1, le=100_000, description="ASHA stops nothing earlier")

    @model_validator(mode="after")
    def _lowest_first(self) -> Self:
        for name in ("learning_rate", "weight_decay", "dropout"):
            _require_rising(getattr(self, name), name)
        if self.dropout[1] == 1:
            raise ValueError("dropout must stay below 1, which drops everything")
        return self


class Cluster(Section):
    """Execution: changes when an answer arrives, never the answer."""

    ray: str | None = Field(None, description="address of a Ray cluster; none starts one here")
    mlflow: str | None = Field(None, description="tracking URI; none is sqlite in the workspace")
    cohort_workers: int = Field(
        0, ge=0, le=10_000, description="stability draws at once; 0 is one a core"
    )
    segment_workers: int = Field(1, ge=1, le=10_000, description="actors that hold the segmenter")
    predict_workers: int = Field(1, ge=1, le=10_000, description="actors that hold the DCNN")
    train_workers: Workers | tuple[Workers, Workers] = Field(
        2,
        description="processes that train at once; [2, 8] is as many of that range as the nodes hold, "
        "fewer after one was lost (what they have counts: no other work may hold it); 0 is the driver "
        "itself. They share each batch: sums round differently",
    )
    cpu_workers: int = Field(
        1,
        ge=1,
        le=10_000,
        description="workers of each step that decodes, names levels or prepares",
    )
    grows: bool = Field(
        False,
        description="an autoscaler adds nodes (KubeRay, `ray up`): what does not fit is asked for and waited "
        "for, where a cluster that does not grow refuses it in seconds",
    )
    labels: dict[Literal["segment", "predict", "train", "cpu"], dict[str, Selector]] = Field(
        {},
        description="which nodes workers of a kind run on, by Ray's label selectors: {segment: "
        "{ray.io/accelerator-type: L4}}; `!L4` and `in(L4, L40S)` work too. A sweep's trials run anywhere",
    )
    gpus_per_worker: float = Field(0.0, ge=0, le=10_000, description="1 on a GPU cluster; 0 is CPU")
    deadline_s: float = Field(
        600.0,
        gt=0,
        le=604_800,
        description="per scan and step; a worker that exceeds it is replaced",
    )
    give_up_after: int = Field(
        3,
        ge=1,
        le=1_000_000,
        description="runs in which a scan crashed, hung or met a bug; then it is left alone until the "
        "program changes, or --retry",
    )
    max_fault_fraction: float = Field(
        0.2, ge=0, le=1, description="more scans than this failing alike stops the run"
    )
    min_scans_before_stop: int = Field(
        20, ge=0, le=1_000_000, description="but not before this many were seen"
    )

    @model_validator(mode="after")
    def _range_without_labels(self) -> Self:
        if isinstance(self.train_workers, tuple) and self.labels.get("train"):
            raise ValueError(
                "labels.train need a number in train_workers: of a range Ray counts every node, whatever its "
                "labels, and would wait for places that are not there"
            )
        return self

    @property
    def train_worker_range(self) -> tuple[int, int]:
        """Processes that train, at least and at most; on GPUs one at least, for the driver may be on a node
        without."""
        asked = self.train_workers
        least, most = asked if isinstance(asked, tuple) else (asked, asked)
        floor = 1 if self.gpus_per_worker else 0
        return max(least, floor), max(most, floor)

    @property
    def device(self) -> str:
        """Where networks run, as torch names it."""
        return "cuda" if self.gpus_per_worker else "cpu"

    @model_validator(mode="before")
    @classmethod
    def _scores_are_kept_at_once(cls, values: Any) -> Any:
        return _without(
            values, "rows_per_part", "is gone: each score is kept at once, remove the line"
        )

    def labels_of(self, kind: Literal["segment", "predict", "train", "cpu"]) -> dict[str, str]:
        """Of the nodes for workers of this kind; none is any node."""
        return self.labels.get(kind, {})

    @field_validator("train_workers")
    @classmethod
    def _is_a_range(cls, asked: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(asked, tuple) and not 1 <= asked[0] <= asked[1]:
            raise ValueError(
                "train_workers as a range is [least, most], from 1 on and the least first"
            )
        return asked

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ValueError(
                "gpus_per_worker above 1 must be whole: Ray shares one GPU, not several"
            )
        return self


class Study(Section):
    """One study."""

    name: str = Field("spineage", min_length=1, max_length=200)
    seed: Seed = 2511
    workspace: str = Field("workspace", min_length=1)
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

    @model_validator(mode="after")
    def _a_scan_for_each_worker(self) -> Self:
        if self.cluster.train_worker_range[1] > self.train.batch_size:
            raise ValueError(
                f"cluster.train_workers share a batch of {self.train.batch_size} scans (train.batch_size): "
                "ask for no more workers than that"
            )
        return self

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
    raw = read_values(path)
    raw.update({key: value for key, value in overrides.items() if value is not None})
    return _anchored(study_from(raw, str(path)), path.resolve().parent)


def study_from(raw: dict[Any, Any], where: str = "the study") -> Study:
    """Validate plain values; one clear sentence when they do not fit."""
    refuse_strange_text(raw, where)
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise BadStudy(sentence_of(error, where, Study)) from None
    refuse_blanks_in_addresses(places_of(study), where)
    return study


def on_ray(study: Study, address: str) -> Study:
    """The study on this Ray cluster. Raises BadStudy when that is no address."""
    cluster = study.cluster.model_copy(update={"ray": address})
    refuse_strange_text({"--ray": address}, "the command")
    refuse_blanks_in_addresses({"--ray": address}, "the command")
    return study.model_copy(update={"cluster": cluster})


def places_of(study: Study) -> dict[str, Any]:
    """What a study says of places, by the keys of its file."""
    return {
        "workspace": study.workspace,
        "inputs": study.inputs.model_dump(),
        "segment": {k: getattr(study.segment, k) for k in ("weights", "masks", "masks_of")},
        "score": {"model": study.score.model},
        "cluster": study.cluster.model_dump(),
    }


def _anchored(study: Study, folder: Path) -> Study:
    def anchor(value: Any) -> Any:
        if not isinstance(value, str) or not value or "://" in value or Path(value).is_absolute():
            return value
        return str(folder / value)

    inputs = study.inputs.model_copy(
        update={k: anchor(getattr(study.inputs, k)) for k in Inputs.model_fields if k != "exam_key"}
    )
    model = study.score.model
    is_registered = model is None or model.startswith("models:/")
    score = study.score.model_copy(update={"model": model if is_registered else anchor(model)})
    section = study.segment
    is_map = (section.masks_of or "").endswith(".json")
    segment = section.model_copy(
        update={
            "weights": section.weights if section.weights == "demo" else anchor(section.weights),
            "masks": anchor(section.masks),
            "masks_of": anchor(section.masks_of) if is_map else section.masks_of,
        }
    )
    return study.model_copy(
        update={
            "inputs": inputs,
            "segment": segment,
            "score": score,
            "workspace": anchor(study.workspace),
        }
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
