"""The road: every stage in order, what it reads and what it writes. Start reading here.

A stage reads, hands work on and writes. What it decides by is in `science/`, pure and without files:
`scan/` (is this a T2 of a whole spine), `spine/` (labels, levels, quality), `cohort/` (who is normal),
`network/`, `gap/` (bias correction, intervals, SAG). `io/` has files, tables and models; `segmenter/` has
nnU-Net, and in `published/` the models that others made; `engine/` Ray; `run/` what every stage needs;
`report/` the page; `verbs/` the commands.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stage:
    """One verb of the CLI, one file in `stages/` (or a folder with its `stage.py`), one job in `jobs/`.

    reads: tables that other stages write; a test holds that they are those the demo reads. fills: tables of
    other stages to which it adds what is missing. files: the keys of `inputs` that it reads. needs: what must
    answer before it begins; the others may start Ray where there is enough to do.
    """

    name: str
    module: str
    does: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    fills: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


ROAD: tuple[Stage, ...] = (
    Stage("ingest", "ingest.stage",
          "group files into series and stations into scans, refuse what is not sagittal T2 of the spine",
          files=("scans", "participants", "overrides"),
          writes=("files", "headers", "sources", "series", "scans")),
    Stage("conditions", "conditions",
          "code radiology findings into region x severity features",
          files=("findings",), writes=("conditions",)),
    Stage("cohort", "cohort.stage",
          "Canberra, UMAP, HDBSCAN, the 15 % rule: who is normal; splits by person",
          reads=("scans", "conditions"), files=("splits",), writes=("cohort",)),
    Stage("segment", "segment",
          "assemble the volume, nnU-Net, vertebral levels, morphometry",
          reads=("sources",), writes=("masks", "faults"), needs=("ray",)),
    Stage("prepare", "prepare",
          "mask out all but the spine, crop, resample, normalise",
          reads=("sources", "masks"), writes=("tensors", "faults"), needs=("ray",)),
    Stage("train", "train.stage",
          "3D DCNN regression of age on normal spines, DDP",
          reads=("cohort", "tensors"), writes=("predictions", "history"), needs=("ray", "mlflow")),
    Stage("calibrate", "calibrate",
          "age-bias correction, intervals, operating range; publish the model bundle",
          reads=("scans", "predictions"), writes=("calibration",), needs=("mlflow",)),
    Stage("score", "score.stage",
          "spine age and SAG of every scan, segmenting and preparing what is missing",
          reads=("scans", "sources", "masks", "tensors"), writes=("scores", "faults"),
          fills=("masks", "tensors"), needs=("ray",)),
    Stage("associate", "associate",
          "SAG against conditions and lifestyle",
          reads=("conditions", "cohort", "scores"), files=("lifestyle",), writes=("associations",)),
    Stage("explain", "explain",
          "Grad-CAM and region occlusion",
          reads=("tensors", "scores"), writes=("explanations",)),
    Stage("report", "report.stage",
          "one self-contained HTML file: the whole study, one section per person",
          reads=("files", "series", "sources", "scans", "cohort", "masks", "tensors", "predictions",
                 "history", "calibration", "scores", "associations", "explanations", "ablations", "faults"),
          files=("truth",)),
)  # fmt: skip

SIDE_ROADS: tuple[Stage, ...] = (
    Stage("ablate", "ablate",
          "the grid of data size x loss x region x seed",
          reads=("cohort", "tensors"), writes=("ablations",), needs=("ray", "mlflow")),
    Stage("sweep", "sweep",
          "hyper-parameter search with ASHA",
          reads=("cohort", "tensors"), writes=("ablations",), needs=("ray", "mlflow")),
)  # fmt: skip
"""Off the main road: expensive, and nothing downstream waits for them."""
RESCORE = ("ingest", "score")
"""The population job: new exams are found, and what has no score under the model gets one."""
STAGES = {stage.name: stage for stage in (*ROAD, *SIDE_ROADS)}


def module_of(stage: str) -> Any:
    """The module that holds a stage's `recipe` and `run`; it is imported now."""
    return importlib.import_module(f"spineage.stages.{STAGES[stage].module}")
