"""The road: every stage in order, what it reads and what it writes. Start reading here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One verb of the CLI, one file in `stages/`, one job in `jobs/`."""

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    does: str


ROAD: tuple[Stage, ...] = (
    Stage("ingest", (), ("files", "headers", "sources", "series", "scans"),
          "group files into series and stations into scans, refuse what is not sagittal T2 of the spine"),
    Stage("conditions", (), ("conditions",),
          "code radiology findings into region x severity features"),
    Stage("cohort", ("conditions", "scans"), ("cohort",),
          "Canberra, UMAP, HDBSCAN, the 15 % rule: who is normal; splits by person"),
    Stage("segment", ("scans", "sources"), ("masks", "faults"),
          "assemble the volume, nnU-Net, vertebral levels, morphometry"),
    Stage("prepare", ("scans", "sources", "masks"), ("tensors", "faults"),
          "mask out all but the spine, crop, resample, normalise"),
    Stage("train", ("tensors", "cohort"), ("predictions", "history"),
          "3D DCNN regression of age on normal spines, DDP"),
    Stage("calibrate", ("predictions",), ("calibration",),
          "age-bias correction, intervals, operating range; publish the model bundle"),
    Stage("score", ("scans", "sources"), ("scores", "faults"),
          "spine age and SAG of every scan, segmenting and preparing what is missing"),
    Stage("associate", ("scores", "conditions", "cohort"), ("associations",),
          "SAG against conditions and lifestyle"),
    Stage("explain", ("tensors", "scores"), ("explanations",),
          "Grad-CAM and region occlusion"),
    Stage("report", ("scans", "scores", "associations"), (),
          "one self-contained HTML file: the whole study, one section per person"),
)  # fmt: skip

SIDE_ROADS: tuple[Stage, ...] = (
    Stage(
        "ablate",
        ("tensors", "cohort"),
        ("ablations",),
        "the grid of data size x loss x region x seed",
    ),
    Stage("sweep", ("tensors", "cohort"), ("ablations",), "hyper-parameter search with ASHA"),
)
"""Off the main road: expensive, and nothing downstream waits for them."""
