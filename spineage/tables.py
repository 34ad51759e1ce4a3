"""Every table of the project: columns, dtype, unit, meaning. `spineage tables` prints this file.

A table is a set of parquet parts with exactly these columns; it is checked when written and when read.
A scan's row is identified by `scan_id` and `source_digest` together: new pixels are a new row.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from spineage.errors import BadStudy

KEY = ["scan_id", "source_digest"]
"""What tells one row of a per-scan table from another."""


@dataclass(frozen=True)
class Column:
    """One column. `unit` is "" for what has none; `nullable` columns may be unknown, never made up."""

    name: str
    dtype: pa.DataType
    meaning: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Table:
    """A named table. A private table holds locations (file names may hold names) and is shown to nobody."""

    name: str
    meaning: str
    columns: tuple[Column, ...]
    private: bool = False

    @property
    def schema(self) -> pa.Schema:
        """The arrow schema; units and meanings travel as field metadata."""
        return pa.schema(
            [
                pa.field(c.name, c.dtype, c.nullable, {"unit": c.unit, "meaning": c.meaning})
                for c in self.columns
            ]
        )

    def check(self, data: pa.Table) -> pa.Table:
        """The same rows, cast to this schema; raises BadStudy when columns are missing, foreign or null."""
        expected, columns = set(self.schema.names), set(data.column_names)
        if expected != columns:
            raise BadStudy(
                f"table {self.name}: missing {sorted(expected - columns)}, unexpected "
                f"{sorted(columns - expected)}; it was written by another version: use a new workspace"
            )
        for c in self.columns:
            if not c.nullable and data[c.name].null_count:
                raise BadStudy(
                    f"table {self.name}: {c.name} is null in {data[c.name].null_count} rows"
                )
        return data.select(self.schema.names).cast(self.schema)


STR, INT, FLOAT, BOOL, BYTES = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary()
STRS, INTS, FLOATS = pa.list_(pa.string()), pa.list_(pa.int64()), pa.list_(pa.float64())

SCAN_KEY = (
    Column("scan_id", STR, "keyed hash that names one whole-spine volume"),
    Column(
        "source_digest",
        STR,
        "keyed digest of the headers, sizes and samples of pixels of its files",
    ),
)
PERSON = (
    Column("person_id", STR, "keyed hash that names one person"),
    Column("exam_id", STR, "keyed hash that names one visit to the scanner"),
)
ABOUT = (
    Column("age_years", FLOAT, "chronological age at the exam, in tenths", "years", nullable=True),
    Column("sex", STR, "F, M or O; null is unknown", nullable=True),
    Column(
        "site",
        STR,
        "where it was scanned: as the participants table says, when enough people share it; else a hash",
        nullable=True,
    ),
)

FILES = Table(
    "files",
    "every file seen, and where it ended",
    (
        Column("file_id", STR, "keyed hash of the path below the input folder"),
        Column("location", STR, "path or URI, with the member for archives"),
        Column("bytes", INT, "size", "bytes"),
        Column("series_id", STR, "the series it became part of", nullable=True),
        Column("code", STR, "fault code, empty when part of a series"),
        Column("message", STR, "what was found and what was expected"),
    ),
    private=True,
)

HEADERS = Table(
    "headers",
    "what every file's header says, kept so that an unchanged file is never read again",
    (
        Column("file_id", STR, "keyed hash of the path below the input folder"),
        Column("location", BYTES, "path or URI, with the member for archives; names are any bytes"),
        Column("bytes", INT, "size", "bytes"),
        Column("group", INT, "files of one person have the same"),
        Column("code", STR, "fault code, empty when there is a header"),
        Column("message", STR, "what was found and what was expected"),
        Column("header_json", STR, "fields of science.series.Header", nullable=True),
    ),
    private=True,
)

SOURCES = Table(
    "sources",
    "where the voxels of each scan are: what a worker opens",
    (
        *SCAN_KEY,
        Column(
            "stations_json",
            STR,
            "list of stations, each a list of {location, kind, frame, seal} in slice order; seal: keyed "
            "digest of the file as ingest saw it",
        ),
        Column("seal_key", STR, "key of the seals, in hex: who decodes checks them"),
        Column(
            "masks_json",
            STR,
            "list of the files of its mask in segment.masks, {location, seal, key} each",
        ),
        Column("num_voxels", INT, "of all stations: large scans are taken first"),
    ),
    private=True,
)

SERIES = Table(
    "series",
    "every series found, and why it was accepted or refused",
    (
        Column("series_id", STR, "keyed hash that names one series"),
        *PERSON,
        Column("scan_id", STR, "the scan it became a station of", nullable=True),
        Column("code", STR, "fault code, empty when accepted"),
        Column("message", STR, "why"),
        Column("kind", STR, "dicom or nifti"),
        Column("burned_in", BOOL, "a header says that text is part of the picture"),
        Column("num_files", INT, "files it is made of"),
        Column("num_slices", INT, "slices"),
        Column("plane", STR, "sagittal, coronal, axial, oblique or unknown"),
        Column("repetition_ms", FLOAT, "TR", "ms", nullable=True),
        Column("echo_ms", FLOAT, "TE", "ms", nullable=True),
        Column("in_plane_mm", FLOAT, "pixel spacing", "mm", nullable=True),
        Column("slice_gap_mm", FLOAT, "distance between slice centres", "mm", nullable=True),
        Column("extent_mm", FLOAT, "field of view along the body", "mm", nullable=True),
    ),
)

SCANS = Table(
    "scans",
    "one whole-spine volume each: a composed series or the stations of one exam",
    (
        *SCAN_KEY,
        *PERSON,
        *ABOUT,
        Column(
            "age_source",
            STR,
            "participants, PatientAge or dates; `, disputed` when over a year apart; withheld; empty",
        ),
        Column("vendor", STR, "manufacturer", nullable=True),
        Column("model", STR, "scanner model", nullable=True),
        Column("field_tesla", FLOAT, "magnetic field strength", "T", nullable=True),
        Column(
            "days_since_first", INT, "days since the person's first exam", "days", nullable=True
        ),
        Column("num_stations", INT, "series it is assembled from"),
        Column("extent_mm", FLOAT, "covered length along the body", "mm"),
        Column(
            "coverage_json",
            STR,
            "stations head first, each {series_id, low_mm, high_mm, shared_mm}: S along the middle of its "
            "field of view, and how much of that another station shows too",
        ),
        Column("is_phantom", BOOL, "made by spineage phantom, not by a scanner"),
    ),
)

FAULTS = Table(
    "faults",
    "one row for each scan a stage could not use",
    (
        *SCAN_KEY,
        Column("stage", STR, "the stage that refused it"),
        Column("code", STR, "one of errors.FAULTS"),
        Column("message", STR, "what was found and what was expected"),
    ),
)

CONDITIONS = Table(
    "conditions",
    "radiology findings of each exam, coded",
    (
        *PERSON,
        Column(
            "features", FLOATS, "severity per finding and region, in the order of features.json"
        ),
        Column("num_findings", INT, "findings present"),
        Column("burden", FLOAT, "sum of severities"),
        Column("worst_severity", FLOAT, "the highest severity"),
        Column("num_not_understood", INT, "rows of the findings table that could not be coded"),
    ),
)

COHORT = Table(
    "cohort",
    "who is normal, and who is used for what",
    (
        *SCAN_KEY,
        *PERSON,
        *ABOUT,
        Column("split", STR, "train, validate, calibrate or test; by person"),
        Column(
            "cluster",
            INT,
            "HDBSCAN cluster after the 15 % rule; -1 noise, -2 not clustered",
        ),
        Column("cluster_name", STR, "its dominant conditions"),
        Column(
            "status",
            STR,
            "what training uses: normal, uncertain, not_normal or unknown; the consensus, or the fit's when "
            "the study says so",
        ),
        Column("fit_status", STR, "normal, not_normal or unknown, by the study's own seed"),
        Column(
            "consensus",
            STR,
            "normal, uncertain or not_normal over all draws; unknown when there were none",
        ),
        Column(
            "normal_probability", FLOAT, "share of the draws that call the person normal", "", True
        ),
        Column("umap_x", FLOAT, "first coordinate of the map", nullable=True),
        Column("umap_y", FLOAT, "second coordinate of the map", nullable=True),
        Column("num_findings", INT, "findings present", nullable=True),
        Column("burden", FLOAT, "sum of severities", nullable=True),
    ),
)

MASKS = Table(
    "masks",
    "labels of every scan in the internal level schema, and what was measured on them",
    (
        *SCAN_KEY,
        Column("shape", INTS, "voxels along R, A, S"),
        Column("affine", FLOATS, "4 x 4 row-major, voxel index to RAS+ mm", "mm"),
        Column("levels_zstd", BYTES, "uint8 [R, A, S] in the levels schema, zstd"),
        Column("segmented", STR, "what the network saw: the whole volume, or the spine's box"),
        Column("numbering", STR, "regular, or the transitional anatomy assumed"),
        Column("num_discs_inferred", INT, "discs not seen but certain from their neighbours"),
        Column("level_names", STRS, "vertebrae found, cranial to caudal"),
        Column("level_height_mm", FLOATS, "body height of each", "mm"),
        Column("level_volume_mm3", FLOATS, "volume of each", "mm3"),
        Column("disc_names", STRS, "discs found, by the vertebra above, cranial to caudal"),
        Column("disc_height_mm", FLOATS, "height of each", "mm"),
        Column("disc_signal", FLOATS, "median signal of each relative to CSF"),
        Column("canal_diameter_mm", FLOATS, "antero-posterior diameter at each disc", "mm"),
        Column("coverage", FLOAT, "share of bodies and discs that no side of the image cuts"),
        Column(
            "off_centre", FLOAT, "bodies' reach to one side of the canal over the other; 0 even"
        ),
        Column(
            "loose_share", FLOAT, "of the body or disc most in pieces, what is not in the largest"
        ),
        Column("canal_gap_mm", FLOAT, "longest stretch without canal or cord", "mm"),
        Column("cord_inside", FLOAT, "share of the cord near the canal's centre line"),
        Column("discs_in_front", FLOAT, "share of the discs in front of the canal"),
        Column("length_mm", FLOAT, "along the canal from the top disc to the lowest", "mm"),
        Column("height_ratio", FLOAT, "body height over its neighbours', the largest"),
        Column("volume_ratio", FLOAT, "vertebra volume over its neighbours', the largest"),
    ),
)

TENSORS = Table(
    "tensors",
    "masked, cropped, resampled and normalised scans: what the network sees",
    (
        *SCAN_KEY,
        Column("shape", INTS, "voxels along R, A, S: the recipe's grid"),
        Column("voxels_zstd", BYTES, "float16 [R, A, S], zstd; 0 outside the spine"),
        Column("levels_zstd", BYTES, "uint8 [R, A, S] in the levels schema, zstd"),
    ),
)

PREDICTIONS = Table(
    "predictions",
    "raw predictions of one trained network",
    (
        *SCAN_KEY,
        Column("person_id", STR, "keyed hash that names one person"),
        Column("split", STR, "train, validate, calibrate or test"),
        Column("status", STR, "normal, uncertain, not_normal or unknown"),
        Column("age_years", FLOAT, "chronological age", "years"),
        Column("predicted_years", FLOAT, "raw output of the network", "years"),
    ),
)

HISTORY = Table(
    "history",
    "the training run, epoch by epoch",
    (
        Column("epoch", INT, "from 1"),
        Column("train_loss", FLOAT, "mean loss over training scans"),
        Column("train_mae_years", FLOAT, "raw, on training scans with augmentation", "years"),
        Column("validate_mae_years", FLOAT, "raw, on validation people", "years", nullable=True),
        Column("learning_rate", FLOAT, "at the end of the epoch"),
    ),
)

CALIBRATION = Table(
    "calibration",
    "the age-bias correction and the intervals, one row",
    (
        Column("bundle_digest", STR, "sha256 of the model bundle"),
        Column("degree", INT, "degree of the correction in age, chosen by cross-validation"),
        Column("coefficients", FLOATS, "of (age - centre) powers, lowest first", "years"),
        Column("covariance", FLOATS, "row-major"),
        Column("centre_years", FLOAT, "age the polynomial is centred on", "years"),
        Column("num_people", INT, "people it was fitted on"),
        Column("age_low_years", FLOAT, "operating range", "years"),
        Column("age_high_years", FLOAT, "operating range", "years"),
        Column("bin_edges_years", FLOATS, "inner edges of the bins of the raw prediction", "years"),
        Column("half_width_years", FLOATS, "conformal half-width of each bin", "years"),
        Column(
            "nominal_coverage", FLOAT, "what the intervals promise; fewer people can promise less"
        ),
    ),
)

SCORES = Table(
    "scores",
    "the product: one spine age per scan; the raw prediction first",
    (
        *SCAN_KEY,
        *PERSON,
        *ABOUT,
        Column("role", STR, "what the model used the person for: a split, or unseen"),
        Column("predicted_years", FLOAT, "raw prediction", "years"),
        Column(
            "interval_low_years", FLOAT, "of chronological age given the raw prediction", "years"
        ),
        Column(
            "interval_high_years", FLOAT, "of chronological age given the raw prediction", "years"
        ),
        Column(
            "spine_age_years",
            FLOAT,
            "prediction corrected with age; null without an age",
            "years",
            True,
        ),
        Column("sag_years", FLOAT, "spine age minus age; positive is older-looking", "years", True),
        Column(
            "correction_se_years",
            FLOAT,
            "standard error of the correction at this age",
            "years",
            True,
        ),
        Column("distance", FLOAT, "how unlike the training scans (1 = the refusal limit)"),
        Column(
            "flags", STRS, "age_outside_range, no_age, trained_on, discs_inferred, transitional"
        ),
        Column("bundle_digest", STR, "sha256 of the model bundle"),
    ),
)

ASSOCIATIONS = Table(
    "associations",
    "SAG against conditions and lifestyle factors, nulls included",
    (
        Column("family", STR, "conditions or lifestyle: the family of the multiplicity control"),
        Column("exposure", STR, "what was tested"),
        Column("population", STR, "all, normal or not_normal"),
        Column("outcome", STR, "sag (corrected) or raw_gap"),
        Column("covariates", STR, "the model's right-hand side"),
        Column(
            "effect_years", FLOAT, "difference in SAG, exposed minus unexposed or per step", "years"
        ),
        Column("low_years", FLOAT, "95 % confidence limit", "years"),
        Column("high_years", FLOAT, "95 % confidence limit", "years"),
        Column("p", FLOAT, "two-sided, robust standard error"),
        Column("q", FLOAT, "Benjamini-Hochberg within family, population and outcome"),
        Column("num_exposed", INT, "people"),
        Column("num_unexposed", INT, "people"),
        Column("is_small", BOOL, "fewer than the study's minimum exposed: read with care"),
    ),
)

ABLATIONS = Table(
    "ablations",
    "every arm of the ablation grid or sweep",
    (
        Column("arm", STR, "name of the arm"),
        Column("region", STR, "what the network saw: whole, cervical, thoracic or lumbar"),
        Column("loss", STR, "training loss"),
        Column("fraction", FLOAT, "share of training people used"),
        Column("seed", INT, "seed of this repeat"),
        Column(
            "rule",
            STR,
            "by which its training people are normal: study (the status of `cohort`) or a rule's name",
        ),
        Column(
            "parameters", STR, "JSON of everything that differs from the study's training recipe"
        ),
        Column("num_train", INT, "training people"),
        Column("validate_mae_years", FLOAT, "raw, on validation people: what selects", "years"),
        Column(
            "test_mae_years", FLOAT, "raw, on normal test people; null in a sweep", "years", True
        ),
        Column(
            "test_r2", FLOAT, "raw, 1 - SSE/SST on normal test people; null in a sweep", "", True
        ),
    ),
)

EXPLANATIONS = Table(
    "explanations",
    "where the network looked",
    (
        *SCAN_KEY,
        Column("predicted_years", FLOAT, "raw prediction of the untouched scan", "years"),
        Column("regions", STRS, "regions blanked, one at a time"),
        Column(
            "occlusion_years", FLOATS, "prediction minus prediction without the region", "years"
        ),
        Column("gradcam_shape", INTS, "voxels along R, A, S"),
        Column("gradcam_zstd", BYTES, "float16 [R, A, S], 0-1 linear, zstd"),
    ),
)

TRUTH = Table(
    "truth",
    "what was planted in a phantom population; raw phantom ids, never those of people",
    (
        Column("person", STR, "PatientID written into the DICOM"),
        Column("exam", STR, "StudyInstanceUID written into the DICOM"),
        Column("accession", STR, "AccessionNumber written into the DICOM"),
        Column("age_years", FLOAT, "chronological age at the exam", "years"),
        Column("sex", STR, "F or M"),
        Column("site", STR, "planted site"),
        Column("gap_years", FLOAT, "planted: biological minus chronological age", "years"),
        Column("biological_years", FLOAT, "biological spine age that drives the anatomy", "years"),
        Column("oracle_years", FLOAT, "the ideal observer's estimate of age", "years"),
        Column("anatomy", STR, "regular, L4 last, or L6 present"),
        Column("num_discs", INT, "discs from C2/3 down"),
        Column("repeat_of", STR, "exam this one repeats", nullable=True),
        Column("factors", STR, "JSON of planted factors, null ones too"),
    ),
)

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        FILES, HEADERS, SOURCES, SERIES, SCANS, FAULTS, CONDITIONS, COHORT, MASKS, TENSORS, PREDICTIONS,
        HISTORY, CALIBRATION, SCORES, ASSOCIATIONS, ABLATIONS, EXPLANATIONS, TRUTH,
    )
}  # fmt: skip
