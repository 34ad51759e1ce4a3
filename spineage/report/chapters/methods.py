"""Methods that write themselves from the study and its run records, and what to hold against them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from spineage.flow import ROAD
from spineage.report.chapters.cohort import rule_words
from spineage.report.evidence import Evidence
from spineage.report.numbers import refused
from spineage.report.page import Block, Chapter, Heading, Items, Text, table
from spineage.report.words import DASH, counted, number, percent
from spineage.science.cohort.rules import BY_CLUSTER

FEW_TO_CALIBRATE_ON = 100
UNKNOWN_IN_THE_PAPER = (
    (
        "Network.",
        "Layer table, channels, input size, spacing, normalisation, augmentation, optimiser and "
        "schedule.",
    ),
    ("Splits.", "Split ratios; ours are by person."),
    (
        "Cohort.",
        "UMAP and HDBSCAN parameters, the coding of severity, and which clusters count as normal.",
    ),
    (
        "Correction.",
        "Its formula, the people it was fitted on, and whether R² 0.85 and MAE 3.67 y stand "
        "before or after it.",
    ),
    ("Associations.", "Model, covariates, multiplicity control and effect sizes."),
    ("Explanations.", "The Grad-CAM layer; only the display transform is given."),
    ("Sign.", "The sign of SAG; ours is predicted minus chronological."),
)


def chapter(evidence: Evidence) -> Chapter:
    """Methods, deviations, limitations, and what ran."""
    blocks: list[Block] = [
        Items(tuple(_methods(evidence)), is_bulleted=False),
        Heading("What the source leaves unknown"),
        Text(
            (
                "Of arXiv 2511.17485 the following could not be known, so that ours is a "
                "documented default and not a replication.",
            )
        ),
        Items(UNKNOWN_IN_THE_PAPER),
        Heading("Deviations and limitations"),
        Items(tuple(_limitations(evidence))),
        Heading("What ran"),
        _runs(evidence),
        *_packages(evidence),
    ]
    return Chapter("methods", "Methods, limitations, and what ran", tuple(blocks))


def _methods(evidence: Evidence) -> list[tuple[str, str]]:
    words = {
        "Images.": _images(evidence),
        "Segmentation.": _segmentation(evidence),
        "Preparation.": _preparation(evidence),
    }
    words["Cohort."] = _cohort(evidence)
    if evidence.tables.has_own_model:
        words["Network."] = _network(evidence)
        words["Calibration."] = _calibration(evidence)
    else:
        words["Network."] = f"A published model was used: {evidence.study.score.model}."
    words["Seeds."] = (
        f"Everything drawn at random flows from seed {evidence.study.seed}: splits, UMAP, initial "
        "weights, batches, augmentation, bootstraps. Confidence limits of accuracy are by person: "
        "Student's of means, BCa bootstraps of other figures."
    )
    return list(words.items())


def _images(evidence: Evidence) -> str:
    limits, scans = evidence.study.ingest, evidence.tables.scans
    return (
        f"Sagittal series with an echo time of at least {limits.min_echo_ms:g} ms and a "
        f"repetition time of at least {limits.min_repetition_ms:g} ms were taken as T2-weighted; "
        f"stations of one exam were stitched in RAS+ millimetres. {counted(len(scans), 'scan')} "
        f"of {counted(scans['person_id'].nunique(), 'person', 'people')} entered."
    )


def _segmentation(evidence: Evidence) -> str:
    settings, manifest = evidence.study.segment, evidence.segmenter
    refusals = (
        f"Refused were scans with fewer than {settings.min_levels} or more than {settings.max_levels} "
        "vertebrae from C2 down, and masks out of the study's limits of coverage, symmetry, canal and cord, "
        f"length, heights, volumes and disc signal; {counted(_num_refused(evidence), 'scan')} ended here."
    )
    if settings.masks:
        tool = manifest["given_by"]
        return f"Masks were not drawn here but given: {tool}. Their names and order were checked. {refusals}"
    folds = len(manifest.get("folds", []))
    whole = "nnU-Net's own tiles over the whole scan"
    seen = _seen_fast(evidence) if settings.mode == "fast" else whole
    named = {
        "semantic": "Its tissues became levels by their order along the canal",
        "landmarks": "Its tissues became levels by their order along the canal, and the discs that it knows "
        "by name had to agree",
        "levels": "It names the levels itself; their order and continuity were checked",
    }
    return (
        f"nnU-Net v2 (configuration {manifest['configuration']}, {counted(folds, 'fold')}, weights "
        f"{manifest['digest'][:12]}), {_trained(settings.weights, manifest)}, in {seen}, "
        f"{'averaged over flips' if settings.mirror else 'without test-time mirroring'}. "
        f"{named[manifest['schema']]}. {refusals}"
    )


def _trained(weights: str, manifest: Mapping[str, Any]) -> str:
    if weights == "demo":
        return "trained on phantoms and shipped with the package"
    domain, num_cases = manifest["domain"], manifest.get("origin", {}).get("num_cases")
    if num_cases:  # of train-segmenter
        return f"trained by nnU-Net's own trainer on {counted(num_cases, f'{domain} scan')}"
    return f"imported and trained on {domain} scans"


def _seen_fast(evidence: Evidence) -> str:
    """Of the masks of `fast`: how many are of a box, and that the others are not."""
    seen = evidence.tables.masks["segmented"]
    whole = int(seen.str.startswith("whole volume").sum())
    return (
        "fewer and longer tiles within the box in which a coarse pass found the spine "
        f"({counted(len(seen) - whole, 'scan')}; {whole:,} without such a box were seen whole)"
    )


def _num_refused(evidence: Evidence) -> int:
    faults = refused(evidence.tables)
    return int((faults["stage"] == "segment").sum())


def _preparation(evidence: Evidence) -> str:
    p = evidence.study.prepare
    size, spacing = " × ".join(map(str, p.shape)), " × ".join(f"{mm:g}" for mm in p.spacing_mm)
    by = (
        "the median signal of cerebrospinal fluid"
        if p.normalise == "csf"
        else "a robust range of its signal"
    )
    return (
        f"All but the spine was set to zero; scans were cropped and resampled to {size} voxels "
        f"(right, anterior, superior) of {spacing} mm, and divided by {by}."
    )


def _cohort(evidence: Evidence) -> str:
    c = evidence.study.cohort
    splits = (
        "Fitted on training people only, others were placed. Splits by person, stratified by decade of "
        f"age, sex and site: {percent(c.train)} train, {percent(c.validate_)} validate, "
        f"{percent(c.calibrate)} calibrate, {percent(c.test)} test"
        + (f", and everybody of {', '.join(c.test_sites)} in test" if c.test_sites else "")
        + "."
    )
    if c.rule not in BY_CLUSTER:
        return f"{rule_words(c)} {splits}"
    return (
        f"Canberra distance (0/0 = 0) between severity vectors; UMAP to {c.num_components} "
        f"dimensions ({c.num_neighbors} neighbours, minimum distance {c.min_dist:g}); HDBSCAN "
        f"with clusters of at least {percent(c.min_cluster_share)} of people and min_samples "
        f"{c.min_samples}; clusters under {percent(c.min_share)} merged. {rule_words(c)} "
        f"{_drawn_again(evidence)} {splits}"
    )


def _drawn_again(evidence: Evidence) -> str:
    s, drawn = evidence.study.stability, evidence.audit.get("stability")
    if evidence.audit.get("outcome") == "few_people":
        return "So few train here that each person was judged alone; clusters only draw the map."
    if not drawn:
        return "It was drawn once."
    cells = math.prod(
        map(len, (s.num_neighbors, s.num_components, s.min_cluster_share, s.min_samples))
    )
    return (
        f"It was drawn again with {counted(drawn['num_seeds'], 'seed')} and "
        f"{counted(drawn['num_bootstraps'], 'bootstrap')} in each of {counted(cells, 'grid cell')}; "
        + (
            f"normal in {percent(s.normal_at)} of the draws or more is normal, in "
            f"{percent(s.not_normal_at)} or fewer is not, between is uncertain and trains nothing."
            if s.decides
            else "the single fit decides all the same."
        )
    )


def _network(evidence: Evidence) -> str:
    t = evidence.study.train
    return (
        f"{len(t.channels)} blocks of 3D convolution, batch normalisation, ReLU and max pooling "
        f"with {', '.join(map(str, t.channels))} channels, dropout {t.dropout:g}, one linear "
        f"layer; {t.loss} loss; {t.epochs} epochs at batch size {t.batch_size}, learning rate "
        f"{t.learning_rate:g}, weight decay {t.weight_decay:g}, "
        f"{'with' if t.augment else 'without'} augmentation; region: {t.region}. Trained on normal "
        "spines of the training split; the epoch with the least smoothed validation error was kept."
    )


def _calibration(evidence: Evidence) -> str:
    cal = evidence.tables.calibration
    coefficients = ", ".join(number(x, 4) for x in cal["coefficients"])
    return (
        f"The age bias is a polynomial of degree {int(cal['degree'])} in age, fitted by least "
        f"squares on {int(cal['num_people'])} people held out of training, its degree chosen by "
        f"leave-one-out; coefficients (lowest first) {coefficients} around "
        f"{cal['centre_years']:.2f} years. Intervals are split conformal, half-widths "
        f"{', '.join(number(x) for x in cal['half_width_years'])} years by bin of the prediction, "
        f"aiming at {percent(cal['nominal_coverage'])}. Model bundle sha256 "
        f"{cal['bundle_digest']}."
    )


def _limitations(evidence: Evidence) -> list[tuple[str, str]]:
    tables = evidence.tables
    items = [
        (
            "Correction on held-out people.",
            "Beheshti et al. 2019 fit on training people, where the bias is smaller than it will "
            "be; we do not.",
        ),
        (
            "Age-using corrections flatter.",
            "A corrected R² or MAE says little about the model; here they are never a headline "
            "and choose nothing.",
        ),
        (
            "Age stays in the gap.",
            "Taking off a fitted bias leaves its curvature behind; associations adjust for a "
            "spline of age.",
        ),
        ("Circularity.", "Findings define the normal cohort and are then tested against SAG."),
        (
            "Cross-sectional.",
            "One look at each person cannot tell fast wear from early wear, nor cause from "
            "company.",
        ),
    ]
    if tables.num_phantoms:
        items.insert(
            0,
            (
                "Phantoms.",
                "Computed spines with planted ageing: they test the statistics, not the biology, "
                "and say nothing of the error on people.",
            ),
        )
    num_people = int(tables.calibration.get("num_people", FEW_TO_CALIBRATE_ON))
    if num_people < FEW_TO_CALIBRATE_ON:
        words = (
            f"{num_people} people fitted the correction and the intervals: far from their mean age "
            "both are known poorly."
        )
        items.append(("Few people to calibrate on.", words))
    return items


def _runs(evidence: Evidence) -> Block:
    rows = []
    for stage in (s.name for s in ROAD if s.name != "report"):
        record = evidence.records.get(stage)
        when = str(record["started"]).replace("T", " ").split("+")[0] if record else DASH
        seconds = f"{record['seconds']:.0f}" if record else DASH
        rows.append(
            (
                stage,
                evidence.fingerprints.get(stage, DASH),
                when,
                seconds,
                record["version"] if record else DASH,
            )
        )
    return table(
        "Where each result lies (<workspace>/<stage>/<address>) and its last run; an address "
        "covers the recipe, the weights and all upstream addresses.",
        ("stage", "address", "started (UTC)", "seconds", "spineage"),
        rows,
        text_columns=3,
    )


def _packages(evidence: Evidence) -> list[Block]:
    if not evidence.records:
        return []
    record = list(evidence.records.values())[-1]
    machine = record["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in sorted(record["packages"].items())
    )
    return [
        Text(
            (
                f"Python {record['python']} on {machine['system']} {machine['architecture']}; "
                f"{versions}.",
            ),
            "note",
        ),
    ]
